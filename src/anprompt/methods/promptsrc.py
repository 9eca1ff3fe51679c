"""PromptSRC: self-regulating prompts (arXiv 2307.06948).

    text    [SOS, t_1 .. t_n, words, NAME, ".", EOT]     blocks 1..D, each with its own t
    vision  [CLS, patches, v_1 .. v_m]                   blocks 1..D, each with its own v

Three regularisers: mutual agreement of prompted and frozen features and logits; prompts averaged over
the epochs with Gaussian weights; a text teacher that is the mean over many templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.data.names import spoken
from anprompt.errors import UserError
from anprompt.methods.base import MethodConfig
from anprompt.methods.ivlp import IVLP, IVLPConfig
from anprompt.methods.losses import feature_l1, logit_kl
from anprompt.methods.templates import IMAGENET_TEMPLATES
from anprompt.prompting.prompts import ClassState, ImageState, ensemble_features


@dataclass(frozen=True)
class PromptSRCConfig(IVLPConfig):
    """Settings of PromptSRC: those of IVLP (n and m of at least 1), and

    Attributes:
        text_weight, image_weight, logits_weight: of the three agreement losses.
        average_mean, average_std: epoch (from 1) at which the weights of the average peak, and their width.
        teacher_templates: how many of the 60 templates the teacher averages; 0 means all.
    """

    n_text: int = 4
    n_vision: int = 4
    text_weight: float = 25.0
    image_weight: float = 10.0
    logits_weight: float = 1.0
    average_mean: float = 15.0
    average_std: float = 1.0
    teacher_templates: int = 0

    def __post_init__(self) -> None:
        for key in ("n_text", "n_vision"):
            if getattr(self, key) < 1:
                raise UserError(f"PromptSRC: {key} must be at least 1, not {getattr(self, key)}.")
        if self.average_std <= 0:
            raise UserError(f"PromptSRC: average_std must be positive, not {self.average_std}.")
        if self.teacher_templates < 0:
            raise UserError(f"PromptSRC: teacher_templates can't be negative ({self.teacher_templates}).")


class PromptSRC(IVLP):
    """PromptSRC on a frozen backbone."""

    name: ClassVar[str] = "promptsrc"
    paper: ClassVar[str] = "arXiv 2307.06948"
    Config: ClassVar[type[MethodConfig]] = PromptSRCConfig
    config: PromptSRCConfig
    text_average: Tensor
    vision_average: Tensor

    def add_parts(self, generator: torch.Generator) -> None:
        # Sums so far; buffers, so that an interrupted run goes on with them.
        self.register_buffer("text_average", torch.zeros_like(self.text_prompts))
        self.register_buffer("vision_average", torch.zeros_like(self.vision_prompts))
        self._teacher: tuple[tuple[str, ...], Tensor] | None = None

    def teacher(self, classnames: tuple[str, ...]) -> Tensor:
        """Unit frozen text features, mean of the raw ones over the templates, [C, E]; kept for one list."""
        if self._teacher is None or self._teacher[0] != classnames:
            used = IMAGENET_TEMPLATES[: self.config.teacher_templates or None]
            names = [spoken(name) for name in classnames]
            sentences = [[t.format(name) for t in used] for name in names]
            self._teacher = (classnames, ensemble_features(self.backbone, sentences, unit_first=False))
        return self._teacher[1]

    # --- loss -----------------------------------------------------------------------------------
    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """`CE + 25 L1(t, t0) + 10 L1(f, f0) + KL(z0 || z)`, L1 and KL as means over all entries."""
        c, tau = self.config, self.logit_scale
        text, image = self.encode_classes(bank)["text"], self.image_features(vision)
        teacher = self.teacher(bank.classnames)
        z, z_frozen = tau * image @ text.T, tau * vision.frozen @ teacher.T
        return {
            "ce": F.cross_entropy(z, labels),
            "agree_text": c.text_weight * feature_l1(text, teacher),
            "agree_image": c.image_weight * feature_l1(image, vision.frozen),
            "agree_logits": c.logits_weight * logit_kl(z_frozen, z),
        }

    # --- average over epochs --------------------------------------------------------------------
    def epoch_weights(self, epochs: int) -> Tensor:
        """Gaussian weights of epochs 1..N, their sum 1, [N]; softmax, as a far peak must not give 0 / 0."""
        epoch = torch.arange(1, epochs + 1, dtype=torch.float64)
        return torch.softmax(-0.5 * ((epoch - self.config.average_mean) / self.config.average_std) ** 2, 0)

    @torch.no_grad()
    def after_epoch(self, epoch: int, epochs: int) -> None:
        """Add this epoch's prompts to the average; after the last epoch the average is the method."""
        weight = float(self.epoch_weights(epochs)[epoch])
        for prompts, average in ((self.text_prompts, self.text_average), (self.vision_prompts, self.vision_average)):
            if epoch == 0:
                average.zero_()
            average.add_(prompts, alpha=weight)
            if epoch + 1 == epochs:
                prompts.copy_(average)
