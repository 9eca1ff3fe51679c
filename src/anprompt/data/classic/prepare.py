"""From a download that a user has to the field's folder layout: found, checked against the split, put into place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anprompt.data.classic import hub
from anprompt.data.classic.catalog import SPLITS_SOURCE, CatalogRow
from anprompt.data.classic.check import Check, check_dataset
from anprompt.data.classic.coop import MADE_SPLIT, PARTS, Parts, catalog_row, missing_pictures, read_split, synset_names
from anprompt.data.classic.downloads import find_list, find_pieces, missing_pieces, open_source
from anprompt.data.classic.labelled import labelled_pictures, made_split
from anprompt.data.classic.placing import Progress, copy_file, link, place, write_new
from anprompt.data.images import shown
from anprompt.data.types import Item
from anprompt.errors import UserError


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did, a line each, and what `data check` says of it now."""

    lines: tuple[str, ...]
    check: Check


@dataclass(frozen=True)
class _Order:
    """One call of `prepare`.

    Attributes:
        listing: the field's split, or classnames.txt; None where there is none.
        split: what it holds, for the "split" layout.
    """

    row: CatalogRow
    source: Path
    home: Path
    listing: Path | None
    split: Parts | None
    seed: int | None
    copy: bool
    progress: Progress


def prepare(
    name: str,
    source: str | Path,
    root: str | Path,
    *,
    split: str | Path | None = None,
    make_split: int | None = None,
    copy: bool = False,
    progress: Progress = lambda done, total: None,
) -> Prepared:
    """Puts a download of a classic data set where `open_dataset("coop:NAME", root=root)` reads it.

    Everything is checked before anything is placed: a split that does not fit the download leaves no trace.
    Interrupted, it can be run again. Files that are there already stay; one that differs is refused.

    Args:
        source: the unpacked download: the authors' archive, a torchvision folder, class folders (also below
            train and test), or parquet files.
        split: the field's split file (ImageNet and its variants: classnames.txt). Without it, it is looked for
            in place and beside the download.
        make_split: seed of a split of our own, where the field's is not to be had.
        copy: copy pictures instead of linking to them. Parquet files are always unpacked.

    Raises:
        UserError: a name, file or folder that can't be used; one line with the next step.
    """
    row = catalog_row(name)
    path, home = open_source(source), Path(root).expanduser().absolute() / row.folder
    if make_split is not None:
        _require_room_for_made_split(row, home, split, make_split)
    listing = None if make_split is not None else find_list(row, split, path, home)
    parts = read_split(listing)[0] if listing and row.layout == "split" else None
    if listing and row.listed:
        synset_names(listing)  # refuses a damaged one
    order = _Order(row, path, home, listing, parts, make_split, copy, progress)
    if listing is None and make_split is None and row.layout != "aircraft":
        raise _no_listing(row)
    lines = _prepare_parquet(order) if hub.parquet_files(path) else _prepare_folder(order)
    return Prepared(tuple(lines), check_dataset(name, root))


def _require_room_for_made_split(row: CatalogRow, home: Path, split: str | Path | None, seed: int) -> None:
    if row.layout != "split":
        raise UserError(f"{row.name} is divided by its own files; --make-split does not apply.")
    if split is not None:
        raise UserError("Give --split or --make-split, not both.")
    if (home / row.split_file).is_file():
        raise UserError(f"The field's split is there ({shown(home / row.split_file)}); leave out --make-split.")
    others = [file.name for file in home.glob(MADE_SPLIT) if file.name != _made_name(seed)]
    if others:
        raise UserError(f"{shown(home / others[0])} is there already; remove it to make another split.")


def _made_name(seed: int) -> str:
    return MADE_SPLIT.replace("*", str(seed))


def _no_listing(row: CatalogRow) -> UserError:
    if row.layout == "split":
        other = " Without it, --make-split SEED divides the pictures anew, which is not the field's split."
    else:
        other = ""
    return UserError(
        f"{row.name} needs {row.split_file}, and it is not beside the download. It is linked in {SPLITS_SOURCE}; "
        f"download it and give it with --split-file FILE.{other}"
    )


def _prepare_folder(order: _Order) -> list[str]:
    """A download of folders: whole pieces where the layout is the authors', else picture by picture."""
    found = find_pieces(order.row, order.source, order.split)
    if any(piece.required and piece.to not in found for piece in order.row.pieces):
        entries = hub.folder_entries(order.source) if order.row.layout == "split" else []
        if not entries:
            raise missing_pieces(order.row, order.source, found)
        return _place_entries(order, entries)
    made = None
    if order.seed is not None:
        made = made_split(labelled_pictures(order.row, found), order.seed)
    _require_pictures(order, found, made)
    lines = _write_listing(order, made)
    for piece in order.row.pieces:
        if piece.to in found:
            target = order.home / piece.to
            lines.append(place(found[piece.to], target, copy=order.copy, progress=order.progress))
    return lines


def _require_pictures(order: _Order, found: Mapping[str, Path], made: Mapping[str, list[Any]] | None) -> None:
    """Refuses a split that names pictures which the download lacks, before anything is placed."""
    if order.row.layout != "split":
        return
    parts = order.split
    if made is not None:
        parts = {part: [Item(path, label, name) for path, label, name in made[part]] for part in PARTS}
    assert parts is not None

    def located(item: Item) -> Item:
        if order.row.images:
            return replace(item, path=str(found[order.row.images] / item.path))
        folder, _, rest = item.path.partition("/")
        return replace(item, path=str(found.get(folder, order.source / folder) / rest))

    lost = missing_pictures({part: [located(item) for item in parts[part]] for part in PARTS})
    if lost:
        total = sum(len(parts[part]) for part in PARTS)
        raise UserError(
            f"The download lacks {len(lost)} of the {total} pictures that the split names, the first is "
            f"{shown(lost[0])}. Nothing was placed; get all of {order.row.source}, or another split file."
        )


def _write_listing(order: _Order, made: Mapping[str, object] | None) -> list[str]:
    """Puts the split file into place first: an unfinished data set is then one with pictures missing."""
    if made is not None and order.seed is not None:
        target = order.home / _made_name(order.seed)
        write_new(target, (json.dumps(made, ensure_ascii=False) + "\n").encode())
        return [f"made     {shown(target)} (not the field's split)"]
    if order.listing is None:  # aircraft: its lists are pieces of the download
        return []
    target = order.home / order.row.split_file
    if order.row.test_only:
        _require_same_as_imagenets(order)
    copy_file(order.listing, target)
    return [f"copied   {shown(target)}" if target != order.listing else f"there    {shown(target)}"]


def _require_same_as_imagenets(order: _Order) -> None:
    """A variant is scored with ImageNet's class names; two lists that differ would make two tables."""
    imagenets = order.home.parent / "imagenet" / order.row.split_file
    if order.listing and imagenets.is_file() and synset_names(imagenets) != synset_names(order.listing):
        raise UserError(f"{shown(order.listing)} differs from {shown(imagenets)}; use ImageNet's for all.")


def _prepare_parquet(order: _Order) -> list[str]:
    if order.row.layout != "split":
        raise UserError(
            f"{order.row.name} can't be prepared from parquet files, which lack its folder names; use the archive "
            f"from {order.row.source}."
        )
    return _place_entries(order, hub.parquet_entries(hub.parquet_files(order.source)))


def _place_entries(order: _Order, entries: list[hub.Entry]) -> list[str]:
    """Pictures one by one, each at the path that the split has for it."""
    if order.split is not None:
        paths = hub.matched(order.row, order.split, entries)
        lines = _write_listing(order, None)
    else:
        assert order.seed is not None
        paths = hub.own_names(order.row, entries)
        if not paths:
            raise UserError(f"{shown(order.source)} holds no pictures of {order.row.title}.")
        lines = _write_listing(order, made_split(hub.labelled_entries(order.row, paths), order.seed))
    base = order.home / order.row.images
    unpacked = entries[0].row >= 0
    if unpacked:
        _unpack(order, base, paths)
    else:
        for number, (path, entry) in enumerate(paths.items()):
            (copy_file if order.copy else link)(entry.file, base / path)
            order.progress(number + 1, len(paths))
    did = "unpacked" if unpacked else "copied  " if order.copy else "linked  "
    return [*lines, f"{did} {shown(base)}/ ({len(paths)} pictures)"]


def _unpack(order: _Order, base: Path, paths: Mapping[str, hub.Entry]) -> None:
    """Writes the pictures of parquet files; each file appears whole or not at all."""
    targets: dict[tuple[Path, int], list[str]] = {}
    for path, entry in paths.items():
        targets.setdefault((entry.file, entry.row), []).append(path)
    done = 0
    for file, row, data in hub.parquet_pictures(hub.parquet_files(order.source)):
        for path in targets.get((file, row), ()):
            if not data:
                raise UserError(f"{shown(file)}, row {row}: there is no picture in it; download it again.")
            write_new(base / path, data)
            done += 1
            order.progress(done, len(paths))
