"""What the trained classes look like: a ridge head on the prompted image feature, beside the text term.

    z = z_text + w q        q = (f - m) W + b        W = (X^T X / n + p s I)^-1 X^T (Y - b) / n

X are the prompted features f of the training views minus their mean m, Y one-hot labels, b the mean of Y, s the trace
of X^T X / n, p the penalty. Closed form, after the prompts are trained. With a large penalty the rows of W point at the class
means. Other class lists use the text term alone, which the head leaves as it is. Ours; the weight w and the penalty are
settings of the training (`visual_weight`, `visual_penalty`), chosen on held-out training images by `--recipe auto`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VisualHead(nn.Module):
    """`w q` of image features: weight [C, E] and bias [C], both with w in them; zero until `fit`.

    Args:
        classes: C, trained classes.
        width: E, of the features.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))

    @torch.no_grad()
    def fit(self, features: Tensor, labels: Tensor, strength: float, penalty: float) -> None:
        """Solve for the training images.

        Args:
            features: unit, V views of each of n images, [n, V, E].
            labels: [n].
            strength: w.
            penalty: p, from 0.
        """
        weight, bias = ridge(features, labels, len(self.bias), penalty)
        self.weight.copy_(strength * weight)
        self.bias.copy_(strength * bias)

    def forward(self, features: Tensor, rows: Tensor | None = None) -> Tensor:
        """[B, E] -> [B, C], for a list of trained classes by their numbers, or all of them."""
        weight, bias = (self.weight, self.bias) if rows is None else (self.weight[rows], self.bias[rows])
        return features.float() @ weight.T + bias


def ridge(features: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """W [C, E] and bias [C] of ridge regression on one-hot labels, with an intercept.

    Args:
        features: [n, V, E]; every view counts as a row.
        labels: [n].
        classes: C.
        penalty: relative to the variance of the features, summed over dimensions.

    Examples:
        >>> import torch
        >>> features = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> weight, bias = ridge(features, torch.tensor([0, 1]), 2, 1e-9)
        >>> (features[:, 0] @ weight.T + bias).round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    count, views, width = features.shape
    x = features.reshape(count * views, width).double()
    y = F.one_hot(labels.repeat_interleave(views), classes).to(x)
    mean, share = x.mean(dim=0), y.mean(dim=0)
    centred = x - mean
    gram = centred.T @ centred / len(x)
    spread = gram.diagonal().sum().clamp(min=1e-12)
    system = gram + max(penalty, 1e-9) * spread * torch.eye(width, dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(system, centred.T @ (y - share) / len(x))
    return weight.T.float(), (share - mean @ weight).float()
