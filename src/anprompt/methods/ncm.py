"""Nearest class mean on frozen image features (SimpleShot, arXiv 1911.04623).

    z = tau cos(f - m, c_k - m)     c_k the mean feature of class k; m the mean of all, or 0 without `centred`

Nothing is optimised and nothing is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.methods.base import MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Shots
from anprompt.prompting.prompts import unit


@dataclass(frozen=True)
class NCMConfig(MethodConfig):
    """Settings of nearest class mean.

    Attributes:
        centred: subtract the mean training feature first (the paper's CL2N; without it L2N).
    """

    centred: bool = True


class NCM(FrozenFeatureMethod[NCMConfig]):
    """Class means on a frozen backbone."""

    name: ClassVar[str] = "ncm"
    paper: ClassVar[str] = "arXiv 1911.04623"
    Config: ClassVar[type[MethodConfig]] = NCMConfig
    reads_template: ClassVar[bool] = False
    centre: Tensor
    opens: ClassVar[bool] = False

    def build(self, generator: torch.Generator) -> None:
        self.means = nn.Parameter(torch.zeros(len(self.trained_classnames), self.backbone.dims.embed))
        self.register_buffer("centre", torch.zeros(self.backbone.dims.embed))

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        images = shots.features.mean(dim=1)  # [n, E]
        self.centre.copy_(images.mean(dim=0) if self.config.centred else torch.zeros_like(self.centre))
        rows = unit(images - self.centre)
        counts = shots.one_hot.sum(dim=0).clamp(min=1)
        self.means.copy_(unit(shots.one_hot.T @ rows / counts[:, None]))
        flat, labels = shots.rows
        return {"loss": float(F.cross_entropy(self.trained_logits(flat, {}), labels))}

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        return self.logit_scale * unit(features - self.centre) @ self.own_rows(self.means, text).T
