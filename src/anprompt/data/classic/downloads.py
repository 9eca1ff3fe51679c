"""Finding the pieces of a data set in a download, wherever an archive or a library has put them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from anprompt.data.classic.catalog import CATALOG, SPLITS_SOURCE, CatalogRow, Piece
from anprompt.data.classic.coop import Parts, missing_pictures
from anprompt.data.images import shown
from anprompt.errors import UserError

_DEPTH = 3  # folders below the one given
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")


def open_source(source: str | Path) -> Path:
    """The download as a path that exists.

    Raises:
        UserError: nothing is there, or it is an archive.
    """
    path = Path(source).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise UserError(f"There is no download {shown(str(source))!r}; give the folder it was unpacked to.")
    if path.is_file() and path.suffix.lower() in _ARCHIVES:
        raise UserError(f"{shown(path)} is an archive; unpack it and give the folder.")
    if path.is_file() and path.suffix != ".parquet":
        raise UserError(f"{shown(path)} is a file; give the folder of the download, or a parquet file.")
    return path


def folders_below(source: Path) -> Iterator[Path]:
    """The folder and those below it, the nearest first, three levels deep."""
    level = [source]
    for depth in range(_DEPTH + 1):
        yield from level
        if depth < _DEPTH:
            level = [folder for base in level for folder in _folders(base)]


def _folders(base: Path) -> list[Path]:
    try:
        with os.scandir(base) as entries:
            return sorted(base / e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"{shown(base)} can't be listed ({error.strerror}).") from None


def find_pieces(row: CatalogRow, source: Path, split: Parts | None) -> dict[str, Path]:
    """Where each piece of the data set lies in the download; pieces that were not found are left out.

    A piece goes by its usual name. The pictures of a set with a split are also found, under whatever name,
    by the pictures that the split names; those of an ImageNet variant by folders named like WordNet ids.
    """
    found: dict[str, Path] = {}
    for folder in folders_below(source):
        for piece in row.pieces:
            if piece.to not in found:
                place = _place_of(piece, folder)
                if place is not None:
                    found[piece.to] = place
        if len(found) == len(row.pieces):
            break
    _add_by_content(row, source, split, found)
    for piece in row.pieces:  # lists may lie beside the folder of pictures that was given
        beside = source.resolve().parent / piece.names[0]
        if piece.to not in found and found and not piece.required and beside.exists():
            found[piece.to] = beside
    return found


def _place_of(piece: Piece, folder: Path) -> Path | None:
    is_file = "." in piece.to
    for name in piece.names:
        place = folder if folder.name == name and not is_file else folder / name
        if place.is_file() if is_file else place.is_dir():
            inner = place / name  # archives unpacked into a folder of their own name
            return inner if not is_file and _only(place, name) else place
    return None


def _only(folder: Path, name: str) -> bool:
    """Whether a folder holds nothing but a folder of that name."""
    visible = [entry for entry in os.listdir(folder) if not entry.startswith(".")]
    return visible == [name] and (folder / name).is_dir()


def _add_by_content(row: CatalogRow, source: Path, split: Parts | None, found: dict[str, Path]) -> None:
    first = next((item.path for items in split.values() for item in items), None) if split else None
    if split and row.images and first and not (found.get(row.images, source) / first).is_file():
        likely = (folder for folder in folders_below(source) if (folder / first).is_file())
        place = next((folder for folder in likely if _holds(folder, split)), None)
        if place is not None:
            found[row.images] = place
    if row.layout == "synsets" and row.images not in found:
        names = [folder.name for folder in _folders(source)]
        if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
            found[row.images] = source


def _holds(folder: Path, split: Parts) -> bool:
    parts = {part: [replace(item, path=str(folder / item.path)) for item in items] for part, items in split.items()}
    return not missing_pictures(parts)


def missing_pieces(row: CatalogRow, source: Path, found: dict[str, Path]) -> UserError:
    """The error for a download that lacks what is required."""
    lacking = [piece.names[0] for piece in row.pieces if piece.required and piece.to not in found]
    films = f" Films won't do; their middle frames are linked in {SPLITS_SOURCE}." if row.name == "ucf101" else ""
    return UserError(
        f"{shown(source)} does not look like {row.title}: there is no {' and no '.join(lacking)} in it or below."
        f"{films} Home page: {row.source}."
    )


def find_list(row: CatalogRow, given: str | Path | None, source: Path, home: Path) -> Path | None:
    """The file that names pictures or classes: the one given, else one in place, else one beside the download.

    Raises:
        UserError: the one given is not there.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"There is no split file {shown(str(given))!r}.")
        return path
    if row.test_only:
        beside = home.parent / CATALOG["imagenet"].folder / row.split_file
        if beside.is_file():
            return beside
    start = source if source.is_dir() else source.parent
    places = [home, start, start.resolve().parent]
    return next((place / row.split_file for place in places if (place / row.split_file).is_file()), None)
