"""CLAP: a linear probe that starts at the text features and is held near them, class by class (arXiv 2312.12730).

    z_k = tau cos(f, w_k)        L = CE(z) + mean_k lambda_k |w_k - t_k|^2        w_k starts as t_k

lambda_k is what zero-shot CLIP gives the right class on the training views of class k, computed once (the paper's
eq. 9 to 11). t_k is the text feature before it is made unit, as in the official code: its length decides what a step
and the penalty mean. Nothing is chosen on any data. Other classes: `tau f T^T`, zero-shot CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Shots, descend
from anprompt.prompting.prompts import unit


@dataclass(frozen=True)
class CLAPConfig(MethodConfig):
    """Settings of CLAP.

    Attributes:
        constraint: factor of the penalty; 0 is the paper's ZS-LP, the probe that only starts at the text.
        logit_scale: tau; 0 means the backbone's own.
    """

    constraint: float = 1.0
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        if not self.constraint >= 0:
            raise UserError(f"CLAP: constraint must be a number from 0, not {self.constraint:g}.")


class CLAP(FrozenFeatureMethod[CLAPConfig]):
    """CLAP on a frozen backbone."""

    name: ClassVar[str] = "clap"
    paper: ClassVar[str] = "arXiv 2312.12730"
    Config: ClassVar[type[MethodConfig]] = CLAPConfig

    def build(self, generator: torch.Generator) -> None:
        self.prototypes = nn.Parameter(torch.zeros(len(self.trained_classnames), self.backbone.dims.embed))

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        start = shots.text * shots.text_scale[:, None]  # t_k, [C, E]
        rows, labels = shots.rows
        multipliers = self.multipliers(rows, labels, shots.text)
        w = start.clone().requires_grad_()

        def loss(batch: Tensor, epoch: int) -> Tensor:
            z = self.logit_scale * rows[batch] @ unit(w).T
            return F.cross_entropy(z, labels[batch]) + self.config.constraint * penalty(w, start, multipliers)

        last = descend([w], loss, len(rows), recipe)
        self.prototypes.copy_(w)
        return {"loss": last, "multiplier": float(multipliers.mean())}

    def multipliers(self, rows: Tensor, labels: Tensor, text: Tensor) -> Tensor:
        """lambda [C]: the mean zero-shot probability of the right class, over the class's rows."""
        right = (self.logit_scale * rows @ text.T).softmax(dim=1).gather(1, labels[:, None])[:, 0]
        one_hot = F.one_hot(labels, len(text)).to(rows.dtype)
        return (one_hot * right[:, None]).sum(dim=0) / one_hot.sum(dim=0).clamp(min=1)

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        return self.logit_scale * features @ unit(self.own_rows(self.prototypes, text)).T


def penalty(w: Tensor, start: Tensor, multipliers: Tensor) -> Tensor:
    """`mean_k lambda_k |w_k - t_k|^2`: [C, E], [C, E], [C] -> scalar (2312.12730, eq. 8)."""
    return (multipliers * (w - start).pow(2).sum(dim=1)).mean()
