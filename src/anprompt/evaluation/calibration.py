"""Probabilities that mean what they say, and an answer for pictures of none of the classes.

Both come from labelled pictures that were not trained on:

    temperature   T of softmax(z / T), chosen by least negative log-likelihood (Guo et al. 2017,
                  arXiv 1706.04599, section 4.2). It changes no answer, only how sure it is.
    threshold     on the largest probability (Hendrycks and Gimpel 2017, arXiv 1610.02136): the largest
                  value that still accepts a wanted share of these pictures.

Both belong to the class list they were fitted on, which is the trained one: the temperature is used
wherever the trained head is (`Classifier`), the threshold for the whole trained list only.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anprompt.data.names import class_key
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.evaluation.calibration_checks import LEAST_TEMPERATURE, MOST_TEMPERATURE, check_calibration
from anprompt.evaluation.doubts import doubts
from anprompt.evaluation.evaluate import calibration_error
from anprompt.evaluation.inference import predict_logits
from anprompt.evaluation.loaders import make_views, part_items
from anprompt.methods.base import Method
from anprompt.methods.classifier import Classifier
from anprompt.prompting.compute import threads_for

log = logging.getLogger("anprompt")

NONE = "none of these"
KEY = "calibration"  # in an adapter's record
LEAST, MOST = LEAST_TEMPERATURE, MOST_TEMPERATURE  # pictures that are all right would drive it to 0


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and on what.

    Attributes:
        temperature: divides the logits of the trained head; 1 changes nothing.
        threshold: largest probabilities below it mean none of the classes; None where none was chosen.
        accept: share of the pictures that the threshold was to accept.
        pictures: how many it was fitted on.
        nll, ece: of those pictures, before and after: negative log-likelihood in nats, expected
            calibration error from 0 to 1. The values after are optimistic; judge on other pictures.
        doubts: what speaks against it (too few images, a temperature at its bound), a line each; not recorded.
    """

    temperature: float = 1.0
    threshold: float | None = None
    accept: float | None = None
    pictures: int = 0
    nll: tuple[float, float] = (0.0, 0.0)
    ece: tuple[float, float] = (0.0, 0.0)
    doubts: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for an adapter's record."""
        values = {**dataclasses.asdict(self), "nll": list(self.nll), "ece": list(self.ece)}
        del values["doubts"]
        return values


# --- fitting --------------------------------------------------------------------------------------
def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least negative log-likelihood, between `LEAST` and `MOST`.

    Args:
        logits: scaled logits [n, C].
        labels: true classes [n].
    """
    z = logits.double()

    def loss(log_temperature: float) -> float:
        return nll(z / math.exp(log_temperature), labels)

    # One minimum: the loss is convex in 1/T, and log is monotone.
    from scipy.optimize import minimize_scalar  # a third of a second, and only fitting needs it

    found = minimize_scalar(loss, bounds=(math.log(LEAST), math.log(MOST)), method="bounded")
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood of the true classes, in nats."""
    return float(torch.nn.functional.cross_entropy(logits.double(), labels))


def acceptance_threshold(scores: np.ndarray, accept: float) -> float:
    """The largest threshold (to six decimals, rounded down) that at least a share `accept` of the scores reach.

    Args:
        scores: [n], e.g. the largest probability per picture.
        accept: above 0, at most 1.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    needed = max(1, math.ceil(accept * len(ordered) - 1e-9))
    # Rounded down: a picture on the edge stays in when its batch, and so its last digit, is another.
    return math.floor(ordered[needed - 1] * 1e6) / 1e6


def check_accept(accept: float) -> float:
    """A share of pictures to accept.

    Raises:
        UserError: no number above 0 and at most 1.
    """
    if isinstance(accept, bool) or not isinstance(accept, (int, float)) or not 0 < accept <= 1:
        raise UserError(f"accept must be a share above 0 and at most 1, such as 0.95, not {accept!r}.")
    return float(accept)


def calibrate(
    method: Method, dataset: Dataset, *, part: str = "val", temperature: bool = True, accept: float | None = None
) -> Calibration:
    """Fit on one part of a data set, and set the method's temperature.

    Where the images are too few or too easy to tell, it warns in a line, which says how many would do.

    Args:
        dataset: pictures of the trained classes; those of other classes are left out.
        temperature: whether to fit one; else it is 1.
        accept: share of the pictures to accept, for a threshold; None chooses none.

    Raises:
        UserError: no picture of a trained class, or `accept` is not a share.
    """
    if accept is not None:
        check_accept(accept)
    data = of_classes(dataset, method, part)
    before, method.temperature = method.temperature, 1.0
    try:
        logits, labels = _logits(method, data, part)
    except BaseException:
        method.temperature = before
        raise
    found = fit_temperature(logits, labels) if temperature else 1.0
    method.temperature = found
    cooled = logits / found
    confidences, threshold = cooled.softmax(dim=-1).max(dim=-1).values, None
    if accept is not None:
        threshold = acceptance_threshold(confidences.numpy(), accept)
    lines = doubts(
        logits, labels, method.trained_classnames, temperature=found if temperature else None, bounds=(LEAST, MOST),
        accept=accept,
    )  # fmt: skip
    for line in lines:
        log.warning("%s", line)
    return Calibration(
        found, threshold, accept, len(labels), (nll(logits, labels), nll(cooled, labels)),
        (ece(logits, labels), ece(cooled, labels)), tuple(lines),
    )  # fmt: skip


def ece(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error of the softmax of logits [n, C]."""
    confidences, predicted = logits.float().softmax(dim=-1).max(dim=-1)
    return calibration_error(confidences, predicted == labels)


def of_classes(dataset: Dataset, method: Method, part: str) -> Dataset:
    """The data set with the class list a method was trained on, and in `part` only pictures of these classes.

    Raises:
        UserError: it holds none of them.
    """
    classnames = method.trained_classnames
    place = {name: label for label, name in enumerate(classnames)}
    labels = {key: place[name] for key, name in method.names_by_key().items()}
    keys = {name: class_key(name) for name in dataset.classnames}
    items = tuple(
        dataclasses.replace(item, label=labels[key])
        for item in part_items(dataset, part)
        if (key := keys[item.classname]) in labels
    )
    if not items:
        raise UserError(
            f"{dataset.name} has no {part} pictures of the classes the adapter was trained on ({classnames[0]!r}, ...)."
        )
    changes: dict[str, Any] = {"classnames": tuple(classnames), part: items}
    return dataclasses.replace(dataset, **changes)


def _logits(method: Method, data: Dataset, part: str) -> tuple[Tensor, Tensor]:
    """Logits [n, C] of the trained classes on the CPU, and labels [n]."""
    views = make_views(method.backbone, data, getattr(data, part), probe="eval")
    with threads_for(method.backbone):
        return predict_logits(Classifier(method), views.eval_batch, len(views)), views.labels


# --- in adapters ----------------------------------------------------------------------------------
def from_record(value: Any, where: str) -> Calibration | None:
    """The calibration in an adapter's record; None where there is none.

    Raises:
        UserError: something else stands there.
    """
    if value is None:
        return None
    fields = {entry.name for entry in dataclasses.fields(Calibration)} - {"doubts"}
    if not isinstance(value, Mapping) or not set(value) <= fields:
        raise UserError(f"{where}: its calibration is not of this form; run 'anprompt calibrate' again.")
    check_calibration(value, where)
    kept: dict[str, Any] = {
        key: tuple(content) if isinstance(content, list) else content for key, content in value.items()
    }
    return Calibration(**kept)
