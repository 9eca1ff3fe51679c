"""What is deployed, from pixels in [0, 1] to logits, with a gradient to the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anprompt.errors import UserError
from anprompt.methods import Classifier


class PixelModel(nn.Module):
    """A classifier as an attack sees it: normalisation, prompts, head and temperature are inside.

    Args:
        classifier: a method with a class list; its head and temperature are those that answer.

    Attributes:
        count: number of classes.

    Raises:
        UserError: the weights are not fp32, in which a gradient of the pixels would mean little.
    """

    classifier: Classifier
    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        backbone = classifier.method.backbone
        if backbone.dtype != torch.float32:
            raise UserError(
                f"Attacks run in fp32, not in {str(backbone.dtype).removeprefix('torch.')}; use --dtype fp32."
            )
        object.__setattr__(self, "classifier", classifier)  # not a submodule: nothing of it is trained here
        self.count = len(classifier.classnames)
        self.register_buffer("mean", channels(backbone.mean, backbone.device))
        self.register_buffer("std", channels(backbone.std, backbone.device))

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> logits [B, C] in fp32."""
        classifier = self.classifier
        state = classifier.method.image_state((pixels - self.mean) / self.std, classifier.method.reads)
        logits = classifier.method.answer(state, classifier.text, classifier.head)
        return logits.float() / classifier.temperature

    def pixels(self, normalised: Tensor) -> Tensor:
        """Normalised images as pixels in [0, 1] on the model's device."""
        return (normalised.to(self.mean.device) * self.std + self.mean).clamp_(0, 1)


def channels(values: Sequence[float], device: torch.device) -> Tensor:
    """Values per channel as [1, 3, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)
