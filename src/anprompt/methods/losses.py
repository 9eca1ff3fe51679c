"""Losses as small pure functions of logits and unit features."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cosine_alignment(features: Tensor, frozen: Tensor) -> Tensor:
    """Mean of `1 - cos` between rows, [n, E] x [n, E] -> scalar: stay near frozen CLIP (MMRL, eq. of L_cos)."""
    return 1.0 - F.cosine_similarity(features, frozen, dim=-1).mean()


def wa_loss(logits_weak: Tensor, logits: Tensor, whole: Tensor | None = None) -> Tensor:
    """ANPrompt's weak alignment loss (WALoss): clean predictions should agree with weak-noise ones.

    `sum KL(softmax(z_weak) || softmax(z)) / ((std(z) + 1e-6) * numel(z))`, both [B, C] and scaled.

    Args:
        logits_weak: z_weak, similarity of the NRVPP to weak-noise text features.
        logits: z, similarity of image features to prompted text features.
        whole: z of the whole batch, where `logits` are a slice of it: the spread is that of the batch.
    """
    target = F.softmax(logits_weak, dim=-1)
    divergence = F.kl_div(F.log_softmax(logits, dim=-1), target, reduction="sum")
    whole = logits if whole is None else whole
    if whole.numel() < 2:  # one picture, one class: they agree, and one number has no spread
        return divergence
    return divergence / ((whole.std() + 1e-6) * logits.numel())


def feature_l1(features: Tensor, frozen: Tensor) -> Tensor:
    """Mean absolute difference over all entries, [n, E] x [n, E] -> scalar (PromptSRC, L_SCL of features)."""
    return F.l1_loss(features, frozen)


def logit_kl(logits_frozen: Tensor, logits: Tensor) -> Tensor:
    """`sum KL(softmax(z_frozen) || softmax(z)) / numel(z)`, both [B, C] and scaled (PromptSRC, L_SCL of logits)."""
    log_p, log_q = F.log_softmax(logits_frozen, dim=-1), F.log_softmax(logits, dim=-1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) / logits.numel()


def consistency_kl(logits_clean: Tensor, logits_noisy: Tensor) -> Tensor:
    """`KL(softmax(z_clean) || softmax(z_noisy))` per image, both [B, C] and scaled -> scalar: noise changes no prediction."""
    log_p, log_q = F.log_softmax(logits_clean, dim=-1), F.log_softmax(logits_noisy, dim=-1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
