"""The training recipe: what `anprompt fit --set` changes besides a method's own settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from anprompt.errors import UserError, choices
from anprompt.methods.base import MethodConfig
from anprompt.noise.weak_image import WEAK_FAMILIES, weak_image_noise
from anprompt.prompting.compute import PRECISIONS

OPTIMIZERS = ("adamw", "sgd")
TRUNK_PRECISIONS = ("full", "bf16")
TARGETS = ("clean", "noisy")
LEAST = {"epochs": 1, "batch_size": 1, "warmup_epochs": 0, "seed": 0, "views": 0, "view_seed": -1, "adversary_steps": 1}
ADVERSARIES = ("none", "pgd", "frozen")
ADVERSARY_LOSSES = ("ce", "kl", "fap")


@dataclass(frozen=True)
class TrainConfig(MethodConfig):
    """The training recipe; presets fill it, `--set` changes it.

    Attributes:
        optimizer: "adamw" or "sgd". Default "adamw".
        lr: float > 0, learning rate at the top of the cosine that follows the warm-up, one value per epoch
            (the field's schedule, see `lr_at`). Default 1e-3.
        weight_decay: float >= 0, per step and unit of learning rate: decoupled with AdamW, added to the gradient
            with SGD. Default 5e-4.
        momentum: float >= 0, share of the last step kept, SGD alone. Default 0.9.
        epochs: int >= 1, passes over the training images. Default 10.
        batch_size: int >= 1, images per step, of all processes together. Default 4.
        warmup_epochs: int >= 0, epochs at `warmup_lr` before the cosine; a run with no more epochs than that warms
            up for half of them, rounded down (`warmup`). Default 1.
        warmup_lr: float >= 0, learning rate of the warm-up. Default 1e-5.
        precision: "fp32", "bf16" or "fp16", the autocast of forward passes; parameters and optimiser stay fp32.
            Default "fp32".
        crop_scale: two floats 0 < low <= high <= 1, share of an image's area that the random resized crop of a
            training view covers. Default (0.5, 1.0).
        flip: bool, whether half of the training views are mirrored. Default true.
        seed: int >= 0, of initialisation, order and views; 0 is a seed. Default 1.
        views: int >= 0, number of different views of an image over the run; 0 draws a fresh one every epoch
            (`anprompt.data.views.Views` says what that means for the statistics). Default 0.
        view_seed: int >= -1, draws the views in place of `seed`, the same for runs of all seeds; -1 means `seed`.
            Default -1.
        trunk_precision: "full", or "bf16": the trunk activations of training views are rounded to bf16, with or
            without a view bank, which then needs half the space. Default "full".
        image_noise: float in 0..1, share of training views with weak noise (`anprompt.noise.weak_image`). Default 0.
        image_noise_families: list of families of image noise; empty takes gaussian_noise, defocus_blur and contrast.
            Default empty.
        image_noise_severity: int in 1..5, the largest severity; each noisy view has a random one up to it. Default 3.
        image_noise_target: "clean" or "noisy": whose frozen features the losses compare a noisy view with.
            Default "clean".
        adversary: who attacks the training images, anew at every step: "none"; "pgd", gradient steps through the
            method as it is; "frozen", steps that move the frozen image feature away (AdvPT), which know nothing of
            the method (`anprompt.training.adversary`). Default "none".
        adversary_share: float in 0..1, share of each batch that is attacked. Default 0.5.
        adversary_eps: float in 0..1, size of the attack: no channel of a pixel in [0, 1] moves by more; 2/255 may be
            written so. Default 1/255.
        adversary_step: float in 0..1, size of its steps. Default 1/255.
        adversary_steps: int >= 1, number of its steps. Default 2.
        adversary_loss: "ce", the method's own loss on attacked images; "kl", its loss on clean ones and a divergence
            of the answers (TRADES); "fap", likewise, weighted by how near the features are. Default "ce".
        adversary_weight: float >= 0, of the divergence; 0 means the papers': 6 for "kl", 1.5 for "fap". Default 0.
        visual_weight: float >= 0, weight of the visual term beside the text term for trained classes, a ridge head on
            the prompted image feature (`anprompt.methods.visual_head`); 0 for none. Default 0.
        visual_penalty: float >= 0, of the ridge, relative to the features' variance. Default 0.01.
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 5e-4
    momentum: float = 0.9
    epochs: int = 10
    batch_size: int = 4
    warmup_epochs: int = 1
    warmup_lr: float = 1e-5
    precision: str = "fp32"
    crop_scale: tuple[float, ...] = (0.5, 1.0)
    flip: bool = True
    seed: int = 1
    views: int = 0
    view_seed: int = -1
    trunk_precision: str = "full"
    image_noise: float = 0.0
    image_noise_families: tuple[str, ...] = ()
    image_noise_severity: int = 3
    image_noise_target: str = "clean"
    adversary: str = "none"
    adversary_share: float = 0.5
    adversary_eps: float = 1 / 255
    adversary_step: float = 1 / 255
    adversary_steps: int = 2
    adversary_loss: str = "ce"
    adversary_weight: float = 0.0
    visual_weight: float = 0.0
    visual_penalty: float = 0.01

    later: ClassVar[tuple[str, ...]] = (
        "views", "view_seed", "trunk_precision", "image_noise", "image_noise_families", "image_noise_severity",
        "image_noise_target", "adversary", "adversary_share", "adversary_eps", "adversary_step", "adversary_steps",
        "adversary_loss", "adversary_weight", "visual_weight", "visual_penalty",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise choices("optimizer", self.optimizer, OPTIMIZERS)
        if self.precision not in PRECISIONS:
            raise choices("precision", self.precision, PRECISIONS)
        if self.trunk_precision not in TRUNK_PRECISIONS:
            raise choices("trunk_precision", self.trunk_precision, TRUNK_PRECISIONS)
        if self.image_noise_target not in TARGETS:
            raise choices("image_noise_target", self.image_noise_target, TARGETS)
        weak_image_noise(self.image_noise, self.image_noise_families, self.image_noise_severity)
        if self.adversary not in ADVERSARIES:
            raise choices("adversary", self.adversary, ADVERSARIES)
        if self.adversary_loss not in ADVERSARY_LOSSES:
            raise choices("adversary_loss", self.adversary_loss, ADVERSARY_LOSSES)
        for key in ("adversary_share", "adversary_eps", "adversary_step"):
            if not 0 < getattr(self, key) <= 1:
                raise UserError(f"Training: {key} must lie above 0 and at most at 1, not {getattr(self, key)}.")
        for key, least in LEAST.items():
            if getattr(self, key) < least:
                raise UserError(f"Training: {key} must be at least {least}, not {getattr(self, key)}.")
        for key in ("weight_decay", "momentum", "warmup_lr", "visual_weight", "visual_penalty", "adversary_weight"):
            if not 0 <= getattr(self, key) < math.inf:
                raise UserError(f"Training: {key} must be a number from 0, not {getattr(self, key)}.")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"Training: lr must be a positive number, not {self.lr}.")
        if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"Training: crop_scale must be two numbers 0 < low <= high <= 1, not {self.crop_scale}.")

    def noise_families(self) -> frozenset[str]:
        return frozenset(self.image_noise_families or WEAK_FAMILIES) if self.image_noise else frozenset()

    def lr_at(self, epoch: int) -> float:
        """Learning rate of epoch `epoch` (from 0): constant warm-up, then cosine over all epochs."""
        if epoch < self.warmup:
            return self.warmup_lr
        return 0.5 * self.lr * (1 + math.cos(math.pi * (epoch - self.warmup) / self.epochs))

    @property
    def warmup(self) -> int:
        """Epochs of warm-up that a run of this length has.

        A warm-up as long as the run would leave nothing: every learning rate would give the same adapter.
        """
        return self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs // 2

    def warmup_line(self) -> str | None:
        """What to say of a warm-up that was shortened, or takes half of the run or more; else None."""
        if 2 * self.warmup < self.epochs and self.warmup == self.warmup_epochs:
            return None
        part = f"{self.warmup} of {self.epochs} epochs" if self.warmup else "none"
        asked = (
            f"; the recipe's {self.warmup_epochs} would be the whole run" if self.warmup != self.warmup_epochs else ""
        )
        return f"warm-up at learning rate {self.warmup_lr:g}: {part}{asked}"
