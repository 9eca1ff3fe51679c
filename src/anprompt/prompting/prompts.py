"""Splicing prompt tokens into the frozen encoders: the one engine all methods use.

Token sequences:

    text    [SOS, p_1 .. p_K, words ..., EOT]      causal, feature read at EOT + K
    vision  [CLS, p_1 .. p_K, patch_1 .. patch_P]

Blocks below the first prompted one see no prompt: their output is constant per class list (text) or
per picture (vision) and is computed without gradient, once.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.backbones.base import Backbone, Hook, Tokens, identity_hook
from anprompt.errors import choices
from anprompt.prompting.packing import Packing, pack
from anprompt.prompting.shared_text import read_text_shared, run_image_read, run_text_shared
from anprompt.utils.byte_cache import ByteCache
from anprompt.utils.machine import products
from anprompt.utils.renamed import renamed_names

ENGINES = ("shared", "plain")
SENTENCES = 512  # distinct sentences encoded at a time
KEPT_BYTES = 32 << 20  # of frozen text features, for each backbone

_kept: weakref.WeakKeyDictionary[Backbone, ByteCache[tuple[Any, ...], Tensor]] = weakref.WeakKeyDictionary()


def unit(x: Tensor) -> Tensor:
    """Rows scaled to length 1, in fp32 (features of half-precision passes are compared in full)."""
    return F.normalize(x.float(), dim=-1)


def insert_after_first(x: Tensor, tokens: Tensor) -> Tensor:
    """[B, N, D] with [K, D] or [B, K, D] tokens -> [B, N + K, D], tokens after position 0."""
    # `x.shape[0]`, not `len(x)`: a whole number would fix the batch size in a traced graph (export).
    tokens = tokens.to(x.dtype).expand(x.shape[0], -1, -1)
    return torch.cat([x[:, :1], tokens, x[:, 1:]], dim=1)


def blend_after_first(x: Tensor, tokens: Tensor, beta: float = 1.0) -> Tensor:
    """Positions 1..K become `beta * tokens + (1 - beta) * what stood there`; beta = 1 replaces."""
    count = tokens.shape[-2]
    tokens = tokens.to(x.dtype).expand(x.shape[0], -1, -1)
    if beta != 1.0:
        tokens = beta * tokens + (1.0 - beta) * x[:, 1 : 1 + count]
    return torch.cat([x[:, :1], tokens, x[:, 1 + count :]], dim=1)


class DeepTokens:
    """A backbone hook: tokens inserted at block `first`, blended in at each later one.

    Args:
        tokens: one [K, D] tensor per prompted block, from `first` on.
        first: number of the first prompted block, from 1.
        beta: share of the new tokens at later blocks (1 = replace; MMRL++ and ANPrompt's vision 0.9).
    """

    def __init__(self, tokens: Sequence[Tensor], first: int, beta: float = 1.0) -> None:
        self.tokens, self.first, self.beta = tokens, first, beta

    def __call__(self, block: int, x: Tensor) -> Tensor:
        index = block - self.first
        if index == 0:
            return insert_after_first(x, self.tokens[0])
        if 0 < index < len(self.tokens):
            return blend_after_first(x, self.tokens[index], self.beta)
        return x


@dataclass(frozen=True)
class ClassState:
    """The constants of a class list under one backbone; nothing here depends on trained tensors.

    Activations entering block `first` are held once for the positions all sentences share, and without
    padding for the others.

    Attributes:
        tokens: the sentences' ids [C, L] and end-of-text positions [C].
        prefix: activations of the shared positions, [1, M, D_t].
        rows: those of the packed suffixes, [1, R, D_t].
        packing: where the rows come from.
        frozen: unit features of the frozen text encoder, [C, E].
    """

    classnames: tuple[str, ...]
    tokens: Tokens
    prefix: Tensor
    rows: Tensor
    packing: Packing
    frozen: Tensor
    first: int

    @property
    def shared(self) -> int:
        """M, the number of leading positions that are equal in all sentences."""
        return self.packing.shared

    @property
    def trunk(self) -> Tensor:
        """Whole sentences' activations entering block `first`, [C, L, D_t] (made on request)."""
        return self.packing.unpack(self.prefix, self.rows, self.tokens.ids.shape[1])


@dataclass(frozen=True)
class ImageState:
    """What the frozen vision encoder knows of a batch.

    Attributes:
        trunk: activations entering the first prompted block, [B, N, D_v].
        frozen: unit features of the frozen image encoder, [B, E]; [B, 0] where not asked for.
    """

    trunk: Tensor
    frozen: Tensor


@torch.no_grad()
def class_state(
    backbone: Backbone, classnames: Sequence[str], sentences: Sequence[str], first: int, cut: bool = False
) -> ClassState:
    """Text trunk and frozen features of one sentence per class, split before block `first`; `cut` as in `tokenize`."""
    tokens = backbone.complete(backbone.tokenize(sentences, cut))
    if not backbone.causal_text:
        return _whole_bank(backbone, classnames, tokens, first)
    packing = pack(tokens, merge=True)  # prompts enter among the shared positions alone
    prefix, rows = packing.pack(backbone.embed_text(tokens.ids))
    prefix, rows = run_text_shared(backbone, prefix, rows, packing, 1, first - 1)
    frozen = read_text_shared(backbone, prefix, rows, packing, first)[0]
    return ClassState(tuple(classnames), tokens, prefix, rows, packing, unit(frozen), first)


def _whole_bank(backbone: Backbone, classnames: Sequence[str], tokens: Tokens, first: int) -> ClassState:
    """The bank where every position depends on every token: nothing is shared, padding is kept."""
    trunk = backbone.run_text(backbone.embed_text(tokens.ids), 1, first - 1)
    frozen = backbone.read_text(backbone.run_text(trunk, first), tokens.eot)
    packing = pack(tokens, shared=0)
    return ClassState(tuple(classnames), tokens, *packing.pack(trunk), packing, unit(frozen), first)


def to_pixels(pixels: Tensor) -> torch.set_grad_enabled:
    """Within: gradients through the frozen encoder only where the pixels themselves ask for them (attacks do).

    Everything else that the encoder says of an image is a constant.
    """
    return torch.set_grad_enabled(torch.is_grad_enabled() and pixels.requires_grad)


def see(backbone: Backbone, pixels: Tensor, first: int, frozen: bool = True) -> ImageState:
    """Vision trunk and frozen features, the blocks below `first` computed once for both.

    Args:
        pixels: [B, 3, H, W]; where they require a gradient, it flows through.
        frozen: False leaves the frozen features out ([B, 0]), and with them the blocks from `first` on.
    """
    with to_pixels(pixels):
        trunk = backbone.run_image(backbone.pre_norm(backbone.embed_image(pixels)), 1, first - 1)
        if not frozen:
            return ImageState(trunk, trunk.new_zeros(trunk.shape[0], 0))
        return ImageState(trunk, unit(backbone.read_image(run_image_read(backbone, trunk, first, 1))))


def prompted_text(backbone: Backbone, bank: ClassState, hook: Hook, inserted: int, engine: str = "shared") -> Tensor:
    """Text features under a hook that inserts `inserted` tokens after the start token: [C, E], raw.

    Args:
        engine: "shared" computes what the sentences have in common once; "plain" runs whole sequences,
            as either does where text attention is not causal.
    """
    if engine not in ENGINES:
        raise choices("engine", engine, ENGINES)
    if engine == "shared" and backbone.causal_text:
        return read_text_shared(backbone, bank.prefix, bank.rows, bank.packing, bank.first, hook)[0]
    return backbone.read_text(backbone.run_text(bank.trunk, bank.first, hook=hook), bank.tokens.eot + inserted)


def prompted_image(
    backbone: Backbone, vision: ImageState, first: int, count: int, hook: Hook = identity_hook, engine: str = "shared"
) -> Tensor:
    """The first `count` output tokens under a hook, before the final norm: [B, count, D_v].

    Args:
        count: 1 + K: the class token and the prompt tokens after it.
        engine: "shared" computes the last block only at those positions; "plain" runs all of it.
    """
    if engine not in ENGINES:
        raise choices("engine", engine, ENGINES)
    if engine == "shared":
        return run_image_read(backbone, vision.trunk, first, count, hook)
    return backbone.run_image(vision.trunk, first, hook=hook)[:, :count]


@torch.no_grad()
def frozen_features(backbone: Backbone, sentences: Sequence[str], cut: bool = False, chunk: int = SENTENCES) -> Tensor:
    """Frozen features of many sentences, [n, E], not normalised; equal ones and equal beginnings are computed once.

    The last lists' features are kept with the backbone: runs on one list of classes ask for the same ones again.

    Args:
        cut: shorten sentences that exceed the context length (noise makes them longer) instead of
            refusing them.
        chunk: distinct sentences at a time, so that memory does not grow with their number.
    """
    text = hashlib.sha256("\0".join([str(cut), *sentences]).encode("utf-8", "surrogatepass")).hexdigest()
    weights = sum(parameter._version for parameter in backbone.parameters())  # rises with every change in place
    key = (text, weights, products(), str(backbone.device), backbone.dtype)
    kept = _kept.setdefault(backbone, ByteCache(KEPT_BYTES))
    found = kept.get(key)
    if found is None:
        found = _distinct_features(backbone, backbone.tokenize(sentences, cut), chunk)
        kept.put(key, found, found.numel() * found.element_size())
    return found


def _distinct_features(backbone: Backbone, tokens: Tokens, chunk: int) -> Tensor:
    # In the order of their ids those that begin alike stand together.
    rows, which = torch.cat([tokens.ids, tokens.eot[:, None]], dim=1).unique(dim=0, return_inverse=True)
    parts = []
    for ids, eot in zip(rows[:, :-1].split(chunk), rows[:, -1].split(chunk)):
        parts.append(_encoded(backbone, Tokens(ids[:, : int(eot.max()) + 1], eot)))
    return torch.cat(parts)[which]


def _encoded(backbone: Backbone, tokens: Tokens) -> Tensor:
    """Raw features of distinct sentences in the order of their ids."""
    if not backbone.causal_text:
        tokens = backbone.complete(tokens)
        return backbone.read_text(backbone.run_text(backbone.embed_text(tokens.ids)), tokens.eot)
    packing = pack(tokens, merge=True)
    prefix, rows = packing.pack(backbone.embed_text(tokens.ids))
    return read_text_shared(backbone, prefix, rows, packing, 1)[0]


def sentence_features(backbone: Backbone, sentences: Sequence[str], cut: bool = False) -> Tensor:
    """Unit frozen features of many sentences, [n, E]; see `frozen_features`."""
    return unit(frozen_features(backbone, sentences, cut))


@torch.no_grad()
def ensemble_features(backbone: Backbone, sentences: Sequence[Sequence[str]], *, unit_first: bool = True) -> Tensor:
    """One unit frozen feature per class, the mean over the class's sentences: [C, E].

    Args:
        sentences: per class, in any number.
        unit_first: average unit features (template ensembles), or raw ones (PromptSRC's teacher).
    """
    features = frozen_features(backbone, [sentence for row in sentences for sentence in row]).float()
    features = unit(features) if unit_first else features
    return unit(torch.stack([rows.mean(dim=0) for rows in features.split([len(row) for row in sentences])]))


def __getattr__(name: str) -> Any:
    return renamed_names(__name__, name, {"Vision": ImageState, "ClassBank": ClassState, "class_bank": class_state})
