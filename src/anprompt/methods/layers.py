"""Small trained parts that several methods share (MMRL, MMRL++, ANPrompt)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError


class BlockLinear(nn.Module):
    """One independent projection per block: `A_l R + b_l`; R may be one for all or one per block.

    Args:
        starts: 0: every block starts on its own, with bias 0. n: as n plain linear layers, of which the
            last is copied for all further blocks (MMRL's code: 1, MaPLe's: 2).
    """

    def __init__(self, width_in: int, width_out: int, blocks: int, generator: torch.Generator, starts: int = 0) -> None:
        super().__init__()
        own = starts or blocks
        rows = [min(block, own - 1) for block in range(blocks)]
        weight = linear_init(own * width_out, width_in, generator).view(own, width_out, width_in)
        bias = bias_init(own * width_out, width_in, generator) if starts else torch.zeros(own * width_out)
        self.weight = nn.Parameter(weight[rows])
        self.bias = nn.Parameter(bias.view(own, width_out)[rows])

    def forward(self, x: Tensor) -> Tensor:
        """[K, d] or [blocks, K, d] -> [blocks, K, D]."""
        return x @ self.weight.mT + self.bias[:, None]


class SharedResidual(nn.Module):
    """One projection per block as a shared weight plus a low-rank residual: `(W + U_l V_l) R + b_l`.

    Args:
        starts: 0: the biases start at 0. 1: as copies of one linear layer's bias (MMRL++'s code).
    """

    def __init__(
        self, width_in: int, width_out: int, blocks: int, rank: int, generator: torch.Generator, starts: int = 0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear_init(width_out, width_in, generator))
        self.up = nn.Parameter(linear_init(blocks * width_out, rank, generator).view(blocks, width_out, rank))
        self.down = nn.Parameter(torch.zeros(blocks, rank, width_in))
        bias = bias_init(width_out, width_in, generator) if starts else torch.zeros(width_out)
        self.bias = nn.Parameter(bias.repeat(blocks, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[K, d_r] -> [blocks, K, D]."""
        shared = F.linear(x, self.weight)
        return shared + (x @ self.down.mT) @ self.up.mT + self.bias[:, None]


def linear_init(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """The uniform start of a linear layer, from an explicit generator: U(-1/sqrt(in), 1/sqrt(in))."""
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) / columns**0.5


def prompted_blocks(first: int, last: int, depths: Sequence[int]) -> tuple[int, int]:
    """J and L for towers of these depths; 0 stands for half of the depth and for the last block.

    Raises:
        UserError: not 1 <= J <= L <= depth of the shallower tower.
    """
    depth = min(depths)
    first, last = first or max(1, depth // 2), last or depth
    if not 1 <= first <= last <= depth:
        raise UserError(f"Prompted blocks {first}..{last} do not fit a backbone of {depth} blocks.")
    return first, last


def bias_init(count: int, columns: int, generator: torch.Generator) -> Tensor:
    """The usual start of a linear layer's bias: uniform in the bounds of its weight, [count]."""
    return (torch.rand(count, generator=generator) * 2 - 1) / columns**0.5


def linear(width_in: int, width_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with its usual uniform start, drawn from an explicit generator alone."""
    layer = nn.utils.skip_init(nn.Linear, width_in, width_out)
    with torch.no_grad():
        layer.weight.copy_(linear_init(width_out, width_in, generator))
        layer.bias.copy_(bias_init(width_out, width_in, generator))
    return layer
