"""Ragged sentences packed into tiles of rows, so that no time goes into padding.

After the positions that all sentences share, each class has a suffix of its own length, which ends at
end-of-text. Suffixes are laid one behind the other into tiles of equal height, whole ones only:

    tile 0   [ cat . EOT | red panda . EOT | dog . EOT ]
    tile 1   [ a fire engine . EOT | ant . EOT | (unused) ]

Linear layers see all rows as one matrix; attention runs tile by tile under a mask that keeps each row to
its own suffix (and the prefix).
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
        owner: class of each row, [R]; -1 where unused.
        ends: end-of-text row of each class, [C].
        rank: place of each class among the end-of-text rows in rising order, [C].
    """

    shared: int
    height: int
    source: Tensor
    owner: Tensor
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
        count, used = len(self.ends), self.owner >= 0
        flat = rows.new_zeros(count * length, rows.shape[-1])
        flat = flat.index_copy(0, self.source[used], rows[0, used])
        return torch.cat([prefix.expand(count, -1, -1), flat.view(count, length, -1)[:, self.shared :]], dim=1)

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
        owner = self.owner[start:stop].view(tiles, height)
        own = (owner[:, :, None] == owner[:, None, :]).tril()
        ends = self.ends.sort().values
        reads = ends[(ends >= start) & (ends < stop)] - start
        tile = reads // height
        nth = torch.arange(len(reads), device=reads.device) - torch.searchsorted(tile, tile)
        most = int(nth.max()) + 1
        slots = tile * most + nth
        queries = own.new_zeros(tiles * most, height).index_copy(0, slots, own.flatten(0, 1)[reads])
        return Part(start, stop, own, reads, slots, queries.view(tiles, most, height))


def pack(tokens: Tokens, shared: int | None = None, tile: int = TILE) -> Packing:
    """Lay out the suffixes of sentences behind their first `shared` (None: all equal) positions."""
    m = shared_length(tokens) if shared is None else shared
    return _layout(tuple(tokens.eot.tolist()), m, tokens.ids.shape[1], tile, str(tokens.ids.device))


@functools.lru_cache(maxsize=16)
def _layout(eot: tuple[int, ...], shared: int, length: int, tile: int, device: str) -> Packing:
    lengths = [end - shared + 1 for end in eot]
    tiles = _fill_well(lengths, tile)
    height = max(sum(lengths[c] for c in classes) for classes in tiles)
    source: list[int] = []
    owner: list[int] = []
    ends = [0] * len(eot)
    for classes in tiles:
        for c in classes:
            source += range(c * length + shared, c * length + eot[c] + 1)
            owner += [c] * lengths[c]
            ends[c] = len(source) - 1
        unused = -len(source) % height
        source, owner = source + [0] * unused, owner + [-1] * unused
    rows = torch.tensor(ends, device=device)
    return Packing(
        shared, height, torch.tensor(source, device=device), torch.tensor(owner, device=device), rows,
        rows.argsort().argsort(),
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
