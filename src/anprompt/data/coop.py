"""The classic data sets in CoOp's folder layout, and a check that says what of them is missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

from anprompt.data.catalog import CATALOG, SPLITS_SOURCE, CatalogRow
from anprompt.data.images import read_item, shown
from anprompt.data.splits import clean_classnames
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError, choices

PARTS = ("train", "val", "test")


def coop_dataset(name: str, root: str | Path | None) -> Dataset:
    """A classic data set, e.g. "oxford_pets", below `root` in CoOp's layout.

    Every picture that the split names must be there, because the field's few-shot draws depend on all of
    them. ImageNet has no val part (its validation pictures are the test part, as in the field); its
    pictures are sorted by name, where the field takes the order of the file system.

    Raises:
        UserError: an unknown name, or files that are missing or damaged.
    """
    row = _row(name)
    if root is None:
        raise UserError(f"coop:{name} needs the folder that holds {row.folder}/; give it as root.")
    home = _home(row, Path(root))
    if not home.is_dir():
        raise UserError(
            f"{shown(home)} is missing: coop:{name} lies there in CoOp's layout. See {SPLITS_SOURCE}."
        )
    parts, raw_names = _LAYOUTS[row.layout](row, home)
    if row.layout != "imagenet":  # those are listed from the folders themselves
        _require_all(row, parts)
    classnames = clean_classnames(
        [row.renames.get(raw, raw) for raw in raw_names], allow_duplicates=row.layout == "imagenet"
    )
    train, val, test = (
        tuple(Item(item.path, item.label, classnames[item.label]) for item in parts[part]) for part in PARTS
    )
    return Dataset(row.name, tuple(classnames), train, val, test, read_item, template=row.template)


def read_split(path: str | Path) -> tuple[dict[str, list[Item]], list[str]]:
    """A `split_zhou_*.json` as it stands: items with relative paths and uncleaned names, and those names.

    Raises:
        UserError: the file is missing, no JSON, or not of the form {part: [[path, label, name], ...]}.
    """
    path = Path(path)
    text = _text(path)
    try:
        rows = json.loads(text)
        parts = {
            part: [Item(str(name), int(label), str(classname)) for name, label, classname in rows[part]]
            for part in PARTS
        }
    except (json.JSONDecodeError, RecursionError):
        raise UserError(f"{shown(path)} is not valid JSON; download the split again.") from None
    except (KeyError, TypeError, ValueError):
        form = "each of train, val, test should be [[path, label, name], ...]"
        raise UserError(f"{shown(path)} is not a split file; {form}.") from None
    names: dict[int, str] = {}
    for item in (item for part in PARTS for item in parts[part]):
        if names.setdefault(item.label, item.classname) != item.classname:
            raise UserError(
                f"{shown(path)}: label {item.label} is called {names[item.label]!r} and {item.classname!r}."
            )
    if sorted(names) != list(range(len(names))) or not names:
        raise UserError(f"{shown(path)}: the labels are not 0 to n - 1 without gaps.")
    return parts, [names[label] for label in range(len(names))]


def check_dataset(name: str, root: str | Path) -> list[str]:
    """What is there of a classic data set, what is missing, and where it should lie. Opens no picture.

    Returns:
        Lines that start with "found", "missing" or "wrong"; nothing but "found" means it can be used.
    """
    row = _row(name)
    home = _home(row, Path(root))
    if not home.is_dir():
        return [f"missing  {shown(home)}/ (make this folder; how: {SPLITS_SOURCE})"]
    lines = [f"found    {shown(home)}/"]
    images = home / row.images
    if row.images:
        there = images.is_dir()
        where = "" if there else f" (get the pictures from {row.source} and unpack them here)"
        lines.append(f"{'found  ' if there else 'missing'}  {shown(images)}/{where}")
    names = [row.split_file]
    if row.layout == "aircraft":
        names += [f"images_variant_{part}.txt" for part in PARTS]
    for file in (home / file_name for file_name in names):
        where = "" if file.is_file() else f" (get it as told in {SPLITS_SOURCE} and put it here)"
        lines.append(f"{'found  ' if file.is_file() else 'missing'}  {shown(file)}{where}")
    if any(line.startswith("missing") for line in lines):
        return lines
    return lines + _check_pictures(row, home)


def _check_pictures(row: CatalogRow, home: Path) -> list[str]:
    try:
        parts, names = _LAYOUTS[row.layout](row, home)
    except UserError as error:
        return [f"wrong    {error}"]
    counts = ", ".join(f"{len(parts[part])} {part}" for part in PARTS)
    lines = [f"found    {len(names)} classes; {counts} pictures listed"]
    missing = _missing(parts) if row.layout != "imagenet" else []
    lines += [f"missing  {shown(path)}" for path in missing[:5]]
    if len(missing) > 5:
        lines.append(f"missing  ... and {len(missing) - 5} more pictures (get them from {row.source})")
    return lines


def _row(name: str) -> CatalogRow:
    if name not in CATALOG:
        raise choices("classic data set", name, CATALOG)
    return CATALOG[name]


def _home(row: CatalogRow, root: Path) -> Path:
    """The data set's folder: below the root, or the root itself where that was given."""
    root = root.expanduser()
    homes = [root / row.folder, root]
    if row.layout == "aircraft":  # the archive's own layout, before its data/ is moved up
        homes = [root / row.folder, root / row.folder / "data", root, root / "data"]
    return next((home for home in homes if (home / row.split_file).is_file()), homes[0])


def _split_layout(row: CatalogRow, home: Path) -> tuple[dict[str, list[Item]], list[str]]:
    parts, names = read_split(home / row.split_file)
    images = home / row.images
    return {
        part: [Item(str(images / item.path), item.label, item.classname) for item in items]
        for part, items in parts.items()
    }, names


def _aircraft_layout(row: CatalogRow, home: Path) -> tuple[dict[str, list[Item]], list[str]]:
    names = [line.strip() for line in _text(home / row.split_file).splitlines() if line.strip()]
    labels = {name: label for label, name in enumerate(names)}
    parts: dict[str, list[Item]] = {}
    for part in PARTS:
        listing = home / f"images_variant_{part}.txt"
        parts[part] = []
        for number, line in enumerate(_text(listing).splitlines(), 1):
            stem, _, name = line.strip().partition(" ")
            if not stem:
                continue
            if name not in labels:
                raise UserError(f"{shown(listing)}, line {number}: {name!r} is not in {row.split_file}.")
            parts[part].append(Item(str(home / row.images / f"{stem}.jpg"), labels[name], name))
    return parts, names


def _imagenet_layout(row: CatalogRow, home: Path) -> tuple[dict[str, list[Item]], list[str]]:
    lines = [line.strip().partition(" ") for line in _text(home / row.split_file).splitlines()]
    name_of = {folder: name for folder, _, name in lines if folder}
    train = home / row.images / "train"
    folders = sorted(_listed(train, folders=True))
    unknown = [folder for folder in folders if folder not in name_of]
    if unknown or not folders:
        what = f"{unknown[0]!r} is not in {row.split_file}" if unknown else "there are no class folders"
        raise UserError(f"{shown(train)}: {what}.")
    parts: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for part, folder_name in (("train", "train"), ("test", "val")):
        base = home / row.images / folder_name
        strange = sorted(set(_listed(base, folders=True)) - set(folders))
        if strange or not _listed(base, folders=True):
            what = (
                f"{strange[0]!r} has no train folder" if strange else "needs a folder per class (n01440764)"
            )
            raise UserError(f"{shown(base)}: {what}.")
        for label, folder in enumerate(folders):
            pictures = sorted(_listed(base / folder)) if (base / folder).is_dir() else []
            parts[part] += [Item(str(base / folder / file), label, name_of[folder]) for file in pictures]
    return parts, [name_of[folder] for folder in folders]


_LAYOUTS = {"split": _split_layout, "aircraft": _aircraft_layout, "imagenet": _imagenet_layout}


def _listed(folder: Path, *, folders: bool = False) -> list[str]:
    """Names of the visible files, or of the visible folders, in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders]
    except OSError as error:
        raise UserError(f"{shown(folder)} can't be listed ({error.strerror}).") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{shown(path)} is missing; get it as told in {SPLITS_SOURCE}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{shown(path)} is not a UTF-8 text file; download it again.") from None
    except OSError as error:
        raise UserError(f"{shown(path)} can't be read ({error.strerror}).") from None


def _require_all(row: CatalogRow, parts: dict[str, list[Item]]) -> None:
    missing = _missing(parts)
    if missing:
        total = sum(len(items) for items in parts.values())
        raise UserError(
            f"coop:{row.name}: {len(missing)} of {total} pictures that {row.split_file} names are missing, the "
            f"first is {shown(missing[0])}. The field's draws need all of them; get them from {row.source}."
        )


def _missing(parts: dict[str, list[Item]]) -> list[str]:
    """Paths that do not exist; each folder is listed once, which is much quicker than asking per file."""
    there: dict[str, set[str]] = {}
    missing: list[str] = []
    for item in (item for part in PARTS for item in parts[part]):
        folder, file = os.path.split(item.path)
        if folder not in there:
            there[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if file not in there[folder]:
            missing.append(item.path)
    return missing
