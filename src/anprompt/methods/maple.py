"""MaPLe: multi-modal prompt learning (arXiv 2210.03117).

    text    [SOS, t_1 .. t_n, words, NAME, ".", EOT]     blocks 1..D, each with its own t
    vision  [CLS, patches, v_1 .. v_n]                   blocks 1..D, v_l = A_l t_l + b_l

The text prompts of every block are projected to the prompts of the same vision block, which couples
the two encoders. The first ones take the place of the first n words of "a photo of a".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import Descriptions, Head, Method, MethodConfig, Parts, TextState
from anprompt.methods.context import (
    ContextState,
    DeepContext,
    context_features,
    context_start,
    context_state,
    context_words,
    image_features,
    prompt_depth,
    see_embedding,
)
from anprompt.methods.layers import BlockLinear
from anprompt.prompting.prompts import ClassState, ImageState


@dataclass(frozen=True)
class MaPLeConfig(MethodConfig):
    """Settings of MaPLe.

    Attributes:
        n_context: n, prompt tokens per block and tower.
        context_init: words before the class name; the first n are replaced. Empty for a random start.
        depth: D, number of prompted blocks; 0 means three quarters of the towers (9 of 12).
    """

    n_context: int = 2
    context_init: str = "a photo of a"
    depth: int = 0

    def __post_init__(self) -> None:
        if self.n_context < 1:
            raise UserError(f"MaPLe: n_context must be at least 1, not {self.n_context}.")


class MaPLe(Method[MaPLeConfig]):
    """MaPLe on a frozen backbone."""

    name: ClassVar[str] = "maple"
    paper: ClassVar[str] = "arXiv 2210.03117"
    Config: ClassVar[type[MethodConfig]] = MaPLeConfig
    reads: ClassVar[Parts] = "trunk"
    reads_template: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def build(self, generator: torch.Generator) -> None:
        self.first_block = 1
        dims = self.backbone.dims
        depth = prompt_depth(self.config.depth, (dims.text_depth, dims.vision_depth))
        self.words = context_words(self.backbone, self.config.context_init, self.config.n_context)
        first = context_start(self.backbone, self.config.context_init, self.config.n_context, generator)
        deeper = 0.02 * torch.randn(depth - 1, self.config.n_context, dims.text_width, generator=generator)
        # One tensor for all blocks: lists of parameters get lost when a module is copied to devices.
        self.text_prompts = nn.Parameter(torch.cat([first[None].cpu(), deeper]))
        self.to_vision = BlockLinear(dims.text_width, dims.vision_width, depth, generator, starts=2)

    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ContextState:
        """Sentences "a photo of a NAME.", before the vectors are filled in."""
        return context_state(self.backbone, classnames, self.words, self.config.n_context)

    def image_state(self, pixels: Tensor, parts: Parts = "both") -> ImageState:
        """Patch embeddings [B, P + 1, D_v]: prompts enter at block 1, and no loss reads frozen features."""
        return see_embedding(self.backbone, pixels, frozen=False)

    def encode_classes(self, bank: ClassState) -> TextState:
        assert isinstance(bank, ContextState)
        hook = DeepContext(self.text_prompts[1:])
        return {"text": context_features(self.backbone, bank, self.text_prompts[0], self.engine, hook)}

    def image_features(self, vision: ImageState) -> Tensor:
        """Unit image features [B, E] under the projected prompts."""
        return image_features(self.backbone, vision, self.to_vision(self.text_prompts), self.engine)

    def embedding(self, vision: ImageState) -> Tensor:
        return self.image_features(vision)

    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": F.cross_entropy(self.logits(vision, self.encode_classes(bank)), labels)}

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """`tau f.t`, the same for all classes."""
        return self.logit_scale * self.image_features(vision) @ text["text"].T
