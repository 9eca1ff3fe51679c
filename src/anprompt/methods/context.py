"""Learned vectors in place of words and behind patches: what CoOp, CoCoOp, MaPLe and PromptSRC share.

    text    [SOS, c_1 .. c_n, (words,) NAME, ".", EOT]     c_i take the places of words, with their positions
    vision  [CLS, patch_1 .. patch_P, p_1 .. p_n]          p_i join after the positions, before the pre-norm

These prompts enter at block 1, so the constants of a class list or a picture are embeddings. Deeper
prompts replace what stands at the same places when a later block is entered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anprompt.backbones.base import Backbone, Hook, Tokens, identity_hook
from anprompt.data.names import spoken
from anprompt.errors import UserError, choices
from anprompt.prompting.packing import pack, shared_length
from anprompt.prompting.prompts import (
    ClassState,
    ImageState,
    blend_after_first,
    prompted_image,
    prompted_text,
    to_pixels,
    unit,
)
from anprompt.prompting.shared_text import read_text_shared

POSITIONS = ("end", "middle", "front")


@dataclass(frozen=True)
class ContextState(ClassState):
    """A class list whose sentences have places for learned vectors.

    `prefix` and `rows` hold embeddings with positions; `frozen` is empty, [C, 0], unless a method fills it.

    Attributes:
        slots: positions of the learned vectors in each sentence, [C, n].
        leading: the slots are the same in all sentences and lie within the shared positions.
    """

    slots: Tensor
    leading: bool


# --- words ----------------------------------------------------------------------------------------
def context_words(backbone: Backbone, words: str, count: int) -> list[int]:
    """Token ids that stand before the class name: those of `words`, or `count` placeholders.

    Raises:
        UserError: fewer words than vectors, or neither words nor a count.
    """
    if not words:
        if count < 1:
            raise UserError("n_context must be at least 1 where context_init gives no words.")
        return [int(backbone.tokenize(["x"]).ids[0, 1])] * count
    tokens = backbone.tokenize([words])
    ids = tokens.ids[0, 1 : int(tokens.eot)].tolist()
    if not 0 <= count <= len(ids):
        raise UserError(
            f"context_init {words!r} has {len(ids)} tokens, but n_context is {count}; "
            "give more words, 0 for all of them, or context_init = '' for a random start."
        )
    return ids


def context_start(backbone: Backbone, words: str, count: int, generator: torch.Generator) -> Tensor:
    """First values of the vectors, [n, D_t]: embeddings of the first n words (0: all), or normal 0.02."""
    if not words:
        return 0.02 * torch.randn(count, backbone.dims.text_width, generator=generator)
    ids = context_words(backbone, words, count)
    with torch.no_grad():
        return backbone.embed_words(torch.tensor(ids[: count or None], device=backbone.device)).float().clone()


@torch.no_grad()
def context_state(
    backbone: Backbone, classnames: Sequence[str], words: Sequence[int], count: int, position: str = "end"
) -> ContextState:
    """Constants of "WORDS NAME." (position "end"), "WORDS NAME WORDS." or "NAME WORDS.".

    Args:
        words: token ids; the first `count` of them are places for learned vectors.

    Raises:
        UserError: unknown position, or a sentence longer than the text encoder reads.
    """
    if position not in POSITIONS:
        raise choices("class_position", position, POSITIONS)
    names = [spoken(name) for name in classnames]
    tokens = backbone.tokenize([f"{name}." for name in names])
    lengths = (backbone.tokenize(names).eot - 1).tolist()
    words = list(words)
    before = {"end": len(words), "middle": len(words) // 2, "front": 0}[position]
    rows, slots = [], []
    for row, length in zip(tokens.ids.tolist(), lengths):
        name = row[1 : 1 + length]
        rows.append(row[:1] + words[:before] + name + words[before:] + row[1 + length :])
        after = range(1 + before + length, 1 + len(words) + length)
        slots.append([*range(1, 1 + before), *after][:count])
    limit = backbone.dims.context_length
    if len(rows[0]) > limit:
        longest = names[int(tokens.eot.argmax())]
        raise UserError(f"Class {longest!r} with {len(words)} context tokens exceeds {limit} tokens; shorten the name.")
    filled = backbone.complete(Tokens(torch.tensor(rows, device=backbone.device), tokens.eot + len(words)))
    leading = all(row == slots[0] for row in slots) and max(slots[0]) < shared_length(filled)
    packing = pack(filled, merge=leading and backbone.causal_text)
    prefix, packed = packing.pack(backbone.embed_text(filled.ids))
    return ContextState(
        tuple(classnames), filled, prefix, packed, packing, prefix.new_zeros(len(rows), 0), 1,
        torch.tensor(slots, device=backbone.device), leading,
    )  # fmt: skip


# --- text -----------------------------------------------------------------------------------------
def fill_context(backbone: Backbone, bank: ContextState, context: Tensor) -> ContextState:
    """The bank with learned vectors at their places: [n, D_t] for all classes, or [C, n, D_t]."""
    if context.dim() == 2 and bank.leading:
        return dataclasses.replace(bank, prefix=fill_prefix(backbone, bank, context[None]))
    positions = backbone.text_positions(bank.tokens.ids.shape[1])[bank.slots]
    vectors = (context + positions).to(bank.prefix.dtype)
    where = bank.slots[..., None].expand_as(vectors)
    # Vectors of its own for each class: then only the start token is common to all sentences.
    packing = bank.packing if context.dim() == 2 else pack(bank.tokens, shared=1)
    prefix, rows = packing.pack(bank.trunk.scatter(1, where, vectors))
    return dataclasses.replace(bank, prefix=prefix, rows=rows, packing=packing)


def fill_prefix(backbone: Backbone, bank: ContextState, contexts: Tensor) -> Tensor:
    """The shared beginning with learned vectors in it, one for each of B contexts: [B, n, D_t] -> [B, M, D_t]."""
    places = bank.slots[0]
    vectors = (contexts + backbone.text_positions(bank.shared)[places]).to(bank.prefix.dtype)
    return bank.prefix.expand(len(contexts), -1, -1).index_copy(1, places, vectors)


def contexts_features(backbone: Backbone, bank: ContextState, contexts: Tensor, engine: str) -> Tensor:
    """Unit text features under each of B contexts [B, n, D_t]: [B, C, E]."""
    if engine != "shared" or not bank.leading or not backbone.causal_text:
        return torch.stack([context_features(backbone, bank, context, engine) for context in contexts])
    prefix = fill_prefix(backbone, bank, contexts)
    return unit(read_text_shared(backbone, prefix, bank.rows, bank.packing, bank.first))


def context_features(
    backbone: Backbone, bank: ContextState, context: Tensor, engine: str, hook: Hook = identity_hook
) -> Tensor:
    """Unit text features with learned vectors at block 1 and a hook for deeper ones, [C, E]."""
    return unit(prompted_text(backbone, fill_context(backbone, bank, context), hook, 0, engine))


class DeepContext:
    """A backbone hook: at blocks 2.. the prompts' positions get that depth's own tokens.

    Args:
        tokens: [depth - 1, n, D], for blocks 2..depth.
        last: the prompts stand at the last n positions (vision) instead of 1..n (text).
    """

    def __init__(self, tokens: Tensor, last: bool = False) -> None:
        self.tokens, self.last = tokens, last

    def __call__(self, block: int, x: Tensor) -> Tensor:
        if not 2 <= block < 2 + len(self.tokens):
            return x
        tokens = self.tokens[block - 2]
        if not self.last:
            return blend_after_first(x, tokens)
        return append_tokens(x[:, : x.shape[1] - len(tokens)], tokens)


# --- vision ---------------------------------------------------------------------------------------
def append_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """[B, N, D] with [n, D] tokens -> [B, N + n, D], tokens last."""
    return torch.cat([x, tokens.to(x.dtype).expand(x.shape[0], -1, -1)], dim=1)


def see_embedding(backbone: Backbone, pixels: Tensor, frozen: bool) -> ImageState:
    """Patch embeddings before the pre-norm as trunk; frozen features where asked for, else [B, 0]."""
    with to_pixels(pixels):
        x = backbone.embed_image(pixels)
        if not frozen:
            return ImageState(x, x.new_zeros(x.shape[0], 0))
        whole = ImageState(backbone.pre_norm(x), x)
        return ImageState(x, unit(backbone.read_image(prompted_image(backbone, whole, 1, 1))))


def image_features(
    backbone: Backbone, vision: ImageState, prompts: Tensor, engine: str, hook: Hook | None = None
) -> Tensor:
    """Unit image features [B, E] with prompts [depth, n, D_v] behind the patches, one set a block.

    Args:
        hook: what blocks from 2 on get; None for the prompts alone.
    """
    x = backbone.pre_norm(append_tokens(vision.trunk, prompts[0]))
    hook = DeepContext(prompts[1:], last=True) if hook is None else hook
    return unit(backbone.read_image(prompted_image(backbone, ImageState(x, vision.frozen), 1, 1, hook, engine)))


def prompt_depth(depth: int, depths: Sequence[int]) -> int:
    """Number of prompted blocks from block 1 on; 0 stands for three quarters of the shallower tower.

    Raises:
        UserError: deeper than a tower.
    """
    most = min(depths)
    depth = depth or max(1, 3 * most // 4)
    if not 1 <= depth <= most:
        raise UserError(f"Prompt depth {depth} does not fit a backbone of {most} blocks.")
    return depth
