"""Which images show the same though their bytes differ: re-encoded, resized, saved in another format.

Compared are the small copies of `identity`. A photograph saved again, as JPEG of quality 30, as a thumbnail of 160
pixels, at half its size or as WebP, stays within the bounds below; in three real data sets of textures and circuit
boards no two images did but shots of one object from one place. Board and board with a defect do not: the defect
alone moves a grey level by more than `MOST_APART`. Crops, turned and mirrored images are others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from anprompt.data.identity import SIDE, SMALL_BYTES, look_up

LEAST_CORRELATION = 0.99  # of the grey levels
MEAN_APART, MOST_APART = 2.0, 8.0  # grey levels
COLOUR_APART = 12.0  # levels of colour: two drawings may have equal grey levels and be red and violet
LEAST_CONTRAST = 1.5  # standard deviation of the grey levels; flat images are equal without being the same
MOST_COMPARED = 50_000  # images; beyond, their number squared takes minutes
_MOST_CHECKED = 2_000_000  # pairs, where whole data sets look the same
_ROWS = 512
_COARSE = 6  # blocks per side: their means tell most pairs apart
_RIM = 1.5  # pixels that rounding may take from a thumbnail's side


@dataclass(frozen=True)
class _Copies:
    """Small copies taken apart, one row an image; `at` is its place among the paths."""

    at: np.ndarray
    sides: np.ndarray
    grey: np.ndarray
    colour: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[str]) -> _Copies:
        known = look_up(paths, small=True)
        at = [index for index, one in enumerate(known) if one and len(one.small or b"") == SMALL_BYTES]
        rows = np.frombuffer(b"".join(known[index].small for index in at), np.uint8).reshape(len(at), SMALL_BYTES)  # type: ignore[union-attr,misc]
        sides = np.ascontiguousarray(rows[:, :8]).view(">u4").astype(np.float64)
        levels = rows[:, 8:].astype(np.float32)
        return cls(np.array(at, np.int64), sides, levels[:, : SIDE**2], levels[:, SIDE**2 :])

    def same(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Whether the rows `left` and `right` show the same, pair by pair."""
        one, other = self.grey[left], self.grey[right]
        apart = np.abs(one - other)
        found = (apart.max(axis=1) <= MOST_APART) & (apart.mean(axis=1) <= MEAN_APART)
        found &= np.abs(self.colour[left] - self.colour[right]).max(axis=1) <= COLOUR_APART
        one, other = one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
        spread = np.sqrt((one**2).mean(axis=1) * (other**2).mean(axis=1))
        found &= (one * other).mean(axis=1) >= LEAST_CORRELATION * spread
        found &= spread >= LEAST_CONTRAST**2
        shapes, smallest = self.sides[:, 0] / self.sides[:, 1], self.sides.min(axis=1)
        slack = 1 + _RIM / np.minimum(smallest[left], smallest[right])
        return found & (shapes[left] <= shapes[right] * slack) & (shapes[right] <= shapes[left] * slack)


def alike(one: str, other: str) -> bool:
    """Whether two images show the same, re-encoded or resized.

    Also where one of them is no file: nothing speaks against it, and their names do for it.
    """
    first, second = look_up([one, other])
    if first is None or second is None or first.content == second.content:
        return True
    copies = _Copies.of([one, other])
    return len(copies.at) == 2 and bool(copies.same(np.array([0]), np.array([1]))[0])


def look_alikes(paths: Sequence[str], groups: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of images that show the same and are of different groups.

    Args:
        paths: of files; those that can't be read or decoded are passed over.
        groups: a number for each; pairs within a group are not looked for.

    Returns:
        (index, larger index), sorted. Where more than two million pairs are candidates, those found until then.
    """
    copies = _Copies.of(paths)
    if len(copies.at) < 2:
        return []
    group = np.asarray(groups)[copies.at]
    pairs = [
        (copies.at[left[found]], copies.at[right[found]])
        for left, right in _candidates(copies, group)
        if (found := copies.same(left, right)).any()
    ]
    return sorted((int(min(a, b)), int(max(a, b))) for one, other in pairs for a, b in zip(one, other))


def _candidates(copies: _Copies, group: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of other groups whose block means are within the bounds, a piece at a time.

    The mean of a block moves by no more than its levels do, so no pair is missed: of images whose levels
    are MEAN_APART and MOST_APART from each other, the squares of the blocks' differences sum to no more than
    blocks * MEAN_APART * MOST_APART.
    """
    side = SIDE // _COARSE
    blocks = copies.grey.reshape(-1, _COARSE, side, _COARSE, side).mean(axis=(2, 4)).reshape(len(copies.at), -1)
    means = blocks.mean(axis=1)
    order = np.argsort(means, kind="stable")
    means, blocks = means[order], (blocks - blocks.mean(axis=0))[order]
    squares = (blocks**2).sum(axis=1)
    most = _COARSE**2 * MEAN_APART * MOST_APART + 1.0
    checked = 0
    for start in range(0, len(order), _ROWS):
        rows = slice(start, start + _ROWS)
        end = int(np.searchsorted(means, means[rows][-1] + MEAN_APART, "right"))
        apart = squares[rows, None] + squares[None, start:end] - 2 * blocks[rows] @ blocks[start:end].T
        left, right = np.nonzero((apart <= most) & (group[order[rows]][:, None] != group[order[start:end]][None]))
        left, right = order[start + left[right > left]], order[start + right[right > left]]
        for piece in range(0, len(left), 8 * _ROWS):
            yield left[piece : piece + 8 * _ROWS], right[piece : piece + 8 * _ROWS]
        checked += len(left)
        if checked > _MOST_CHECKED:
            return
