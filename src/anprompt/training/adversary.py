"""Adversarial training of any method: part of each batch is attacked through the method as it is, then learnt from.

    pgd      gradient steps up the method's own loss of the answer; sees prompts, head and class list
    frozen   steps that move the frozen image feature away from itself (AdvPT, arXiv 2311.11261): no method is in it, so
             with a fixed number of views an image is attacked once and its attacked state is kept

What it costs: a step of the attack is a forward and a backward pass through the whole image tower, blocks below the
first prompted one included, as the gradient goes to the pixels. Learning from the attacked images afterwards costs what
it costs on clean ones. Clean images' frozen features and trunks come from the cache as ever; where an attacked image
stands for a clean one, only what `logits` reads of its state is the attacked image's. Anchors that losses read besides
(frozen features to stay near to) remain the clean image's: an attacked anchor would teach the error. That is ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.attacks.pgd import Ball, climb
from anprompt.attacks.pixel_model import channels
from anprompt.methods.base import Method, TextState
from anprompt.prompting.prompts import ClassState, ImageState
from anprompt.training.config import TrainConfig
from anprompt.training.frozen_features import TrainViews

WEIGHTS = {"kl": 6.0, "fap": 1.5}  # TRADES' beta (arXiv 1901.08573, section 5), FAP's (its public code)
KEPT = 100_000  # attacked image states that are kept, at most


class Adversary:
    """The opponent of one run.

    Args:
        views: the training images; attacked views are the training views of that epoch.
    """

    def __init__(self, method: Method[Any], views: TrainViews, config: TrainConfig) -> None:
        self.method, self.views, self.config = method, views, config
        backbone = method.backbone
        self.mean, self.std = (channels(backbone.mean, backbone.device), channels(backbone.std, backbone.device))
        self.ball = Ball("linf", config.adversary_eps)
        self._kept: dict[tuple[int, int], ImageState] = {}

    def attacked(self, batch: Tensor, clean: ImageState, labels: Tensor, classes: ClassState, epoch: int) -> ImageState:
        """The attacked share of a batch: its first images, as their order is random.

        Args:
            batch: indices of the images, [B].
            clean: their states, whose rows stand in the same order.
            labels: [B].

        Returns:
            States of k <= B attacked images, constants as those of clean ones.
        """
        count = max(1, round(self.config.adversary_share * len(batch)))
        if self.config.adversary == "frozen":
            return self._away(batch[:count], epoch)
        with torch.no_grad():
            text = self.method.encode_classes(classes)
        value = self._value(text, first_rows(clean, count), labels[:count])
        return self._state(self._climb(batch[:count], epoch, value))

    # --- the attack ---------------------------------------------------------------------------------
    def _climb(self, batch: Tensor, epoch: int, value: Callable[[Tensor], Tensor], one_sided: bool = False) -> Tensor:
        """Normalised attacked views [k, 3, H, W]; random starts are a function of (seed, image, epoch)."""
        normalised = self.views.train_batch(batch, epoch).to(self.mean.device)
        pixels = (normalised * self.std + self.mean).clamp_(0, 1)
        keys = [f"{int(index)} {self._view(epoch)}" for index in batch]
        start = self.ball.start(pixels, keys, self.config.seed)
        if one_sided:
            start = (pixels + (start - pixels).abs()).clamp_(0, 1)
        config = self.config
        made = climb(
            lambda now, _: value(self._normalised(now)), pixels, self.ball, config.adversary_steps,
            config.adversary_step, start,
        )  # fmt: skip
        return self._normalised(made)

    def _view(self, epoch: int) -> int:
        index: Callable[[int], int] | None = getattr(self.views, "view_index", None)
        return epoch if index is None else index(epoch)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return ((pixels - self.mean) / self.std).to(self.method.backbone.dtype)

    def _value(self, text: TextState, clean: ImageState, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """What the attack climbs: cross-entropy of the trained head, or the divergence of its answers."""
        method = self.method

        def logits(images: Tensor) -> Tensor:
            return method.logits(method.image_state(images, method.reads), text, "trained").float()

        if self.config.adversary_loss == "ce":
            return lambda images: F.cross_entropy(logits(images), labels, reduction="none")
        with torch.no_grad():
            answers = method.logits(clean, text, "trained").float()
        form = self.config.adversary_loss
        return lambda images: divergence(form, answers, logits(images))

    def _away(self, batch: Tensor, epoch: int) -> ImageState:
        """AdvPT: the frozen feature, as a distribution over its entries, is moved away from the clean one."""
        keys = [(int(index), self._view(epoch)) for index in batch]
        if not all(key in self._kept for key in keys):
            backbone = self.method.backbone
            with torch.no_grad():
                images = self.views.train_batch(batch, epoch).to(self.mean.device, backbone.dtype)
                frozen = backbone.encode_image(images).float()
            made = self._climb(
                batch, epoch, lambda now: divergence("fap", frozen, backbone.encode_image(now).float()), one_sided=True
            )
            state = self._state(made)
            if not getattr(self.views, "views", 0) or len(self._kept) >= KEPT:  # fresh views never come again
                return state
            self._kept.update((key, _row(state, place)) for place, key in enumerate(keys))
        return _joined([self._kept[key] for key in keys])

    def _state(self, images: Tensor) -> ImageState:
        return self.method.image_state(images, self.method.reads)


# --- what is learnt ---------------------------------------------------------------------------------
def adversarial_loss(
    method: Method[Any], clean: ImageState, attacked: ImageState, labels: Tensor, classes: ClassState, step: int, config: TrainConfig,
) -> dict[str, Tensor]:  # fmt: skip
    """The method's loss with an opponent: named, weighted parts, as `Method.loss` gives them.

    Args:
        clean: states of a batch of B images.
        attacked: states of its first k, attacked.
        labels: [B].
        step: of the run, from 0.
    """
    if config.adversary_loss == "ce":
        return method.loss(in_place(method, clean, attacked), labels, classes, step)
    parts = method.loss(clean, labels, classes, step)
    text, own = method.encode_classes(classes), first_rows(clean, len(attacked.trunk))
    form = config.adversary_loss
    apart = divergence(form, method.logits(own, text, "trained"), method.logits(attacked, text, "trained"))
    if form == "fap":
        apart = apart * (F.cosine_similarity(method.embedding(own), method.embedding(attacked), dim=-1) + 1)
    return {**parts, "adversary": (config.adversary_weight or WEIGHTS[form]) * apart.mean()}


def divergence(form: str, clean: Tensor, attacked: Tensor) -> Tensor:
    """KL between the answers to clean and attacked images from logits [k, C]: [k].

    `KL(clean || attacked)` as TRADES has it ("kl"), `KL(attacked || clean)` as FAP and AdvPT do ("fap").
    """
    first, second = F.log_softmax(clean.float(), dim=-1), F.log_softmax(attacked.float(), dim=-1)
    if form == "fap":
        first, second = second, first
    return (first.exp() * (first - second)).sum(dim=-1)


def in_place(method: Method[Any], clean: ImageState, attacked: ImageState) -> ImageState:
    """A batch whose first k images are attacked, in what `logits` reads; the rest of their state stays clean."""
    rows = {"trunk": ("trunk",), "frozen": ("frozen",), "both": ("trunk", "frozen")}[method.reads]
    changed = {}
    for name in rows:
        whole, part = getattr(clean, name), getattr(attacked, name)
        changed[name] = torch.cat([part.to(whole.dtype), whole[len(part) :]])
    return dataclasses.replace(clean, **changed)


def first_rows(state: ImageState, count: int) -> ImageState:
    """The state of the first images."""
    return dataclasses.replace(state, trunk=state.trunk[:count], frozen=state.frozen[:count])


def _row(state: ImageState, place: int) -> ImageState:
    return dataclasses.replace(
        state, trunk=state.trunk[place : place + 1].clone(), frozen=state.frozen[place : place + 1].clone()
    )


def _joined(states: list[ImageState]) -> ImageState:
    trunk, frozen = (torch.cat([getattr(state, name) for state in states]) for name in ("trunk", "frozen"))
    return dataclasses.replace(states[0], trunk=trunk, frozen=frozen)
