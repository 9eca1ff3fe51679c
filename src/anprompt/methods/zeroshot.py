"""Zero-shot CLIP: frozen features of sentences about each class (arXiv 2103.00020), nothing to train.

text    "a photo of a NAME."  |  mean over many templates  |  mean over a class's descriptions
vision  [CLS, patches]         stock CLIP
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from anprompt.data.names import spoken
from anprompt.errors import UserError, choices
from anprompt.methods.base import Descriptions, Head, Method, MethodConfig, Parts, TextState
from anprompt.methods.templates import IMAGENET_TEMPLATES
from anprompt.prompting.prompts import ClassState, ImageState, ensemble_features

SENTENCES = ("template", "ensemble", "descriptions")


@dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Settings of zero-shot CLIP.

    Attributes:
        sentences: "template" (one sentence), "ensemble" (mean of unit features over templates) or
            "descriptions" (mean over the sentences of a class-description file).
        templates: of the ensemble; empty for the 60 shipped ones.
    """

    sentences: str = "template"
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sentences not in SENTENCES:
            raise choices("sentences", self.sentences, SENTENCES)
        for template in self.templates:
            if not isinstance(template, str) or "{}" not in template:
                raise UserError(f"Template {template!r} of the ensemble needs '{{}}' for the class name.")


class ZeroShot(Method[ZeroShotConfig]):
    """The frozen backbone as a classifier; the yardstick of every table."""

    name: ClassVar[str] = "zeroshot"
    paper: ClassVar[str] = "arXiv 2103.00020"
    Config: ClassVar[type[MethodConfig]] = ZeroShotConfig
    reads: ClassVar[Parts] = "frozen"
    trains: ClassVar[bool] = False

    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ClassState:
        bank = super().prepare(classnames, sentences)
        if self.config.sentences == "template":
            return bank
        if self.config.sentences == "descriptions":
            lines = [self.described(name, descriptions) for name in classnames]
        else:
            lines = [self.in_templates(name) for name in classnames]
        features = ensemble_features(self.backbone, lines)
        return dataclasses.replace(bank, frozen=features)

    def in_templates(self, name: str) -> list[str]:
        """A class name in every template of the ensemble."""
        words = spoken(name)
        return [t.replace("{}", words) for t in self.config.templates or IMAGENET_TEMPLATES]

    def encode_classes(self, bank: ClassState) -> TextState:
        return {"text": bank.frozen}

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        return self.logit_scale * vision.frozen @ text["text"].T
