"""Levers against noise that methods with a prompted text encoder share; all are off by default.

    live noise      noisy sentences of the trained classes go through the *prompted* text encoder at every step
    anchors         so do sentences about everyday words, which hold the encoder where no class is
    frozen share    answers are the prompted logits with a share of frozen CLIP's
    fused head      the trained head answers for unseen classes as well

ANPrompt's abstract asks for "consistency between clean and perturbed predictions"; live noise takes the perturbed
predictions from the model that is being tuned. MMRL has the same settings as a control (docs/levers.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from anprompt.data.names import spoken
from anprompt.errors import UserError
from anprompt.methods.base import Head, Method, MethodConfig, TextState
from anprompt.methods.losses import consistency_kl, cosine_alignment
from anprompt.methods.words import EVERYDAY_WORDS
from anprompt.noise import text as text_noise
from anprompt.noise.seeds import drawn
from anprompt.noise.text import noisy_sentences
from anprompt.prompting.prompts import ClassState, ImageState, class_state
from anprompt.utils.byte_cache import ByteCache

ANCHOR_LISTS = 16  # word lists that take turns
KEPT_BYTES = 256 * 2**20  # of noisy class lists; those that do not fit are made anew when their turn comes


@dataclass(frozen=True)
class RobustConfig(MethodConfig):
    """Settings of the levers.

    Attributes:
        live_noise: float >= 0, weight of the terms that live noise adds to the loss; 0 leaves it out. Default 0.
        live_ce: float >= 0, weight among them of the cross-entropy of noisy logits. Default 0.5.
        live_consistency: float >= 0, weight of KL(clean || noisy), the clean logits detached. Default 1.
        live_similarity: float >= 0, weight of `1 - cos` between noisy prompted and clean frozen text features.
            Default 2.
        live_draws: int >= 1, noisy sentences per class, which take turns. Default 16.
        live_strength: int in 0..3, of the operators. Default 2.
        live_ops: list of operators of text noise; empty takes `noise.text.DEFAULT_OPS`. Default empty.
        live_target: "template", "classname" or "both", what the operators change. Default "both".
        anchor_words: int >= 0, everyday words per step whose sentences, every other one noisy, stay near their frozen
            features. Default 0.
        anchor_weight: float >= 0, of that similarity. Default 2.
        frozen_share: float in 0..1, q, the share of frozen CLIP's logits in the answers. Default 0.
        fused_unseen: bool, whether unseen classes are answered by the trained head too. Default false.
    """

    live_noise: float = 0.0
    live_ce: float = 0.5
    live_consistency: float = 1.0
    live_similarity: float = 2.0
    live_draws: int = 16
    live_strength: int = 2
    live_ops: tuple[str, ...] = ()
    live_target: str = "both"
    anchor_words: int = 0
    anchor_weight: float = 2.0
    frozen_share: float = 0.0
    fused_unseen: bool = False

    later: ClassVar[tuple[str, ...]] = (
        "live_noise", "live_ce", "live_consistency", "live_similarity", "live_draws", "live_strength", "live_ops",
        "live_target", "anchor_words", "anchor_weight", "frozen_share", "fused_unseen",
    )  # fmt: skip

    def noise_families(self) -> frozenset[str]:
        met = self.live_noise > 0 or self.anchor_words > 0
        return frozenset(self.live_ops or text_noise.DEFAULT_OPS) if met else frozenset()

    def check_robust(self, title: str) -> None:
        """`UserError` where a lever's value is out of range; `title` is the method's."""
        for key in ("live_noise", "live_ce", "live_consistency", "live_similarity", "anchor_weight"):
            if not 0.0 <= getattr(self, key) < float("inf"):
                raise UserError(f"{title}: {key} must be a number from 0, not {getattr(self, key)}.")
        if not 0.0 <= self.frozen_share <= 1.0:
            raise UserError(f"{title}: frozen_share must lie in 0..1, not {self.frozen_share}.")
        if self.live_draws < 1:
            raise UserError(f"{title}: live_draws must be at least 1, not {self.live_draws}.")
        if not 0 <= self.anchor_words <= len(EVERYDAY_WORDS):
            raise UserError(f"{title}: anchor_words must lie in 0..{len(EVERYDAY_WORDS)}, not {self.anchor_words}.")
        text_noise.check(strength=self.live_strength, target=self.live_target, ops=self.live_ops)


class Perturbed:
    """Noisy class lists of a method, and lists of everyday words: made when their turn comes, kept for the next one."""

    def __init__(self, method: Method, config: Any) -> None:
        self.method, self.config = method, config
        self._kept: ByteCache[tuple[str, int], ClassState] = ByteCache(KEPT_BYTES)

    def __getstate__(self) -> dict[str, Any]:
        return {"method": self.method, "config": self.config}  # what is kept is made anew in a copy

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def classes(self, step: int) -> ClassState:
        """The trained classes, each with a noisy sentence; step i takes draw i modulo draws."""
        draw = step % self.config.live_draws
        kept = self._kept.get(("classes", draw))
        return kept or self._make(("classes", draw), [row[draw] for row in self._sentences])

    def anchors(self, step: int) -> tuple[ClassState, Tensor]:
        """Sentences about everyday words, every other one noisy, and the frozen features of the clean ones [n, E]."""
        turn = step % ANCHOR_LISTS
        words = drawn(EVERYDAY_WORDS, self.config.anchor_words, self.method.seed, "anchors", turn)
        clean = [self.method.template.format(word) for word in words]
        mixed = [
            self._noisy(word)[turn % self.config.live_draws] if i % 2 else clean[i] for i, word in enumerate(words)
        ]
        target = self._kept.get(("clean", turn)) or self._make(("clean", turn), clean)
        return self._kept.get(("mixed", turn)) or self._make(("mixed", turn), mixed), target.frozen

    @cached_property
    def _sentences(self) -> list[list[str]]:
        return [self._noisy(spoken(name)) for name in self.method.trained_classnames]

    def _noisy(self, name: str) -> list[str]:
        c = self.config
        return noisy_sentences(
            self.method.template, name, draws=c.live_draws, strength=c.live_strength, ops=c.live_ops or None,
            target=c.live_target, seed=self.method.seed,
        )  # fmt: skip

    def _make(self, key: tuple[str, int], sentences: list[str]) -> ClassState:
        made = class_state(self.method.backbone, sentences, sentences, self.method.first_block, cut=True)
        size = sum(t.numel() * t.element_size() for t in (made.prefix, made.rows, made.frozen))
        self._kept.put(key, made, size)
        return made


def live_parts(
    perturbed: Perturbed, step: int, image: Tensor, logits: Tensor, labels: Tensor, frozen_text: Tensor
) -> dict[str, Tensor]:
    """What the levers add to a loss, by name; nothing where they are off.

    Args:
        perturbed: of the method that is trained.
        step: number of the optimiser step; sentences take turns by it.
        image: unit prompted image features [B, E].
        logits: z of the clean sentences, [B, C].
        labels: [B].
        frozen_text: unit frozen features of the clean sentences, [C, E].
    """
    c, method = perturbed.config, perturbed.method
    parts: dict[str, Tensor] = {}
    if c.live_noise:
        text = method.encode_classes(perturbed.classes(step))["text"]
        noisy = method.logit_scale * image @ text.T
        parts["live_ce"] = c.live_noise * c.live_ce * F.cross_entropy(noisy, labels)
        parts["live_kl"] = c.live_noise * c.live_consistency * consistency_kl(logits.detach(), noisy)
        parts["live_sim"] = c.live_noise * c.live_similarity * cosine_alignment(text, frozen_text)
    if c.anchor_words:
        words, target = perturbed.anchors(step)
        parts["anchors"] = c.anchor_weight * cosine_alignment(method.encode_classes(words)["text"], target)
    return parts


def fused_logits(
    method: Method[Any], image: Tensor, second: Tensor, vision: ImageState, text: TextState, head: Head
) -> Tensor:
    """Logits [B, C]: `a z + (1 - a) z_rep` of both image features [B, E] by the trained head, else z, with a share of frozen CLIP's.

    Args:
        second: the feature of the second head, [B, E]: MMRL's tokens, ANPrompt's NRVPP.
    """
    c, tau = method.config, method.logit_scale
    z = tau * image @ text["text"].T
    if head == "trained" or c.fused_unseen:
        z = c.head_weight * z + (1 - c.head_weight) * tau * second @ text["text"].T
    return with_frozen(z, tau, c.frozen_share, vision.frozen, text.get("frozen"))


def with_frozen(logits: Tensor, tau: float, share: float, frozen_image: Tensor, frozen_text: Tensor | None) -> Tensor:
    """`(1 - q) z + q z0`: answers with a share q of frozen CLIP's.

    The softmax of a mixture of logits is the normalised geometric mean of both predictions.
    """
    if not share:
        return logits
    assert frozen_text is not None
    return (1 - share) * logits + share * tau * frozen_image @ frozen_text.T
