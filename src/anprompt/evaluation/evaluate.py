"""From a classifier and pictures to numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from anprompt.evaluation.inference import predict_logits
from anprompt.methods.classifier import Classifier
from anprompt.prompting.process_group import Team


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
    team: Team | None = None,
) -> Metrics:
    """Run all pictures once, fewer at a time where memory runs out.

    Args:
        on_batch: (pictures done, pictures in all) for progress bars.
        change: (pixels, indices) -> pixels, e.g. a corruption, applied after normalisation.
        team: processes that call this with the same arguments; each sees its share of the pictures, and all
            get the result.
    """

    def read(indices: Tensor) -> Tensor:
        pixels = views.eval_batch(indices)
        return pixels if change is None else change(pixels, indices)

    def done(last: int) -> None:
        if on_batch:
            on_batch(last + 1, len(views))

    mine = torch.arange(len(views))
    if team:
        mine = mine[slice(*team.bounds(len(views)))]
    logits = predict_logits(classifier, read, mine, batch_size=batch_size, precision=precision, on_batch=done)
    if team:
        return _gathered(logits if len(mine) else None, mine, views.labels, classifier, team)
    return metrics(logits, views.labels, classifier)


def metrics(logits: Tensor, labels: Tensor, classifier: Classifier) -> Metrics:
    """Accuracy, per class, and confidence from logits [n, C]."""
    return _metrics(*logits.float().softmax(dim=-1).max(dim=-1), labels, classifier)


def _gathered(logits: Tensor | None, mine: Tensor, labels: Tensor, classifier: Classifier, team: Team) -> Metrics:
    """`metrics` of all processes' pictures; `logits` are those of the pictures `mine`, None without any."""
    answers = torch.zeros(2, len(labels), dtype=torch.float64)  # labels and fp32 fit in whole
    if logits is not None:
        answers[:, mine] = torch.stack([v.double() for v in logits.float().softmax(dim=-1).max(dim=-1)])
    confidences, predictions = team.add(answers)
    return _metrics(confidences.float(), predictions.long(), labels, classifier)


def _metrics(confidences: Tensor, predictions: Tensor, labels: Tensor, classifier: Classifier) -> Metrics:
    right = (predictions == labels).float()
    per_class = {
        name: float(right[labels == index].mean())
        for index, name in enumerate(classifier.classnames)
        if bool((labels == index).any())
    }
    return Metrics(float(right.mean()), per_class, predictions, labels, confidences, classifier.head)


def calibration_error(confidences: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error, 0..1: |accuracy - confidence| over equal bins of confidence, weighted by
    the pictures in them (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Args:
        confidences: probability of the predicted label, [n].
        right: whether it was the true one, [n].
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    bin_of = torch.bucketize(confidences.double(), edges)  # a value on an edge falls below it, as in eq. 3
    gaps = torch.zeros(bins, dtype=torch.float64)
    gaps.index_add_(0, bin_of, right.double() - confidences.double())
    return float(gaps.abs().sum() / max(len(confidences), 1))
