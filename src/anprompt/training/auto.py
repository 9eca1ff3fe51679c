"""The recipe for one's own images (`--recipe auto`): a few settings chosen on the training images alone.

A quarter of the training images is held out, stratified and by the seed. Candidates (how hard features are pulled to
frozen CLIP) are trained on the rest for half of the few-shot recipe's epochs; each is asked, at no further cost, with
several weights of the visual head (`methods.visual_head`). The best on held-out images is then trained on all of them; the
recipe's own pull must beat the weak one, which is right where frozen CLIP knows little, by a standard error.
Selection takes at most 2 x 1/2 x 3/4 of the steps that follow it, and shares the frozen encoder's work with them.
Validation and test images are never read. With one image a class nothing can be held out: then zero-shot CLIP's
accuracy on the training images, which it has never seen, says how far to trust it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from anprompt.evaluation.loaders import make_views
from anprompt.methods import Classifier, Method, create_method
from anprompt.methods.frozen import Scores, agreement, mean_scores
from anprompt.methods.visual_head import VisualHead
from anprompt.training.config import TrainConfig
from anprompt.training.feature_cache import FeatureCache, MemoryFeatureCache
from anprompt.training.head_fit import prompted_features
from anprompt.training.job import Job, run
from anprompt.training.settings import resolve

VIEWS = 10  # of an image, shared by the candidates and the training that follows
PULL = "similarity_weight"
WEAK_PULL = 0.5  # MMRL's few-shot value
WEIGHTS = (0.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # of the visual head
HELD_OUT = 4  # one of so many images
UNKNOWN = 0.5  # zero-shot accuracy below which frozen CLIP is not trusted, where nothing can be held out
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        settings, train: values of the method and of the training.
        evidence: plain values for the record: images kept and held out, accuracies of what was tried.
    """

    settings: dict[str, Any]
    train: dict[str, Any]
    evidence: dict[str, Any] = field(default_factory=dict)

    def applied(self, job: Job) -> Job:
        """The job with these values, and nothing left to choose."""
        return with_values(job, self.settings, self.train)


def with_values(job: Job, settings: Mapping[str, Any], train: Mapping[str, Any]) -> Job:
    """A job whose settings are partly replaced."""
    resolved = job.resolved
    method = type(resolved.method).from_dict({**resolved.method.to_dict(), **settings})
    training = cast(TrainConfig, TrainConfig.from_dict({**resolved.train.to_dict(), **train}))
    changed = dataclasses.replace(resolved, method=method, train=training)
    return dataclasses.replace(job, resolved=changed, auto=False)


def candidates(job: Job, fixed: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Settings to try, what is taken without evidence first: a weak pull to frozen CLIP, and the recipe's own."""
    own = job.settings.to_dict().get(PULL)
    if own is None or PULL in (fixed or {}):
        return [{}]
    return ([{PULL: WEAK_PULL}] if own > WEAK_PULL else []) + [{PULL: own}]


def steps_of_selection(job: Job) -> tuple[int, int]:
    """(most steps of the selection, steps of the training that follows)."""
    count, config = len(job.dataset.train), job.train
    after = config.epochs * max(1, count // config.batch_size)
    kept, _ = split(job)
    each = math.ceil(config.epochs / 2) * max(1, len(kept) // config.batch_size)
    return len(candidates(job)) * each if len(kept) < count else 0, after


def split(job: Job) -> tuple[list[int], list[int]]:
    """Indices of the training images that are kept, and of those that are held out; classes of one image keep it."""
    labels = np.array([item.label for item in job.dataset.train])
    rng = np.random.default_rng([job.train.seed, 19])
    held: list[int] = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if len(places) > 1:
            held += rng.permutation(places)[: max(1, len(places) // HELD_OUT)].tolist()
    out = set(held)
    return [i for i in range(len(labels)) if i not in out], sorted(held)


def choose(
    job: Job, bank: FeatureCache | None = None, tell: Tell | None = None, fixed: Mapping[str, Any] | None = None
) -> Choice:
    """Choose the settings of a job on its training images.

    Args:
        job: with the few-shot recipe.
        bank: keeps what the frozen encoder makes of views; None keeps 512 MB in memory.
        tell: called with a line about each candidate.
        fixed: values that the caller has set, which stay.

    Returns:
        The choice; `Choice.applied` gives the job to run.
    """
    fixed = fixed or {}
    kept, held = split(job)
    if not held:
        return _without_held_out(job, fixed)
    bank = MemoryFeatureCache() if bank is None else bank
    tried: list[Trial] = []
    for settings in candidates(job, fixed):
        scores = _held_out_scores(job, settings, kept, held, bank, fixed)
        tried.append(best_weight(settings, scores, len(held)))
        if tell:
            named = ", ".join(f"{k} {v:g}" for k, v in settings.items()) or "the recipe as it is"
            share = f"{100 * tried[-1].accuracy:.1f} % of {len(held)} held-out training images"
            tell(f"auto: {named}: {share} (visual weight {tried[-1].weight:g})")
    chosen = preferred(tried)
    rows = [{**one.settings, "visual_weight": one.weight, "accuracy": round(one.accuracy, 4),
             "by_weight": {f"{w:g}": round(right, 4) for w, right in one.by_weight.items()}} for one in tried]  # fmt: skip
    settings, weight = chosen.settings, chosen.weight
    evidence = {
        "kept": len(kept),
        "held_out": len(held),
        "tried": rows,
        "chosen": {**settings, "visual_weight": weight},
    }
    return Choice(settings, _train(weight, fixed), evidence)


def _train(weight: float, fixed: Mapping[str, Any]) -> dict[str, Any]:
    return {"visual_weight": weight, **({} if "views" in fixed else {"views": VIEWS})}


@dataclass(frozen=True)
class Trial:
    """A candidate with the best weight of its visual head.

    Attributes:
        settings: of the method.
        weight: of the visual head.
        accuracy: on the held-out images with this weight and its neighbours, the mean.
        images: how many are held out.
        by_weight: accuracy by weight.
    """

    settings: dict[str, Any]
    weight: float
    accuracy: float
    images: int
    by_weight: dict[float, float]

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        return math.sqrt(max(self.accuracy * (1 - self.accuracy), 1 / (4 * self.images)) / self.images)


def best_weight(settings: dict[str, Any], scores: Mapping[float, Scores], images: int) -> Trial:
    """The weight that is best together with its neighbours: a few held-out images say little about one alone."""
    weights = list(scores)
    smooth = [mean_scores([scores[w] for w in weights[max(0, i - 1) : i + 2]]) for i in range(len(weights))]
    best = max(range(len(weights)), key=lambda index: smooth[index])
    return Trial(settings, weights[best], smooth[best][0], images, {w: scores[w][0] for w in weights})


def preferred(tried: list[Trial]) -> Trial:
    """The first, unless a later one is better by more than a standard error."""
    chosen = tried[0]
    for one in tried[1:]:
        if one.accuracy > chosen.accuracy + chosen.error:
            chosen = one
    return chosen


def _held_out_scores(
    job: Job, settings: dict[str, Any], kept: list[int], held: list[int], bank: FeatureCache, fixed: Mapping[str, Any]
) -> dict[float, Scores]:
    """How a candidate does on held-out images, by weight of the visual head."""
    data = job.dataset
    images = [data.train[index] for index in kept]
    half = {**_train(0.0, fixed), "epochs": math.ceil(job.train.epochs / 2)}
    part = dataclasses.replace(data, train=tuple(images), val=(), test=())
    tuned = run(dataclasses.replace(with_values(job, settings, half), dataset=part), bank=bank, validate=False)
    method, config = tuned.method, job.train
    shown = make_views(job.backbone, data, tuple(images), config=with_values(job, settings, half).train)
    asked = make_views(job.backbone, data, tuple(data.train[index] for index in held), probe="eval")
    classifier = Classifier(method)
    z = torch.cat([classifier.logits(asked.eval_batch(part)) for part in torch.arange(len(asked)).split(100)]).cpu()
    features = prompted_features(method, shown, config.precision)
    queries = prompted_features(method, asked, config.precision, count=1)[:, 0]
    head = VisualHead(len(data.classnames), queries.shape[1]).to(queries.device)
    head.fit(features, shown.labels.to(queries.device), 1.0, config.visual_penalty)
    q = head(queries).cpu()
    weights = (fixed["visual_weight"],) if "visual_weight" in fixed else WEIGHTS
    return {weight: agreement(z + weight * q, asked.labels) for weight in weights}


def _without_held_out(job: Job, fixed: Mapping[str, Any]) -> Choice:
    """One image a class: trust frozen CLIP as far as it is right about the training images."""
    data = job.dataset
    plain: Method[Any] = create_method("zeroshot", job.backbone, data.classnames, template=job.template)
    views = make_views(job.backbone, data, data.train, probe="eval")
    classifier = Classifier(plain)
    z = torch.cat([classifier.logits(views.eval_batch(part)) for part in torch.arange(len(views)).split(100)]).cpu()
    right = agreement(z, views.labels)[0]
    settings, weight = candidates(job, fixed)[0], WEIGHTS[-2] if right < UNKNOWN else WEIGHTS[1]
    weight = fixed.get("visual_weight", weight)
    evidence = {"kept": len(views), "held_out": 0, "zero_shot_accuracy": round(right, 4),
                "chosen": {**settings, "visual_weight": weight}}  # fmt: skip
    return Choice(settings, _train(weight, fixed), evidence)


def probe_first(job: Job, bank: FeatureCache | None = None) -> tuple[float | None, float]:
    """What a linear probe reaches on the training images: (cross-validated accuracy or None, seconds)."""
    resolved = resolve("linear-probe", recipe="few-shot", seed=job.train.seed, train={"views": 1})
    data = dataclasses.replace(job.dataset, val=(), test=())
    probe = dataclasses.replace(job, dataset=data, resolved=resolved, auto=False)
    log = run(probe, bank=bank, validate=False).log
    return log.epochs[-1].get("cv_accuracy"), log.seconds
