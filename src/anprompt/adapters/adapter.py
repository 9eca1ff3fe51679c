"""Adapter folders: what was learned, and enough words to open it again.

    adapter/config.json           method, settings, backbone id and weight hash, class names, versions
    adapter/adapter.safetensors   trained tensors and noise prompts, nothing of the backbone
    adapter/README.md             a card for people

Nothing in it is executed or unpickled, and all of it is checked before memory is asked for: an adapter
may come from a stranger (docs/security.md). A new adapter is written whole into `adapter/.new/` first; the
rename that gives it that name is the moment it counts. Readers prefer files in `.new/`, so a kill at any
time leaves either the old adapter or the new one, and other files in the folder are never touched.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from anprompt._version import __version__
from anprompt.adapters.checks import (
    Bounded,
    check_fields,
    check_numbers,
    check_shapes,
    check_sizes,
    check_values,
    count,
    tensor_shapes,
)
from anprompt.adapters.record import AdapterRecord, of_today
from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.names import is_path
from anprompt.errors import UserError, choices
from anprompt.evaluation.calibration_checks import check_calibration
from anprompt.methods import create_method, get_method, get_preset, list_methods, list_presets
from anprompt.methods.base import Method, MethodConfig
from anprompt.utils.files import (
    atomic_write,
    check_encodable,
    check_folder,
    check_regular_target,
    file_hash,
    file_head,
    first_line,
    package_versions,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
    write_text,
)
from anprompt.utils.locks import hold

log = logging.getLogger("anprompt")

FORMAT = 1
CONFIG, TENSORS, CARD = "config.json", "adapter.safetensors", "README.md"
CARD_MARK = "Prompts for a frozen CLIP, tuned by"  # in every card since the first version
LOCK_WAIT_S = 10.0  # to save an adapter takes less
_NEW = ".new"
_LIBRARIES = ("torch", "transformers", "safetensors", "numpy", "pillow")


# --- save -----------------------------------------------------------------------------------------
def save_adapter(
    folder: str | Path,
    method: Method,
    *,
    train: MethodConfig | None = None,
    record: AdapterRecord | Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the adapter of a method, replacing one that is there.

    Args:
        overwrite: also replace files of an adapter's names that no adapter put there.
        train: the recipe it was trained by, recorded.
        record: figures and facts to keep beside it, see `adapters.record`: plain JSON values.

    Returns:
        The folder.

    Raises:
        UserError: the folder can't be written.
    """
    folder = Path(folder)
    check_place(folder, overwrite=overwrite)
    config = adapter_config(method, train, record)
    tensors = method.state_dict()
    for key, value in tensors.items():  # what `load_adapter` would refuse is not written
        check_numbers(folder / TENSORS, key, value.float())
    with hold(folder, wait=LOCK_WAIT_S):
        _save(folder, tensors, config)
    return folder


def _save(folder: Path, tensors: Mapping[str, torch.Tensor], config: dict[str, Any]) -> None:
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _settle(folder)
        for stale in folder.glob(".writing.*"):  # left by a kill
            shutil.rmtree(stale, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing.", dir=folder))
        atomic_write(temporary / TENSORS, lambda path: write_tensors(path, tensors, {"format": "pt"}))
        config["tensors_sha256"] = file_hash(temporary / TENSORS)
        write_json(temporary / CONFIG, config)
        write_text(temporary / CARD, card(config, folder.name))
        temporary.replace(folder / _NEW)
        _settle(folder)
    except OSError as error:
        raise UserError(f"Can't write the adapter {str(folder)!r}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_place(folder: str | Path, *, overwrite: bool = False) -> None:
    """Whether an adapter may be written to a folder, asked before hours of training rather than after.

    Nothing is made: a request that is refused later leaves no empty folder.

    Raises:
        UserError: the folder can't be written, or one of an adapter's three names is a link, a device, or
            (without `overwrite`) a file that no adapter put there.
    """
    folder = Path(folder)
    check_folder(folder)
    check_encodable(folder)
    there = [folder / name for name in (CONFIG, CARD, TENSORS) if os.path.lexists(folder / name)]
    for path in there:
        check_regular_target(path)
    if there and not overwrite and not holds_adapter(folder):
        raise UserError(
            f"{str(folder)!r} holds other files ({there[0].name!r}); choose a new folder, or overwrite them."
        )
    if there and not overwrite:
        read_config(folder)  # another program's config.json
        if not _card_is_ours(folder):
            raise UserError(
                f"{str(folder / CARD)!r} was changed by hand; move it away, choose a new folder, or overwrite it."
            )


def same_request(folder: str | Path, method: Method, train: MethodConfig | None, record: Mapping[str, Any]) -> bool:
    """Whether the adapter in a folder was asked for in the same way: method, settings, seed, classes and data."""

    made, kept = json.loads(json.dumps(adapter_config(method, train, record))), read_config(folder)
    left_out = {"tensors_sha256", "versions", "record"}
    if made["train"] is None or kept["train"] is None:  # a method that was opened again knows no recipe
        left_out.add("train")
    runs = {config["record"].get("run") for config in (made, kept)} - {None}
    return len(runs) < 2 and all(made.get(key) == kept.get(key) for key in {*made, *kept} - left_out)


def _card_is_ours(folder: Path) -> bool:
    """Whether the card is as it was written, or not there."""
    path = _file(folder, CARD)
    return not path.is_file() or CARD_MARK.encode() in file_head(path)


def write_record(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Replace the record of a finished adapter; the tensors stay as they are.

    Raises:
        UserError: no adapter there, or it can't be written.
    """
    read_config(folder)  # nothing is made where there is no adapter
    with hold(folder, wait=LOCK_WAIT_S):
        _write_record(Path(folder), record)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    config = {**read_config(folder), "record": dict(record)}
    for name in (CONFIG, CARD):  # both, before one of them is written
        check_regular_target(_file(folder, name))
    if _card_is_ours(folder):
        write_text(_file(folder, CARD), card(config, folder.name))
    else:
        log.warning("%s is not as anprompt wrote it; it stays as it is", _file(folder, CARD))
    write_json(_file(folder, CONFIG), config)


def _settle(folder: Path) -> None:
    """Move a complete `.new/` into place; running it again after a kill goes on where it stopped."""
    new = folder / _NEW
    if new.is_symlink():  # what lies elsewhere must not be moved here
        raise UserError(f"{str(new)!r} is a link, which no adapter has; remove it.")
    if new.is_dir():
        for name in sorted(os.listdir(new)):
            (new / name).replace(folder / name)
        new.rmdir()


def _file(folder: Path, name: str) -> Path:
    """The valid file of that name: the one in `.new/` where a kill came before it was moved."""
    new = folder / _NEW / name
    return new if new.is_file() and not new.parent.is_symlink() else folder / name


def holds_adapter(folder: str | Path) -> bool:
    """Whether a finished adapter lies in the folder."""
    return _file(Path(folder), CONFIG).is_file() and _file(Path(folder), TENSORS).is_file()


def adapter_config(
    method: Method, train: MethodConfig | None = None, record: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What config.json holds. No times or paths of this run: equal runs give equal files."""
    backbone = method.backbone
    config: dict[str, Any] = {
        "format": FORMAT,
        "preset": method.preset or method.name,
        "method": method.name,
        "settings": method.config.to_dict(),
        "template": method.template,
        "seed": method.seed,
        "classnames": list(method.trained_classnames),
        "backbone": {
            "id": _portable(backbone.id),
            "weight_hash": backbone.weight_hash,
            "activation": backbone.activation,
            "dims": dataclasses.asdict(backbone.dims),
        },
        "trained_parameters": method.trained_parameters(),
        "train": train.to_dict() if train else None,
        "record": dict(record or {}),
        "versions": {"anprompt": __version__, **package_versions(_LIBRARIES, "unknown")},
    }
    if method.visual_head is not None:
        config["visual_head"] = True
    if method.descriptions:
        config["descriptions"] = {name: list(lines) for name, lines in method.descriptions.items()}
    return config


def _portable(backbone_id: str) -> str:
    """A relative folder means nothing elsewhere, so folders are recorded in full; other ids as they are."""
    return str(Path(backbone_id).expanduser().resolve()) if is_path(backbone_id) else backbone_id


def card(config: Mapping[str, Any], name: str) -> str:
    """The README.md of an adapter."""
    names = config["classnames"]
    shown = ", ".join(_plain(n) for n in names[:50]) + (f", ... ({len(names) - 50} more)" if len(names) > 50 else "")
    backbone = config["backbone"]
    lines = [
        f"# {_plain(name) or 'adapter'}",
        "",
        f"{CARD_MARK} {_plain(_written_by(config))} with the method "
        f"{_plain(config['preset'])} ({config['trained_parameters']:,} trained parameters).",
        "",
        f"- Backbone: {_plain(backbone['id'])}, weights {_plain(backbone['weight_hash'][:12])}",
        f"- Sentence: {_plain(config['template'])}",
        f"- Classes trained on ({len(names)}): {shown}",
        "",
        "```",
        "anprompt predict THIS_FOLDER picture.jpg",
        'anprompt predict THIS_FOLDER picture.jpg --classes "other,names,than these"',
        "```",
        "```python",
        "import anprompt",
        'anprompt.load("THIS_FOLDER").predict(["picture.jpg"])',
        "```",
    ]
    record = {k: v for k, v in config["record"].items() if k != "run" and isinstance(v, (str, int, float))}
    if record:
        lines += ["", "| | |", "|---|---|", *(f"| {_plain(k)} | {_figure(v)} |" for k, v in record.items())]
    return "\n".join(lines) + "\n"


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else _plain(value)


def _plain(text: Any) -> str:
    """User text that can't turn into markup, links or table cells in the card, nor move a terminal's cursor."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(text).split()))
    return "".join("\\" + c if c in r"\`*_[]<>|#!" else c for c in line)


# --- load -----------------------------------------------------------------------------------------
def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of an adapter, with the parts that loading needs checked, and the record under today's names.

    Raises:
        UserError: no adapter there, or one that this version can't read.
    """
    folder = Path(folder)
    path = _file(folder, CONFIG)
    if not folder.is_dir():
        what = "is a file, not an adapter folder" if folder.exists() else "does not exist"
        raise UserError(f"Adapter {str(folder)!r} {what}; make one with 'anprompt fit'.")
    if not path.is_file():
        raise UserError(f"{str(folder)!r} is not an adapter: it has no {CONFIG}; make one with 'anprompt fit'.")
    config = read_json(path)
    if not isinstance(config, dict) or "format" not in config:
        raise UserError(f"{str(path)!r} is not the config of an adapter.")
    if config["format"] != FORMAT:
        raise UserError(
            f"Adapter {str(folder)!r} has format {config['format']!r}; this version of anprompt reads format "
            f"{FORMAT}. Use the version that wrote it ({_written_by(config)}) or a newer one."
        )
    check_fields(path, config)
    if "record" in config:
        config["record"] = of_today(config["record"])
    return config


def _written_by(config: Mapping[str, Any]) -> str:
    versions = config.get("versions")
    return f"anprompt {versions.get('anprompt', '?')}" if isinstance(versions, dict) else "unknown"


def load_adapter(
    folder: str | Path, *, backbone: Backbone | None = None, device: str | torch.device = "cpu", dtype: str = "float32"
) -> Method:
    """Open an adapter on its backbone.

    Args:
        backbone: the frozen model where it is loaded already; else it is loaded by the recorded id.
        device, dtype: of the backbone to load; the prompts stay fp32 and are cast where they enter.

    Raises:
        UserError: no adapter, another format, another backbone, or damaged tensors; one line with a remedy.
    """
    folder = Path(folder)
    config = read_config(folder)
    shapes = tensor_shapes(_file(folder, TENSORS))
    elements = sum(count(shape) for shape in shapes.values())
    check_sizes(folder, config["settings"], elements)
    if backbone is None:
        backbone = _recorded_backbone(folder, config["backbone"]["id"], device, dtype)
    _check_backbone(folder, config["backbone"], backbone)
    method = _build(folder, config, backbone, elements)
    method.temperature = _temperature(folder, config)
    method.labels = trained_labels(config)
    expected = {key: tuple(value.shape) for key, value in method.state_dict().items()}
    check_shapes(_file(folder, TENSORS), shapes, expected)
    _load_tensors(_file(folder, TENSORS), method, config.get("tensors_sha256"))
    method.eval()
    return method


def trained_labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the training data called the classes, where they were given other names; else empty."""
    record = config.get("record")
    labels = record.get("labels") if isinstance(record, dict) else None
    sound = isinstance(labels, list) and len(labels) == len(config["classnames"])
    return tuple(map(str, labels)) if sound and labels else ()


def _temperature(folder: Path, config: Mapping[str, Any]) -> float:
    """What `anprompt.evaluation.calibration` recorded; 1 where it recorded nothing."""
    kept = config.get("record", {}).get("calibration")
    check_calibration(kept, f"Adapter {str(folder)!r}")
    return float(kept.get("temperature", 1.0)) if kept else 1.0


def _recorded_backbone(folder: Path, name: str, device: str | torch.device, dtype: str) -> Backbone:
    try:
        return load_backbone(name, device=device, dtype=dtype)
    except UserError as error:
        if os.path.isabs(name) and not Path(name).is_dir():
            raise UserError(
                f"Adapter {str(folder)!r} needs the backbone folder {name!r}, which is not there. "
                "Give its new place with --backbone FOLDER."
            ) from error
        raise


def _check_backbone(folder: Path, recorded: Mapping[str, Any], backbone: Backbone) -> None:
    if backbone.weight_hash != recorded["weight_hash"]:
        raise UserError(
            f"Adapter {str(folder)!r} was trained on {recorded['id']!r} with weights "
            f"{recorded['weight_hash'][:12]!r}, but {backbone.id!r} has other weights "
            f"({backbone.weight_hash[:12]!r}), so its answers would mean nothing. Give the backbone it was "
            "trained on with --backbone, or train again."
        )
    if backbone.activation != recorded["activation"]:
        raise UserError(
            f"Adapter {str(folder)!r} was trained with activation {recorded['activation']!r}, but "
            f"{backbone.id!r} uses {backbone.activation!r}; correct hidden_act in the backbone's config.json."
        )


def _build(folder: Path, config: Mapping[str, Any], backbone: Backbone, elements: int) -> Method:
    # All settings are recorded, so a preset that was renamed since is only a label.
    name = config["preset"] if config["preset"] in list_presets() else config["method"]
    if config["method"] not in list_methods():
        raise choices(f"method of adapter {str(folder)!r}:", config["method"], list_methods())
    if get_preset(name).method != config["method"]:
        raise UserError(
            f"Adapter {str(folder)!r}: its preset {config['preset']!r} is of the method {get_preset(name).method!r}, but its "
            f"method says {config['method']!r}; it was changed or damaged. Copy it again."
        )
    try:
        with Bounded(elements):
            # Settings left out are at their defaults; what the preset says today does not count.
            recorded = get_method(config["method"]).Config.from_dict(config["settings"])
            method = create_method(
                name, backbone, config["classnames"], template=config["template"], settings=recorded,
                descriptions=config.get("descriptions"), seed=config["seed"], fresh=False,
            )  # fmt: skip
    except UserError as error:
        raise UserError(f"Adapter {str(folder)!r}: {error}") from error
    except (RuntimeError, MemoryError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        # sizes or types no sound config has
        raise UserError(f"Adapter {str(folder)!r}: its settings can't be used ({first_line(error)}).") from error
    if config.get("visual_head"):
        method.add_visual_head()
    method.preset = config["preset"]
    return method


def _load_tensors(path: Path, method: Method, checksum: str | None) -> None:
    tensors = check_values(path, read_tensors(path)[0])
    if checksum is not None and file_hash(path) != checksum:
        raise UserError(
            f"{str(path)!r} is not the file that {CONFIG} was written with (its checksum differs); it was changed or "
            "damaged. Copy the adapter again."
        )
    method.load_state_dict(tensors, strict=True)
