"""Tip-Adapter-F: Tip-Adapter whose cached keys are trained (arXiv 2111.03930, section 3.3).

    z = tau f T^T + alpha exp(-beta (1 - f K^T)) L      K starts as the cache and is trained; L and T stay

The official code keeps the epoch that is best on the test part; here the last epoch stays.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from anprompt.methods.frozen import Recipe, Shots, descend
from anprompt.methods.tip_adapter import TipAdapter, cache_logits


class TipAdapterF(TipAdapter):
    """Tip-Adapter with trained keys."""

    name: ClassVar[str] = "tip-adapter-f"

    def learn_keys(self, shots: Shots, recipe: Recipe) -> Tensor:
        """The cache's keys after training, under the settings' alpha and beta."""
        keys = super().learn_keys(shots, recipe).clone().requires_grad_()
        values, views = shots.one_hot, shots.features.shape[1]

        def loss(batch: Tensor, epoch: int) -> Tensor:
            features = shots.features[batch, epoch % views]
            cached = cache_logits(features, keys, values, self.config.beta)
            z = self.logit_scale * features @ shots.text.T + self.config.alpha * cached
            return F.cross_entropy(z, shots.labels[batch])

        descend([keys], loss, len(shots.labels), recipe, optimizer="adamw")
        return keys.detach()
