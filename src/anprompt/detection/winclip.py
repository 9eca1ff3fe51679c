"""WinCLIP and WinCLIP+: windows of patches against an ensemble of sentences (arXiv 2303.14814).

    each 2 x 2 and 3 x 3 window of patches is encoded by itself with the class token
    per scale and patch: harmonic mean over the windows that hold it (here: of their mean feature's, one per patch)
    zero-shot map = harmonic mean over the scales and the image
    with normal images: 1/2 (1 - cos) to the nearest window or patch of them, mean over scales and patches; map = mean of both
    image score = text's, and with normal images the mean of it and of the few-shot map's maximum

Two things differ from the paper, for every method alike or for want of memory: large images are seen as tiles, and the
windows that hold a patch are averaged as features before the text scores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from anprompt.detection.bank import distances, memory_bank
from anprompt.detection.base import DetectionMethod, Normals, Scored
from anprompt.detection.features import Look, Sight, default_blocks
from anprompt.detection.sentences import anomaly_share, ensemble
from anprompt.errors import UserError
from anprompt.methods.config import MethodConfig
from anprompt.prompting.prompts import unit


@dataclass(frozen=True)
class WinClipConfig(MethodConfig):
    """Settings of WinCLIP.

    Attributes:
        scales: sides of the windows in patches.
        bank: most features of each kind that are kept of the normal images.
        depth: the block whose patches are compared, as a share of the tower's depth (the paper: the last but one).
    """

    scales: tuple[int, ...] = (2, 3)
    bank: int = 4000
    depth: float = 0.9

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1:
            raise UserError(f"scales must be sides of windows in patches, like 2,3, not {list(self.scales)}.")


class WinClip(DetectionMethod[WinClipConfig]):
    """WinCLIP, and WinCLIP+ once it has seen normal images."""

    name: ClassVar[str] = "winclip"
    paper: ClassVar[str] = "arXiv 2303.14814"
    doc: ClassVar[str] = "windows of patches against an ensemble of sentences, and normal images where there are some"
    Config: ClassVar[type[MethodConfig]] = WinClipConfig
    few_shot: ClassVar[bool] = False

    def sight(self, tiles: int) -> Sight:
        blocks = default_blocks(self.backbone.dims.vision_depth, (self.config.depth,))
        return Sight(tiles, blocks, scales=self.config.scales)

    def fit(self, normals: Normals) -> None:
        self.tensors = {"text": ensemble(self.backbone, self.object_name)}
        for scale in self.config.scales if normals.looks else ():
            self._keep(f"bank_{scale}", torch.cat([look.small[scale][1].float() for look in normals.looks]))
        if normals.looks:
            self._keep("bank_patches", torch.cat([unit(look.tokens[:, :, 0]).flatten(0, 1) for look in normals.looks]))

    def _keep(self, name: str, rows: Tensor) -> None:
        self.tensors[name] = memory_bank(rows, self.config.bank, self.seed)

    def score(self, look: Look) -> Scored:
        text, scale = self.tensors["text"], self.backbone.logit_scale
        image = float(anomaly_share(look.image.float(), text, scale))
        shares = [anomaly_share(unit(look.small[size][0]), text, scale) for size in self.config.scales]
        zero = harmonic([*shares, torch.full_like(shares[0], image)])
        if "bank_patches" not in self.tensors:
            return Scored(zero, image)
        near = torch.stack(self._references(look)).mean(dim=0)
        return Scored((zero + near) / 2, (image + float(near.max())) / 2)

    def _references(self, look: Look) -> list[Tensor]:
        """Half the cosine distance to the nearest normal feature, for each scale and for single patches: [h, w] each."""
        maps = {f"bank_{size}": unit(look.small[size][0]) for size in self.config.scales}
        maps["bank_patches"] = unit(look.tokens[:, :, 0])
        return [
            distances(rows.flatten(0, 1), self.tensors[name].float()).view(rows.shape[:2]) / 2
            for name, rows in maps.items()
        ]


def harmonic(shares: list[Tensor]) -> Tensor:
    """Harmonic mean of probabilities of an anomaly; one that is sure of a normal one weighs most."""
    return len(shares) / torch.stack([1 / share.clamp_min(1e-6) for share in shares]).sum(dim=0)
