"""From files with labels, out of a folder or a table, to a data set with its reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.data.copies import copy_warnings, learn
from anprompt.data.division import complete_parts
from anprompt.data.identity import sound
from anprompt.data.images import check_picture, read_item, shown
from anprompt.data.names import check_classnames, class_key
from anprompt.data.reading import PARTS, Reading, given_parts, lacking_classes
from anprompt.data.types import Dataset, Item
from anprompt.data.walk import LeftOut
from anprompt.errors import UserError


@dataclass(frozen=True)
class LabelledFile:
    """A file with what the user says of it.

    Attributes:
        classname: as written.
        part: "train", "val" or "test"; "" where the data has no parts.
        where: what to add to a message about the file, such as its line in a table.
    """

    path: str
    classname: str
    part: str = ""
    domain: str = ""
    where: str = ""


def assemble(
    source: Path,
    name: str,
    files: Iterable[LabelledFile],
    *,
    layout: str,
    classnames: Sequence[tuple[str, str]],
    folder: Path | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    unlabelled: Sequence[str] = (),
    decisions: Sequence[str] = (),
    left_out: Sequence[LeftOut] = (),
    least_classes: int = 2,
) -> Dataset:
    """Checks every file, numbers the classes by name, and takes or makes the parts.

    Parts that are given stay as they are (`reading.given_parts`); data without parts is divided by
    `division.complete_parts`.

    Args:
        source: the folder or table, for messages.
        name: of the data set.
        files: in the order that each class is to have.
        layout, folder, parts, unlabelled, decisions, left_out: for the reading.
        classnames: (part, name) of every class as written, those without files included.
        least_classes: how many classes must have usable images.

    Raises:
        UserError: too few classes with images, or class names that can't be told apart.
    """
    told, out = list(decisions), list(left_out)
    name_of = _one_name_each(classnames, told)
    usable: dict[str, list[LabelledFile]] = {name: [] for name in name_of.values()}
    files = list(files)
    seen = sound([file.path for file in files])
    for file in files:
        reason = None if file.path in seen else check_picture(file.path)
        if reason is None:
            usable[name_of[file.classname]].append(file)
        else:
            out.append(LeftOut(file.path, reason + (f" ({file.where})" if file.where else "")))
    for empty in sorted(name for name, rows in usable.items() if not rows):
        out.append(LeftOut(str(source), f"the class {empty!r} holds no usable picture"))
        del usable[empty]
    _require_classes(source, usable, out, least_classes)
    raw_names = sorted(usable)
    names = check_classnames(raw_names)
    made: dict[str, list[Item]] = {part: [] for part in PARTS}
    for label, raw in enumerate(raw_names):
        for file in usable[raw]:
            made[file.part or "train"].append(Item(file.path, label, names[label], file.domain))
    learn([file.path for rows in usable.values() for file in rows])
    divided = not any(file.part for rows in usable.values() for file in rows)
    full, warnings = (complete_parts(made), []) if divided else given_parts(made)
    reading = Reading(
        str(source), layout, str(folder or source),
        {part: tuple((parts or {})[part]) for part in PARTS if part in (parts or {})},
        tuple(unlabelled), divided, tuple(told), (*warnings, *lacking_classes(names, full), *copy_warnings(full)),
        tuple(out),
    )  # fmt: skip
    return Dataset(
        name=name,
        classnames=tuple(names),
        train=tuple(full["train"]),
        val=tuple(full["val"]),
        test=tuple(full["test"]),
        read=read_item,
        skipped=tuple(map(str, out)),
        reading=reading,
    )


def _one_name_each(classnames: Sequence[tuple[str, str]], told: list[str]) -> dict[str, str]:
    """The class that each written name stands for: `Apple` of test is the class `apple` of train.

    Two names for one class within a part are refused.
    """
    first: dict[str, str] = {}
    name_of: dict[str, str] = {}
    for part in ("", *PARTS):
        names = sorted({name for place, name in classnames if place == part})
        check_classnames(names)
        for name in names:
            name_of[name] = first.setdefault(class_key(name), name)
            if name_of[name] != name:
                told.append(f"{name!r} is the class {name_of[name]!r}")
    return name_of


def _require_classes(
    source: Path, usable: Mapping[str, Sequence[LabelledFile]], out: Sequence[LeftOut], least: int
) -> None:
    if len(usable) >= max(least, 1):
        return
    why = f" The first of {len(out)} files left out: {out[0]}" if out else ""
    if usable:
        (name,) = usable
        raise UserError(f"{shown(source)} has pictures of one class only ({name!r}); at least two are needed.{why}")
    raise UserError(f"{shown(source)} holds no usable pictures.{why}")
