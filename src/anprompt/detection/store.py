"""Detector folders: what was learned from normal images, and enough words to open it again.

    detector/config.json                   method, settings, backbone and its weight hash, tiles, threshold, versions
    detector/detector-HASH.safetensors     learned tensors; config.json names the one that counts
    detector/README.md                     a card for people

Nothing in it is executed or unpickled. The rename that gives a new config.json its name is the moment it counts: a kill
before leaves the detector that was there, and the tensors of another are removed after.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anprompt._version import __version__
from anprompt.adapters.checks import check_values
from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.utils.files import (
    atomic_write,
    check_encodable,
    check_folder,
    check_regular_target,
    file_hash,
    package_versions,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from anprompt.utils.locks import hold

FORMAT, KIND = 1, "anomaly detector"
CONFIG, CARD = "config.json", "README.md"
_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini", ".lock")
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "method": str, "settings": dict, "object": str, "seed": int, "tiles": int, "backbone": dict, "tensors": str, "images": int,
    "tensors_sha256": str, "record": dict, "learned": dict, "offset": (int, float), "floor": (int, float),
    "contour": (int, float),
}  # fmt: skip


def check_place(folder: str | Path, *, overwrite: bool = False) -> None:
    """Whether a detector may be written to a folder, asked before the work; nothing is made.

    Raises:
        UserError: it can't be written, or holds anything but a detector and `overwrite` was not said.
    """
    folder = Path(folder)
    check_folder(folder)
    check_encodable(folder)
    for name in (CONFIG, CARD):
        check_regular_target(folder / name)
    if overwrite or not folder.is_dir():
        return
    names = [name for name in sorted(os.listdir(folder)) if not name.startswith(_SYSTEM)]
    others = [
        name for name in names if name not in (CONFIG, CARD) and not _is_tensors(name) and not name.startswith(".")
    ]
    if names and (others or not holds_detector(folder)):
        raise UserError(
            f"{str(folder)!r} holds other files ({(others or names)[0]!r}); choose a new folder, or add --overwrite."
        )


def _is_tensors(name: str) -> bool:
    return name.startswith("detector-") and name.endswith(".safetensors")


def holds_detector(folder: str | Path) -> bool:
    """Whether a folder holds a detector, for those that take adapters as well."""
    path = Path(folder) / CONFIG
    try:
        config = read_json(path) if path.is_file() else None
    except UserError:
        return False
    return isinstance(config, dict) and config.get("kind") == KIND


def save(folder: str | Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], backbone: Backbone) -> Path:
    """Write a detector, replacing one that is there.

    Args:
        config: "method", "settings", "object", "seed", "tiles", "images", "threshold" and "record".
    """
    folder = Path(folder)
    for key, value in tensors.items():
        check_values(folder / key, {key: value})
    with hold(folder, wait=10.0):
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / ".detector.safetensors"
        atomic_write(new, lambda path: write_tensors(path, tensors, {"format": "pt"}))
        digest = file_hash(new)
        name = f"detector-{digest[:12]}.safetensors"
        new.replace(folder / name)
        dims = dataclasses.asdict(backbone.dims)
        whole = {
            "format": FORMAT, "kind": KIND, **config,
            "backbone": {"id": _portable(backbone.id), "weight_hash": backbone.weight_hash, "dims": dims},
            "tensors": name, "tensors_sha256": digest,
            "versions": {"anprompt": __version__, **package_versions(("torch", "numpy", "pillow"), "unknown")},
        }  # fmt: skip
        write_text(folder / CARD, card(whole, folder.name))
        write_json(folder / CONFIG, whole)
        for path in folder.glob("detector-*.safetensors"):
            if path.name != name:
                path.unlink(missing_ok=True)
    return folder


def _portable(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a detector, with the parts that loading needs checked.

    Raises:
        UserError: no detector there, or one that this version can't read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a detector folder" if folder.exists() else "does not exist"
        raise UserError(f"Detector {str(folder)!r} {what}; make one with 'anprompt detect fit'.")
    if not holds_detector(folder):
        raise UserError(f"{str(folder)!r} is not a detector; make one with 'anprompt detect fit'.")
    path = folder / CONFIG
    config: dict[str, Any] = read_json(path)
    if config.get("format") != FORMAT:
        raise UserError(f"Detector {str(folder)!r} has format {config.get('format')!r}; this version reads {FORMAT}.")
    for key, kind in _FIELDS.items():
        if not isinstance(config.get(key), kind) or isinstance(config.get(key), bool):
            raise UserError(f"{str(path)!r}: {key!r} is missing or of a wrong type.")
    if not _is_tensors(config["tensors"]) or Path(config["tensors"]).name != config["tensors"]:
        raise UserError(f"{str(path)!r}: {config['tensors']!r} is no file of a detector.")
    _check_threshold(path, config.get("threshold"))
    return config


def _check_threshold(path: Path, kept: Any) -> None:
    if kept is None:
        return
    names = ("value", "asked", "expected", "low", "high", "images")
    if not isinstance(kept, dict) or set(kept) != set(names):
        raise UserError(f"{str(path)!r}: its threshold is not one that 'anprompt detect threshold' writes.")
    if not all(isinstance(kept[name], (int, float)) and math.isfinite(kept[name]) for name in names):
        raise UserError(f"{str(path)!r}: its threshold holds something that is no number.")


def read_state(folder: str | Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learned tensors, checked."""
    path = Path(folder) / config["tensors"]
    tensors = check_values(path, read_tensors(path)[0])
    if file_hash(path) != config["tensors_sha256"]:
        raise UserError(f"{str(path)!r} is not the file that {CONFIG} was written with; copy the detector again.")
    return tensors


def write_threshold(folder: str | Path, threshold: Mapping[str, Any]) -> None:
    """Replace the threshold of a detector; what was learned stays as it is."""
    folder = Path(folder)
    with hold(folder, wait=10.0):
        config = {**read_config(folder), "threshold": dict(threshold)}
        write_text(folder / CARD, card(config, folder.name))
        write_json(folder / CONFIG, config)


def card(config: Mapping[str, Any], name: str) -> str:
    """The README.md of a detector."""
    threshold = config.get("threshold")
    told = (
        f"{threshold['value']:.4f}, from {threshold['images']} held-out normal images: {threshold['expected']:.1%} false alarms "
        f"expected ({threshold['low']:.1%} to {threshold['high']:.1%})"
        if threshold
        else "none yet; choose one with 'anprompt detect threshold'"
    )
    return "\n".join([
        f"# {''.join(c for c in name if c.isalnum() or c in ' -_.') or 'detector'}", "",
        f"An anomaly detector by anprompt {__version__}: method {config['method']}, learned from {config['images']} normal images.",
        "", f"- Backbone: weights {config['backbone']['weight_hash'][:12]}", f"- Windows along the shorter side: {config['tiles']}",
        f"- Threshold: {told}", "", "```", "anprompt detect predict THIS_FOLDER pictures/ --csv answers.csv --maps maps/", "```", "",
    ])  # fmt: skip
