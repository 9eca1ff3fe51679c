"""From a classifier and pictures to numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anprompt.methods.base import Classifier
from anprompt.train import autocast


class EvalViews(Protocol):
    """What evaluation needs of a set of pictures (`anprompt.data.views.Views` is one)."""

    labels: Tensor

    def __len__(self) -> int: ...

    def eval_batch(self, indices: Any) -> Tensor: ...


@dataclass(frozen=True)
class Metrics:
    """Result of one evaluation.

    Attributes:
        accuracy: share of correct pictures, 0..1.
        per_class: accuracy of every class, NaN-free: classes without pictures are left out.
        predictions: predicted label per picture, [n].
        confidences: probability of the predicted label, [n].
    """

    accuracy: float
    per_class: dict[str, float]
    predictions: Tensor
    labels: Tensor
    confidences: Tensor
    head: str


def evaluate(
    classifier: Classifier,
    views: EvalViews,
    *,
    batch_size: int = 100,
    precision: str = "fp32",
    on_batch: Callable[[int, int], None] | None = None,
    change: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Metrics:
    """Run all pictures once.

    Args:
        on_batch: (pictures done, pictures in all) for progress bars.
        change: (pixels, indices) -> pixels, e.g. a corruption, applied after normalisation.
    """
    device = classifier.method.backbone.device
    logits = []
    for indices in torch.arange(len(views)).split(batch_size):
        pixels = views.eval_batch(indices)
        if change is not None:
            pixels = change(pixels, indices)
        with autocast(device, precision):
            logits.append(classifier.logits(pixels).cpu())
        if on_batch:
            on_batch(int(indices[-1]) + 1, len(views))
    return metrics(torch.cat(logits), views.labels, classifier)


def metrics(logits: Tensor, labels: Tensor, classifier: Classifier) -> Metrics:
    """Accuracy, per class, and confidence from logits [n, C]."""
    confidences, predictions = logits.float().softmax(dim=-1).max(dim=-1)
    right = (predictions == labels).float()
    per_class = {
        name: float(right[labels == index].mean())
        for index, name in enumerate(classifier.classnames)
        if bool((labels == index).any())
    }
    return Metrics(float(right.mean()), per_class, predictions, labels, confidences, classifier.head)


def harmonic_mean(base: float, new: float) -> float:
    """`2 base new / (base + new)`, 0 where both are 0: the field's H."""
    return 2 * base * new / (base + new) if base + new else 0.0
