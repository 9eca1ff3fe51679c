"""Exact sharing: the same features for less work (DESIGN section 5, docs/architecture.md "Sharing").

Text attention is causal, so whatever stands before the first position in which two class sentences
differ (start token, prompt tokens, the template's words) has the same activations for every class: it
is computed once, and the classes attend to its keys and values. Nothing after end-of-text matters, and
the last block is computed only where a feature is read. Every function here has a parity test against
the plain pass, outputs and gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.backbones.base import Backbone, BlockParts, Hook, Tokens, identity_hook


def shared_length(tokens: Tokens) -> int:
    """Number of leading positions that are equal in all sentences; never reaches an end-of-text token."""
    same = (tokens.ids == tokens.ids[:1]).all(dim=0)
    leading = int(same.long().cumprod(dim=0).sum())
    return min(leading, int(tokens.eot.min()))


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


def _causal(prefix: Tensor, suffix: Tensor) -> Tensor:
    """What each suffix position may attend to, [S, M + S]: the whole prefix, and the suffix up to itself."""
    m, s = prefix.shape[1], suffix.shape[1]
    return torch.ones(s, m + s, dtype=torch.bool, device=suffix.device).tril(diagonal=m)


def _shared_block(parts: BlockParts, prefix: Tensor, suffix: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """One causal block over [1, M, D] and [C, S, D]; the linear layers see all rows in one product."""
    heads, (m, d) = Heads(parts.heads), prefix.shape[1:]
    c, s = suffix.shape[:2]
    rows = torch.cat([prefix.reshape(m, d), suffix.reshape(c * s, d)])
    normed = parts.norm1(rows)

    def halves(x: Tensor) -> tuple[Tensor, Tensor]:
        return heads.split(x[:m].unsqueeze(0)), heads.split(x[m:].view(c, s, d))

    (qp, qs), (kp, ks), (vp, vs) = (halves(f(normed)) for f in (parts.q, parts.k, parts.v))
    over_prefix = F.scaled_dot_product_attention(qp, kp, vp, is_causal=True)
    keys, values = (torch.cat([a.expand(c, -1, -1, -1), b], dim=2) for a, b in ((kp, ks), (vp, vs)))
    over_suffix = F.scaled_dot_product_attention(qs, keys, values, attn_mask=seen)
    attended = torch.cat([heads.join(over_prefix).reshape(m, d), heads.join(over_suffix).reshape(c * s, d)])
    rows = _rest_of_block(parts, rows, attended)
    return rows[:m].unsqueeze(0), rows[m:].view(c, s, d)


def _shared_read(parts: BlockParts, prefix: Tensor, suffix: Tensor, at: Tensor) -> Tensor:
    """The last causal block at one position per class (`at` [C], counted in the suffix): -> [C, D]."""
    heads, (m, d) = Heads(parts.heads), prefix.shape[1:]
    c, s = suffix.shape[:2]
    read = suffix[torch.arange(c, device=suffix.device), at]
    normed = parts.norm1(torch.cat([prefix.reshape(m, d), suffix.reshape(c * s, d)]))
    keys, values = (
        torch.cat(
            [heads.split(x[:m].unsqueeze(0)).expand(c, -1, -1, -1), heads.split(x[m:].view(c, s, d))], dim=2
        )
        for x in (parts.k(normed), parts.v(normed))
    )
    query = heads.split(parts.q(parts.norm1(read)).unsqueeze(1))
    seen = torch.arange(m + s, device=at.device) <= (at + m)[:, None]
    attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen[:, None, None])
    return _rest_of_block(parts, read, heads.join(attended).squeeze(1))


def read_text_shared(
    backbone: Backbone,
    trunk: Tensor,
    tokens: Tokens,
    first: int,
    hook: Hook = identity_hook,
    prefix: int | None = None,
) -> Tensor:
    """Features of sentences whose beginnings are equal, with tokens the hook puts into that beginning.

    Equals `read_text(run_text(trunk, first, hook=hook), eot + inserted)` where the hook touches only the
    shared positions (prompt tokens after the start token do).

    Args:
        trunk: activations entering block `first`, [C, L, D_t].
        hook: sees the shared positions alone, [1, M, D_t]; what it inserts lengthens them.
        prefix: number of shared positions; computed from the ids if None.

    Returns:
        [C, E], not normalised.
    """
    m = shared_length(tokens) if prefix is None else prefix
    shared, rest, at = trunk[:1, :m], trunk[:, m:], tokens.eot - m
    seen: Tensor | None = None
    for block in range(first, backbone.dims.text_depth):
        shared = hook(block, shared)
        if seen is None or seen.shape[1] != shared.shape[1] + rest.shape[1]:  # tokens come in once
            seen = _causal(shared, rest)
        shared, rest = _shared_block(backbone.text_parts(block), shared, rest, seen)
    last = backbone.dims.text_depth
    read = _shared_read(backbone.text_parts(last), hook(last, shared), rest, at)
    return backbone.read_text(read.unsqueeze(1), torch.zeros_like(at))


def run_image_read(
    backbone: Backbone, x: Tensor, first: int, count: int, hook: Hook = identity_hook
) -> Tensor:
    """Blocks `first`..last, the last one only at the first `count` positions: [B, N, D_v] -> [B, count, D_v].

    Equals `run_image(x, first, hook=hook)[:, :count]`; class and prompt tokens stand first, and nothing
    else is read.
    """
    last = backbone.dims.vision_depth
    x = hook(last, backbone.run_image(x, first, last - 1, hook)) if first <= last else x
    parts = backbone.vision_parts(last)
    heads, normed = Heads(parts.heads), parts.norm1(x)
    query, keys, values = (
        heads.split(y) for y in (parts.q(normed[:, :count]), parts.k(normed), parts.v(normed))
    )
    attended = F.scaled_dot_product_attention(query, keys, values)
    return _rest_of_block(parts, x[:, :count], heads.join(attended))
