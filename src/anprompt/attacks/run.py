"""Any attack on what is deployed: one batch, or all images of a test with what is left of accuracy.

result = attack_images(PixelModel(Classifier(method)), views, ThreatModel("pgd-margin", eps=2 / 255))
result.accuracy, result.attacked_accuracy
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from anprompt.attacks.library import run_stage, stages
from anprompt.attacks.losses import LOSSES, margin
from anprompt.attacks.pgd import Attacked, Ball, climb, pgd
from anprompt.attacks.pixel_model import PixelModel
from anprompt.attacks.threat import ThreatModel, check_library
from anprompt.errors import NotFinite, UserError
from anprompt.methods import Classifier, create_method
from anprompt.noise.seeds import stable_seed
from anprompt.prompting.memory import in_halves

BATCH = 32  # images at a time: on a CPU more would leave the caches
Model = Callable[[Tensor], Tensor]


class Views(Protocol):
    """What an attack needs of a set of images (`anprompt.data.views.Views` is one)."""

    labels: Tensor
    items: tuple[Any, ...]

    def __len__(self) -> int: ...

    def eval_batch(self, indices: Any) -> Tensor: ...


# --- one batch ------------------------------------------------------------------------------------
def attack(
    model: Model, pixels: Tensor, labels: Tensor, threat: ThreatModel, *, keys: Sequence[str] | None = None,
    surrogate: Model | None = None,
) -> Attacked:  # fmt: skip
    """Attack a batch of images.

    Args:
        model: pixels in [0, 1], [B, 3, H, W] -> logits [B, C], with gradients to the pixels.
        pixels: [B, 3, H, W] in [0, 1].
        labels: [B] in 0..C-1.
        keys: what each image is known by, which decides its random starts; its place by default.
        surrogate: the model whose gradients a transfer attack uses.

    Returns:
        Per image the first error found, or the attempt that came nearest to one.

    Raises:
        UserError: too few classes for this attack, the extra is not installed, no surrogate.
        NotFinite: an answer is NaN or infinite.

    Examples:
        >>> import torch
        >>> def brighter(pixels):  # class 1 where an image is bright
        ...     light = pixels.mean((1, 2, 3))
        ...     return torch.stack([0.5 - light, light - 0.5], 1)
        >>> image = torch.full((1, 3, 4, 4), 0.49)
        >>> attack(brighter, image, torch.tensor([0]), ThreatModel("pgd-ce", eps=0.02)).predictions.tolist()
        [1]
    """
    with torch.no_grad():
        logits = model(pixels[:1])
    threat.check_classes(logits.shape[1])
    if not bool(torch.isfinite(logits).all()):
        raise NotFinite("The answers to clean images are not finite numbers; there is nothing to attack.")
    names = [str(place) for place in range(len(pixels))] if keys is None else list(keys)
    if threat.attack == "transfer":
        if surrogate is None:
            raise UserError("A transfer attack needs a surrogate: the model whose gradients it uses.")
        return _transfer(model, surrogate, pixels, labels, threat, names)
    if threat.runner == "own":
        return pgd(model, LOSSES[threat.loss], pixels, labels, threat, names)
    found = Attacked.of(model, pixels, labels)
    for stage in stages(threat, logits.shape[1]):
        left = (found.predictions == labels).nonzero()[:, 0]
        if not len(left):
            break
        made = run_stage(stage, model, pixels[left], labels[left], threat, logits.shape[1])
        made = Ball(threat.norm, threat.eps).project(made, pixels[left])  # against rounding in the library
        with torch.no_grad():
            found.take(left, made, model(made), labels)
    return found


def _transfer(
    model: Model, surrogate: Model, pixels: Tensor, labels: Tensor, threat: ThreatModel, keys: Sequence[str]
) -> Attacked:
    """Images made against the surrogate alone, all steps long; the model answers the finished ones."""
    found = Attacked.of(model, pixels, labels)
    ball, places = Ball(threat.norm, threat.eps), torch.arange(len(pixels), device=pixels.device)
    for restart in range(threat.restarts):
        start = ball.start(pixels, keys, stable_seed(threat.seed, restart))
        made = climb(lambda now, at: margin(surrogate(now), labels[at]), pixels, ball, threat.steps, threat.step, start)
        with torch.no_grad():
            found.take(places, made, model(made), labels)
    return found


def frozen_surrogate(classifier: Classifier) -> PixelModel:
    """Zero-shot CLIP on the same backbone and class list: what an attacker has who does not know the prompts."""
    method = classifier.method
    clip = create_method("zeroshot", method.backbone, classifier.classnames, template=method.template)
    return PixelModel(Classifier(clip, classifier.classnames))


# --- all images -----------------------------------------------------------------------------------
@dataclass
class AttackResult:
    """What an attack left of a test.

    Attributes:
        labels, clean, attacked: true labels, and those answered before and after, [n].
        tried: number of images that were attacked: those still right.
        stuck: share of these whose first gradient was exactly zero, 0..1.
        seconds: of the attack alone.
        images: attacked image per place, where they were asked for: pixels [3, H, W] in [0, 1].
    """

    threat: ThreatModel
    labels: Tensor
    clean: Tensor
    attacked: Tensor
    tried: int
    stuck: float
    seconds: float
    images: dict[int, Tensor] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of images that are answered rightly as they are, 0..1."""
        return float((self.clean == self.labels).float().mean())

    @property
    def attacked_accuracy(self) -> float:
        """Share that is still answered rightly under the attack, 0..1."""
        return float((self.attacked == self.labels).float().mean())


Rows = Mapping[str, Any]  # of one batch: attacked labels, number of zero gradients, seconds


def attack_images(
    classifier: Classifier, views: Views, threat: ThreatModel, *, keys: Sequence[str] | None = None,
    lost: Tensor | None = None, batch_size: int = BATCH, keep: Iterable[int] = (),
    known: Mapping[int, Rows] | None = None, on_batch: Callable[[int, int, int, Rows], None] | None = None,
) -> AttackResult:  # fmt: skip
    """Attack all images of a test that are answered rightly, a batch at a time, fewer where memory runs out.

    Args:
        classifier: as it is deployed: its head and temperature answer.
        keys: what each image is known by; its place by default.
        lost: answers to each image under the same attack at a smaller size, [n]; those that are wrong stay so.
        keep: places whose attacked image is wanted.
        known: rows of batches that an interrupted test has done, by the number of the batch.
        on_batch: (number of the batch, images done, images to do, the batch's rows) after every batch.

    Raises:
        UserError: too few classes, the extra is not installed, not fp32.

    Returns:
        Answers before and after, in the order of the views.
    """
    if threat.runner == "library":
        check_library()
    threat.check_classes(len(classifier.classnames))
    model, wanted = PixelModel(classifier), set(keep)
    surrogate = frozen_surrogate(classifier) if threat.attack == "transfer" else None
    clean = clean_logits(classifier, views).argmax(1)
    attacked = clean.clone() if lost is None else torch.where(clean == views.labels, lost, clean)
    images: dict[int, Tensor] = {}

    def one(part: Tensor) -> Attacked:
        names = [str(int(i)) if keys is None else keys[int(i)] for i in part]
        pixels = model.pixels(views.eval_batch(part))
        labels = views.labels[part].to(pixels.device)
        return Attacked.joined([attack(model, pixels, labels, threat, keys=names, surrogate=surrogate)])

    alive = (attacked == views.labels).nonzero()[:, 0]
    rows: list[Rows] = []
    for number, part in enumerate(alive.split(batch_size) if len(alive) else ()):
        row = (known or {}).get(number)
        if row is None or wanted & set(part.tolist()):
            started = time.perf_counter()
            found = in_halves(one, part, Attacked.joined)
            seconds = time.perf_counter() - started
            row = {"attacked": found.predictions.tolist(), "stuck": int(found.stuck.sum()), "seconds": seconds}
            images.update({int(i): found.pixels[at] for at, i in enumerate(part) if int(i) in wanted})
        attacked[part] = torch.tensor(row["attacked"])
        rows.append(row)
        if on_batch:
            on_batch(number, min((number + 1) * batch_size, len(alive)), len(alive), row)
    stuck, seconds = sum(row["stuck"] for row in rows), sum(row["seconds"] for row in rows)
    share = stuck / len(alive) if len(alive) else 0.0
    return AttackResult(threat, views.labels, clean, attacked, len(alive), share, seconds, images)


def clean_logits(classifier: Classifier, views: Views) -> Tensor:
    """Logits of all images as they are, [n, C] on the CPU."""
    parts = torch.arange(len(views)).split(BATCH) if len(views) else ()
    return torch.cat([in_halves(lambda at: classifier.logits(views.eval_batch(at)).cpu(), part) for part in parts])
