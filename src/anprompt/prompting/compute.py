"""How a pass is computed: in which precision, on how many threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from anprompt.backbones.base import Backbone

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALL_WIDTH = 384  # vision width below which a second thread gains nothing


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast for "bf16"/"fp16", nothing for "fp32"."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


@contextlib.contextmanager
def threads_for(backbone: Backbone) -> Iterator[None]:
    """One thread for a small model on the CPU, as many as torch likes for a large one.

    Layers this narrow gain nothing from a second thread, and waiting for it on a busy machine makes a
    step tens of times slower.
    """
    before = torch.get_num_threads()
    if backbone.device.type == "cpu" and backbone.dims.vision_width < SMALL_WIDTH:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
