"""Test pictures of a part of a data set, clean and disturbed, ready for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anprompt.data.types import Item
from anprompt.data.views import Views, normalised
from anprompt.evaluation.conditions import Condition


class DecodedImages:
    """Test views held as bytes at the model's input size; `evaluate` takes them like `Views`.

    Attributes:
        pixels: uint8 [n, H, W, 3].
    """

    def __init__(
        self, pixels: np.ndarray, items: tuple[Item, ...], skipped: tuple[str, ...],
        mean: Sequence[float], std: Sequence[float],
    ) -> None:  # fmt: skip
        self.pixels, self.items, self.skipped = pixels, items, skipped
        self.labels = torch.tensor([item.label for item in items], dtype=torch.long)
        self._mean = torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1)

    @classmethod
    def of(cls, views: Views, mean: Sequence[float], std: Sequence[float]) -> DecodedImages:
        """The evaluation views of some pictures."""
        made = cls(np.zeros((0, 0, 0, 3), np.uint8), views.items, views.skipped, mean, std)
        batches = [views.eval_batch(rows) for rows in torch.arange(len(views)).split(256)]
        # bytes were scaled to make these; the error of the way back is far below half a step
        scaled = [((batch * made._std + made._mean) * 255).round_() for batch in batches]
        made.pixels = torch.cat(scaled).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
        return made

    def disturbed(self, condition: Condition) -> DecodedImages:
        """The same pictures under a condition."""
        pixels = np.stack([condition.view(item, view) for item, view in zip(self.items, self.pixels)])
        made = DecodedImages.__new__(DecodedImages)
        made.__dict__.update({**self.__dict__, "pixels": pixels})
        return made

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def __len__(self) -> int:
        return len(self.items)

    def eval_batch(self, indices: Any) -> Tensor:
        """[B, 3, H, W], float32, normalised: the arithmetic of `Views`, bit for bit."""
        return normalised(self.pixels[np.asarray(indices)], self._mean, self._std)
