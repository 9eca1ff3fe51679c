"""What a folder of normal and anomalous images means: MVTec, VisA, BTAD, and folders of one's own.

    MVTec   CATEGORY/train/good  test/{good,DEFECT}  ground_truth/DEFECT/NAME_mask.png
    BTAD    CATEGORY/train/ok    test/{ok,ko}        ground_truth/ko/NAME.png
    VisA    CATEGORY/Data/Images/{Normal,Anomaly}  Data/Masks/Anomaly/NAME.png, and split_csv/1cls.csv beside the categories
    pairs   normal/ and abnormal/ (and masks/)
    plain   normal images alone

Only names are read here; no image is opened, so that a detector can be fitted without a look at anything below `test/`.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from anprompt.data.images import shown
from anprompt.data.walk import IMAGE_SUFFIXES, is_system
from anprompt.errors import UserError, choices

NORMAL = frozenset({"good", "ok", "normal", "normals", "defect-free", "defect_free"})
ANOMALOUS = frozenset(
    {"abnormal", "anomaly", "anomalies", "anomalous", "bad", "defect", "defects", "defective", "ko", "ng"}
)
MASKS = frozenset({"masks", "mask", "ground_truth", "gt"})
EMBEDDED = ("boards",)
GOOD = "good"
HELD_EVERY = 5  # one normal image in so many is for testing, where a folder has anomalies but no parts
_SEEN = 6  # names that a refusal shows


@dataclass(frozen=True)
class Sample:
    """An image with what its folder says of it.

    Attributes:
        kind: "good", or the name of the defect.
        mask: the file of its mask; empty where there is none.
    """

    path: str
    kind: str = GOOD
    mask: str = ""

    @property
    def anomalous(self) -> bool:
        """Whether its folder says that it has a defect."""
        return self.kind != GOOD


@dataclass(frozen=True)
class Category:
    """One kind of object with its images.

    Attributes:
        name: for people and for the sentences that name the object.
        layout: "mvtec", "btad", "visa", "pairs" or "plain".
        train: normal images.
        test: normal and anomalous ones; empty where there are none.
        notes: one line for each thing that a user must know of the reading.
    """

    name: str
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, kinds: Sequence[str]) -> Category:
        """The category with the defects of these kinds alone, beside all normal images."""
        there = self.kinds
        for kind in kinds:
            if kind not in there:
                raise choices(f"kind of defect in {self.name}", kind, there)
        return dataclasses.replace(self, test=tuple(s for s in self.test if not s.anomalous or s.kind in kinds))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of defects that are tested, sorted."""
        return tuple(sorted({sample.kind for sample in self.test if sample.anomalous}))


def open_categories(spec: str | Path) -> dict[str, Category]:
    """The categories of a data set, by name.

    Args:
        spec: "embedded:boards", or a folder: of one category, of several, or of normal images alone.

    Raises:
        UserError: nothing there, or a folder that can't be read as any layout; what was seen is named.
    """
    text = str(spec)
    if text.startswith("embedded:"):
        name = text.partition(":")[2]
        if name not in EMBEDDED:
            raise choices("embedded anomaly data set", name, EMBEDDED)
        return {name: _parts(Path(str(resources.files("anprompt"))) / "assets" / name, name)}
    root = Path(text).expanduser()
    if not text.strip() or not root.is_dir():
        what = "is a file" if text.strip() and root.is_file() else "does not exist"
        raise UserError(f"{shown(text) or 'The folder'} {what}; give a folder of normal images, or embedded:boards.")
    name = root.resolve().name or "images"
    found = _category(root, name)
    if found:
        return {name: found}
    several = {folder.name: one for folder in _folders(root) if (one := _category(folder, folder.name))}
    if several:
        split = _visa_split(root)
        return {key: _with_split(one, split.get(key)) for key, one in several.items()}
    return {name: _plain(root, name)}


def open_category(spec: str | Path, category: str | None = None) -> Category:
    """One category of a data set.

    Args:
        category: its name, where the data set has several.

    Raises:
        UserError: see `open_categories`; several and none chosen; none of that name.
    """
    found = open_categories(spec)
    if category is not None:
        if category not in found:
            raise choices(f"category of {shown(str(spec))}", category, found)
        return found[category]
    if len(found) > 1:
        names = ", ".join(list(found)[:_SEEN]) + (", ..." if len(found) > _SEEN else "")
        raise UserError(f"{shown(str(spec))} holds {len(found)} categories ({names}); choose one with --category.")
    return next(iter(found.values()))


# --- layouts --------------------------------------------------------------------------------------
def _category(root: Path, name: str) -> Category | None:
    """The folder as one category; None where it has no folder that a layout is known by."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    if "train" in folders and _named(folders["train"], NORMAL):
        return _parts(root, name)
    if "data" in folders and (folders["data"] / "Images" / "Normal").is_dir():
        return _visa(folders["data"], name)
    normal = _named(root, NORMAL)
    return _pairs(root, name, normal) if normal else None


def _parts(root: Path, name: str) -> Category:
    """MVTec and BTAD: `train` with one folder of normal images, `test` with one for every kind."""
    folders = {folder.name.lower(): folder for folder in _folders(root)}
    good = _named(folders["train"], NORMAL)
    assert good is not None
    layout = "btad" if good.name.lower() == "ok" else "mvtec"
    notes = [f"train/{other.name}/ is not read: only normal images are trained on"
             for other in _folders(folders["train"]) if other != good]  # fmt: skip
    test: list[Sample] = []
    truth = folders.get("ground_truth")
    for folder in _folders(folders["test"]) if "test" in folders else ():
        if folder.name.lower() in NORMAL:
            test += [Sample(str(path)) for path in _images(folder)]
        else:
            masks = truth / folder.name if truth else None
            found, told = _masked(_images(folder), masks, folder.name, root)
            test, notes = test + found, notes + told
    return _checked(Category(name, layout, _normal(good), tuple(test), tuple(notes)), root)


def _visa(data: Path, name: str) -> Category:
    """VisA without its split file: one normal image in `HELD_EVERY` is tested."""
    normal = _normal(data / "Images" / "Normal")
    found, told = _masked(_images(data / "Images" / "Anomaly"), data / "Masks" / "Anomaly", "anomaly", data.parent)
    train, held = _divided(normal)
    return _checked(Category(name, "visa", train, (*held, *found), tuple(told)), data.parent)


def _visa_split(root: Path) -> dict[str, dict[str, str]]:
    """From VisA's split file: for each category, train or test by the name of the image."""
    path = root / "split_csv" / "1cls.csv"
    if not path.is_file():
        return {}
    split: dict[str, dict[str, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row.get("object") and row.get("image"):
                split.setdefault(row["object"], {})[Path(row["image"]).as_posix()] = row.get("split") or "test"
    return split


def _with_split(category: Category, split: dict[str, str] | None) -> Category:
    """The category divided as an official list says; images it does not name are tested."""
    if not split or category.layout != "visa":
        return category
    every = (*category.train, *category.test)
    trained = {path for path, part in split.items() if part == "train"}

    def is_train(sample: Sample) -> bool:
        return not sample.anomalous and any(Path(sample.path).as_posix().endswith(f"/{path}") for path in trained)

    train = tuple(sample for sample in every if is_train(sample))
    return dataclasses.replace(category, train=train, test=tuple(s for s in every if s not in set(train)))


def _pairs(root: Path, name: str, normal: Path) -> Category:
    """`normal/` beside `abnormal/`: one normal image in `HELD_EVERY` is tested; without anomalies none is."""
    bad = _named(root, ANOMALOUS)
    if bad is None:
        others = [f.name for f in _folders(root) if f != normal and f.name.lower() not in MASKS and _any_image(f)]
        if others:
            raise UserError(
                f"{shown(str(root))} has {normal.name}/ beside {_list(others)}; call the folder of anomalous images "
                f"'abnormal', or give {shown(str(normal))} alone."
            )
        return _checked(Category(name, "pairs", _normal(normal)), root)
    masks = _named(root, MASKS)
    found, told = _masked(_images(bad), masks, "anomaly", root)
    train, held = _divided(_normal(normal))
    told.append(
        f"one in {HELD_EVERY} of the normal images is kept for testing ({len(held)} of {len(held) + len(train)})"
    )
    return _checked(Category(name, "pairs", train, (*held, *found), tuple(told)), root)


def _plain(root: Path, name: str) -> Category:
    """Normal images alone, in the folder itself.

    Raises:
        UserError: there are none, or they lie in folders, of which it can't be known what they mean.
    """
    images, folders = _images(root), [folder for folder in _folders(root) if _any_image(folder)]
    if folders:
        seen = _list([f"{folder.name}/" for folder in folders])
        also = f" and {len(images)} images" if images else ""
        raise UserError(
            f"{shown(str(root))}: it is unclear which images are normal; it has the folders {seen}{also}. Give a folder of "
            "normal images alone, or name folders as MVTec does (train/good, test/good, test/DEFECT), or normal/ and abnormal/."
        )
    return _checked(Category(name, "plain", tuple(Sample(str(path)) for path in images)), root)


def _checked(category: Category, root: Path) -> Category:
    if not category.train:
        raise UserError(f"{shown(str(root))} holds no normal image to learn from ({_what(root)}); put some there.")
    return category


def _what(root: Path) -> str:
    files = [path for path in root.iterdir() if path.is_file()]
    return f"{len(_folders(root))} folders, {len(files)} files" if files or _folders(root) else "it is empty"


# --- names ----------------------------------------------------------------------------------------
def _masked(images: Sequence[Path], masks: Path | None, kind: str, root: Path) -> tuple[list[Sample], list[str]]:
    """Anomalous images with their masks, and a line for masks without images, or images without masks."""
    if masks is None or not masks.is_dir():
        return [Sample(str(path), kind) for path in images], []
    by_stem = {_stem(path): str(path) for path in _images(masks)}
    found = [Sample(str(path), kind, by_stem.get(path.stem, "")) for path in images]
    stems = {path.stem for path in images}
    alone = [path for stem, path in by_stem.items() if stem not in stems]
    bare = [sample for sample in found if not sample.mask]
    below = masks.relative_to(root) if masks.is_relative_to(root) else masks
    notes = []
    if alone:
        notes.append(f"{below}/: {len(alone)} masks have no image, first {Path(alone[0]).name}; they are left out")
    if bare:
        notes.append(
            f"{kind}: {len(bare)} of {len(found)} images have no mask, first {Path(bare[0].path).name}; they count for "
            "image figures alone"
        )
    return found, notes


def _stem(mask: Path) -> str:
    """The name of the image that a mask is of: `000_mask.png` is of `000.png`."""
    for ending in ("_mask", "-mask", "_gt"):
        if mask.stem.endswith(ending):
            return mask.stem.removesuffix(ending)
    return mask.stem


def _normal(folder: Path) -> tuple[Sample, ...]:
    return tuple(Sample(str(path)) for path in _images(folder))


def _divided(normal: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    held = normal[HELD_EVERY - 1 :: HELD_EVERY]
    return tuple(s for s in normal if s not in set(held)), tuple(held)


def _named(folder: Path, names: frozenset[str]) -> Path | None:
    return next((one for one in _folders(folder) if one.name.lower() in names), None)


def _folders(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.is_dir()]


def _images(folder: Path) -> list[Path]:
    """Files with an image's name, sorted."""
    if not folder.is_dir():
        return []
    return [path for path in _listed(folder) if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]


def _any_image(folder: Path, depth: int = 4) -> bool:
    return bool(_images(folder)) or (depth > 0 and any(_any_image(one, depth - 1) for one in _folders(folder)))


def _listed(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted((path for path in folder.iterdir() if not is_system(path.name)), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{shown(str(folder))} can't be listed ({error.strerror}); check its permissions.") from None


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_SEEN]) + (", ..." if len(names) > _SEEN else "")
