"""Every form that pictures and their labels come in: what the classifier takes for `X` and `y`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from anprompt.data.division import divide
from anprompt.data.images import open_image
from anprompt.data.label_names import names_for
from anprompt.data.names import check_classnames
from anprompt.data.types import Dataset, Item
from anprompt.data.walk import picture_files
from anprompt.errors import UserError
from anprompt.utils.files import first_line

Picture = str | bytes | os.PathLike[str] | BinaryIO | Image.Image | np.ndarray | Tensor


def as_rgb(picture: Picture, name: str | None = None) -> Image.Image:
    """One image of any form as RGB: `data.images.open_image`."""
    return open_image(picture, name=name)


def pictures(X: Any) -> Iterator[Picture]:
    """The pictures of `X`, one after the other; a generator is read as it goes.

    Args:
        X: one picture; a folder (its files and those of the folders in it, sorted); an array
            [N, H, W, 3] or a tensor [N, 3, H, W]; a column of a table; or anything that yields pictures.

    Raises:
        UserError: none of these, or a folder without files.
    """
    if isinstance(X, (str, os.PathLike)) and os.path.isdir(X):
        yield from picture_files(X)
        return
    alone = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    if (
        isinstance(X, alone)
        or callable(getattr(X, "read", None))
        or (isinstance(X, (np.ndarray, Tensor)) and X.ndim == 3)
    ):
        yield X
        return
    if getattr(X, "ndim", 1) == 2 and not isinstance(X, Tensor):
        X = _column(X)
    if not isinstance(X, Iterable) or getattr(X, "ndim", 1) == 0 or isinstance(X, dict):
        raise UserError(f"Pictures must be a list of paths, images or arrays, not {type(X).__name__!r}.")
    for row, picture in enumerate(X):
        if _no_picture(picture):
            raise UserError(
                f"Row {row} holds no image, but {str(picture)[:40]!r} ({type(picture).__name__}); leave it out."
            )
        yield picture


def _no_picture(value: Any) -> bool:
    """What a table has where a path is missing, and whatever else can't be an image: a slip, not a damaged file."""
    if isinstance(value, (str, bytes)):
        return not value.strip()
    if isinstance(value, (np.ndarray, Tensor)):
        return value.ndim == 0
    if isinstance(value, Image.Image):  # comparing one with itself would decode it
        return False
    return isinstance(value, (int, float, complex, np.generic, Mapping, list, tuple)) or _missing(value)


def _column(X: Any) -> Any:
    """The single column of a table; a table of numbers holds no pictures."""
    array = np.asarray(X)
    if array.shape[1] != 1 or array.dtype.kind not in "OUST":
        raise UserError(
            f"A table of shape {list(array.shape)} holds no pictures; give one column of paths, or arrays "
            "[height, width, 3]."
        )
    return array[:, 0].tolist()


def batches(X: Any, size: int) -> Iterator[list[Picture]]:
    """`pictures(X)` in lists of `size`, the last one shorter."""
    source = pictures(X)
    while batch := list(islice(source, size)):
        yield batch


# --- labels ---------------------------------------------------------------------------------------
def targets(y: Iterable[Any]) -> np.ndarray:
    """Labels [n].

    Args:
        y: a list, an array, a column of a table, or anything that yields labels; [n] or [n, 1].

    Raises:
        UserError: a row without a label (None, NaN, an empty text), or no labels of classes (one text,
            numbers with fractions, several per picture).
    """
    if isinstance(y, (str, bytes, Mapping)) or not isinstance(y, Iterable):
        raise UserError(
            f"y must hold one class per picture, like ['cat', 'dog'], not the {type(y).__name__} {str(y)[:40]!r}."
        )
    rows = y if hasattr(y, "__array__") else list(y)
    listed = _listed(rows)
    for number, label in enumerate(listed):
        if _missing(label):
            raise UserError(f"y must hold one class per picture: row {number} has none ({label!r}).")
    array = np.asarray(rows) if hasattr(rows, "dtype") else _typed(listed)
    if array.dtype.kind not in "iufbU":  # a table's column of objects
        array = _typed(listed)
    array = array.reshape(len(listed))
    if not len(array):
        return array
    from sklearn.utils.multiclass import check_classification_targets

    try:
        check_classification_targets(array)
    except ValueError as error:
        raise UserError(f"y must hold one class per picture: {first_line(error)}") from None
    return array


def _listed(rows: Any) -> list[Any]:
    """The labels of [n] or [n, 1] one after the other; `UserError` where a row holds several."""
    if hasattr(rows, "__array__"):
        table = np.asarray(rows, dtype=object)
        if table.ndim == 2 and table.shape[1] == 1:
            table = table[:, 0]
        if table.ndim != 1:
            raise UserError(f"y must hold one class per picture, not an array of shape {list(table.shape)}.")
        return table.tolist()
    listed = [row[0] if isinstance(row, (list, tuple)) and len(row) == 1 else row for row in rows]
    for number, row in enumerate(listed):
        if isinstance(row, (list, tuple, np.ndarray)):
            raise UserError(f"y must hold one class per picture: row {number} holds {len(row)}.")
    return listed


def _missing(label: Any) -> bool:
    """None, NaN, pandas' NA and NaT, and a text without a letter in it."""
    if label is None or isinstance(label, (str, bytes)):
        return not label or not label.strip()
    try:
        return bool(label != label)  # NaN, NaT
    except (TypeError, ValueError):  # pandas' NA can't be true or false; arrays are refused below
        return type(label).__name__ == "NAType"


def _typed(listed: list[Any]) -> np.ndarray:
    """Labels of an object column as an array of one kind.

    Raises:
        UserError: texts and numbers mixed, or values that are neither.
    """
    kinds: dict[str, int] = {}
    for number, label in enumerate(listed):
        number_like = isinstance(label, (int, float, np.number, np.bool_))
        if not isinstance(label, str) and not number_like:
            raise UserError(
                f"y must hold one class per picture, a text or a number: row {number} is of type "
                f"{type(label).__name__}."
            )
        kinds.setdefault("a number" if number_like else "a text", number)
    if len(kinds) > 1:
        (first, row), (other, at) = kinds.items()
        raise UserError(
            f"y must hold labels of one kind: row {row} is {first} ({listed[row]!r}), row {at} is {other} ({listed[at]!r})."
        )
    return np.array(listed)


def labelled(
    found: list[Picture], y: np.ndarray, names: Mapping[Any, str] | Sequence[str] | str | None, *, held: bool
) -> tuple[Dataset, dict[str, Any]]:
    """Pictures with labels as a data set, and the labels by class name; classes in sorted order.

    Args:
        held: whether a fifth of every class is kept for validation.
    """
    if len(found) != len(y):
        raise UserError(f"{len(found)} pictures but {len(y)} names.")
    if not found:
        raise UserError("No pictures to train on.")
    labels, index = np.unique(y, return_inverse=True)
    raw = labels.tolist()
    if len(raw) == 1:
        raise UserError(f"Training needs at least two classes, but all {len(y)} pictures are of 1 class, {raw[0]!r}.")
    given = check_classnames(map(str, raw) if names is None else names_for(raw, names))
    items = [
        Item(os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"#{number}", int(label), given[label])
        for number, (picture, label) in enumerate(zip(found, index))
    ]  # fmt: skip
    parts = divide(items, test=0.0) if held else {"train": items, "val": []}
    by_path = {item.path: picture for item, picture in zip(items, found)}
    called = {item.path: f"image {number}" for number, item in enumerate(items, 1)}
    dataset = Dataset(
        "pictures", tuple(given), tuple(parts["train"]), tuple(parts["val"]), (),
        lambda item: as_rgb(by_path[item.path], called[item.path]),
    )  # fmt: skip
    return dataset, dict(zip(given, raw))
