"""A folder of class folders as a data set: `root/<class>/*` or `root/{train,val,test}/<class>/*`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from anprompt.data.images import check_picture, read_item, shown
from anprompt.data.names import check_classnames
from anprompt.data.splits import complete_parts
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError

log = logging.getLogger("anprompt")

PART_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "icon\r"}


def folder_dataset(root: Path) -> Dataset:
    """Reads a folder of class folders, with or without train, val and test folders above them.

    Pictures in sub folders count for the class above. Hidden and system files are passed over; anything
    else that can't be used as a picture is listed in `skipped`. Missing parts are made up by
    `splits.complete_parts`.

    Raises:
        UserError: no class folders, fewer than two classes with pictures, class names that can't be told
            apart, or a class folder that can't be read.
    """
    skipped: list[str] = []
    folders = _part_folders(root, skipped) or {"train": [root]}
    found: dict[str, dict[str, list[str]]] = {}  # class folder name -> part -> paths
    for part, bases in folders.items():
        for base in bases:
            for class_folder in _class_folders(base, skipped):
                paths = found.setdefault(class_folder.name, {}).setdefault(part, [])
                paths += _pictures(class_folder, skipped)
    for name in sorted(found):
        if not any(found[name].values()):
            skipped.append(f"{shown(root)}: the class folder {name!r} holds no usable picture")
            del found[name]
    _require_classes(root, found, skipped)
    raw_names = sorted(found)
    classnames = check_classnames(raw_names)
    parts: dict[str, list[Item]] = {part: [] for part in ("train", "val", "test")}
    for label, (raw, clean) in enumerate(zip(raw_names, classnames)):
        for part, paths in found[raw].items():
            parts[part] += [Item(path, label, clean) for path in paths]
    full = complete_parts(parts)
    if skipped:
        log.warning("%s: %d files left out, the first: %s", shown(root), len(skipped), skipped[0])
    return Dataset(
        name=root.resolve().name,
        classnames=tuple(classnames),
        train=tuple(full["train"]),
        val=tuple(full["val"]),
        test=tuple(full["test"]),
        read=read_item,
        skipped=tuple(skipped),
    )


def _part_folders(root: Path, skipped: list[str]) -> dict[str, list[Path]] | None:
    """The train, val and test folders, or None where the folders are classes.

    A class may well be called "train" (the vehicle); folders are parts only if they hold folders and no
    pictures, and if there is one called train or nothing but parts.
    """
    folders, files = _listed(root)
    parts = [folder for folder in folders if folder.name.lower() in PART_FOLDERS]
    names = {folder.name.lower() for folder in parts}
    if not parts or ("train" not in names and len(parts) < len(folders)):
        return None
    for folder in parts:
        below, loose = _listed(folder)
        if not below or any(check_picture(file) is None for file in loose):
            return None
    others = [folder for folder in folders if folder not in parts]
    skipped += [f"{shown(folder)}: lies beside the train and test folders" for folder in others]
    skipped += [f"{shown(file)}: lies outside the class folders" for file in files]
    found: dict[str, list[Path]] = {}
    for folder in parts:
        found.setdefault(PART_FOLDERS[folder.name.lower()], []).append(folder)
    return found


def _class_folders(base: Path, skipped: list[str]) -> list[Path]:
    folders, files = _listed(base)
    if not folders:
        raise UserError(
            f"{shown(base)} holds no class folders. Put the pictures of each class into a folder with its "
            f"name, e.g. {shown(base)}/cat/1.jpg."
        )
    skipped += [f"{shown(file)}: lies outside the class folders" for file in files]
    return folders


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Visible folders and visible other entries, by name."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{shown(folder)} can't be listed ({reason}); check its permissions.") from None
    visible = [path for path in entries if not _hidden(path.name)]
    folders = [path for path in visible if path.is_dir()]
    return folders, [path for path in visible if not path.is_dir()]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _pictures(class_folder: Path, skipped: list[str]) -> list[str]:
    """Usable pictures in a class folder and below, sorted by path."""
    paths = []
    for path in sorted(_files(class_folder, frozenset(), skipped)):
        reason = check_picture(path)
        if reason is None:
            paths.append(path)
        else:
            skipped.append(f"{shown(path)}: {reason}")
    return paths


def _files(folder: Path, above: frozenset[str], skipped: list[str]) -> Iterator[str]:
    """Visible files below a folder. Links are followed, except back to a folder on the way down."""
    real = os.path.realpath(folder)
    if real in above:
        skipped.append(f"{shown(folder)}: is a link to a folder above it")
        return
    folders, files = _listed(folder)
    yield from (str(file) for file in files)
    for below in folders:
        yield from _files(below, above | {real}, skipped)


def _require_classes(root: Path, found: dict[str, dict[str, list[str]]], skipped: list[str]) -> None:
    if len(found) >= 2:
        return
    if found:
        (name,) = found
        raise UserError(f"{shown(root)} has pictures of one class only ({name!r}); at least two are needed.")
    why = f" The first of {len(skipped)} files left out: {skipped[0]}" if skipped else ""
    raise UserError(f"{shown(root)} holds no usable pictures.{why}")
