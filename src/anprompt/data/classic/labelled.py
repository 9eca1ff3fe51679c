"""Labels that a data set's own files give its pictures, and splits made from them where the field's is missing."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anprompt.data.classic.catalog import SPLITS_SOURCE, CatalogRow
from anprompt.data.images import shown
from anprompt.errors import UserError
from anprompt.utils.files import read_json, read_text

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
TEST_SHARE, VAL_SHARE = 0.3, 0.2


@dataclass(frozen=True)
class Labelled:
    """A picture and its class.

    Attributes:
        path: as a split file has it.
        classname: uncleaned.
        order: classes are numbered along it.
        test: whether the download's own lists have it in their test part.
    """

    path: str
    classname: str
    order: str | int
    test: bool = False


def labelled_pictures(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """Every picture of a download with the label that its folders or own lists give it.

    Args:
        row: a data set of the "split" layout.
        places: where each of the row's pieces was found.

    Raises:
        UserError: a list that is needed is missing or damaged, or there are no pictures.
    """
    found = _READERS.get(row.name, _by_folder)(row, places)
    if not found:
        raise UserError(f"No pictures with labels below {shown(next(iter(places.values())))}.")
    return found


def made_split(pictures: Iterable[Labelled], seed: int) -> dict[str, Any]:
    """A split in the form of the field's files, which it is not: a function of the pictures and the seed.

    Each class is sorted by path and shuffled by a generator of its own. Without a test part of the data
    set's own, 50 % train, 20 % val and 30 % test of each class; with one, the rest gives 80 % train and
    20 % val. At least one picture of a class stays in train.
    """
    classes: dict[str | int, list[Labelled]] = {}
    for picture in pictures:
        classes.setdefault(picture.order, []).append(picture)
    own_test = any(picture.test for group in classes.values() for picture in group)
    rows: dict[str, Any] = {
        "note": f"Made by 'anprompt data prepare --make-split {seed}'. Not the field's split: results on it "
        "can't be compared with published ones.",
        "train": [], "val": [], "test": [],
    }  # fmt: skip
    for label, order in enumerate(sorted(classes, key=lambda key: (isinstance(key, str), key))):
        group = sorted(classes[order], key=lambda picture: picture.path)
        rest = [picture for picture in group if not picture.test]
        random.Random(f"anprompt made split {seed}: {group[0].classname}").shuffle(rest)
        n_test = 0 if own_test else _share(len(rest), TEST_SHARE, len(rest) - 1)
        n_val = _share(len(rest), VAL_SHARE, len(rest) - 1 - n_test)
        parts = {
            "test": [p for p in group if p.test] + rest[:n_test],
            "val": rest[n_test : n_test + n_val],
            "train": rest[n_test + n_val :],
        }
        for part, chosen in parts.items():
            rows[part] += [[picture.path, label, picture.classname] for picture in chosen]
    return rows


def _share(count: int, share: float, most: int) -> int:
    return max(0, min(math.floor(count * share + 0.5), most))


def pictures_below(base: Path) -> list[str]:
    """Pictures in a folder and below by name, relative, with `/` between folders."""
    found = []
    for folder, folders, files in os.walk(base, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = os.path.relpath(folder, base).replace(os.sep, "/")
        for name in sorted(files):
            if name.lower().endswith(_PICTURES) and not name.startswith("."):
                found.append(name if inside == "." else f"{inside}/{name}")
    return found


def _by_folder(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    found = []
    for path in pictures_below(places[row.images]):
        folder = path.rpartition("/")[0]
        if folder and folder not in row.ignored:
            found.append(Labelled(path, row.renames.get(folder, folder), folder))
    return found


def _pets(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """The breed is the file's name up to its number; `annotations/test.txt` names the test part."""
    test = {line.split(" ")[0] for line in _lines_if_there(places, "annotations", "test.txt")}
    found = []
    for path in pictures_below(places[row.images]):
        stem = path.rpartition(".")[0]
        breed, underscore, number = stem.rpartition("_")
        if underscore and number.isdigit():
            found.append(Labelled(path, breed.lower(), breed.lower(), stem in test))
    return found


def _sun(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """`a/athletic_field/outdoor/x.jpg` is "outdoor athletic field"; `Testing_01.txt` names the test part."""
    test = {line.lstrip("/") for line in _lines_if_there(places, "Testing_01.txt")}
    found = []
    for path in pictures_below(places[row.images]):
        folder = path.rpartition("/")[0]
        words = folder.split("/")[1:]
        if words:
            found.append(Labelled(path, " ".join(reversed(words)), folder, path in test))
    return found


def _ucf(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """A folder per action; `testlist01.txt` names the films of the test part."""
    lines = _lines_if_there(places, "ucfTrainTestlist", "testlist01.txt")
    test = {line.split(" ")[0].rpartition("/")[2].removesuffix(".avi") for line in lines}
    return [
        Labelled(p.path, p.classname, p.order, p.path.rpartition("/")[2].rpartition(".")[0] in test)
        for p in _by_folder(row, places)
    ]


def _flowers(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """`imagelabels.mat` has a number per picture, `cat_to_name.json` a name per number."""
    for name in ("imagelabels.mat", "cat_to_name.json"):
        if name not in places:
            raise UserError(f"Without the field's split the flowers need {name}, linked in {SPLITS_SOURCE}.")
    names = read_json(places["cat_to_name.json"])
    labels = _matlab(places["imagelabels.mat"], "labels").ravel()
    found = []
    for path in pictures_below(places[row.images]):
        number = re.fullmatch(r"image_(\d+)\.jpg", path)
        if number and 0 < int(number[1]) <= len(labels):
            label = int(labels[int(number[1]) - 1])
            if not isinstance(names, dict) or str(label) not in names:
                raise UserError(f"{shown(places['cat_to_name.json'])} has no name for class {label}.")
            found.append(Labelled(path, str(names[str(label)]), label))
    return found


def _cars(row: CatalogRow, places: Mapping[str, Path]) -> list[Labelled]:
    """The devkit's annotations; the year goes to the front of the name, as in the field."""
    test_labels = "cars_test_annos_withlabels.mat"
    for name in ("devkit", test_labels):
        if name not in places:
            raise UserError(f"Without the field's split the cars need {name}, linked in {SPLITS_SOURCE}.")
    names = [str(cell.item()) for cell in _matlab(places["devkit"] / "cars_meta.mat", "class_names").ravel()]
    found = []
    lists = ((places["devkit"] / "cars_train_annos.mat", "cars_train"), (places[test_labels], "cars_test"))
    for file, folder in lists:
        rows = _matlab(file, "annotations").ravel()
        if not {"fname", "class"} <= set(rows.dtype.names or ()):
            raise UserError(f"{shown(file)} holds no car labels; download it again.")
        for car in rows:
            label = int(car["class"].item())
            if not 0 < label <= len(names):
                raise UserError(f"{shown(file)} has class {label}; there are {len(names)} names.")
            *words, year = names[label - 1].split(" ")
            path = f"{folder}/{car['fname'].item()}"
            found.append(Labelled(path, " ".join([year, *words]), label, folder == "cars_test"))
    return found


_READERS: dict[str, Callable[[CatalogRow, Mapping[str, Path]], list[Labelled]]] = {
    "oxford_pets": _pets,
    "sun397": _sun,
    "ucf101": _ucf,
    "oxford_flowers": _flowers,
    "stanford_cars": _cars,
}


def _lines_if_there(places: Mapping[str, Path], piece: str, file: str = "") -> list[str]:
    """Stripped lines of a list that a download may lack; comments start with #."""
    if piece not in places or not (places[piece] / file).is_file():
        return []
    path = places[piece] / file
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except (OSError, ValueError):
        raise UserError(f"{shown(path)} can't be read as a list of pictures; download it again.") from None
    return [line for line in lines if line and not line.startswith("#")]


def _matlab(file: Path, key: str) -> Any:
    """An array of a MATLAB file."""
    from scipy.io import loadmat

    if not file.is_file():
        raise UserError(f"{shown(file)} is missing; get it as told in {SPLITS_SOURCE}.")
    try:
        return loadmat(file)[key]
    except Exception as error:  # scipy raises nearly anything on a damaged file
        raise UserError(
            f"{shown(file)} can't be read as a MATLAB file with {key!r} ({type(error).__name__}); download it again."
        ) from None
