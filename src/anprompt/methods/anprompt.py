"""ANPrompt: anti-noise prompt tuning (arXiv 2508.04677).

    text    [SOS, a_1 .. a_K, "a photo of a", NAME, EOT]     anti-noise prompts, blocks J..L
    vision  [CLS, v_1 .. v_K, patches]                       anti-noise prompts, blocks J..L
                  `-- mean of the K outputs -> NRVPP

Noisy sentences -> weak-noise text features w -> K-means -> noise prompts N (fixed) -> projected and
added to learnable tokens R -> anti-noise prompts. `docs/method.md` walks through it equation by
equation. Two presets: `anprompt` (the paper's description) and `anprompt-snapshot` (what an early
public version of the authors' code computed; it is what the golden tensors check).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.data.names import spoken
from anprompt.errors import UserError, choices
from anprompt.methods.base import Gather, Head, Method, MethodConfig, Parts, TextState, itself
from anprompt.methods.layers import BlockLinear, SharedResidual, linear_init, prompted_blocks
from anprompt.methods.losses import cosine_alignment, wa_loss
from anprompt.methods.robust import Perturbed, RobustConfig, fused_logits, live_parts
from anprompt.methods.weak_noise import noise_prompts, weak_noise_features
from anprompt.noise.seeds import stable_seed
from anprompt.noise.text import DEFAULT_OPS, noisy_sentences
from anprompt.prompting.prompts import (
    ClassState,
    DeepTokens,
    ImageState,
    prompted_image,
    prompted_text,
    sentence_features,
    unit,
)


@dataclass(frozen=True)
class ANPromptConfig(RobustConfig):
    """Settings of ANPrompt; the values here are those of the `anprompt` preset.

    Attributes:
        n_tokens: K, prompt tokens per tower and number of K-means clusters.
        first_block, last_block: J and L, from 1; 0 means half of the depth, and the last block.
        token_width: d_r, width of the learnable tokens R.
        rank: of the per-block residual of the vision projection.
        projection_rank: of the residual of the NRVPP's projection.
        noise_tokens: "clustered" (noise prompts N in both towers) or "learned" (snapshot: a second
            learnable token set, vision only).
        noise_scale: c, share of the noise prompts in an anti-noise prompt.
        noisy: "perturbed" sentences or class "descriptions" as the source of h.
        noise_amount: a, share of noise in a weak-noise text feature.
        draws, noise_strength, noise_ops: noisy sentences per class, operator strength, and operators.
        beta: share of new tokens at later vision blocks.
        head_weight: s, weight of z against z_rep in loss and trained head.
        similarity_weight: lam, of both similarity losses.
        wa_weight: of the WALoss (1 in the paper).
        logit_scale: tau; 0 means the backbone's own.
        noise_jitter: length of the fresh noise that is added to the noise prompts in every training step.
    """

    n_tokens: int = 5
    first_block: int = 0
    last_block: int = 0
    token_width: int = 512
    rank: int = 4
    projection_rank: int = 64
    noise_tokens: str = "clustered"
    noise_scale: float = 0.2
    noisy: str = "perturbed"
    noise_amount: float = 0.1
    draws: int = 8
    noise_strength: int = 2
    noise_ops: tuple[str, ...] = ()
    beta: float = 0.9
    head_weight: float = 0.7
    similarity_weight: float = 2.0
    wa_weight: float = 1.0
    logit_scale: float = 0.0
    noise_jitter: float = 0.0

    later: ClassVar[tuple[str, ...]] = (*RobustConfig.later, "noise_jitter")

    def __post_init__(self) -> None:
        self.check_robust("ANPrompt")
        if self.noise_tokens not in ("clustered", "learned"):
            raise choices("noise_tokens", self.noise_tokens, ["clustered", "learned"])
        if self.noisy not in ("perturbed", "descriptions"):
            raise choices("noisy", self.noisy, ["perturbed", "descriptions"])
        for key in ("n_tokens", "token_width", "rank", "projection_rank", "draws"):
            if getattr(self, key) < 1:
                raise UserError(f"ANPrompt: {key} must be at least 1, not {getattr(self, key)}.")
        for key in ("beta", "head_weight"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise UserError(f"ANPrompt: {key} must lie in 0..1, not {getattr(self, key)}.")

    def noise_families(self) -> frozenset[str]:
        own = self.noise_ops or DEFAULT_OPS if self.noise_tokens == "clustered" else ()
        return super().noise_families() | frozenset(own)


class ANPrompt(Method[ANPromptConfig]):
    """ANPrompt on a frozen backbone."""

    name: ClassVar[str] = "anprompt"
    paper: ClassVar[str] = "arXiv 2508.04677"
    Config: ClassVar[type[MethodConfig]] = ANPromptConfig
    reads: ClassVar[Parts] = "trunk"
    splits: ClassVar[bool] = True

    def build(self, generator: torch.Generator) -> None:
        dims, c = self.backbone.dims, self.config
        self.first_block, last = prompted_blocks(c.first_block, c.last_block, (dims.text_depth, dims.vision_depth))
        blocks = last - self.first_block + 1
        clustered = c.noise_tokens == "clustered"
        noise_width = dims.embed if clustered else c.token_width
        self.tokens = nn.Parameter(0.02 * torch.randn(c.n_tokens, c.token_width, generator=generator))
        self.text_tokens = BlockLinear(c.token_width, dims.text_width, blocks, generator)
        self.vision_tokens = SharedResidual(c.token_width, dims.vision_width, blocks, c.rank, generator)
        self.vision_noise = BlockLinear(noise_width, dims.vision_width, blocks, generator)
        if clustered:
            self.text_noise = BlockLinear(noise_width, dims.text_width, blocks, generator)
            self.register_buffer("noise_prompts", torch.zeros(c.n_tokens, dims.embed))
        else:
            self.second_tokens = nn.Parameter(0.02 * torch.randn(c.n_tokens, c.token_width, generator=generator))
        self.projection_down = nn.Parameter(linear_init(dims.vision_width, c.projection_rank, generator))
        self.projection_up = nn.Parameter(torch.zeros(c.projection_rank, dims.embed))
        self._weak: Tensor | None = None
        self._jitter: Tensor | None = None
        self.perturbed = Perturbed(self, c)
        if c.frozen_share:
            self.reads = "both"  # type: ignore[misc]  # frozen features are asked for too

    # --- noise ----------------------------------------------------------------------------------
    def start(self) -> None:
        if self.config.noise_tokens == "clustered":
            self.noise_prompts = noise_prompts(self.weak_bank(), self.config.n_tokens, self.seed)

    @torch.no_grad()
    def weak_bank(self) -> Tensor:
        """Weak-noise text features of the training classes, [draws, C, E]; computed once, on first use."""
        if self._weak is None:
            names = self.trained_classnames
            clean = sentence_features(self.backbone, self.sentences(names))
            noisy = [self.noisy_sentences(name) for name in names]
            draws = len(noisy[0])
            h = sentence_features(self.backbone, [s for row in noisy for s in row], cut=True)
            h = h.view(len(names), draws, -1)
            self._weak = weak_noise_features(clean, h.transpose(0, 1), self.config.noise_amount)
        return self._weak

    def use_weak_bank(self, bank: Tensor) -> None:
        """Set the weak-noise bank [draws, C, E] instead of computing it (own sentences, parity tests)."""
        self._weak = bank

    def noisy_sentences(self, name: str) -> list[str]:
        """`draws` noisy sentences of one class: perturbed wordings, or its descriptions in turn."""
        c: Any = self.config
        if c.noisy == "perturbed":
            return noisy_sentences(
                self.template, spoken(name), draws=c.draws, strength=c.noise_strength,
                ops=c.noise_ops or None, seed=self.seed,
            )  # fmt: skip
        known = self.described(name)
        return [known[i % len(known)] for i in range(c.draws)]

    def jitter(self, step: int) -> None:
        """Fresh weak noise on the noise prompts for one step; the same for a step of the same number and seed."""
        generator = torch.Generator().manual_seed(stable_seed(self.seed, "jitter", step) % 2**63)
        fresh = unit(torch.randn(self.noise_prompts.shape, generator=generator)).to(self.noise_prompts)
        self._jitter = self.config.noise_jitter * fresh

    @property
    def noise_tokens(self) -> Tensor:
        """The noise prompts N, with a step's fresh noise while training."""
        return self.noise_prompts if self._jitter is None else self.noise_prompts + self._jitter

    # --- prompts --------------------------------------------------------------------------------
    def text_prompts(self) -> Tensor:
        """Anti-noise prompts of the text tower, `A_l R + c B_l N`, [blocks, K, D_t]."""
        prompts = self.text_tokens(self.tokens)
        if self.config.noise_tokens == "clustered":
            prompts = prompts + self.config.noise_scale * self.text_noise(self.noise_tokens)
        return prompts

    def vision_prompts(self) -> Tensor:
        """Anti-noise prompts of the vision tower, `(W + U_l V_l) R + b_l + c B'_l N`, [blocks, K, D_v]."""
        noise = self.noise_tokens if self.config.noise_tokens == "clustered" else self.second_tokens
        return self.vision_tokens(self.tokens) + self.config.noise_scale * self.vision_noise(noise)

    # --- features -------------------------------------------------------------------------------
    def encode_classes(self, bank: ClassState) -> TextState:
        hook = DeepTokens(list(self.text_prompts()), self.first_block)
        text = unit(prompted_text(self.backbone, bank, hook, self.config.n_tokens, self.engine))
        return {"text": text, "frozen": bank.frozen} if self.config.frozen_share else {"text": text}

    def image_features(self, vision: ImageState) -> tuple[Tensor, Tensor]:
        """Unit image features f and unit NRVPP p, both [B, E]."""
        hook = DeepTokens(list(self.vision_prompts()), self.first_block, self.config.beta)
        count = 1 + self.config.n_tokens
        x = prompted_image(self.backbone, vision, self.first_block, count, hook, self.engine)
        return unit(self.backbone.read_image(x)), unit(self.nrvpp(x))

    def embedding(self, vision: ImageState) -> Tensor:
        return self.image_features(vision)[0]

    def nrvpp(self, x: Tensor) -> Tensor:
        """`mean_k ln_post(x_k) @ (P + A B)`: output tokens [B, N, D_v] -> [B, E], not normalised."""
        projection = self.backbone.image_projection + self.projection_down @ self.projection_up
        outputs = self.backbone.post_norm(x[:, 1 : 1 + self.config.n_tokens])
        return (outputs @ projection.to(outputs.dtype)).mean(dim=1)

    def loss(
        self, vision: ImageState, labels: Tensor, bank: ClassState, step: int = 0, gather: Gather = itself
    ) -> dict[str, Tensor]:
        """`s CE(z) + (1-s) CE(z_rep) + lam (1-cos(f, f0)) + lam (1-cos(t, t0)) + WALoss`.

        The bank's draws take turns: step i uses draw i modulo draws.
        """
        c, tau = self.config, self.logit_scale
        weak = self.weak_bank()
        if c.noise_jitter:
            self.jitter(step)
        text = self.encode_classes(bank)["text"]
        image, prototype = self.image_features(vision)
        self._jitter = None
        z, z_rep = tau * image @ text.T, tau * prototype @ text.T
        z_weak = tau * prototype @ weak[step % len(weak)].T
        return {
            "ce": c.head_weight * F.cross_entropy(z, labels),
            "ce_rep": (1 - c.head_weight) * F.cross_entropy(z_rep, labels),
            "sim_image": c.similarity_weight * cosine_alignment(image, vision.frozen),
            "sim_text": c.similarity_weight * cosine_alignment(text, bank.frozen),
            "wa": c.wa_weight * wa_loss(z_weak, z, gather(z)),
            **live_parts(self.perturbed, step, image, z, labels, bank.frozen),
        }

    def logits(self, vision: ImageState, text: TextState, head: Head = "unseen") -> Tensor:
        """Unseen classes: z. Trained classes: `s z + (1 - s) z_rep`."""
        return fused_logits(self, *self.image_features(vision), vision, text, head)

    def logits_and_embedding(self, vision: ImageState, text: TextState) -> tuple[Tensor, Tensor]:
        image, prototype = self.image_features(vision)
        return fused_logits(self, image, prototype, vision, text, "trained"), image
