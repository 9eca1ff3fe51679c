"""The visual head of a trained prompt method: prompted features of the training images, and a closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anprompt.methods.base import Method
from anprompt.prompting.compute import autocast
from anprompt.training.config import TrainConfig
from anprompt.training.frozen_features import TrainViews

BATCH = 64
VIEWS = 4  # of an image: the one that tests look at, and three that training looks at


def fit_visual_head(method: Method[Any], views: TrainViews, config: TrainConfig) -> None:
    """Add a visual head where there is none, and solve it for the training images.

    Args:
        method: trained; its prompts stay as they are.
        views: of the training images.
        config: says weight, penalty and precision.
    """
    head = method.visual_head or method.add_visual_head()
    features = prompted_features(method, views, config.precision)
    head.fit(features, views.labels.to(features.device), config.visual_weight, config.visual_penalty)


@torch.no_grad()
def prompted_features(method: Method[Any], views: TrainViews, precision: str = "fp32", count: int = VIEWS) -> Tensor:
    """Unit prompted features of several views of every image, [n, V, E]; the first view is that of tests."""
    device, dtype = method.backbone.device, method.backbone.dtype
    centred = hasattr(views, "eval_batch")
    rows = []
    for view in range(count):
        parts = []
        for indices in torch.arange(len(views)).split(BATCH):
            first = view == 0 and centred
            pixels = views.eval_batch(indices) if first else views.train_batch(indices, view - centred)  # type: ignore[attr-defined]
            with autocast(device, precision):
                parts.append(method.embedding(method.image_state(pixels.to(device, dtype))).float())
        rows.append(torch.cat(parts))
    return torch.stack(rows, dim=1)
