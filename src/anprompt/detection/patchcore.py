"""PatchCore with few shots: nearest neighbours in a bank of normal patches, nothing trained (arXiv 2106.08265).

patch tokens of middle blocks -> 3 x 3 mean, unit -> coreset of the normal images' patches
map = 1 - cos to the nearest; image score = mean of the map's highest 0.3 % (the paper: the reweighted maximum)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from anprompt.detection.bank import aggregated, distances, memory_bank
from anprompt.detection.base import DetectionMethod, Normals, Scored, needs_images, top_mean
from anprompt.detection.features import Look, Sight, default_blocks
from anprompt.methods.config import MethodConfig


@dataclass(frozen=True)
class PatchCoreConfig(MethodConfig):
    """Settings of PatchCore.

    Attributes:
        depths: after which blocks patches are compared, as shares of the tower's depth.
        reach: side of the neighbourhood that a patch is averaged over.
        bank: most patches that are kept.
    """

    depths: tuple[float, ...] = (0.5, 0.75)
    reach: int = 3
    bank: int = 4000


class PatchCore(DetectionMethod[PatchCoreConfig]):
    """The bank alone."""

    name: ClassVar[str] = "patchcore"
    paper: ClassVar[str] = "arXiv 2106.08265"
    doc: ClassVar[str] = "nearest neighbours in a bank of normal patches"
    Config: ClassVar[type[MethodConfig]] = PatchCoreConfig

    def sight(self, tiles: int) -> Sight:
        return Sight(tiles, default_blocks(self.backbone.dims.vision_depth, self.config.depths))

    def fit(self, normals: Normals) -> None:
        needs_images(self, len(normals.looks))
        rows = torch.cat([aggregated(look.tokens, self.config.reach).flatten(0, 1) for look in normals.looks])
        self.tensors = {"bank": memory_bank(rows, self.config.bank, self.seed)}

    def score(self, look: Look) -> Scored:
        rows = aggregated(look.tokens, self.config.reach)
        found = distances(rows.flatten(0, 1), self.tensors["bank"].float()).view(rows.shape[:2])
        return Scored(found, top_mean(found))
