"""Linear probe: logistic regression on frozen image features (CLIP, arXiv 2103.00020, section 3.2 and appendix A.3).

    z = W f + b        f the unit image feature; W, b by L-BFGS with an L2 penalty 1 / C

No text at all: what the class names say is not used, and other classes have no logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import MethodConfig, TextState
from anprompt.methods.frozen import FrozenFeatureMethod, Recipe, Scores, Shots, agreement, folds, mean_scores


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """Settings of the linear probe.

    Attributes:
        C: inverse strength of the penalty, as scikit-learn counts it (the views of an image weigh as one row); 0
            chooses one of `grid` by cross-validation on the training images.
        grid: what is tried, on the first view of every image and on all of them.
        default_C: where nothing can be tried, with one image a class.
        iterations: at most so many of L-BFGS.
    """

    C: float = 0.0
    grid: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    default_C: float = 100.0
    iterations: int = 1000

    def __post_init__(self) -> None:
        if self.C < 0 or self.default_C <= 0 or any(value <= 0 for value in self.grid):
            raise UserError(
                f"Linear probe: C must be positive (0 chooses), not {self.C:g}, {self.default_C:g}, {self.grid}."
            )
        if self.iterations < 1 or (not self.grid and not self.C):
            raise UserError("Linear probe: iterations must be at least 1, and without C the grid not empty.")


class LinearProbe(FrozenFeatureMethod[LinearProbeConfig]):
    """Logistic regression on a frozen backbone."""

    name: ClassVar[str] = "linear-probe"
    paper: ClassVar[str] = "arXiv 2103.00020"
    Config: ClassVar[type[MethodConfig]] = LinearProbeConfig
    reads_template: ClassVar[bool] = False
    opens: ClassVar[bool] = False

    def build(self, generator: torch.Generator) -> None:
        classes = len(self.trained_classnames)
        self.weight = nn.Parameter(torch.zeros(classes, self.backbone.dims.embed))
        self.bias = nn.Parameter(torch.zeros(classes))

    @torch.no_grad()
    def fit_features(self, shots: Shots, recipe: Recipe) -> dict[str, float]:
        c = self.config
        sources = [shots.centres, shots] if shots.features.shape[1] > 1 else [shots]
        pairs = [(value, source) for source in sources for value in ((c.C,) if c.C else c.grid)]
        parts = folds(shots.labels, recipe.seed) if len(pairs) > 1 else []
        (value, source), found = (c.C or c.default_C, shots), {}
        if parts:
            scores = [self._score(source, value, parts) for value, source in pairs]
            best = max(range(len(pairs)), key=lambda index: scores[index])
            (value, source), found = pairs[best], {"cv_accuracy": scores[best][0]}
        weight, bias = self.solve(source, value)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        rows, labels = shots.centres.rows
        loss = -agreement(rows @ weight.T + bias, labels)[1]
        return {"loss": loss, "C": value, "views": float(source.features.shape[1]), **found}

    def _score(self, source: Shots, value: float, parts: Sequence[tuple[Tensor, Tensor]]) -> Scores:
        scores = []
        for kept, held in parts:
            weight, bias = self.solve(source.take(kept), value)
            rows, labels = source.take(held).centres.rows
            scores.append(agreement(rows @ weight.T + bias, labels))
        return mean_scores(scores)

    def solve(self, shots: Shots, value: float) -> tuple[Tensor, Tensor]:
        """W [C, E] and b [C] for a penalty, by scikit-learn."""
        from sklearn.linear_model import LogisticRegression  # late: who uses an adapter does not wait for it

        rows, labels = shots.rows
        weight = torch.zeros(len(self.trained_classnames), rows.shape[1])
        bias = torch.zeros(len(weight))
        there = labels.unique().cpu()
        if len(there) > 1:  # of one class there is nothing to tell apart
            model = LogisticRegression(C=value / shots.features.shape[1], max_iter=self.config.iterations)
            with warnings.catch_warnings():  # one image a class looks like a regression to scikit-learn
                warnings.simplefilter("ignore", UserWarning)
                model.fit(rows.cpu().numpy(), labels.cpu().numpy())
            w, b = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
            if len(there) == 2:  # scikit-learn keeps one row for two classes
                w, b = torch.cat([-w / 2, w / 2]), torch.cat([-b / 2, b / 2])
            weight[there], bias[there] = w, b
        return weight.to(rows.device), bias.to(rows.device)

    def trained_logits(self, features: Tensor, text: TextState) -> Tensor:
        return features @ self.own_rows(self.weight, text).T + self.own_rows(self.bias, text)
