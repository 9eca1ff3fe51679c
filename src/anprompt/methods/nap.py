"""NAP-Tuning: prompts in both towers with token refiners, against attacks (arXiv 2506.12706).

    text    IVLP's prompts in blocks 1..D; after each of these blocks   x <- x + up(gelu(down(norm(x))))
    vision  IVLP's prompts in blocks 1..D; the same after each, with its own tensors

A refiner rebuilds features through a residual path, one for every block and tower, at every position alike; `up`
starts at 0, so an untrained NAP is an untrained IVLP. From the paper's abstract: prompts in both modalities and many
layers, token refiners per modality and layer, residual connections. OURS, as no public text says it: the refiner's
form and width, its place after the block, no refiner after a tower's last block (nothing but the read-out follows),
the losses and the training attack (the nearest public recipe, see the preset). `refine` and `refiner_width` are there
to measure what that is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.backbones.base import Hook
from anprompt.errors import UserError, choices
from anprompt.methods.base import MethodConfig
from anprompt.methods.context import DeepContext
from anprompt.methods.ivlp import IVLP, IVLPConfig
from anprompt.methods.layers import linear_init

TOWERS = ("both", "vision", "text", "none")


@dataclass(frozen=True)
class NAPConfig(IVLPConfig):
    """Settings of NAP-Tuning: those of IVLP, and

    Attributes:
        refine: towers with refiners: "both", "vision", "text" or "none".
        refiner_width: of the bottleneck; 0 means an eighth of the tower's width.
    """

    refine: str = "both"
    refiner_width: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refine not in TOWERS:
            raise choices("refine", self.refine, TOWERS)
        if self.refiner_width < 0:
            raise UserError(f"NAP: refiner_width must be at least 0, not {self.refiner_width}.")
        if self.refine in ("text", "both") and not self.n_text:
            raise UserError("NAP: text refiners follow text prompts; with n_text = 0 set refine to 'vision' or 'none'.")


class Refiners(nn.Module):
    """One residual bottleneck per block, `x + up_l(gelu(down_l(norm(x))))`; starts as the identity.

    Args:
        width: D, of the tokens.
        inner: of the bottleneck.
    """

    def __init__(self, width: int, inner: int, blocks: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(linear_init(blocks * inner, width, generator).view(blocks, inner, width))
        self.bias = nn.Parameter(torch.zeros(blocks, inner))
        self.up = nn.Parameter(torch.zeros(blocks, width, inner))

    def forward(self, index: int, x: Tensor) -> Tensor:
        """What follows prompted block `index` (from 0): [..., D] -> the same."""
        normed = F.layer_norm(x, x.shape[-1:])
        inner = F.gelu(F.linear(normed, self.down[index].to(x.dtype), self.bias[index].to(x.dtype)))
        return x + F.linear(inner, self.up[index].to(x.dtype))

    def __len__(self) -> int:
        return len(self.up)


class RefinedContext:
    """A backbone hook: the refiner of the block before at every position, then that depth's own prompts."""

    def __init__(self, context: DeepContext, refiners: Refiners) -> None:
        self.context, self.refiners = context, refiners

    def each(self, block: int, x: Tensor) -> Tensor:
        """What is done at every position alike, [n, L, D] as it enters the block."""
        return self.refiners(block - 2, x) if 2 <= block < 2 + len(self.refiners) else x

    def __call__(self, block: int, x: Tensor) -> Tensor:
        return self.context(block, self.each(block, x))


class NAP(IVLP):
    """NAP-Tuning on a frozen backbone."""

    name: ClassVar[str] = "nap"
    paper: ClassVar[str] = "arXiv 2506.12706"
    Config: ClassVar[type[MethodConfig]] = NAPConfig
    config: NAPConfig

    def add_parts(self, generator: torch.Generator) -> None:
        dims = self.backbone.dims
        self.text_refiners = self._refiners("text", dims.text_width, dims.text_depth, generator)
        self.vision_refiners = self._refiners("vision", dims.vision_width, dims.vision_depth, generator)

    def _refiners(self, tower: str, width: int, depth: int, generator: torch.Generator) -> Refiners | None:
        """Those of one tower, after every prompted block but the tower's last; None where it has none."""
        blocks = min(self.depth, depth - 1)
        if self.config.refine not in ("both", tower) or not blocks:
            return None
        return Refiners(width, self.config.refiner_width or max(1, width // 8), blocks, generator)

    def text_hook(self) -> Hook:
        context = DeepContext(self.text_prompts[1:])
        return RefinedContext(context, self.text_refiners) if self.text_refiners else context

    def vision_hook(self) -> Hook:
        context = DeepContext(self.vision_prompts[1:], last=True)
        return RefinedContext(context, self.vision_refiners) if self.vision_refiners else context
