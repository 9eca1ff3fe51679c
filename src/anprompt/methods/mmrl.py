"""MMRL: multi-modal representation learning (arXiv 2503.08497).

    text    [SOS, t_1 .. t_K, words, NAME, ".", EOT]     blocks J..L, t_l = A_l R + b_l, read at EOT + K
    vision  [CLS, v_1 .. v_K, patches]                   blocks J..L, v_l = A'_l R + b'_l
             |     `-- mean of the K outputs, trained projection -> p, for trained classes
             `-------- frozen projection                         -> f, for all classes

One set of tokens R in a space of its own feeds both encoders. Generalisation is kept on the class token;
what is special to the task may go to the tokens' outputs, whose head unseen classes do not use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods.base import Head, Method, MethodConfig, Parts, TextState
from anprompt.methods.layers import BlockLinear, prompted_blocks
from anprompt.methods.losses import cosine_alignment
from anprompt.methods.robust import Perturbed, RobustConfig, fused_logits, live_parts
from anprompt.prompting.prompts import ClassState, DeepTokens, ImageState, prompted_image, prompted_text, unit


@dataclass(frozen=True)
class MMRLConfig(RobustConfig):
    """Settings of MMRL.

    Attributes:
        n_tokens: K, tokens per tower.
        first_block, last_block: J and L, from 1; 0 means half of the depth, and the last block.
        token_width: d_r, width of the shared tokens R.
        head_weight: alpha, weight of z against z_rep in loss and trained head.
        similarity_weight: lam, of both similarity losses.
        logit_scale: tau; 0 means the backbone's own.
    """

    n_tokens: int = 5
    first_block: int = 0
    last_block: int = 0
    token_width: int = 512
    head_weight: float = 0.7
    similarity_weight: float = 1.0
    logit_scale: float = 0.0

    def __post_init__(self) -> None:
        self.check_robust("MMRL")
        for key in ("n_tokens", "token_width"):
            if getattr(self, key) < 1:
                raise UserError(f"MMRL: {key} must be at least 1, not {getattr(self, key)}.")
        if not 0.0 <= self.head_weight <= 1.0:
            raise UserError(f"MMRL: head_weight must lie in 0..1, not {self.head_weight}.")


class MMRL(Method[MMRLConfig]):
    """MMRL on a frozen backbone."""

    name: ClassVar[str] = "mmrl"
    paper: ClassVar[str] = "arXiv 2503.08497"
    Config: ClassVar[type[MethodConfig]] = MMRLConfig
    reads: ClassVar[Parts] = "trunk"
    splits: ClassVar[bool] = True
    text_tokens: nn.Module
    vision_tokens: nn.Module
    beta: float = 1.0  # later blocks get their own tokens alone

    def build(self, generator: torch.Generator) -> None:
        dims, c = self.backbone.dims, self.config
        depths = (dims.text_depth, dims.vision_depth)
        self.first_block, last = prompted_blocks(c.first_block, c.last_block, depths)
        self.tokens = nn.Parameter(0.02 * torch.randn(c.n_tokens, c.token_width, generator=generator))
        self.perturbed = Perturbed(self, c)
        if c.frozen_share:
            self.reads = "both"  # type: ignore[misc]  # frozen features are asked for too
        self.add_projections(last - self.first_block + 1, generator)

    def add_projections(self, blocks: int, g: torch.Generator) -> None:
        """Trained maps from R into both towers, and from the vision tower into the joint space."""
        dims, width = self.backbone.dims, self.config.token_width
        self.text_tokens = BlockLinear(width, dims.text_width, blocks, g, starts=1)
        self.vision_tokens = BlockLinear(width, dims.vision_width, blocks, g, starts=1)
        self.projection = nn.Parameter(self.backbone.image_projection.detach().float().clone())

    def token_projection(self) -> Tensor:
        """The trained projection of the tokens' outputs, [D_v, E]; it starts as the frozen one."""
        return self.projection

    # --- features -------------------------------------------------------------------------------
    def encode_classes(self, bank: ClassState) -> TextState:
        hook = DeepTokens(list(self.text_tokens(self.tokens)), self.first_block, self.beta)
        text = unit(prompted_text(self.backbone, bank, hook, self.config.n_tokens, self.engine))
        return {"text": text, "frozen": bank.frozen} if self.config.frozen_share else {"text": text}

    def image_features(self, vision: ImageState) -> tuple[Tensor, Tensor]:
        """Unit class-token features f and unit token features p, both [B, E]."""
        hook = DeepTokens(list(self.vision_tokens(self.tokens)), self.first_block, self.beta)
        count = 1 + self.config.n_tokens
        x = prompted_image(self.backbone, vision, self.first_block, count, hook, self.engine)
        outputs = self.backbone.post_norm(x[:, 1:count])
        mean = (outputs @ self.token_projection().to(outputs.dtype)).mean(dim=1)
        return unit(self.backbone.read_image(x)), unit(mean)

    def embedding(self, vision: ImageState) -> Tensor:
        return self.image_features(vision)[0]

    # --- loss -----------------------------------------------------------------------------------
    def loss(self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0) -> dict[str, Tensor]:
        """`a CE(z) + (1-a) CE(z_rep) + lam (1-cos(f, f0)) + lam (1-cos(t, t0))`."""
        c: Any = self.config
        text = self.encode_classes(bank)["text"]
        image, tokens = self.image_features(vision)
        z, z_rep = self.logit_scale * image @ text.T, self.logit_scale * tokens @ text.T
        return {
            "ce": c.head_weight * F.cross_entropy(z, labels),
            "ce_rep": (1 - c.head_weight) * F.cross_entropy(z_rep, labels),
            "sim_image": c.similarity_weight * cosine_alignment(image, vision.frozen),
            "sim_text": c.similarity_weight * cosine_alignment(text, bank.frozen),
            **live_parts(self.perturbed, step, image, z, labels, bank.frozen),
        }

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """Unseen classes: z. Trained classes: `a z + (1 - a) z_rep`."""
        return fused_logits(self, *self.image_features(vision), vision, text, head)

    def logits_and_embedding(self, vision: ImageState, text: TextState) -> tuple[Tensor, Tensor]:
        image, tokens = self.image_features(vision)
        return fused_logits(self, image, tokens, vision, text, "trained"), image
