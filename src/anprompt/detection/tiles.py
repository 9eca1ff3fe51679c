"""Large images as overlapping windows of what the model looks at, and one map from what it says of them.

    image --resize--> shorter side `tiles` x S --windows at half steps--> [T, S, S, 3] --features--> joined [h, w, ...]

A defect of one percent of an image's area is a tenth of its side: less than a patch of a small model, four patches in a
grid of three windows. The number of windows depends on the image's shape alone, not on its size, so time and memory of
an image are known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MOST_WINDOWS = 1500  # of one image; a longer strip is taken smaller
MOST_TILES = 8
AUTO_MOST = 4  # windows along the shorter side that are chosen without being asked


@dataclass(frozen=True)
class Grid:
    """Windows over an image, counted in patches.

    Attributes:
        height, width: of the image as it is looked at.
        rows, columns: where windows begin.
        side: of a window.
        patch: pixels of a patch's side.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    side: int
    patch: int

    @property
    def apart(self) -> list[int]:
        """Indices of windows that cover the image with as little overlap as there can be."""
        rows, columns = (self._spread(starts) for starts in (self.rows, self.columns))
        return [row * len(self.columns) + column for row in rows for column in columns]

    def _spread(self, starts: tuple[int, ...]) -> list[int]:
        chosen = [0]
        for place in range(1, len(starts)):
            last = place == len(starts) - 1
            if last or starts[place + 1] > starts[chosen[-1]] + self.side:
                chosen.append(place)
        return chosen

    @property
    def count(self) -> int:
        """Number of windows."""
        return len(self.rows) * len(self.columns)


def auto_tiles(shorter_side: float, image_size: int) -> int:
    """Windows along the shorter side so that about each pixel is seen, at most `AUTO_MOST`.

    >>> auto_tiles(96, 48), auto_tiles(640, 48), auto_tiles(200, 224)
    (2, 4, 1)
    """
    return int(np.clip(round(shorter_side / image_size), 1, AUTO_MOST))


def grid_of(width: int, height: int, tiles: int, image_size: int, patch: int) -> Grid:
    """Windows of `image_size` px over an image of width x height px whose shorter side becomes `tiles` windows."""
    side = image_size // patch
    short, long = tiles * side, tiles * side * max(width, height) / min(width, height)
    while True:
        longer = max(round(long), short)
        size = (short, longer) if height <= width else (longer, short)
        grid = Grid(*size, _starts(size[0], side), _starts(size[1], side), side, patch)
        if grid.count <= MOST_WINDOWS:
            return grid
        if short > side:
            long, short = long * max(short // 2, side) / short, max(short // 2, side)
        else:  # a strip: its length is squeezed
            long = longer * 0.8


def _starts(length: int, side: int) -> tuple[int, ...]:
    """Half steps, the last window flush with the end."""
    step = max(1, side // 2)
    return tuple(sorted({*range(0, length - side, step), length - side}))


def windows(image: Image.Image, grid: Grid) -> np.ndarray:
    """The windows of an image, row by row: uint8 [T, S, S, 3]."""
    size = (grid.width * grid.patch, grid.height * grid.patch)
    pixels = np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC))
    p, s = grid.patch, grid.side * grid.patch
    return np.stack([pixels[r * p : r * p + s, c * p : c * p + s] for r in grid.rows for c in grid.columns])


def joined(parts: Tensor, grid: Grid) -> Tensor:
    """One map from those of windows: [T, side, side, ...] -> [height, width, ...], the mean where they overlap."""
    summed = Joining(grid, parts.shape[3:])
    summed.add(parts, range(len(parts)))
    return summed.mean()


class Joining:
    """`joined` a batch of windows at a time, so that no more than the map itself is held."""

    def __init__(self, grid: Grid, rest: torch.Size) -> None:
        self.grid = grid
        self._sum = torch.zeros(grid.height, grid.width, *rest)
        self._count = torch.zeros(grid.height, grid.width)

    def add(self, parts: Tensor, numbers: Iterable[int]) -> None:
        """The maps of some windows, [t, side, side, ...], with their numbers row by row."""
        side = self.grid.side
        for part, number in zip(parts, numbers):
            row, column = divmod(int(number), len(self.grid.columns))
            r, c = self.grid.rows[row], self.grid.columns[column]
            self._sum[r : r + side, c : c + side] += part
            self._count[r : r + side, c : c + side] += 1

    def mean(self) -> Tensor:
        """The joined map."""
        return self._sum / self._count.view(*self._count.shape, *[1] * (self._sum.dim() - 2))
