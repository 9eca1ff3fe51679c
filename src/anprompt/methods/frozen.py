"""What methods on frozen image features have in common: linear probes, class means, caches, adapters.

    image  [CLS, patches] --stock CLIP--> f (unit), kept once per view
    f, labels ------------ fit_features -> what the method stores
    trained classes: what it learned; others: the text side, where it has one

They have no steps through the encoder: `fit_features` gets the features of V views of every image at once.
Whatever such a method chooses (C, alpha, beta, ...) it chooses on folds of the training images; every view of an
image falls in the same fold, and validation and test images are never read.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.methods.base import ROWS, ConfigT, Head, Method, Parts, TextState
from anprompt.prompting.prompts import ClassState, ImageState

FOLDS = 4


class Recipe(Protocol):
    """What a training recipe says to a method on features (`anprompt.training.loop.TrainConfig` is one)."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def momentum(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...
    def lr_at(self, epoch: int) -> float: ...


@dataclass(frozen=True)
class Shots:
    """Frozen features of the training images.

    Attributes:
        features: unit, V views of each of n images, [n, V, E]; the first is the view that tests look at.
        labels: [n].
        text: unit frozen text features of the classes, [C, E].
        text_scale: length of the class's text feature before it was made unit, [C].
    """

    features: Tensor
    labels: Tensor
    text: Tensor
    text_scale: Tensor

    def take(self, images: Tensor) -> Shots:
        """Those of some images, by index."""
        return Shots(self.features[images], self.labels[images], self.text, self.text_scale)

    @property
    def rows(self) -> tuple[Tensor, Tensor]:
        """All views as rows with their labels: [n V, E], [n V]."""
        count, views, width = self.features.shape
        return self.features.reshape(count * views, width), self.labels.repeat_interleave(views)

    @property
    def centres(self) -> Shots:
        """The first view alone of every image, as a test sees it."""
        return Shots(self.features[:, :1], self.labels, self.text, self.text_scale)

    @property
    def one_hot(self) -> Tensor:
        """[n, C]."""
        return F.one_hot(self.labels, len(self.text)).float()


class FrozenFeatureMethod(Method[ConfigT]):
    """Base of the methods that are trained on frozen image features in one go."""

    reads: ClassVar[Parts] = "frozen"
    from_features: ClassVar[bool] = True
    by_class: bool = True

    @abstractmethod
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        """Learn from the features of all training images.

        Returns:
            What to write down: the loss, and what was chosen by which accuracy.
        """

    def encode_classes(self, bank: ClassState) -> TextState:
        return {"text": bank.frozen}

    @abstractmethod
    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        """Logits [B, C] of unit features [B, E], for a list of trained classes.

        Args:
            text: unit text features of the list, and under `ROWS` which trained classes they are.
        """

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """Trained classes: what was learned. Others: `tau f T^T`, which is zero-shot CLIP."""
        features = vision.frozen
        if head == "unseen":
            return self.logit_scale * features @ text["text"].T
        return self.trained_logits(features, text)

    def own_rows(self, weights: Tensor, text: TextState) -> Tensor:
        """The rows of a trained tensor [C trained, ...] that belong to a class list, in its order."""
        return weights[text[ROWS]] if ROWS in text else weights


# --- choosing on the training images --------------------------------------------------------------
def folds(labels: Tensor, seed: int, most: int = FOLDS) -> list[tuple[Tensor, Tensor]]:
    """Stratified (kept, held out) index pairs over images; empty where a class has a single image."""
    counts = torch.bincount(labels)
    count = min(most, int(counts[counts > 0].min()))
    if count < 2:
        return []
    from sklearn.model_selection import StratifiedKFold  # late: who uses an adapter does not wait for it

    splitter = StratifiedKFold(count, shuffle=True, random_state=seed % 2**32)
    images = np.zeros(len(labels))
    return [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in splitter.split(images, labels.cpu().numpy())]


def agreement(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """(accuracy, mean log-likelihood) of held-out images: how candidates are compared, the second at a tie."""
    likelihood = -float(F.cross_entropy(logits.float(), labels))
    right = float((logits.argmax(dim=1) == labels).float().mean())
    return right, likelihood if math.isfinite(likelihood) else -math.inf


Scores = tuple[float, float]


def mean_scores(scores: Iterable[Scores]) -> Scores:
    """Their means over folds."""
    pairs = list(scores)
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def choose(candidates: Sequence[float], score: Callable[[float], Scores]) -> tuple[float, Scores]:
    """The candidate of the best score; of equal ones the first."""
    scored = [(candidate, score(candidate)) for candidate in candidates]
    return max(scored, key=lambda pair: pair[1])


def descend(
    parameters: Sequence[Tensor], loss: Callable[[Tensor, int], Tensor], count: int, recipe: Recipe,
    optimizer: str = "sgd", after: Callable[[int], None] | None = None,
) -> float:  # fmt: skip
    """Mini-batch descent over rows that lie in memory; order by (seed, epoch), rate by the recipe.

    Args:
        loss: (indices [B], epoch) -> scalar.
        count: number of rows.
        optimizer: "sgd" or "adamw" (Tip-Adapter's, with its epsilon of 1e-4).
        after: called with the epoch when it is done.

    Returns:
        The loss of the last batch.
    """
    moved = [p for p in parameters if p.requires_grad]
    steps: torch.optim.Optimizer
    if optimizer == "sgd":
        steps = torch.optim.SGD(moved, recipe.lr_at(0), recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        steps = torch.optim.AdamW(moved, recipe.lr_at(0), eps=1e-4, weight_decay=recipe.weight_decay)
    last = torch.zeros(())
    for epoch in range(recipe.epochs):
        for group in steps.param_groups:
            group["lr"] = recipe.lr_at(epoch)
        generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + epoch) % 2**63)
        for batch in torch.randperm(count, generator=generator).split(recipe.batch_size):
            steps.zero_grad(set_to_none=True)
            with torch.enable_grad():
                last = loss(batch.to(moved[0].device), epoch)
            last.backward()
            steps.step()
        if after:
            after(epoch)
    return float(last.detach())
