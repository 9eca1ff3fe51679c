"""`embedded:defects`: crops of circuit boards with six kinds of defects, photographs far from the embedded model.

Cut from DeepPCB (MIT, `assets/defects/LICENSE`) by `recipes/boards/defects.py`; boards are divided, so that no board is in
two parts. It is none of the 11 sets of pictograms, and protocols over all of them leave it out.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError

NAME = "defects"
_PARTS = ("train", "val", "test")


def _folder() -> Path:
    return Path(str(resources.files("anprompt"))) / "assets" / NAME


@functools.lru_cache(maxsize=1)
def _manifest() -> dict[str, Any]:
    return json.loads((_folder() / "manifest.json").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def _sheet() -> Image.Image:
    with Image.open(_folder() / "sheet.png") as sheet:
        return sheet.convert("RGB")


def defects_dataset() -> Dataset:
    """Six classes; about 40 crops of each to train on, 16 for validation, 40 to test."""
    facts = _manifest()
    classes = tuple(facts["classes"])
    parts: dict[str, list[Item]] = {part: [] for part in _PARTS}
    for cell, crop in enumerate(facts["crops"]):
        name = crop["class"]
        path = f"embedded:{NAME}/{name}/{crop['board']}/{crop['part']}/{cell:04d}"
        parts[crop["part"]].append(Item(path, classes.index(name), name))
    return Dataset(
        name=NAME, classnames=classes, train=tuple(parts["train"]), val=tuple(parts["val"]), test=tuple(parts["test"]),
        read=read_defect, template="a photo of a circuit board with a {}.", licence="MIT, (c) 2018 tangsanli5201",
        citation="Tang, He, Huang and Yang, arXiv 1902.06197 (DeepPCB)",
    )  # fmt: skip


def read_defect(item: Item) -> Image.Image:
    """The crop of an item, RGB, 64 px."""
    facts = _manifest()
    try:
        cell = int(item.path.rpartition("/")[2])
    except ValueError:
        cell = -1
    if not 0 <= cell < len(facts["crops"]):
        raise UserError(f"{item.path}: no such embedded image.")
    side, columns = facts["side"], facts["columns"]
    x, y = cell % columns * side, cell // columns * side
    return _sheet().crop((x, y, x + side, y + side))
