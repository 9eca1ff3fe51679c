"""Zero-shot CLIP: frozen features of one sentence per class (arXiv 2103.00020), nothing to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from anprompt.backbones.base import Backbone
from anprompt.methods.base import Head, Method, MethodConfig, TextState
from anprompt.prompting import ClassBank, Vision


@dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Zero-shot CLIP has no settings."""


class ZeroShot(Method):
    """The frozen backbone as a classifier; the yardstick of every table."""

    name: ClassVar[str] = "zeroshot"
    paper: ClassVar[str] = "arXiv 2103.00020"
    Config: ClassVar[type[MethodConfig]] = ZeroShotConfig

    def __init__(
        self, backbone: Backbone, classnames: Sequence[str], config: ZeroShotConfig, *, template: str,
        descriptions: Mapping[str, Sequence[str]] | None = None, seed: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(
            backbone, classnames, config, template=template, descriptions=descriptions, seed=seed
        )
        self.first_block = 1

    def encode_classes(self, bank: ClassBank) -> TextState:
        return {"text": bank.frozen}

    def logits(self, vision: Vision, text: TextState, head: Head = "unseen"):
        return self.logit_scale * vision.frozen @ text["text"].T
