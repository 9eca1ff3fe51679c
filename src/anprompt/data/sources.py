"""From what a user writes to a data set: a folder, a table, a classic data set or an embedded one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anprompt.data.classic.catalog import CATALOG
from anprompt.data.classic.check import check_dataset
from anprompt.data.classic.coop import coop_dataset
from anprompt.data.folder import folder_dataset
from anprompt.data.images import shown
from anprompt.data.reading import log_reading
from anprompt.data.table import table_dataset
from anprompt.data.types import Dataset
from anprompt.errors import UserError, choices

__all__ = ["check_dataset", "open_dataset"]

_TABLES = (".csv", ".tsv", ".txt")
_WAYS = "a folder of class folders, a CSV file (path,label[,split]), embedded:NAME, or coop:NAME with a root"


def open_dataset(
    spec: str | Path, *, root: str | Path | None = None, layout: str = "auto", known: Iterable[str] = (),
    least_classes: int = 2, report: bool = True,
) -> Dataset:  # fmt: skip
    """Opens a data set.

    Args:
        spec: "embedded:NAME"; "coop:NAME" for a classic data set under `root`; a folder of class folders
            (train, val and test above them if you like); a CSV file.
        root: what relative paths start from.
        layout: what a folder means, where it can be read in two ways: "classes", "parts", "domains" or
            "metadata" (`data.layout.recognise`).
        known: class names that a model knows; folders with these names are classes.
        least_classes: how many classes a folder or a table must hold.
        report: whether what was left out, and what else a caller must know, goes to the log; else it
            stands in `Dataset.reading` alone.

    Returns:
        The data set with its parts; images are read when they are asked for.

    Raises:
        UserError: nothing is there, or what is there can't be used; one line with the next step.
    """
    dataset = _open(spec, root, layout, known, least_classes)
    if report:
        log_reading(dataset)
    return dataset


def _open(spec: str | Path, root: str | Path | None, layout: str, known: Iterable[str], least_classes: int) -> Dataset:
    text = str(spec)
    kind, colon, name = text.partition(":")
    if kind == "embedded":
        return _embedded(name)
    if kind == "coop":
        if not name:
            raise _which("classic", "coop:oxford_pets", CATALOG)
        return coop_dataset(name, root)
    if not text.strip():
        raise UserError(f"No data set given. It can be {_WAYS}.")
    path = Path(text).expanduser() if root is None else Path(root).expanduser() / Path(text).expanduser()
    try:
        is_folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):  # a name too long or with a NUL is not a file
        is_folder = there = False
    if is_folder:
        return folder_dataset(path, layout=layout, known=known, least_classes=least_classes)
    if there:
        return _file(path, least_classes)
    if colon and kind.isalpha() and len(kind) > 1:
        raise choices("kind of data set", kind, ("embedded", "coop"))
    raise UserError(f"There is no data set {shown(str(path))!r}.{_hint(text)} A data set is {_WAYS}.")


def _file(path: Path, least_classes: int) -> Dataset:
    if path.suffix.lower() in _TABLES:
        return table_dataset(path, least_classes=least_classes)
    raise UserError(f"{shown(path)} is a file, but no table; a data set is {_WAYS}.")


def _embedded(name: str) -> Dataset:
    from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset  # reads its index only when asked for
    from anprompt.data.embedded_defects import NAME as DEFECTS
    from anprompt.data.embedded_defects import defects_dataset

    if not name:
        raise _which("embedded", "embedded:food", (*EMBEDDED_SETS, DEFECTS))
    if name == DEFECTS:
        return defects_dataset()
    if name not in EMBEDDED_SETS:
        raise choices("embedded data set", name, (*EMBEDDED_SETS, DEFECTS))
    return embedded_dataset(name)


def _which(kind: str, example: str, names: Iterable[str]) -> UserError:
    return UserError(f"Say which {kind} data set, e.g. {example}. Available: {', '.join(names)}.")


def _hint(text: str) -> str:
    """A name of a known data set without its kind is the likeliest slip."""
    from anprompt.data.embedded import EMBEDDED_SETS

    for kind, names in (("embedded", EMBEDDED_SETS), ("coop", CATALOG)):
        if text in names:
            return f" Did you mean '{kind}:{text}'?"
    return ""
