"""Ragged sentences packed into tiles of rows, so that no time goes into padding.

After the positions that all sentences share, each class has a suffix of its own length, which ends at
end-of-text. Suffixes are laid one behind the other into tiles of equal height, whole ones only:

    tile 0   [ cat . EOT | red panda . EOT | dog . EOT ]
    tile 1   [ a fire engine . EOT | ant . EOT | (unused) ]

Linear layers see all rows as one matrix; attention runs tile by tile under a mask that keeps each row to
its own suffix (and the prefix).

Suffixes that begin alike may also be merged: attention is causal, so the rows of a common beginning are the same,
and stand in the tile once, as in a tree:

    tile 0   [ red { panda . EOT | fox . EOT } | cat . EOT ]
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from anprompt.backbones.base import Tokens

TILE = 64  # rows: tall enough for efficient products, short enough that masked-out work stays small


def shared_length(tokens: Tokens) -> int:
    """Number of leading positions that are equal in all sentences; never reaches an end-of-text token."""
    same = (tokens.ids == tokens.ids[:1]).all(dim=0)
    leading = int(same.long().cumprod(dim=0).sum())
    return min(leading, int(tokens.eot.min()))


@dataclass(frozen=True)
class Part:
    """Consecutive tiles, [start, stop) in rows.

    Attributes:
        own: which rows of its tile a row attends to, [tiles, T, T].
        reads: end-of-text rows in rising order, counted from `start`, [c].
        slots: their places among [tiles, most classes per tile] queries, flat, [c].
        queries: which rows of its tile each of those places attends to, [tiles, Q, T].
    """

    start: int
    stop: int
    own: Tensor
    reads: Tensor
    slots: Tensor
    queries: Tensor


def with_prefix(mask: Tensor, length: int) -> Tensor:
    """A mask over tiles [tiles, n, T] with `length` positions in front that all may see: [tiles, 1, n, length + T]."""
    front = mask.new_ones(*mask.shape[:2], length)
    return torch.cat([front, mask], dim=2)[:, None]


@dataclass(frozen=True, eq=False)
class Packing:
    """Where each row of the packed suffixes comes from.

    Attributes:
        shared: M, number of leading positions outside the packing.
        height: T, rows per tile.
        source: position of each row in the flat [C * L] sentences, [R]; unused rows repeat position 0.
        until: the row after the last one that sees this row, [R]; what sees a row follows it without a gap.
        where: row of each position behind the shared ones, [C, L - M]; -1 behind end-of-text.
        ends: end-of-text row of each class, [C].
        rank: place of each class among the distinct end-of-text rows in rising order, [C].
    """

    shared: int
    height: int
    source: Tensor
    until: Tensor
    where: Tensor
    ends: Tensor
    rank: Tensor
    _parts: dict[int, tuple[Part, ...]] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return len(self.source)

    def pack(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sentences [C, L, D] -> prefix [1, M, D] and rows [1, R, D]."""
        return x[:1, : self.shared], x.flatten(0, 1)[self.source][None]

    def unpack(self, prefix: Tensor, rows: Tensor, length: int) -> Tensor:
        """The sentences again, [C, L, D]; zeros behind end-of-text, where nothing causal looks."""
        suffixes = rows[0, self.where.clamp(min=0)] * (self.where >= 0)[..., None]
        suffixes = torch.nn.functional.pad(suffixes, (0, 0, 0, length - self.shared - suffixes.shape[1]))
        return torch.cat([prefix.expand(len(self.ends), -1, -1), suffixes], dim=1)

    def parts(self, limit: int) -> tuple[Part, ...]:
        """The tiles in parts of at most `limit` rows (one tile at least), equal in size but the last."""
        tiles = self.rows // self.height
        count = -(-tiles // max(1, limit // self.height))
        step = -(-tiles // count)
        if step not in self._parts:
            self._parts[step] = tuple(self._part(i, min(i + step, tiles)) for i in range(0, tiles, step))
        return self._parts[step]

    def _part(self, first: int, last: int) -> Part:
        height, tiles = self.height, last - first
        start, stop = first * height, last * height
        row = torch.arange(start, stop, device=self.until.device).view(tiles, height)
        until = self.until[start:stop].view(tiles, height)
        own = (row[:, :, None] < until[:, None, :]).tril()
        ends = self.ends.unique()
        reads = ends[(ends >= start) & (ends < stop)] - start
        tile = reads // height
        nth = torch.arange(len(reads), device=reads.device) - torch.searchsorted(tile, tile)
        most = int(nth.max()) + 1
        slots = tile * most + nth
        queries = own.new_zeros(tiles * most, height).index_copy(0, slots, own.flatten(0, 1)[reads])
        return Part(start, stop, own, reads, slots, queries.view(tiles, most, height))


def pack(tokens: Tokens, shared: int | None = None, tile: int = TILE, merge: bool = False) -> Packing:
    """Lay out the suffixes of sentences behind their first `shared` (None: all equal) positions.

    Args:
        merge: rows of common beginnings once; only where equal ids at equal positions mean equal rows.
    """
    m = shared_length(tokens) if shared is None else shared
    ends = tokens.eot.tolist()
    ids = tokens.ids.tolist() if merge else [()] * len(ends)
    suffixes = tuple(tuple(row[m : end + 1]) if merge else end + 1 - m for row, end in zip(ids, ends))
    return _layout(suffixes, m, tokens.ids.shape[1], tile, str(tokens.ids.device))


@dataclass
class _Bunch:
    """Suffixes that stay together in a tile: one, or several that begin alike.

    Attributes:
        source: sentence and position behind the shared ones, of each row.
        until: see `Packing`, counted from the bunch's first row.
        paths: rows of each suffix.
    """

    source: list[tuple[int, int]] = field(default_factory=list)
    until: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def add(self, sentence: int, length: int, beginning: Sequence[int] = ()) -> None:
        """A suffix whose first rows are there already."""
        path = [*beginning, *range(len(self.source), len(self.source) + length - len(beginning))]
        self.source += [(sentence, position) for position in range(len(beginning), length)]
        self.until += [0] * (length - len(beginning))
        for row in path:
            self.until[row] = len(self.source)
        self.paths[sentence] = path


def _bunches(suffixes: Sequence[int | tuple[int, ...]], tile: int) -> list[_Bunch]:
    """A bunch for each suffix given by its length; those given by their ids in bunches of at most `tile` rows."""
    found: list[_Bunch] = []
    last: tuple[int, ...] = ()
    merged = sorted((ids, c) for c, ids in enumerate(suffixes) if isinstance(ids, tuple))
    for ids, c in merged:
        common = next((i for i, (a, b) in enumerate(zip(ids, last)) if a != b), min(len(ids), len(last)))
        if not common or len(found[-1].source) + len(ids) - common > tile:
            common = 0
            found.append(_Bunch())
        before = next(reversed(found[-1].paths.values()))[:common] if common else ()
        found[-1].add(c, len(ids), before)
        last = ids
    for c, length in enumerate(suffixes):
        if not isinstance(length, tuple):
            found.append(_Bunch())
            found[-1].add(c, length)
    return found


@functools.lru_cache(maxsize=16)
def _layout(suffixes: tuple[int | tuple[int, ...], ...], shared: int, length: int, tile: int, device: str) -> Packing:
    bunches = sorted(_bunches(suffixes, tile), key=lambda bunch: min(bunch.paths))
    sizes = [len(bunch.source) for bunch in bunches]
    tiles = _fill_well(sizes, tile)
    height = max(sum(sizes[b] for b in members) for members in tiles)
    source: list[int] = []
    until: list[int] = []
    where = torch.full((len(suffixes), max(0, length - shared)), -1)
    ends = [0] * len(suffixes)
    for members in tiles:
        for bunch in (bunches[b] for b in members):
            start = len(source)
            source += [c * length + shared + position for c, position in bunch.source]
            until += [start + row for row in bunch.until]
            for c, path in bunch.paths.items():
                where[c, : len(path)] = torch.tensor(path) + start
                ends[c] = start + path[-1]
        unused = range(len(source), len(source) + -len(source) % height)
        source, until = source + [0] * len(unused), until + [row + 1 for row in unused]
    rows = torch.tensor(ends)
    rank = rows.unique(return_inverse=True)[1]
    return Packing(
        shared, height, torch.tensor(source, device=device), torch.tensor(until, device=device), where.to(device),
        rows.to(device), rank.to(device),
    )  # fmt: skip


def _fill_well(lengths: Sequence[int], tile: int) -> list[list[int]]:
    """The best of a few tile heights near `tile`: the one with the fewest rows in all."""
    total, longest = sum(lengths), max(lengths)
    count = max(1, round(total / tile))
    even = -(-total // count)
    tried = [_fill(lengths, max(longest, even + slack)) for slack in (0, 1, 2, 4)]

    def rows(tiles: list[list[int]]) -> int:
        return len(tiles) * max(sum(lengths[c] for c in classes) for classes in tiles)

    return min(tried, key=rows)


def _fill(lengths: Sequence[int], height: int) -> list[list[int]]:
    """Classes per tile, longest first into the fullest tile that has room (best fit)."""
    tiles: list[list[int]] = []
    room: list[list[int]] = [[] for _ in range(height + 1)]  # tiles by the rows they have left
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        left = next((n for n in range(lengths[c], height + 1) if room[n]), None)
        if left is None:
            tiles.append([])
            left, index = height, len(tiles) - 1
        else:
            index = room[left].pop()
        tiles[index].append(c)
        room[left - lengths[c]].append(index)
    return tiles
