"""CoOp: context optimisation (arXiv 2109.01134).

    text    [SOS, c_1 .. c_n, NAME, ".", EOT]      class at the end (or in the middle, or in front)
    vision  [CLS, patches]                          stock CLIP

The vectors c replace the words before the class name: one set for all classes, or one per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError, choices
from anprompt.methods.base import Descriptions, Head, Method, MethodConfig, Parts, TextState
from anprompt.methods.context import (
    POSITIONS,
    ContextState,
    context_features,
    context_start,
    context_state,
    context_words,
)
from anprompt.prompting.prompts import ClassState, ImageState


@dataclass(frozen=True)
class CoOpConfig(MethodConfig):
    """Settings of CoOp.

    Attributes:
        n_context: number of learned vectors; 0 means as many as `context_init` has tokens.
        context_init: words whose embeddings the vectors start from; empty for a random start.
        class_specific: one set of vectors per class; such a method knows its trained classes alone.
        class_position: "end", "middle" or "front".
    """

    n_context: int = 16
    context_init: str = ""
    class_specific: bool = False
    class_position: str = "end"

    def __post_init__(self) -> None:
        if self.class_position not in POSITIONS:
            raise choices("class_position", self.class_position, POSITIONS)


class CoOp(Method[CoOpConfig]):
    """CoOp on a frozen backbone."""

    name: ClassVar[str] = "coop"
    paper: ClassVar[str] = "arXiv 2109.01134"
    Config: ClassVar[type[MethodConfig]] = CoOpConfig
    reads: ClassVar[Parts] = "frozen"
    reads_template: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def build(self, generator: torch.Generator) -> None:
        self.first_block = 1
        self.words = context_words(self.backbone, self.config.context_init, self.config.n_context)
        sets = len(self.trained_classnames) if self.config.class_specific else 1
        start = [
            context_start(self.backbone, self.config.context_init, self.config.n_context, generator)
            for _ in range(sets)
        ]
        self.context = nn.Parameter(torch.stack(start) if self.config.class_specific else start[0])

    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ContextState:
        """Sentences "c_1 .. c_n NAME.", before the vectors are filled in."""
        count = self.context.shape[-2]
        return context_state(self.backbone, classnames, self.words, count, self.config.class_position)

    def context_of(self, classnames: tuple[str, ...]) -> Tensor:
        """The vectors of a class list: [n, D_t] for any, [C, n, D_t] where each class has its own."""
        if not self.config.class_specific or classnames == self.trained_classnames:
            return self.context
        unknown = [name for name in classnames if name not in self.trained_classnames]
        if unknown:
            raise UserError(
                f"Class {unknown[0]!r} has no context: class-specific vectors know the trained classes alone. "
                "Train with class_specific = false for other class lists."
            )
        return self.context[[self.trained_classnames.index(name) for name in classnames]]

    def encode_classes(self, bank: ClassState) -> TextState:
        assert isinstance(bank, ContextState)
        context = self.context_of(bank.classnames)
        return {"text": context_features(self.backbone, bank, context, self.engine)}

    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": F.cross_entropy(self.logits(vision, self.encode_classes(bank)), labels)}

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """`tau f.t`, the same for all classes: f is the frozen image feature."""
        return self.logit_scale * vision.frozen @ text["text"].T
