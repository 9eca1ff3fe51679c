"""From images to logits: the one loop that evaluation, calibration, prediction, measuring and the service use.

    logits = predict_logits(classifier, views.eval_batch, len(views))

Fewer images at a time where memory runs out, autocast where it is asked for, and an error where an answer is not a
finite number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from anprompt.methods.base import Head, Method, Parts, TextState
from anprompt.methods.classifier import Classifier, finite
from anprompt.prompting.compute import autocast
from anprompt.prompting.memory import in_halves
from anprompt.prompting.prompts import ImageState

BATCH = 100


def predict_logits(
    classifier: Classifier,
    read: Callable[[Tensor], Tensor],
    count: int | Tensor,
    *,
    batch_size: int = BATCH,
    precision: str = "fp32",
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits of all images on the CPU, divided by the classifier's temperature.

    Args:
        classifier: a method with C classes.
        read: indices [B] -> normalised images [B, 3, H, W]; asked again for fewer where memory runs out.
        count: how many images there are, or the indices [n] to ask for.
        batch_size: images at a time.
        precision: of the autocast, "fp32", "bf16" or "fp16".
        on_batch: the last index that is done, after every batch.

    Returns:
        [n, C] in fp32; [0, C] without any image.

    Raises:
        UserError: one image alone does not fit into memory.
        NotFinite: an answer is NaN or infinite.
    """
    device = classifier.method.backbone.device

    def answer(indices: Tensor) -> Tensor:
        with autocast(device, precision):
            return classifier.logits(read(indices)).cpu()

    indices = torch.arange(count) if isinstance(count, int) else count
    rows = [torch.zeros(0, len(classifier.classnames))]
    for part in indices.split(batch_size) if len(indices) else ():
        rows.append(in_halves(answer, part))
        if on_batch:
            on_batch(int(part[-1]))
    return torch.cat(rows)


@torch.no_grad()
def image_states(
    method: Method, read: Callable[[Tensor], Tensor], indices: Tensor, parts: Parts, precision: str = "fp32"
) -> ImageState:
    """What the frozen encoder makes of some images, for several class lists to answer from.

    Args:
        method: whose first prompted block counts.
        read: as in `predict_logits`.
        indices: [n], of the images to ask for.
        parts: what is needed of the state, see `Method.image_state`.
        precision: of the autocast, "fp32", "bf16" or "fp16".

    Returns:
        The state of all n images, on the backbone's device.

    Raises:
        UserError: one image alone does not fit into memory.
    """
    backbone = method.backbone

    def see(part: Tensor) -> ImageState:
        with autocast(backbone.device, precision):
            return method.image_state(read(part).to(backbone.device, backbone.dtype), parts)

    return in_halves(see, indices, _joined)


def _joined(states: list[ImageState]) -> ImageState:
    return ImageState(torch.cat([s.trunk for s in states]), torch.cat([s.frozen for s in states]))


@torch.no_grad()
def logits_of(
    method: Method,
    state: ImageState,
    text: TextState,
    head: Head = "unseen",
    temperature: float = 1.0,
    precision: str = "fp32",
) -> Tensor:
    """Logits of images whose state is known.

    Args:
        method: as in `image_states`.
        state: of B images.
        text: `method.encode_classes` of C classes.
        head: "trained" or "unseen".
        temperature: divides the logits.
        precision: of the autocast, "fp32", "bf16" or "fp16".

    Returns:
        [B, C] on the CPU, in fp32.

    Raises:
        NotFinite: an answer is NaN or infinite.
    """
    with autocast(method.backbone.device, precision):
        return finite(method.answer(state, text, head).float().cpu() / temperature, method)
