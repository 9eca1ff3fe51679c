"""Small differentiable models of images in [0, 1], without CLIP."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """Logits linear in the pixels: the best attack of any size is known in closed form."""

    def __init__(self, classes: int, size: int = 4, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, 3 * size * size, generator=generator)
        self.scale = scale

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scale * (pixels - 0.5).flatten(1) @ self.weight.T


class Curved(nn.Module):
    """A small network, trained on nothing: its own answers are the labels."""

    def __init__(self, classes: int, size: int = 8, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = torch.randn(3 * size * size, 32, generator=generator) / 8
        self.second = torch.randn(32, classes, generator=generator)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.tanh((pixels - 0.5).flatten(1) @ self.first) @ self.second


class Masked(nn.Module):
    """A model whose gradients say nothing: pixels are rounded to a few levels first."""

    def __init__(self, model: nn.Module, levels: int = 32) -> None:
        super().__init__()
        self.model, self.levels = model, levels

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model((pixels * self.levels).round() / self.levels)


def images(count: int, size: int, seed: int = 1) -> Tensor:
    """Grey-ish noise, [count, 3, size, size] in [0.2, 0.8]."""
    return 0.2 + 0.6 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def answers(model: nn.Module, pixels: Tensor) -> Tensor:
    """What a model says, as labels."""
    with torch.no_grad():
        return model(pixels).argmax(1)
