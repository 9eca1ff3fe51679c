"""IVLP: independent prompts in both towers (the baseline of MaPLe, arXiv 2210.03117, table 1, and of PromptSRC).

    text    [SOS, t_1 .. t_n, words, NAME, ".", EOT]     blocks 1..D, each with its own t
    vision  [CLS, patches, v_1 .. v_m]                   blocks 1..D, each with its own v

With n = 0 sentences stay as they are and the vision tower alone is prompted: deep visual prompts (VPT, arXiv
2203.12119), which is the preset `vpt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.backbones.base import Hook
from anprompt.data.names import spoken
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
from anprompt.prompting.prompts import ClassState, ImageState, class_state


@dataclass(frozen=True)
class IVLPConfig(MethodConfig):
    """Settings of IVLP.

    Attributes:
        n_text, n_vision: n and m, prompt tokens per block in each tower; 0 leaves a tower as it is.
        context_init: words before the class name; the first n are replaced. Empty for a random start.
        depth: D, number of prompted blocks; 0 means three quarters of the towers (9 of 12).
    """

    n_text: int = 2
    n_vision: int = 2
    context_init: str = "a photo of a"
    depth: int = 0

    def __post_init__(self) -> None:
        for key in ("n_text", "n_vision"):
            if getattr(self, key) < 0:
                raise UserError(f"IVLP: {key} must be at least 0, not {getattr(self, key)}.")
        if not self.n_text and not self.n_vision:
            raise UserError("IVLP: n_text and n_vision are both 0, so nothing would be trained.")


class IVLP(Method[IVLPConfig]):
    """Independent vision and language prompts on a frozen backbone."""

    name: ClassVar[str] = "ivlp"
    paper: ClassVar[str] = "arXiv 2210.03117"
    Config: ClassVar[type[MethodConfig]] = IVLPConfig
    reads: ClassVar[Parts] = "trunk"
    reads_template: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def build(self, generator: torch.Generator) -> None:
        self.first_block = 1
        dims, c = self.backbone.dims, self.config
        self.depth = prompt_depth(c.depth, (dims.text_depth, dims.vision_depth))
        if c.n_text:
            self.words = context_words(self.backbone, c.context_init, c.n_text)
            first = context_start(self.backbone, c.context_init, c.n_text, generator)
            deeper = 0.02 * torch.randn(self.depth - 1, c.n_text, dims.text_width, generator=generator)
            self.text_prompts = nn.Parameter(torch.cat([first[None].cpu(), deeper]))
        start = 0.02 * torch.randn(self.depth, c.n_vision, dims.vision_width, generator=generator)
        if c.n_vision:
            self.vision_prompts = nn.Parameter(start)
        else:
            self.register_buffer("vision_prompts", start, persistent=False)  # [D, 0, D_v]: nothing to train or keep
        self.add_parts(generator)

    def add_parts(self, generator: torch.Generator) -> None:
        """Further trained tensors of a method that builds on this one."""

    # --- features -------------------------------------------------------------------------------
    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ClassState:
        """Sentences "a photo of a NAME.", before the vectors are filled in; as they are without text prompts."""
        if self.config.n_text:
            return context_state(self.backbone, classnames, self.words, self.config.n_text)
        lines = [f"{self.config.context_init} {spoken(name)}.".strip() for name in classnames]
        return class_state(self.backbone, classnames, lines, 1)

    def image_state(self, pixels: Tensor, parts: Parts = "both") -> ImageState:
        """Patch embeddings [B, P + 1, D_v]: prompts enter at block 1; frozen features [B, E] for losses that want them."""
        return see_embedding(self.backbone, pixels, frozen=parts != "trunk")

    def encode_classes(self, bank: ClassState) -> TextState:
        if not isinstance(bank, ContextState):
            return {"text": bank.frozen}
        return {"text": context_features(self.backbone, bank, self.text_prompts[0], self.engine, self.text_hook())}

    def text_hook(self) -> Hook:
        """What deeper text blocks get."""
        return DeepContext(self.text_prompts[1:])

    def vision_hook(self) -> Hook:
        """What deeper vision blocks get."""
        return DeepContext(self.vision_prompts[1:], last=True)

    def image_features(self, vision: ImageState) -> Tensor:
        """Unit prompted image features [B, E]."""
        return image_features(self.backbone, vision, self.vision_prompts, self.engine, self.vision_hook())

    def embedding(self, vision: ImageState) -> Tensor:
        return self.image_features(vision)

    # --- loss -----------------------------------------------------------------------------------
    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": F.cross_entropy(self.logits(vision, self.encode_classes(bank)), labels)}

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """`tau f.t`, the same for all classes."""
        return self.logit_scale * self.image_features(vision) @ text["text"].T
