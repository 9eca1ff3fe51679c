"""Which parts of a picture an answer rests on: cover each square in turn and see what becomes of it.

Occlusion (Zeiler and Fergus, arXiv 1311.2901). It needs no gradient and looks into nothing, so it means the same
for every method and backbone. It shows what the answer depends on one square at a time, and no more:
where two squares tell the same, covering either changes little.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

GRID = 6


def covered(view: np.ndarray, grid: int = GRID) -> list[np.ndarray]:
    """The view [S, S, 3] with one of grid x grid squares painted in its mean colour, row by row."""
    size = len(view)
    edges = [round(size * step / grid) for step in range(grid + 1)]
    mean = view.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
    made = []
    for top, bottom in itertools.pairwise(edges):
        for left, right in itertools.pairwise(edges):
            copy = view.copy()
            copy[top:bottom, left:right] = mean
            made.append(copy)
    return made


def log_odds(logits: Tensor, label: int) -> Tensor:
    """log(p / (1 - p)) of one class, [n, C] -> [n]; from logits, so that it stays finite at p = 1."""
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.logsumexp(dim=1)


def influence(whole: Tensor, parts: Tensor, names: tuple[str, ...], grid: int = GRID) -> dict[str, Any]:
    """The map for the most probable class of the whole picture.

    Args:
        whole: logits [C] of the picture.
        parts: logits [grid * grid, C] of the covered ones.

    Returns:
        class; grid; change: log-odds lost by covering each square, rows from the top (above 0: it spoke for
        the class); probability: of the class on the whole picture; covered: with each square covered.
    """
    label = int(whole.argmax())
    lost = log_odds(whole[None], label) - log_odds(parts, label)
    return {
        "class": names[label],
        "grid": grid,
        "probability": float(whole.softmax(dim=0)[label]),
        "change": [[round(v, 5) for v in row] for row in lost.view(grid, grid).tolist()],
        "covered": [[round(v, 7) for v in row] for row in parts.softmax(dim=1)[:, label].view(grid, grid).tolist()],
    }
