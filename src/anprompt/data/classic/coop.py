"""The classic data sets and the ImageNet variants in CoOp's folder layout."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from anprompt.data.classic.catalog import CATALOG, SPLITS_SOURCE, CatalogRow
from anprompt.data.images import read_item, shown
from anprompt.data.names import clean_classnames
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError, choices
from anprompt.utils.files import read_text

log = logging.getLogger("anprompt")

PARTS = ("train", "val", "test")
MADE_SPLIT = "split_made_seed*.json"  # what `data prepare --make-split` writes; never the field's

Parts = dict[str, list[Item]]


def coop_dataset(name: str, root: str | Path | None) -> Dataset:
    """A classic data set, e.g. "oxford_pets", below `root` in CoOp's layout.

    Every picture that the split names must be there, because the field's few-shot draws depend on all of
    them. ImageNet has no val part (its validation pictures are the test part, as in the field); its
    pictures are sorted by name, where the field takes the order of the file system. The ImageNet variants
    have a test part only, and of ImageNet's classes those that the variant holds.

    Raises:
        UserError: an unknown name, or files that are missing or damaged.
    """
    row = catalog_row(name)
    if root is None:
        raise UserError(f"coop:{name} needs the folder that holds {row.folder}/; give it as root.")
    home = home_of(row, Path(root))
    if not home.is_dir():
        raise UserError(f"{shown(home)} is missing: coop:{name} lies there in CoOp's layout. See {SPLITS_SOURCE}.")
    parts, raw_names = read_layout(row, home)
    if not row.listed:  # those are listed from the folders themselves
        _require_all(row, parts)
    if row.layout == "split" and not (home / row.split_file).is_file():
        log.warning("coop:%s is divided by %s, not by the field's split", name, split_path(row, home).name)
    classnames = clean_classnames([row.renames.get(raw, raw) for raw in raw_names], allow_duplicates=row.listed)
    train, val, test = (
        tuple(Item(item.path, item.label, classnames[item.label], listed=True) for item in parts[part])
        for part in PARTS
    )
    return Dataset(row.name, tuple(classnames), train, val, test, read_item, template=row.template, licence=row.licence)


def read_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    """The items with full paths, and the class names as they stand in the files; opens no picture.

    Raises:
        UserError: a list or a folder is missing or can't be used.
    """
    return _LAYOUTS[row.layout](row, home)


def read_split(path: str | Path) -> tuple[Parts, list[str]]:
    """A `split_zhou_*.json` as it stands: items with relative paths and uncleaned names, and those names.

    Raises:
        UserError: the file is missing, no JSON, not of the form {part: [[path, label, name], ...]}, or
            names a picture outside the data set's folder.
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
    except (KeyError, TypeError, ValueError, OverflowError):
        form = "each of train, val, test should be [[path, label, name], ...]"
        raise UserError(f"{shown(path)} is not a split file; {form}.") from None
    names: dict[int, str] = {}
    for item in (item for part in PARTS for item in parts[part]):
        _require_inside(path, item.path)
        if names.setdefault(item.label, item.classname) != item.classname:
            raise UserError(
                f"{shown(path)}: label {item.label} is called {names[item.label]!r} and {item.classname!r}."
            )
    if sorted(names) != list(range(len(names))) or not names:
        raise UserError(f"{shown(path)}: the labels are not 0 to n - 1 without gaps.")
    return parts, [names[label] for label in range(len(names))]


def _require_inside(listing: Path, picture: str) -> None:
    """Refuses paths that a list has no business with: absolute ones, and ones that lead out by `..`."""
    steps = picture.replace("\\", "/").split("/")
    if not steps[-1] or steps[0] == "" or ".." in steps or ":" in steps[0] or "\0" in picture:
        raise UserError(
            f"{shown(listing)} names {picture[:80]!r}, which is not a path below the data set's folder; "
            "download the list again."
        )


def catalog_row(name: str) -> CatalogRow:
    """The catalog's row; `UserError` with the nearest name where there is none."""
    if name not in CATALOG:
        raise choices("classic data set", name, CATALOG)
    return CATALOG[name]


def home_of(row: CatalogRow, root: Path) -> Path:
    """The data set's folder: below the root, or the root itself where that was given."""
    root = root.expanduser()
    homes = [root / row.folder, root]
    if row.layout == "aircraft":  # the archive's own layout, before its data/ is moved up
        homes = [root / row.folder, root / row.folder / "data", root, root / "data"]
    if row.test_only:  # a root with a classnames.txt of its own is ImageNet's folder, not the variant's
        return root if root.name == row.folder and not homes[0].is_dir() else homes[0]
    return next((home for home in homes if split_path(row, home).is_file()), homes[0])


def split_path(row: CatalogRow, home: Path) -> Path:
    """The file that names the classes: the field's where it is there, else what stands in for it.

    For split files that is one made by `data prepare --make-split`; for ImageNet's variants ImageNet's
    own classnames.txt beside them. The field's path is returned where there is neither.

    Raises:
        UserError: the field's split is missing and there are several made ones.
    """
    official = home / row.split_file
    if official.is_file():
        return official
    if row.test_only:
        beside = home.parent / CATALOG["imagenet"].folder / row.split_file
        return beside if beside.is_file() else official
    made = sorted(home.glob(MADE_SPLIT)) if row.layout == "split" else []
    if len(made) > 1:
        names = ", ".join(file.name for file in made)
        raise UserError(f"{shown(home)} holds several made splits ({names}); keep the one to use.")
    return made[0] if made else official


def _split_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    parts, names = read_split(split_path(row, home))
    images = home / row.images
    return {
        part: [Item(str(images / item.path), item.label, item.classname) for item in items]
        for part, items in parts.items()
    }, names


def _aircraft_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    names = [line.strip() for line in _text(home / row.split_file).splitlines() if line.strip()]
    labels = {name: label for label, name in enumerate(names)}
    parts: Parts = {}
    for part in PARTS:
        listing = home / f"images_variant_{part}.txt"
        parts[part] = []
        for number, line in enumerate(_text(listing).splitlines(), 1):
            stem, _, name = line.strip().partition(" ")
            if not stem:
                continue
            _require_inside(listing, f"{stem}.jpg")
            if name not in labels:
                raise UserError(f"{shown(listing)}, line {number}: {name!r} is not in {row.split_file}.")
            parts[part].append(Item(str(home / row.images / f"{stem}.jpg"), labels[name], name))
    return parts, names


def _imagenet_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    train, val = home / row.images / "train", home / row.images / "val"
    name_of = synset_names(home / row.split_file)
    folders = _synset_folders(train, name_of)
    strange = sorted(set(_listed(val, folders=True)) - set(folders))
    if strange or not _listed(val, folders=True):
        what = f"{strange[0]!r} has no train folder" if strange else "needs a folder per class (n01440764)"
        raise UserError(f"{shown(val)}: {what}.")
    names = [name_of[folder] for folder in folders]
    return {"train": _pictures(train, folders, names), "val": [], "test": _pictures(val, folders, names)}, names


def _synsets_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    """A variant with a folder per WordNet id; its classes are those of ImageNet that have a folder."""
    name_of = synset_names(split_path(row, home))
    base = home / row.images
    folders = _synset_folders(base, name_of)
    names = [name_of[folder] for folder in folders]
    return {"train": [], "val": [], "test": _pictures(base, folders, names)}, names


def _numbered_layout(row: CatalogRow, home: Path) -> tuple[Parts, list[str]]:
    """ImageNet-V2: folder k holds the k-th class by WordNet id, counted from 0."""
    name_of = synset_names(split_path(row, home))
    names = [name_of[synset] for synset in sorted(name_of)]
    base = home / row.images
    folders = [str(number) for number in range(len(names))]
    there = set(_listed(base, folders=True))
    strange = sorted(there - set(folders))
    if strange or not there:
        what = f"folder {strange[0]!r} is not a number below {len(names)}" if strange else "has no folders"
        raise UserError(f"{shown(base)}: {what}; its class folders are 0 to {len(names) - 1}.")
    return {"train": [], "val": [], "test": _pictures(base, folders, names)}, names


def synset_names(file: Path) -> dict[str, str]:
    """`classnames.txt`: a WordNet id and a class name per line."""
    name_of: dict[str, str] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        synset, _, name = line.strip().partition(" ")
        if synset and name_of.setdefault(synset, name) != name:
            raise UserError(
                f"{shown(file)}, line {number}: {shown(synset)} is called {name!r}, and {name_of[synset]!r} before."
            )
    return name_of


def _synset_folders(base: Path, name_of: dict[str, str]) -> list[str]:
    folders = sorted(_listed(base, folders=True))
    unknown = [folder for folder in folders if folder not in name_of]
    if unknown or not folders:
        what = f"{unknown[0]!r} is not in classnames.txt" if unknown else "there are no class folders"
        raise UserError(f"{shown(base)}: {what}.")
    return folders


def _pictures(base: Path, folders: list[str], names: list[str]) -> list[Item]:
    """What lies in the class folders, by name; a folder may be missing."""
    return [
        Item(str(base / folder / file), label, names[label])
        for label, folder in enumerate(folders)
        if (base / folder).is_dir()
        for file in sorted(_listed(base / folder))
    ]


_LAYOUTS = {
    "split": _split_layout,
    "aircraft": _aircraft_layout,
    "imagenet": _imagenet_layout,
    "synsets": _synsets_layout,
    "numbered": _numbered_layout,
}


def _listed(folder: Path, *, folders: bool = False) -> list[str]:
    """Names of the visible files, or of the visible folders, in a folder."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders]
    except OSError as error:
        raise UserError(f"{shown(folder)} can't be listed ({error.strerror}).") from None


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError:
        raise UserError(f"{shown(path)} is missing; get it as told in {SPLITS_SOURCE}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{shown(path)} is not a UTF-8 text file; download it again.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)} can't be read ({getattr(error, 'strerror', None) or error}).") from None


def _require_all(row: CatalogRow, parts: Parts) -> None:
    missing = missing_pictures(parts)
    if missing:
        total = sum(len(items) for items in parts.values())
        raise UserError(
            f"coop:{row.name}: {len(missing)} of {total} pictures that {row.split_file} names are missing, the "
            f"first is {shown(missing[0])}. The field's draws need all of them; get them from {row.source}."
        )


def missing_pictures(parts: Parts) -> list[str]:
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
