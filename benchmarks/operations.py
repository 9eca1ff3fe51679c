"""How many floating-point operations a training step needs, before and after exact sharing.

A block of width D costs 12 D^2 multiply-adds per row in its linear layers (query, key, value, output 4 D^2,
MLP 8 D^2); frozen weights make the backward pass as dear as the forward one. Attention itself (2 N D per row)
is a few percent and left out on both sides. Two operations a multiply-add.
"""

from __future__ import annotations

from anprompt.backbones.base import Dims
from anprompt.prompting.packing import Packing


def _gflop(rows_by_twelfths: float, width: int) -> float:
    return 2 * rows_by_twelfths * width**2 / 1e9


def step_operations(dims: Dims, packing: Packing, first: int, tokens: int, batch: int) -> dict[str, float]:
    """GFLOP of one step: "field", "shared", and "bank" (trunk activations and frozen features given).

    Args:
        first: first prompted block; prompts reach blocks `first`..last in both towers.
        tokens: prompt tokens per tower.
    """
    classes, patches = len(packing.ends), (dims.image_size // dims.patch_size) ** 2 + 1
    below, above = first - 1, dims.text_depth - first + 1
    deep = dims.vision_depth - first + 1
    text, vision = dims.text_width, dims.vision_width
    # Last block: keys and values of all rows (2 of 12), everything else where a feature is read.
    rows = int((packing.owner >= 0).sum()) + packing.shared + tokens
    shared_text = 2 * (12 * rows * (above - 1) + 2 * rows + 10 * classes)
    prompted = patches + tokens
    shared_prompted = 2 * batch * (12 * prompted * (deep - 1) + 2 * prompted + 10 * (1 + tokens))
    trunk = batch * 12 * patches * below
    frozen = batch * (12 * patches * (deep - 1) + 2 * patches + 10)
    long = dims.context_length * classes
    field_text = 12 * long * (below + 2 * above)
    field_vision = batch * 12 * (patches * dims.vision_depth + patches * below + 2 * prompted * deep)
    bank = _gflop(shared_text, text) + _gflop(shared_prompted, vision)
    return {
        "field": _gflop(field_text, text) + _gflop(field_vision, vision),
        "shared": bank + _gflop(trunk + frozen, vision),
        "bank": bank,
    }
