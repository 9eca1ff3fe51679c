"""Random pictures in place of a data set."""

from __future__ import annotations

import torch
from torch import Tensor


class FakeViews:
    """Pictures whose training views depend on (index, epoch), as real ones do."""

    fingerprint = "fake"

    def __init__(self, size: int, count: int = 7, classes: int = 3) -> None:
        self.size, self.labels = size, torch.arange(count) % classes

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        rows = [torch.Generator().manual_seed(1000 * epoch + int(i)) for i in indices]
        return torch.stack([torch.randn(3, self.size, self.size, generator=g) for g in rows])

    def eval_batch(self, indices: Tensor) -> Tensor:
        return self.train_batch(indices, 9)
