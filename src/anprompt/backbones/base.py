"""What a frozen dual encoder must offer so that any prompt method can be built on it.

Blocks count from 1, as in the papers. A *hook* sees the activations entering a block and may insert
or replace tokens; the identity hook must give the stock forward, bit for bit.

Position 0 of both towers is the start: CLIP's start-of-text and class tokens. A model that has none keeps
an empty place there, which nothing attends to, so that prompts stand at the same positions in every
backbone; on the image side the pooled feature is put into it after the last block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anprompt.utils.machine import align

Hook = Callable[[int, Tensor], Tensor]

# What a backbone may lack and a method may need (`Method.needs`), in words for the refusal.
CAPABILITIES = {
    "causal_text": "a text encoder with causal attention",
    "class_token": "an image encoder that reads its feature from a class token",
}


def identity_hook(block: int, x: Tensor) -> Tensor:
    """The hook that changes nothing: `x` [n, L, D] as it enters the `block`."""
    return x


@dataclass(frozen=True)
class Dims:
    """Sizes of a dual encoder: widths and `embed` in channels, depths in blocks, sizes in pixels."""

    text_width: int
    vision_width: int
    embed: int
    text_depth: int
    vision_depth: int
    context_length: int
    image_size: int
    patch_size: int


@dataclass(frozen=True)
class Tokens:
    """Sentences as the text encoder reads them.

    Attributes:
        ids: [n, L] token ids, L = the longest sentence (causal attention makes the rest pointless).
        eot: [n] position of the end-of-text token, where the feature is read.
    """

    ids: Tensor
    eot: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class BlockParts:
    """The modules of one pre-norm transformer block, for passes that need not compute all of it.

    `x + out(attention(q, k, v of norm1(x)))`, then `x + mlp(norm2(x))`; each maps [..., D] -> [..., D].
    """

    norm1: Callable[[Tensor], Tensor]
    q: Callable[[Tensor], Tensor]
    k: Callable[[Tensor], Tensor]
    v: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]
    norm2: Callable[[Tensor], Tensor]
    mlp: Callable[[Tensor], Tensor]
    heads: int


class Backbone(nn.Module, ABC):
    """A frozen CLIP-like model, block by block.

    Attributes:
        id: hub id, folder or "embedded".
        weight_hash: sha256 over the fp32 weights; adapters record it.
        activation: name of the MLP activation; adapters record it, a mismatch is refused.
        mean, std: per channel, for pixels in [0, 1].
        logit_scale: the model's own temperature, after exp.
        causal_text: no text position sees a later one. Where False, every position depends on every
            token, padding included, and the engine runs whole sentences.
        class_token: the image feature is read from one token. Where False it is pooled from all of them,
            so the last block runs whole.
    """

    causal_text: bool = True
    class_token: bool = True

    id: str
    weight_hash: str
    activation: str
    dims: Dims
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logit_scale: float

    def freeze(self) -> None:
        """No gradients, evaluation mode, weights at aligned addresses; called once by every loader."""
        self.eval()
        self.requires_grad_(False)
        align(self)

    def train(self, mode: bool = True) -> Backbone:
        """A frozen encoder has no training mode: dropout and statistics stay off."""
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    # --- text -----------------------------------------------------------------------------------
    def complete(self, tokens: Tokens) -> Tokens:
        """Sentences as they enter the encoder, `eot` the position where their feature is read.

        Causal attention needs no padding: as they are. Other encoders pad to the length they were
        trained with.
        """
        return tokens

    @abstractmethod
    def tokenize(self, sentences: Sequence[str], cut: bool = False) -> Tokens:
        """Token ids of the sentences, padded to the longest one.

        Args:
            cut: shorten a sentence that is too long instead of refusing it (its end token stays).

        Returns:
            Ids [n, L] and positions [n].

        Raises:
            UserError: a sentence has more tokens than the context length; the sentence is named.
        """

    @abstractmethod
    def embed_words(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions, [n, L] -> [n, L, D_t]."""

    @abstractmethod
    def text_positions(self, length: int) -> Tensor:
        """Position embeddings of the first `length` positions, [L, D_t]."""

    def embed_text(self, ids: Tensor) -> Tensor:
        """What enters block 1, [n, L] -> [n, L, D_t]."""
        return self.embed_words(ids) + self.text_positions(ids.shape[1])

    @abstractmethod
    def run_text(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        """Blocks `first`..`last` (None: to the end) on `x`, [n, L, D_t] -> [n, L', D_t]; `hook` sees what enters each."""

    @abstractmethod
    def read_text(self, x: Tensor, eot: Tensor) -> Tensor:
        """Final norm and projection of `x` [n, L, D_t] at the end-of-text positions `eot` [n]: [n, E], not normalised."""

    # --- vision ---------------------------------------------------------------------------------
    @abstractmethod
    def embed_image(self, pixels: Tensor) -> Tensor:
        """Class token and patches with positions, before the pre-norm: [B, 3, H, W] -> [B, 1 + P, D_v]."""

    @abstractmethod
    def pre_norm(self, x: Tensor) -> Tensor:
        """The norm between the embeddings and block 1, [B, N, D_v] -> the same (identity where a model has none)."""

    @abstractmethod
    def run_image(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        """Blocks `first`..`last` (None: to the end) on `x`, [B, N, D_v] -> [B, N', D_v]; `hook` sees what enters each."""

    @abstractmethod
    def post_norm(self, x: Tensor) -> Tensor:
        """The final norm, on any tokens [..., D_v]."""

    @property
    @abstractmethod
    def image_projection(self) -> Tensor:
        """The frozen projection P into the joint space, [D_v, E]."""

    def read_image(self, x: Tensor) -> Tensor:
        """Final norm and projection of the class token, [B, N, D_v] -> [B, E], not normalised."""
        return nn.functional.linear(self.post_norm(x[:, 0]), self.image_projection.T)

    # --- parts, for exact sharing -----------------------------------------------------------------
    @abstractmethod
    def text_parts(self, block: int) -> BlockParts:
        """The modules of text block `block` (from 1)."""

    @abstractmethod
    def vision_parts(self, block: int) -> BlockParts:
        """The modules of vision block `block` (from 1)."""

    # --- stock encoders -------------------------------------------------------------------------
    def encode_text(self, sentences: Sequence[str], cut: bool = False) -> Tensor:
        """Frozen text features of whole sentences, [n, E], not normalised; `cut` as in `tokenize`."""
        tokens = self.complete(self.tokenize(sentences, cut))
        return self.read_text(self.run_text(self.embed_text(tokens.ids)), tokens.eot)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Frozen image features, [B, E], not normalised."""
        return self.read_image(self.run_image(self.pre_norm(self.embed_image(pixels))))
