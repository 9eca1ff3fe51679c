"""LP++: a linear probe whose weights are functions of the text features (arXiv 2404.02285).

    z_k = f . (w_k + alpha_k t_k)        w_k visual prototypes, alpha_k how much the text of class k counts

Gradient descent on the whole support set, with steps and start from the data (sections 3.2 and 3.3): w every epoch with
momentum, alpha every tenth. When to stop is chosen on folds of the training images (the official code takes the epoch
that is best on a validation part). Other classes: `tau f T^T`, zero-shot CLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Shots, agreement, folds, mean_scores

Weights = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LPPlusPlusConfig(MethodConfig):
    """Settings of LP++.

    Attributes:
        alpha_start: factor of the first alpha, times the mean similarity of an image and its own class's text.
        alpha_every: epochs between two steps of alpha.
        stop_every: epochs between two places where training may stop; 0 never stops before the last.
        logit_scale: tau, for classes that were not trained on; 0 means the backbone's own.
    """

    alpha_start: float = 250.0
    alpha_every: int = 10
    stop_every: int = 20
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.alpha_every < 1 or self.stop_every < 0:
            raise UserError(
                f"LP++: alpha_every must be at least 1 and stop_every at least 0, not {self.alpha_every} and {self.stop_every}."
            )


class LPPlusPlus(FrozenFeatureMethod[LPPlusPlusConfig]):
    """LP++ on a frozen backbone."""

    name: ClassVar[str] = "lp++"
    paper: ClassVar[str] = "arXiv 2404.02285"
    Config: ClassVar[type[MethodConfig]] = LPPlusPlusConfig

    def build(self, generator: torch.Generator) -> None:
        classes = len(self.trained_classnames)
        self.prototypes = nn.Parameter(torch.zeros(classes, self.backbone.dims.embed))
        self.alpha = nn.Parameter(torch.zeros(classes))

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        epochs, found, every = recipe.epochs, {}, self.config.stop_every
        parts = folds(shots.labels, recipe.seed) if every else []
        if parts:
            stops = [*range(every, epochs, every), epochs]
            courses = [self.course(shots.take(kept), recipe, set(stops)) for kept, _ in parts]
            scores = {
                stop: mean_scores(
                    agreement(logits(shots.take(held).centres.rows[0], shots.text, course[stop]), shots.labels[held])
                    for course, (_, held) in zip(courses, parts)
                )
                for stop in stops
            }
            epochs = max(stops, key=lambda stop: scores[stop])
            found = {"cv_accuracy": scores[epochs][0]}
        weights = self.course(shots, recipe, {epochs})[epochs]
        self.prototypes.copy_(weights[0])
        self.alpha.copy_(weights[1])
        rows, labels = shots.rows
        loss = float(F.cross_entropy(logits(rows, shots.text, weights), labels))
        return {"loss": loss, "stopped_at": float(epochs), "alpha": float(weights[1].mean()), **found}

    def course(self, shots: Shots, recipe: Recipe, stops: set[int]) -> dict[int, Weights]:
        """w [C, E] and alpha [C] after some numbers of epochs."""
        rows, labels = shots.rows
        one_hot = F.one_hot(labels, len(shots.text)).to(rows.dtype)  # [N, C]
        similar = rows @ shots.text.T  # [N, C]
        # The paper counts images; with several views of one, what it sums over images is a mean over its views.
        w = one_hot.T @ rows / shots.features.shape[1]
        own = (one_hot * similar).sum(dim=0) / one_hot.sum(dim=0).clamp(min=1)
        there = one_hot.sum(dim=0) > 0
        alpha = self.config.alpha_start * own[there].mean() * torch.ones_like(own)
        step_w = 4 * len(rows) / torch.linalg.eigvalsh(rows.T @ rows)[-1]
        step_alpha = len(rows) / (4 * similar.pow(2).sum(dim=0).max())
        velocity, kept = torch.zeros_like(w), {}
        for epoch in range(max(stops)):
            error = (logits(rows, shots.text, (w, alpha)).softmax(dim=1) - one_hot) / len(rows)  # dL / dz
            change = (error * similar).sum(dim=0)
            velocity = recipe.momentum * velocity + error.T @ rows
            w = w - step_w * velocity
            if (epoch + 1) % self.config.alpha_every == 0:
                alpha = alpha - step_alpha * change
            if epoch + 1 in stops:
                kept[epoch + 1] = (w, alpha)
        return kept

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        weights = self.own_rows(self.prototypes, text), self.own_rows(self.alpha, text)
        return logits(features, text["text"], weights)


def logits(features: Tensor, text: Tensor, weights: Weights) -> Tensor:
    """`f . (w_k + alpha_k t_k)`: [B, E], [C, E] -> [B, C] (2404.02285, eq. 3)."""
    w, alpha = weights
    return features @ w.T + alpha * (features @ text.T)
