"""AnomalyCLIP's object-free prompts, trained on another category and used here without an image (arXiv 2310.18961).

    normal     [SOS, V_1 .. V_n, "object", ".", EOT]           one pair of prompts for all objects
    abnormal   [SOS, W_1 .. W_n, "damaged object", ".", EOT]
    image      value-value attention in the second half of the blocks; patches of four of them, [h, w, 4, E]
    loss       cross-entropy of the image + 4 (focal + 2 Dice) of the patches, on the test images and masks of the other category

The paper's learned tokens in deeper text blocks are left out, and the patches' maps are added over blocks, as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.backbones.base import Backbone
from anprompt.data.images import open_image
from anprompt.detection.apt import CHANGED, dice_loss, focal_loss, patch_logits, patch_shares
from anprompt.detection.base import DetectionMethod, Normals, Scored, top_mean
from anprompt.detection.features import Look, Sight, default_blocks, look, projected
from anprompt.detection.layouts import Sample, open_category
from anprompt.detection.masks import read_mask
from anprompt.errors import UserError
from anprompt.methods.config import MethodConfig
from anprompt.methods.context import context_state, context_words, contexts_features
from anprompt.noise.seeds import stable_seed


@dataclass(frozen=True)
class AnomalyClipConfig(MethodConfig):
    """Settings of AnomalyCLIP.

    Attributes:
        auxiliary: the other category, as `open_category` takes it; its test images and masks are trained on.
        images: of them at most, half normal.
        tiles: windows along their shorter side.
        n_context: learned vectors of each prompt.
        depths: after which blocks patches are read, as shares of the tower's depth.
        steps, lr, batch: of the training; a batch is of images.
    """

    auxiliary: str = "embedded:boards"
    images: int = 64
    tiles: int = 2
    n_context: int = 8
    depths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    steps: int = 80
    lr: float = 0.01
    batch: int = 16


class AnomalyClip(DetectionMethod[AnomalyClipConfig]):
    """AnomalyCLIP on a frozen backbone."""

    name: ClassVar[str] = "anomalyclip"
    paper: ClassVar[str] = "arXiv 2310.18961"
    doc: ClassVar[str] = "object-free prompts trained on another category with masks; no image of this one"
    Config: ClassVar[type[MethodConfig]] = AnomalyClipConfig
    few_shot: ClassVar[bool] = False
    trains: ClassVar[bool] = True

    def sight(self, tiles: int) -> Sight:
        depth = self.backbone.dims.vision_depth
        return Sight(tiles, default_blocks(depth, self.config.depths), "value", depth // 2 + 1)

    def fit(self, normals: Normals) -> None:
        maps, truth = [], []
        sight = self.sight(self.config.tiles)
        for sample in auxiliary_samples(self.config, self.seed):
            image = open_image(sample.path)
            maps.append(projected(self.backbone, look(self.backbone, image, sight).tokens))
            mask = read_mask(sample.mask, image.size) if sample.anomalous else np.zeros(image.size[::-1], bool)
            truth.append(patch_shares(mask, maps[-1].shape[:2]))
            normals.progress(len(maps), self.config.images, "images of another category")
        self.tensors = {"text": object_free_prompts(self.backbone, self.config, self.seed, maps, truth)}

    def score(self, look: Look) -> Scored:
        found = patch_logits(projected(self.backbone, look.tokens), self.tensors["text"].expand(len(self.config.depths), -1, -1),
                             self.backbone.logit_scale)  # fmt: skip
        return Scored(found, top_mean(found))


def auxiliary_samples(config: AnomalyClipConfig, seed: int) -> list[Sample]:
    """Images of the other category to train on, half of them normal, drawn by the seed.

    Raises:
        UserError: it has no normal or no masked anomalous test image.
    """
    category = open_category(config.auxiliary)
    kinds = [[s for s in category.test if not s.anomalous], [s for s in category.test if s.anomalous and s.mask]]
    if not all(kinds):
        raise UserError(f"{config.auxiliary} needs normal and masked anomalous test images to train 'anomalyclip' on.")
    return [
        sample
        for kind in kinds
        for sample in sorted(kind, key=lambda s: stable_seed(seed, "auxiliary", s.path.rpartition("/")[2]))[
            : config.images // 2
        ]
    ]


def object_free_prompts(
    backbone: Backbone, config: AnomalyClipConfig, seed: int, maps: list[Tensor], truth: list[Tensor]
) -> Tensor:
    """Train one pair of prompts; its text features, [1, 2, E].

    Args:
        maps: patches of each image, [h, w, blocks, E].
        truth: share of each patch that is anomalous, [h, w].
    """
    generator = torch.Generator().manual_seed(seed)
    contexts = 0.02 * torch.randn(2, config.n_context, backbone.dims.text_width, generator=generator)
    contexts = contexts.to(backbone.device).requires_grad_()
    words = context_words(backbone, "", config.n_context)
    banks = [context_state(backbone, [name], words, config.n_context) for name in ("object", "damaged object")]

    def text_features() -> Tensor:
        pair = [contexts_features(backbone, bank, one[None], "shared")[0, 0] for bank, one in zip(banks, contexts)]
        return torch.stack(pair)[None].cpu()

    optimizer = torch.optim.AdamW([contexts], lr=config.lr, weight_decay=0.0)
    for _ in range(config.steps):
        chosen = torch.randint(len(maps), (config.batch,), generator=generator).tolist()
        text = text_features().expand(maps[0].shape[2], -1, -1)
        logits = [patch_logits(maps[i], text, backbone.logit_scale) for i in chosen]
        flat = torch.cat([one.flatten() for one in logits])
        target = torch.cat([(truth[i] >= CHANGED).float().flatten() for i in chosen])
        images = torch.stack([one.mean() for one in logits])
        labels = torch.tensor([float(bool((truth[i] >= CHANGED).any())) for i in chosen])
        patches = focal_loss(flat, target) + 2 * dice_loss(flat.sigmoid(), target)
        loss = F.binary_cross_entropy_with_logits(images, labels) + 4 * patches
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return text_features()
