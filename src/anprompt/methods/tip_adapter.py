"""Tip-Adapter: a cache of training features beside zero-shot CLIP (arXiv 2111.03930, and 2207.09519).

    z = tau f T^T + alpha exp(-beta (1 - f K^T)) L      K the cached features, L their one-hot labels

K holds one key per training image, the mean over its views. Nothing is trained; alpha and beta are chosen on folds of
the training images (the official code searches them on a validation part). Other classes: `tau f T^T`, zero-shot CLIP.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import ROWS, MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Scores, Shots, agreement, folds, mean_scores
from anprompt.prompting.prompts import unit


@dataclass(frozen=True)
class TipAdapterConfig(MethodConfig):
    """Settings of Tip-Adapter.

    Attributes:
        alpha: weight of the cache, the paper's residual ratio.
        beta: sharpness of the affinity.
        search: choose both from `alphas` and `betas` on folds of the training images; with one image a class the
            values above stay.
        alphas, betas: what is tried.
        cache_size: keys in the cache; training sets it to the number of its images.
        logit_scale: tau; 0 means the backbone's own.
    """

    alpha: float = 1.0
    beta: float = 5.5
    search: bool = True
    alphas: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0, 4.0, 7.0, 13.0, 25.0, 50.0)
    betas: tuple[float, ...] = (0.5, 1.0, 2.0, 3.5, 5.5, 9.0, 13.0)
    cache_size: int = 1
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        if self.cache_size < 1:
            raise UserError(f"Tip-Adapter: cache_size must be at least 1, not {self.cache_size}.")
        for value in (self.alpha, self.beta, *self.alphas, *self.betas):
            if not value >= 0:
                raise UserError(f"Tip-Adapter: alpha and beta must be numbers from 0, not {value:g}.")


def cache_logits(features: Tensor, keys: Tensor, values: Tensor, beta: float | Tensor) -> Tensor:
    """`exp(-beta (1 - f K^T)) L`: [B, E], [n, E], [n, C] -> [B, C] (2111.03930, eq. 4 and 5)."""
    return torch.exp(-beta * (1 - features @ keys.T)) @ values


class TipAdapter(FrozenFeatureMethod[TipAdapterConfig]):
    """Tip-Adapter on a frozen backbone."""

    name: ClassVar[str] = "tip-adapter"
    paper: ClassVar[str] = "arXiv 2111.03930"
    Config: ClassVar[type[MethodConfig]] = TipAdapterConfig

    def build(self, generator: torch.Generator) -> None:
        c = self.config
        self.keys = nn.Parameter(torch.zeros(c.cache_size, self.backbone.dims.embed))
        self.register_buffer("key_labels", torch.zeros(c.cache_size))
        self.register_buffer("blend", torch.tensor([c.alpha, c.beta]))  # alpha and beta as they are used

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        c = self.config
        self.config = dataclasses.replace(c, cache_size=len(shots.labels))
        alpha, beta, found = c.alpha, c.beta, {}
        parts = folds(shots.labels, recipe.seed) if c.search else []
        if parts:
            learned = [(self.learn_keys(shots.take(kept), recipe), kept, held) for kept, held in parts]
            pairs = list(product(c.alphas, c.betas))
            scores = [mean_scores(self._score(shots, *one, *pair) for one in learned) for pair in pairs]
            best = max(range(len(pairs)), key=lambda index: scores[index])
            (alpha, beta), found = pairs[best], {"cv_accuracy": scores[best][0]}
        self.keys = nn.Parameter(self.learn_keys(shots, recipe))
        self.key_labels = shots.labels.float()
        self.blend = torch.tensor([alpha, beta], device=self.keys.device)
        rows, labels = shots.rows
        loss = float(F.cross_entropy(self.trained_logits(rows, {"text": shots.text}), labels))
        return {"loss": loss, "alpha": alpha, "beta": beta, **found}

    def learn_keys(self, shots: Shots, recipe: Recipe) -> Tensor:
        """The cache's keys, [n, E]."""
        return unit(shots.features.mean(dim=1))

    def _score(self, shots: Shots, keys: Tensor, kept: Tensor, held: Tensor, alpha: float, beta: float) -> Scores:
        rows, labels = shots.take(held).centres.rows
        cached = cache_logits(rows, keys, shots.one_hot[kept], beta)
        return agreement(self.logit_scale * rows @ shots.text.T + alpha * cached, labels)

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        classes = len(self.trained_classnames)
        values = F.one_hot(self.key_labels.long().clamp(0, classes - 1), classes).to(features.dtype)
        values = values[:, text[ROWS]] if ROWS in text else values
        alpha, beta = self.blend
        return self.logit_scale * features @ text["text"].T + alpha * cache_logits(features, self.keys, values, beta)
