"""CLIP-Adapter: a bottleneck on frozen image features, mixed with them (arXiv 2110.04544).

    g = r ReLU(ReLU(f W1) W2) + (1 - r) f        z = tau cos(g, t_k)

The text side is frozen CLIP's, so any class list can be asked; an adapted image feature answers it. The official
code feeds the bottleneck features before they are made unit; here they are unit, as in LP++'s comparison code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import Head, MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Shots, agreement, choose, descend, folds, mean_scores
from anprompt.methods.layers import linear_init
from anprompt.prompting.prompts import ImageState, unit

Weights = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class CLIPAdapterConfig(MethodConfig):
    """Settings of CLIP-Adapter.

    Attributes:
        reduction: the bottleneck has E / reduction units.
        ratio: r, share of the adapted feature; 0 chooses one of `ratios` on folds of the training images.
        ratios: what is tried.
        default_ratio: where nothing can be tried, with one image a class.
        logit_scale: tau; 0 means the backbone's own.
    """

    reduction: int = 4
    ratio: float = 0.0
    ratios: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    default_ratio: float = 0.2
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise UserError(f"CLIP-Adapter: reduction must be at least 1, not {self.reduction}.")
        for value in (self.ratio, self.default_ratio, *self.ratios):
            if not 0 <= value <= 1:
                raise UserError(f"CLIP-Adapter: a ratio must lie in 0..1, not {value:g}.")


class CLIPAdapter(FrozenFeatureMethod[CLIPAdapterConfig]):
    """CLIP-Adapter on a frozen backbone."""

    name: ClassVar[str] = "clip-adapter"
    paper: ClassVar[str] = "arXiv 2110.04544"
    Config: ClassVar[type[MethodConfig]] = CLIPAdapterConfig
    by_class: bool = False
    used_ratio: Tensor

    def build(self, generator: torch.Generator) -> None:
        width = self.backbone.dims.embed
        inner = max(1, width // self.config.reduction)
        self.down = nn.Parameter(linear_init(inner, width, generator).T.contiguous())
        self.up = nn.Parameter(linear_init(width, inner, generator).T.contiguous())
        self.register_buffer("used_ratio", torch.tensor([self.config.ratio or self.config.default_ratio]))

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        c, found, ratio = self.config, {}, self.config.ratio or self.config.default_ratio
        parts = folds(shots.labels, recipe.seed, most=2) if not c.ratio and len(c.ratios) > 1 else []
        if parts:

            def score(value: float) -> tuple[float, float]:
                scores = []
                for kept, held in parts:
                    weights, _ = self.train_adapter(shots.take(kept), recipe, value)
                    rows, labels = shots.take(held).centres.rows
                    scores.append(agreement(self.logit_scale * adapted(rows, weights, value) @ shots.text.T, labels))
                return mean_scores(scores)

            ratio, (right, _) = choose(c.ratios, score)
            found = {"cv_accuracy": right}
        (down, up), loss = self.train_adapter(shots, recipe, ratio)
        self.down.copy_(down)
        self.up.copy_(up)
        self.used_ratio.fill_(ratio)
        return {"loss": loss, "ratio": ratio, **found}

    def train_adapter(self, shots: Shots, recipe: Recipe, ratio: float) -> tuple[Weights, float]:
        """W1 and W2 after training from the start that the seed drew, and the last loss."""
        down, up = (w.detach().clone().requires_grad_() for w in (self.down, self.up))
        views = shots.features.shape[1]

        def loss(batch: Tensor, epoch: int) -> Tensor:
            features = adapted(shots.features[batch, epoch % views], (down, up), ratio)
            return F.cross_entropy(self.logit_scale * features @ shots.text.T, shots.labels[batch])

        last = descend([down, up], loss, len(shots.labels), recipe)
        return (down.detach(), up.detach()), last

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        mixed = adapted(features, (self.down, self.up), self.used_ratio)
        return self.logit_scale * mixed @ text["text"].T

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """The same for trained and for other classes."""
        return self.trained_logits(vision.frozen, text)


def adapted(features: Tensor, weights: Weights, ratio: float | Tensor) -> Tensor:
    """`unit(r ReLU(ReLU(f W1) W2) + (1 - r) f)`: [B, E] -> [B, E] (2110.04544, eq. 4 and 6)."""
    down, up = weights
    return unit(ratio * F.relu(F.relu(features @ down) @ up) + (1 - ratio) * features)
