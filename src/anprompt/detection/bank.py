"""A memory bank of normal patches: nearest neighbours in a coreset (PatchCore, arXiv 2106.08265)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.detection.features import KEPT
from anprompt.prompting.prompts import unit

ROWS = 4096  # queries compared at a time
SKETCH = 64  # dimensions of the random projection in which the coreset is chosen, as PatchCore has it
SCALE_LEAST = 1e-4


def aggregated(tokens: Tensor, reach: int = 3) -> Tensor:
    """Locally aware patch features: each block's tokens averaged over a neighbourhood and made unit, blocks side by side.

    Args:
        tokens: [h, w, blocks, D].
        reach: side of the neighbourhood in patches; 1 leaves patches as they are.

    Returns:
        [h, w, blocks * D]; rows of length 1.
    """
    x = tokens.float()
    if reach > 1:
        maps = x.flatten(2).permute(2, 0, 1)[None]
        maps = F.pad(maps, [reach // 2] * 4, mode="replicate")
        x = F.avg_pool2d(maps, reach, 1)[0].permute(1, 2, 0).unflatten(-1, tokens.shape[2:])
    return unit(x).flatten(2) / tokens.shape[2] ** 0.5


def coreset(rows: Tensor, size: int, seed: int) -> Tensor:
    """Indices of at most `size` rows [n, D] that lie far from one another: greedy k-centre in a random projection."""
    if len(rows) <= size:
        return torch.arange(len(rows))
    generator = torch.Generator().manual_seed(seed)
    sketch = rows @ (torch.randn(rows.shape[1], SKETCH, generator=generator) / SKETCH**0.5)
    chosen = torch.empty(size, dtype=torch.long)
    chosen[0] = int(torch.randint(len(rows), (1,), generator=generator))
    nearest = torch.full((len(rows),), float("inf"))
    for step in range(1, size):
        nearest = torch.minimum(nearest, (sketch - sketch[chosen[step - 1]]).square().sum(dim=1))
        chosen[step] = nearest.argmax()
    return chosen.sort().values


def memory_bank(rows: Tensor, size: int, seed: int) -> Tensor:
    """The `coreset` of rows [n, D] as it is kept: [at most `size`, D] in `KEPT`."""
    return rows[coreset(rows, size, seed)].to(KEPT)


def distances(rows: Tensor, bank: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Half the smallest squared distance of unit rows [n, D] to the bank [m, D], which is `1 - cos`: [n].

    Args:
        allowed: which bank rows each row may be compared with, booleans [n, m]; None for all.
    """
    found = []
    for start in range(0, len(rows), ROWS):
        near = rows[start : start + ROWS] @ bank.T
        if allowed is not None:
            near = near.masked_fill(~allowed[start : start + ROWS], -1.0)
        found.append(1 - near.amax(dim=1))
    return torch.cat(found).clamp_min(0)


def apart(maps: list[Tensor], most: int = 2048, reach: int = 2) -> Tensor:
    """What the bank would say of normal patches that it does not hold: distances of patches to the other normal images.

    With one image, to its patches more than `reach` rows or columns away. This is what scores of new images are
    compared with, so that nothing but normal images is needed for it.

    Args:
        maps: patch features of each normal image, [h, w, D] of unit rows.
        most: patches of an image that are compared, evenly spread.
    """
    found = []
    for number, own in enumerate(maps):
        h, w = own.shape[:2]
        step = max(1, h * w // most)
        rows = own.flatten(0, 1)[::step]
        if len(maps) > 1:
            others = torch.cat([other.flatten(0, 1) for index, other in enumerate(maps) if index != number])
            found.append(distances(rows, others[:: max(1, len(others) // 20_000)]))
        else:
            place = torch.cartesian_prod(torch.arange(h), torch.arange(w))
            far = (place[::step, None] - place[None]).abs().amax(dim=-1) > reach
            found.append(distances(rows, own.flatten(0, 1), far if far.any(dim=1).all() else None))
    return torch.cat(found)
