"""Exact sharing: the same features for less work (docs/speed.md, docs/architecture.md "Sharing").

Text attention is causal, so whatever stands before the first position in which two class sentences
differ (start token, prompt tokens, the template's words) has the same activations for every class: it
is computed once, and the classes attend to its keys and values. Nothing after end-of-text matters:
suffixes are packed without padding (`packing.py`). The last block is computed only where a feature is
read. Every function here has a parity test against the plain pass, outputs and gradients.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from anprompt.backbones.base import Backbone, BlockParts, Hook, identity_hook
from anprompt.prompting.packing import Packing, Part, with_prefix

Past = tuple[Tensor, Tensor]  # keys and values of the prefix, [B, heads, M, d] each

# Rows a pass handles at a time. On a CPU, activations of this size stay in the caches and are served
# from memory the process already has; an accelerator wants large products.
ROWS = {"cpu": 1024}
ROWS_ELSEWHERE = 1 << 16
# Activations kept per row and block for the backward pass, in units of the width (an upper estimate).
SAVED_PER_ROW = 16

_saved_bytes: contextvars.ContextVar[int] = contextvars.ContextVar("saved_bytes", default=2 << 30)


@contextlib.contextmanager
def text_memory(limit: int) -> Iterator[None]:
    """Within: keep at most about `limit` bytes of text activations for the backward pass.

    Where a step needs more, classes are computed in parts and each part once more in the backward pass;
    results are equal. The default is 2 GiB.
    """
    token = _saved_bytes.set(limit)
    try:
        yield
    finally:
        _saved_bytes.reset(token)


def saved_bytes() -> int:
    """The limit that holds here, see `text_memory`."""
    return _saved_bytes.get()


@dataclass(frozen=True)
class Heads:
    """Reshapes between [n, L, D] and attention's [n, heads, L, D / heads]."""

    count: int

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.count, -1)).transpose(-3, -2)

    def join(self, x: Tensor) -> Tensor:
        return x.transpose(-3, -2).flatten(-2)


def _rest_of_block(parts: BlockParts, x: Tensor, attended: Tensor) -> Tensor:
    """What follows attention in a pre-norm block: residual, norm, MLP, residual."""
    x = x + parts.out(attended)
    return x + parts.mlp(parts.norm2(x))


def _before(past: Tensor, own: Tensor) -> Tensor:
    """Prefix keys (or values) [B, h, M, d] in front of each tile's own [B * tiles, h, T, d]."""
    tiles = len(own) // len(past)
    return torch.cat([past[:, None].expand(-1, tiles, -1, -1, -1).flatten(0, 1), own], dim=2)


def _over_tiles(heads: Heads, past: Past, query: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of [B, tiles * n, D] queries over the prefix and over the rows [B, tiles * T, D] of their tile."""
    count, width = len(query) * len(mask), query.shape[-1]
    q, k, v = (heads.split(x.reshape(count, -1, width)) for x in (query, k, v))
    if len(query) > 1:
        mask = mask.repeat(len(query), 1, 1, 1)
    out = F.scaled_dot_product_attention(q, _before(past[0], k), _before(past[1], v), attn_mask=mask)
    return heads.join(out).reshape(query.shape)


def _block(parts: BlockParts, x: Tensor, m: int, past: Past | None, mask: Tensor | None) -> tuple[Tensor, Past]:
    """One causal block over [B, m + R, D]: m prefix rows (or none, and `past`), then R rows of tiles (or none).

    The linear layers see all rows in one product.
    """
    heads, normed = Heads(parts.heads), parts.norm1(x)
    q, k, v = parts.q(normed), parts.k(normed), parts.v(normed)
    attended = []
    if m:
        past = heads.split(k[:, :m]), heads.split(v[:, :m])
        over = F.scaled_dot_product_attention(heads.split(q[:, :m]), *past, is_causal=True)
        attended.append(heads.join(over))
    assert past is not None
    if mask is not None:
        attended.append(_over_tiles(heads, past, q[:, m:], k[:, m:], v[:, m:], mask))
    return _rest_of_block(parts, x, torch.cat(attended, dim=1) if len(attended) > 1 else attended[0]), past


def _past(parts: BlockParts, prefix: Tensor) -> Past:
    """Keys and values of the prefix alone, for a block of which nothing else is needed."""
    heads, normed = Heads(parts.heads), parts.norm1(prefix)
    return heads.split(parts.k(normed)), heads.split(parts.v(normed))


def _read(parts: BlockParts, x: Tensor, m: int, past: Past | None, part: Part) -> Tensor:
    """The last causal block at the end-of-text rows of a part alone: [B, m + R, D] -> [B, c, D]."""
    heads, normed = Heads(parts.heads), parts.norm1(x)
    k, v = parts.k(normed), parts.v(normed)
    if m:
        past = heads.split(k[:, :m]), heads.split(v[:, :m])
    assert past is not None
    read = x[:, part.reads + m]
    query = parts.q(normed[:, part.reads + m])
    places = query.new_zeros(len(x), part.queries.shape[0] * part.queries.shape[1], query.shape[-1])
    places = places.index_copy(1, part.slots, query)
    mask = with_prefix(part.queries, past[0].shape[2])
    attended = _over_tiles(heads, past, places, k[:, m:], v[:, m:], mask)
    return _rest_of_block(parts, read, attended[:, part.slots])


def _each(hook: Hook, block: int, rows: Tensor) -> Tensor:
    """What a hook does at every position alike, on rows behind the prefix; most hooks do nothing there."""
    each: Hook | None = getattr(hook, "each", None)
    return rows if each is None else each(block, rows)


def _hooked(hook: Hook, block: int, x: Tensor, m: int) -> tuple[Tensor, int]:
    """The hook applied to the m prefix rows of x; returns x and the number of prefix rows now."""
    prefix, rows = x[:, :m], x[:, m:]
    new, behind = hook(block, prefix), _each(hook, block, rows)
    if new is prefix and behind is rows:
        return x, m
    return (torch.cat([new, behind], dim=1) if x.shape[1] > m else new), new.shape[1]


def _limit(x: Tensor, copies: int) -> int:
    """Rows a pass handles at a time when each row is there `copies` times."""
    return max(1, ROWS.get(x.device.type, ROWS_ELSEWHERE) // copies)


def _in_one(
    backbone: Backbone, prefix: Tensor, rows: Tensor, part: Part, first: int, last: int, hook: Hook
) -> tuple[Tensor, int]:
    """Blocks `first`..`last` over prefix and rows together: [B, M' + R, D] and M'."""
    x, m = torch.cat([prefix, rows.expand(len(prefix), -1, -1)], dim=1), prefix.shape[1]
    mask: Tensor | None = None
    for block in range(first, last + 1):
        x, m = _hooked(hook, block, x, m)
        if mask is None or mask.shape[-1] != m + part.own.shape[-1]:  # tokens come in once
            mask = with_prefix(part.own, m)
        x, _ = _block(backbone.text_parts(block), x, m, None, mask)
    return x, m


def _prefix_pass(backbone: Backbone, prefix: Tensor, first: int, last: int, hook: Hook) -> tuple[Tensor, list[Past]]:
    """Blocks `first`..`last` over the prefix alone, and its keys and values in each."""
    pasts = []
    for block in range(first, last + 1):
        prefix, m = _hooked(hook, block, prefix, prefix.shape[1])
        prefix, past = _block(backbone.text_parts(block), prefix, m, None, None)
        pasts.append(past)
    return prefix, pasts


def run_text_shared(
    backbone: Backbone, prefix: Tensor, rows: Tensor, packing: Packing, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Blocks `first`..`last` without prompts: prefix [1, M, D] and rows [1, R, D] -> the same."""
    out, pasts = _prefix_pass(backbone, prefix, first, last, identity_hook)
    done = []
    for part in packing.parts(_limit(rows, 1)):
        x = rows[:, part.start : part.stop]
        for past, block in zip(pasts, range(first, last + 1)):
            mask = with_prefix(part.own, past[0].shape[2])
            x, _ = _block(backbone.text_parts(block), x, 0, past, mask)
        done.append(x)
    return out, torch.cat(done, dim=1)


def read_text_shared(
    backbone: Backbone, prefix: Tensor, rows: Tensor, packing: Packing, first: int, hook: Hook = identity_hook
) -> Tensor:
    """Features of sentences whose beginnings are equal, with tokens the hook puts into that beginning.

    Equals `read_text(run_text(trunk, first, hook=hook), eot + inserted)` where the hook touches only the
    shared positions (prompt tokens after the start token do), or does what it does elsewhere at every position
    alike, in a method `each(block, rows)`.

    Args:
        prefix: activations of the shared positions entering block `first`: [B, M, D_t], one row for each
            variant of the beginning (CoCoOp's pictures; else B = 1).
        rows: those of the packed suffixes, [1, R, D_t].
        hook: sees the shared positions alone, [B, M, D_t]; what it inserts lengthens them.

    Returns:
        [B, C, E], not normalised.
    """
    depth, copies = backbone.dims.text_depth, len(prefix)
    parts = packing.parts(_limit(rows, copies))
    last = backbone.text_parts(depth)
    if len(parts) == 1:
        x, m = _hooked(hook, depth, *_in_one(backbone, prefix, rows, parts[0], first, depth - 1, hook))
        found = _read(last, x, m, None, parts[0])
    else:
        x, pasts = _prefix_pass(backbone, prefix, first, depth - 1, hook)
        pasts.append(_past(last, _hooked(hook, depth, x, x.shape[1])[0]))
        found = torch.cat(_part_features(backbone, rows, parts, first, pasts, hook), dim=1)
    found = found[:, packing.rank]
    flat = found.flatten(0, 1)
    features = backbone.read_text(flat[:, None], torch.zeros(len(flat), dtype=torch.long, device=flat.device))
    return features.view(copies, -1, features.shape[-1])


def _part_features(
    backbone: Backbone, rows: Tensor, parts: tuple[Part, ...], first: int, pasts: list[Past], hook: Hook
) -> list[Tensor]:
    """The last block's outputs at end-of-text, part by part, [B, c, D] each; recomputed where memory is short."""
    copies, depth = len(pasts[0][0]), backbone.dims.text_depth
    saved = copies * rows.numel() * rows.element_size() * SAVED_PER_ROW * (depth - first + 1)
    again = torch.is_grad_enabled() and saved > _saved_bytes.get()
    flat = [x for past in pasts for x in past]

    def of(part: Part, x: Tensor, *kept: Tensor) -> Tensor:
        mask = with_prefix(part.own, kept[0].shape[2])
        for i, block in enumerate(range(first, depth)):
            past = kept[2 * i], kept[2 * i + 1]
            if past[0].shape[2] + part.own.shape[-1] != mask.shape[-1]:
                mask = with_prefix(part.own, past[0].shape[2])
            x, _ = _block(backbone.text_parts(block), _each(hook, block, x), 0, past, mask)
        return _read(backbone.text_parts(depth), _each(hook, depth, x), 0, (kept[-2], kept[-1]), part)

    found = []
    for part in parts:
        x = rows[:, part.start : part.stop].expand(copies, -1, -1)
        if again:
            y = checkpoint(of, part, x, *flat, use_reentrant=False, preserve_rng_state=False)
        else:
            y = of(part, x, *flat)
        found.append(y)
    return found


def run_image_read(backbone: Backbone, x: Tensor, first: int, count: int, hook: Hook = identity_hook) -> Tensor:
    """Blocks `first`..last, the last one only at the first `count` positions: [B, N, D_v] -> [B, count, D_v].

    Equals `run_image(x, first, hook=hook)[:, :count]`; class and prompt tokens stand first, and nothing
    else is read. Where the feature is pooled from all tokens, the last block runs whole.
    """
    if not backbone.class_token:
        return backbone.run_image(x, first, hook=hook)[:, :count]
    last = backbone.dims.vision_depth
    x = hook(last, backbone.run_image(x, first, last - 1, hook)) if first <= last else x
    parts = backbone.vision_parts(last)
    heads, normed = Heads(parts.heads), parts.norm1(x)
    query, keys, values = (heads.split(y) for y in (parts.q(normed[:, :count]), parts.k(normed), parts.v(normed)))
    attended = F.scaled_dot_product_attention(query, keys, values)
    return _rest_of_block(parts, x[:, :count], heads.join(attended))
