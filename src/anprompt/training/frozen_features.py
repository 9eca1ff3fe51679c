"""What the frozen image encoder makes of training views: computed, or taken from a view bank."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from anprompt.methods.base import Method, Parts
from anprompt.prompting.compute import autocast
from anprompt.prompting.prompts import ImageState
from anprompt.training.feature_cache import FeatureCache, Rows


class TrainViews(Protocol):
    """What the loop needs of a set of pictures (`anprompt.data.views.Views` is one)."""

    labels: Tensor
    fingerprint: str

    def __len__(self) -> int: ...

    def train_batch(self, indices: Any, epoch: int) -> Tensor: ...


class FrozenFeatures:
    """A method's looks at a set of views.

    Args:
        precision: of the autocast, "fp32", "bf16" or "fp16".
        trunk_precision: "full", or "bf16" to round the trunk activations.
        bank: None computes every look; so do views without `view_keys`.
        target: whether frozen features are those of the "noisy" or of the "clean" view, where views are disturbed.
        parts: what is looked at, see `Method.image_state`; with "frozen" the trunk comes empty.
    """

    def __init__(
        self, method: Method, views: TrainViews, precision: str = "fp32", trunk_precision: str = "full",
        bank: FeatureCache | None = None, target: str = "clean", parts: Parts = "both",
    ) -> None:  # fmt: skip
        self.parts: Parts = parts
        self.method, self.views, self.precision = method, views, precision
        self.rounded = trunk_precision == "bf16"
        self.device = method.backbone.device
        self.apart = getattr(views, "change", None) is not None and target == "clean"
        self.rows: Rows | None = None
        if bank is not None and hasattr(views, "view_keys"):
            space = space_of(method, precision, trunk_precision, parts)
            self.rows = bank.open({**space, **({"target": target} if self.apart else {})})

    def batch(self, indices: Tensor, epoch: int) -> ImageState:
        """What the frozen encoder makes of these views in this epoch, from the bank where it has them all."""
        keys = self.views.view_keys(indices, epoch) if self.rows is not None else []  # type: ignore[attr-defined]
        found = self.rows.get(keys) if self.rows is not None else None
        if found is not None:
            vision = ImageState(**{name: value.to(self.device) for name, value in found.items()})
        else:
            # The whole batch, though the bank may have some of it: the products of a smaller one would
            # round differently.
            vision = self._both(indices, epoch) if self.apart else self.compute(self.views.train_batch(indices, epoch))
            if self.rows is not None and (tensors := _rows_of(vision, len(indices))):
                self.rows.put(keys, tensors)
        if self.rounded:
            vision = dataclasses.replace(vision, trunk=vision.trunk.to(self.method.backbone.dtype))
        return vision

    def _both(self, indices: Tensor, epoch: int) -> ImageState:
        """The trunk's activations of disturbed views with the frozen features of the same views undisturbed."""
        noisy = self.compute(self.views.train_batch(indices, epoch), parts="trunk")
        clean = self.views.train_batch(indices, epoch, undisturbed=True)  # type: ignore[call-arg]
        return dataclasses.replace(noisy, frozen=self.compute(clean, parts="frozen").frozen)

    def compute(self, pixels: Tensor, **asked: Parts) -> ImageState:
        """Normalised pixels [B, 3, H, W] -> what is kept of them; `asked` goes to `Method.image_state`."""
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()  # or the copy would wait
        with autocast(self.device, self.precision):
            asked = asked if self.parts == "both" else {"parts": self.parts, **asked}
            vision = self.method.image_state(
                pixels.to(self.device, self.method.backbone.dtype, non_blocking=True), **asked
            )
        return dataclasses.replace(vision, trunk=vision.trunk.to(torch.bfloat16)) if self.rounded else vision

    def flush(self) -> None:
        """Let the bank write what waits in memory."""
        if self.rows is not None:
            self.rows.flush()


def space_of(method: Method, precision: str, trunk_precision: str, parts: Parts = "both") -> dict[str, str]:
    """Everything besides the pixels that decides what `Method.image_state` gives: the bank's space.

    The device and torch's version are part of it, so that training from the bank is bit-equal to training
    without it.
    """
    owner = next(kind for kind in type(method).__mro__ if "image_state" in vars(kind))
    first = method.first_block
    sees = "trunk" if owner is Method else f"{owner.__module__}.{owner.__qualname__} {method.config.to_dict()}"
    if parts == "frozen":  # the same for every method
        sees, first = "frozen features", 0
    backbone = method.backbone
    return {
        "weights": backbone.weight_hash, "dtype": str(backbone.dtype), "precision": precision,
        "trunk": trunk_precision, "sees": sees, "first_block": str(first),
        "device": backbone.device.type, "torch": torch.__version__,
    }  # fmt: skip


def _rows_of(vision: ImageState, count: int) -> dict[str, Tensor] | None:
    """The tensors of a look, if it is one row per view and nothing else (a plug-in's may not be)."""
    values = {entry.name: getattr(vision, entry.name) for entry in dataclasses.fields(vision)}
    plain = type(vision) is ImageState and all(isinstance(v, Tensor) and len(v) == count for v in values.values())
    return values if plain else None
