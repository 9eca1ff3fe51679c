"""Downloads in their true layouts, with pictures of a few pixels."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from anprompt.data.classic.catalog import CATALOG
from tests.pictures import noise, save

SYNSETS = ("n01440764", "n01443537", "n01484850")
NAMES = "n01440764 tench\nn01443537 goldfish\nn01484850 great white shark\n"
PARTS = ("train", "val", "test")


def pictures(base: Path, *names: str) -> None:
    for number, name in enumerate(names):
        save(base / name, noise(8, 8, seed=number))


def split_json(path: Path, rows: list[list], parts=(0.5, 0.75)) -> Path:
    """A split of the given [path, label, name] rows in the field's form."""
    first, second = (int(len(rows) * share) for share in parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"train": rows[:first], "val": rows[first:second], "test": rows[second:]}))
    return path


def matlab(path: Path, **arrays) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, arrays)


# --- downloads in their true layout: each builds one, and says what rows its split has ---------------
def caltech101(base: Path) -> list[list]:
    home = base / "caltech101" / "101_ObjectCategories"
    for folder in ("Faces", "accordion", "BACKGROUND_Google", "Faces_easy"):
        pictures(home / folder, *(f"image_{n:04}.jpg" for n in range(1, 11)))
    classes = (("Faces", 0, "face"), ("accordion", 1, "accordion"))
    return [[f"{f}/image_{n:04}.jpg", label, name] for n in range(1, 11) for f, label, name in classes]


def oxford_pets(base: Path) -> list[list]:
    home = base / "oxford-iiit-pet"
    stems = [f"{breed}_{n}" for n in range(1, 11) for breed in ("Abyssinian", "yorkshire_terrier")]
    pictures(home / "images", *(f"{stem}.jpg" for stem in stems))
    (home / "images" / "Abyssinian_100.mat").write_text("not a picture")
    (home / "annotations").mkdir()
    (home / "annotations" / "test.txt").write_text("#Image CLASS-ID\n" + "".join(f"{s} 1 1 1\n" for s in stems[:8]))
    return [[f"{stem}.jpg", n % 2, stem.rsplit("_", 1)[0].lower()] for n, stem in enumerate(stems)]


def stanford_cars(base: Path) -> list[list]:
    home = base / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]
    kind = [("fname", object), ("class", object)]
    for folder, count in (("cars_train", 12), ("cars_test", 6)):
        pictures(home / folder, *(f"{n:05}.jpg" for n in range(1, count + 1)))
        rows = np.array([[(f"{n:05}.jpg", n % 2 + 1) for n in range(1, count + 1)]], dtype=kind)
        file = "cars_test_annos_withlabels.mat" if folder == "cars_test" else "devkit/cars_train_annos.mat"
        matlab(home / file, annotations=rows)
    matlab(home / "devkit" / "cars_meta.mat", class_names=np.array([names], dtype=object))
    ours = ["2000 AM General Hummer SUV", "2012 Acura RL Sedan"]
    return [
        [f"{folder}/{n:05}.jpg", n % 2, ours[n % 2]]
        for folder, count in (("cars_train", 12), ("cars_test", 6))
        for n in range(1, count + 1)
    ]


def oxford_flowers(base: Path) -> list[list]:
    home = base / "flowers-102"
    pictures(home / "jpg", *(f"image_{n:05}.jpg" for n in range(1, 21)))
    matlab(home / "imagelabels.mat", labels=np.array([[n % 2 + 1 for n in range(1, 21)]], dtype=np.uint8))
    names = ["pink primrose", "globe-flower"]
    (home / "cat_to_name.json").write_text(json.dumps({str(n + 1): name for n, name in enumerate(names)}))
    return [[f"image_{n:05}.jpg", n % 2, names[n % 2]] for n in range(1, 21)]


def by_folder(*steps: str, classes: tuple[tuple[str, str], ...], name: str = "{folder}_{n}.jpg"):
    def build(base: Path) -> list[list]:
        rows = []
        for n in range(10):
            for label, (folder, classname) in enumerate(classes):
                path = f"{folder}/{name.format(folder=folder, n=n)}"
                pictures(base.joinpath(*steps), path)
                rows.append([path, label, classname])
        return rows

    return build


def sun397(base: Path) -> list[list]:
    home = base / "SUN397"
    rows = [[f"a/abbey/sun_{n}.jpg", 0, "abbey"] for n in range(10)]
    rows += [[f"a/athletic_field/outdoor/sun_{n}.jpg", 1, "outdoor athletic_field"] for n in range(10)]
    pictures(home, *(row[0] for row in rows))
    (base / "Testing_01.txt").write_text("".join(f"/{row[0]}\n" for row in rows[::2]))
    return rows


def ucf101(base: Path) -> list[list]:
    classes = (("Apply_Eye_Makeup", "ApplyEyeMakeup"), ("Archery", "Archery"))
    rows = [
        [f"{folder}/v_{film}_g{n:02}_c01.jpg", label, folder]
        for n in range(10)
        for label, (folder, film) in enumerate(classes)
    ]
    pictures(base / "UCF-101-midframes", *(row[0] for row in rows))
    (base / "ucfTrainTestlist").mkdir()
    films = "".join(f"{film}/v_{film}_g0{n}_c01.avi\n" for n in range(4) for _, film in classes)
    (base / "ucfTrainTestlist" / "testlist01.txt").write_text(films)
    return rows


DOWNLOADS = {
    "caltech101": caltech101,
    "oxford_pets": oxford_pets,
    "stanford_cars": stanford_cars,
    "oxford_flowers": oxford_flowers,
    "food101": by_folder(
        "food-101", "images", classes=(("apple_pie", "apple_pie"), ("waffles", "waffles")), name="{n}.jpg"
    ),
    "sun397": sun397,
    "dtd": by_folder("dtd", "dtd", "images", classes=(("banded", "banded"), ("dotted", "dotted"))),
    "eurosat": by_folder(
        "EuroSAT_RGB", classes=(("AnnualCrop", "Annual Crop Land"), ("Forest", "Forest")), name="{folder}_{n}.jpg"
    ),
    "ucf101": ucf101,
}


def download(tmp_path: Path, name: str, *, split: bool = True) -> Path:
    base = tmp_path / "download"
    base.mkdir()
    rows = DOWNLOADS[name](base)
    if split:
        split_json(base / CATALOG[name].split_file, rows)
    return base


def tree(folder: Path) -> dict[str, bytes]:
    """Every file, links followed, with its content."""
    return {
        os.path.relpath(os.path.join(base, name), folder): Path(base, name).read_bytes()
        for base, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
