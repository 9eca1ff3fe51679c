"""MMRL++: parameter-efficient and interaction-aware MMRL (arXiv 2505.10088).

    text    [SOS, t_1 .. t_K, words, NAME, ".", EOT]     blocks J..L, t_l = (W + U_l V_l) R + b_l
    vision  [CLS, v_1 .. v_K, patches]                   blocks J..L, v_l = (W' + U'_l V'_l) R + b'_l

Sequences, losses and heads are MMRL's. Different are the maps from R (a shared weight plus a low-rank
residual per block), the composition (later blocks keep a share of what stood at the tokens' places),
and the trained projection (the frozen one plus a low-rank residual).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import MethodConfig
from anprompt.methods.layers import SharedResidual, linear_init
from anprompt.methods.mmrl import MMRL, MMRLConfig


@dataclass(frozen=True)
class MMRLppConfig(MMRLConfig):
    """Settings of MMRL++: MMRL's, and

    Attributes:
        rank: of the per-block residuals.
        projection_rank: of the residual of the trained projection.
        beta: share of new tokens at later blocks, in both towers.
    """

    rank: int = 4
    projection_rank: int = 64
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("rank", "projection_rank"):
            if getattr(self, key) < 1:
                raise UserError(f"MMRL++: {key} must be at least 1, not {getattr(self, key)}.")
        if not 0.0 <= self.beta <= 1.0:
            raise UserError(f"MMRL++: beta must lie in 0..1, not {self.beta}.")


class MMRLpp(MMRL):
    """MMRL++ on a frozen backbone."""

    name: ClassVar[str] = "mmrlpp"
    paper: ClassVar[str] = "arXiv 2505.10088"
    Config: ClassVar[type[MethodConfig]] = MMRLppConfig
    config: MMRLppConfig

    def add_projections(self, blocks: int, g: torch.Generator) -> None:
        dims, c = self.backbone.dims, self.config
        self.beta = c.beta
        self.text_tokens = SharedResidual(c.token_width, dims.text_width, blocks, c.rank, g, starts=1)
        self.vision_tokens = SharedResidual(c.token_width, dims.vision_width, blocks, c.rank, g, starts=1)
        self.projection_down = nn.Parameter(linear_init(dims.vision_width, c.projection_rank, g))
        self.projection_up = nn.Parameter(torch.zeros(c.projection_rank, dims.embed))

    def token_projection(self) -> Tensor:
        """The frozen projection plus a residual that starts at zero, [D_v, E]."""
        return self.backbone.image_projection + self.projection_down @ self.projection_up
