"""What an attack climbs: one value per image, higher is nearer to an error."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PixelLoss = Callable[[Tensor, Tensor], Tensor]  # logits [B, C], labels [B] -> [B]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """CE, [B]. At large logit scales its gradient can be exactly zero in fp32, and the attack stands still."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """`max over other classes - the true one` of the logits, [B]; above 0 the answer is wrong (Carlini and Wagner,
    arXiv 1608.04644, f_6). It never saturates."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(dim=1) - own


def difference_of_logits_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """`margin / (largest - third largest)`, [B]: the margin without the scale (DLR; Croce and Hein, arXiv 2003.01690,
    eq. 6). Needs three classes."""
    top = logits.topk(3, dim=1).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: dict[str, PixelLoss] = {"ce": cross_entropy, "margin": margin, "dlr": difference_of_logits_ratio}
