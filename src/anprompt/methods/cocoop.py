"""CoCoOp: conditional context optimisation (arXiv 2203.05557).

    text    [SOS, c_1 + m, .. c_n + m, NAME, ".", EOT]    m = meta_net(image), so once per picture
    vision  [CLS, patches]                                 stock CLIP

Because the context depends on the picture, so do the text features: every picture needs its own pass
of all classes through the text encoder. That is the method's price, in training and in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.backbones.base import Tokens
from anprompt.errors import UserError
from anprompt.methods.base import Descriptions, Head, Method, MethodConfig, Parts, TextState
from anprompt.methods.context import ContextState, context_start, context_state, context_words, contexts_features
from anprompt.methods.layers import linear
from anprompt.prompting.packing import pack
from anprompt.prompting.prompts import ClassState, ImageState


@dataclass(frozen=True)
class CoCoOpConfig(MethodConfig):
    """Settings of CoCoOp.

    Attributes:
        n_context: number of learned vectors; 0 means as many as `context_init` has tokens.
        context_init: words whose embeddings the vectors start from; empty for a random start.
        reduction: the meta-net's hidden width is the joint width divided by this.
    """

    n_context: int = 0
    context_init: str = "a photo of a"
    reduction: int = 16

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise UserError(f"CoCoOp: reduction must be at least 1, not {self.reduction}.")


class CoCoOp(Method[CoCoOpConfig]):
    """CoCoOp on a frozen backbone."""

    name: ClassVar[str] = "cocoop"
    paper: ClassVar[str] = "arXiv 2203.05557"
    Config: ClassVar[type[MethodConfig]] = CoCoOpConfig
    reads: ClassVar[Parts] = "frozen"
    reads_template: ClassVar[bool] = False
    splits: ClassVar[bool] = True

    def build(self, generator: torch.Generator) -> None:
        self.first_block = 1
        dims = self.backbone.dims
        self.words = context_words(self.backbone, self.config.context_init, self.config.n_context)
        self.context = nn.Parameter(
            context_start(self.backbone, self.config.context_init, self.config.n_context, generator)
        )
        hidden = max(1, dims.embed // self.config.reduction)
        self.meta_net = nn.Sequential(
            linear(dims.embed, hidden, generator), nn.ReLU(), linear(hidden, dims.text_width, generator)
        )

    def prepare(
        self,
        classnames: Sequence[str],
        sentences: Sequence[str] | None = None,
        descriptions: Descriptions | None = None,
    ) -> ContextState:
        """Sentences "c_1 .. c_n NAME.", before the vectors are filled in."""
        return context_state(self.backbone, classnames, self.words, len(self.context))

    def encode_classes(self, bank: ClassState) -> TextState:
        """No features yet: what `logits` needs to make them for each picture."""
        assert isinstance(bank, ContextState)
        return {"prefix": bank.prefix, "rows": bank.rows, "ids": bank.tokens.ids, "eot": bank.tokens.eot,
                "slots": bank.slots}  # fmt: skip

    def text_features(self, vision: ImageState, text: TextState) -> Tensor:
        """Unit text features per picture, [B, C, E]."""
        tokens = Tokens(text["ids"], text["eot"])
        packing = pack(tokens, text["prefix"].shape[1], merge=self.backbone.causal_text)  # as `context_state` did
        nothing = text["prefix"].new_zeros(len(tokens), 0)
        bank = ContextState(
            (), tokens, text["prefix"], text["rows"], packing, nothing, 1,
            text["slots"], True,
        )  # fmt: skip
        shifts = self.meta_net(vision.frozen.to(self.context.dtype))
        return contexts_features(self.backbone, bank, self.context + shifts[:, None], self.engine)

    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {"ce": F.cross_entropy(self.logits(vision, self.encode_classes(bank)), labels)}

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """`tau f.t(f)`: each picture against text features of its own."""
        return self.logit_scale * torch.einsum("be,bce->bc", vision.frozen, self.text_features(vision, text))
