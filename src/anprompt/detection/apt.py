"""APT: adaptive prompt tuning with semantic alignment, few shots (arXiv 2508.16157; predecessor 2406.18197).

    text    normal     [SOS, V_1 .. V_n, OBJECT, ".", EOT] -> t_n     learned, no words for states
            abnormal   [SOS, W_1 .. W_n, OBJECT, ".", EOT] -> t_a     one pair for each of the blocks that are read
    image   windows -> blocks with locality-aware attention -> patch tokens of several blocks -> joint space -> x_b
    map     mean over blocks of tau (cos(x_b, t_a) - cos(x_b, t_n)), and distances to a memory bank

Trained on the k normal images and on copies of them with self-generated anomalies (`anprompt.noise.anomalies`). The
self-optimising meta-prompt guiding scheme (SMGS) keeps the prompts near general anomaly semantics: of the step that an
abnormal (normal) text feature would take, the part that leads away from the meta-prompt is removed.

What the readable parts of the papers do not say (losses, blocks, shots, numbers, where the guidance acts, how maps are
combined) is ours; each part is a function of its own here and a setting that switches it off (docs/anomaly.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anprompt.detection.bank import aggregated, apart, distances, memory_bank
from anprompt.detection.base import DetectionMethod, Normals, Scale, Scored, needs_images, top_mean
from anprompt.detection.features import Look, Sight, default_blocks, projected
from anprompt.detection.sentences import GENERAL_ANOMALOUS, GENERAL_NORMAL, features
from anprompt.errors import UserError, choices
from anprompt.methods.config import MethodConfig
from anprompt.methods.context import context_state, context_words, contexts_features
from anprompt.noise.anomalies import FAMILIES, generated
from anprompt.prompting.prompts import unit

GUIDANCE = ("project", "pull", "off")


@dataclass(frozen=True)
class AptConfig(MethodConfig):
    """Settings of APT.

    Attributes:
        n_context: learned vectors of each prompt.
        depths: after which blocks patches are read, as shares of the tower's depth.
        locality: patches that a patch may attend to on each side; 0 for the stock attention.
        local_from: from which block on, as a share of the depth.
        anomalies: copies with a generated anomaly in all; 0 trains without (then nothing tells what is abnormal).
        families: of the noise, see `anprompt.noise.anomalies.FAMILIES`.
        guidance: SMGS as a projection of the gradient, as a pull (a loss), or off.
        guidance_weight: share of the part that is removed, or weight of the pull.
        meta_every: steps between two estimates of the meta-prompt.
        bank: whether distances to normal patches are a part of the map.
        bank_size: most patches of the bank.
        bank_depths: blocks of the bank.
        bank_weight: of the bank's map beside the text's, both in units of what normal patches show.
        centre: whether patches are taken relative to the mean normal patch.
        steps, lr, batch: of the training; a batch is of images.
    """

    n_context: int = 8
    depths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    locality: int = 1
    local_from: float = 0.5
    anomalies: int = 32
    families: tuple[str, ...] = tuple(FAMILIES)
    guidance: str = "project"
    guidance_weight: float = 1.0
    meta_every: int = 20
    bank: bool = True
    bank_size: int = 4000
    bank_depths: tuple[float, ...] = (0.5, 0.75)
    bank_weight: float = 0.6
    centre: bool = False
    steps: int = 80
    lr: float = 0.02
    batch: int = 16

    def __post_init__(self) -> None:
        if self.guidance not in GUIDANCE:
            raise choices("guidance", self.guidance, GUIDANCE)
        for name in ("n_context", "steps", "batch", "meta_every"):
            if getattr(self, name) < 1:
                raise UserError(f"Setting {name!r} must be at least 1, not {getattr(self, name)}.")


class Apt(DetectionMethod[AptConfig]):
    """APT on a frozen backbone."""

    name: ClassVar[str] = "apt"
    paper: ClassVar[str] = "arXiv 2508.16157"
    doc: ClassVar[str] = "learned normal and abnormal prompts, self-generated anomalies, meta-prompt guidance, bank"
    Config: ClassVar[type[MethodConfig]] = AptConfig
    trains: ClassVar[bool] = True

    def sight(self, tiles: int) -> Sight:
        depth = self.backbone.dims.vision_depth
        blocks = tuple(sorted({*self._text_blocks, *self._bank_blocks}))
        if not self.config.locality:
            return Sight(tiles, blocks)
        return Sight(tiles, blocks, "local", round(self.config.local_from * depth) + 1, self.config.locality)

    @property
    def _text_blocks(self) -> tuple[int, ...]:
        return default_blocks(self.backbone.dims.vision_depth, self.config.depths)

    @property
    def _bank_blocks(self) -> tuple[int, ...]:
        return default_blocks(self.backbone.dims.vision_depth, self.config.bank_depths) if self.config.bank else ()

    def _of(self, look: Look, blocks: Sequence[int]) -> Tensor:
        """The tokens of some of the sight's blocks, [h, w, blocks, D_v]."""
        every = sorted({*self._text_blocks, *self._bank_blocks})
        return look.tokens[:, :, [every.index(block) for block in blocks]]

    # --- training -------------------------------------------------------------------------------
    def fit(self, normals: Normals) -> None:
        needs_images(self, len(normals.looks))
        clean = [projected(self.backbone, self._of(look, self._text_blocks)) for look in normals.looks]
        self.tensors = {"centre": torch.cat([x.flatten(0, 1) for x in clean]).mean(dim=0) * self.config.centre}
        spoiled, targets = generated_examples(self, normals)
        maps = [self._centred(x) for x in (*clean, *spoiled)]
        truth = [torch.zeros(x.shape[:2]) for x in clean] + targets
        self.tensors["text"] = tuned_prompts(self, maps, truth, len(clean), normals)
        self.tensors["text_scale"] = Scale.of(
            torch.cat([self._text_map(x).flatten() for x in maps[: len(clean)]])
        ).tensor()
        if self.config.bank:
            self._fill_bank(normals)

    def _fill_bank(self, normals: Normals) -> None:
        rows = [aggregated(self._of(look, self._bank_blocks)) for look in normals.looks]
        flat = torch.cat([x.flatten(0, 1) for x in rows])
        self.tensors["bank"] = memory_bank(flat, self.config.bank_size, self.seed)
        self.tensors["bank_scale"] = Scale.of(apart(rows)).tensor()

    def _centred(self, x: Tensor) -> Tensor:
        """Unit patches relative to the mean normal one, [..., blocks, E]."""
        return unit(x - self.tensors["centre"])

    # --- answers --------------------------------------------------------------------------------
    def _text_map(self, x: Tensor) -> Tensor:
        """Patches [h, w, blocks, E] against the learned text features: [h, w]."""
        return patch_logits(x, self.tensors["text"], self.backbone.logit_scale)

    def score(self, look: Look) -> Scored:
        x = self._centred(projected(self.backbone, self._of(look, self._text_blocks)))
        found = Scale.from_tensor(self.tensors["text_scale"]).of_map(self._text_map(x))
        if self.config.bank:
            rows = aggregated(self._of(look, self._bank_blocks))
            near = distances(rows.flatten(0, 1), self.tensors["bank"].float()).view(rows.shape[:2])
            found = found + self.config.bank_weight * Scale.from_tensor(self.tensors["bank_scale"]).of_map(near)
        return Scored(found, top_mean(found))


# --- parts ------------------------------------------------------------------------------------------
def patch_logits(x: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """How much more abnormal than normal: unit patches [..., blocks, E], text [blocks, 2, E] -> [...], mean over blocks."""
    return logit_scale * torch.einsum("...be,be->...", x, text[:, 1] - text[:, 0]) / len(text)


def generated_examples(method: Apt, normals: Normals) -> tuple[list[Tensor], list[Tensor]]:
    """Copies of the normal images with self-generated anomalies: patches [h, w, blocks, E] and share of each that changed."""
    maps, targets = [], []
    for number in range(method.config.anomalies):
        index = number % len(normals.images)
        made = generated(
            normals.images[index], method.seed, normals.keys[index], number, families=method.config.families
        )
        look = normals.see(made.image)
        maps.append(projected(method.backbone, method._of(look, method._text_blocks)))
        targets.append(patch_shares(made.mask, maps[-1].shape[:2]))
        normals.progress(number + 1, method.config.anomalies, "generated anomalies")
    return maps, targets


def patch_shares(mask: np.ndarray, size: tuple[int, ...]) -> Tensor:
    """Share of every patch that a mask [H, W] covers, [h, w]."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255).resize((size[1], size[0]), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)


def tuned_prompts(method: Apt, maps: list[Tensor], truth: list[Tensor], clean: int, normals: Normals) -> Tensor:
    """Train the prompts; their text features by block, [blocks, 2, E], the abnormal one second.

    Args:
        maps: patches of each image, [h, w, blocks, E], the first `clean` of them without an anomaly.
        truth: share of each patch that is anomalous, [h, w].
    """
    config, backbone = method.config, method.backbone
    generator = torch.Generator().manual_seed(method.seed)
    blocks = maps[0].shape[2]
    start = 0.02 * torch.randn(blocks * 2, config.n_context, backbone.dims.text_width, generator=generator)
    contexts = start.to(backbone.device).requires_grad_()
    bank = context_state(
        backbone, [method.object_name], context_words(backbone, "", config.n_context), config.n_context
    )
    meta = MetaPrompt(backbone, config.guidance_weight if config.guidance != "off" else 0.0)
    optimizer = torch.optim.AdamW([contexts], lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)

    def text_features() -> Tensor:
        return contexts_features(backbone, bank, contexts, "shared")[:, 0].view(blocks, 2, -1).cpu()

    for step in range(config.steps):
        chosen = balanced(clean, len(maps), config.batch, generator)
        text = text_features()
        if step % config.meta_every == 0:
            meta.estimate(text.detach())
        loss = detection_loss([maps[i] for i in chosen], [truth[i] for i in chosen], text, backbone.logit_scale)
        if config.guidance == "pull":
            loss = loss + config.guidance_weight * meta.distance(text)
        gradient = torch.autograd.grad(loss, text, retain_graph=True)[0]
        if config.guidance == "project":
            gradient = meta.guided(gradient, text.detach())
        optimizer.zero_grad()
        text.backward(gradient)
        optimizer.step()
        schedule.step()
        normals.progress(step + 1, config.steps, f"prompts, loss {float(loss.detach()):.3f}")
    with torch.no_grad():
        return text_features()


def balanced(clean: int, count: int, batch: int, generator: torch.Generator) -> list[int]:
    """Images of a step: half of them normal, as far as there are both."""
    half = batch // 2 if count > clean else batch
    first = torch.randint(clean, (half,), generator=generator).tolist()
    return first + (torch.randint(clean, count, (batch - half,), generator=generator).tolist() if count > clean else [])


def detection_loss(maps: Sequence[Tensor], truth: Sequence[Tensor], text: Tensor, logit_scale: float) -> Tensor:
    """Focal and Dice loss of the patches, and cross-entropy of the image by the highest patches [ours, after AnomalyCLIP]."""
    logits = [patch_logits(x, text, logit_scale) for x in maps]
    flat, target = torch.cat([x.flatten() for x in logits]), torch.cat([t.flatten() for t in truth])
    known = (target == 0) | (target >= CHANGED)  # a patch of which little has changed is neither
    target = (target >= CHANGED).float()
    images = torch.stack([x.flatten().topk(max(1, x.numel() // 100)).values.mean() for x in logits])
    labels = torch.tensor([float((t >= CHANGED).any()) for t in truth])
    return (
        focal_loss(flat[known], target[known])
        + dice_loss(flat[known].sigmoid(), target[known])
        + F.binary_cross_entropy_with_logits(images, labels)
    )


CHANGED = 0.2  # share of a patch from which on it counts as anomalous


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0) -> Tensor:
    """Focal loss of binary logits [n] (arXiv 1708.02002), both kinds of patches weighing alike."""
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    each = cross * (1 - torch.exp(-cross)) ** gamma
    kinds = [each[target == kind].mean() for kind in (0, 1) if bool((target == kind).any())]
    return torch.stack(kinds).mean()


def dice_loss(shares: Tensor, target: Tensor) -> Tensor:
    """Dice loss of probabilities [n] (arXiv 1606.04797)."""
    return 1 - (2 * (shares * target).sum() + 1) / (shares.sum() + target.sum() + 1)


class MetaPrompt:
    """SMGS: general anomaly semantics that guide the prompts, estimated anew while they are learned.

    The meta-prompt of each state is the mean feature of general sentences, each weighing by how near the prompts have come
    to it: the scheme optimises itself. `guided` removes from a step what leads away from it; the predecessor (arXiv
    2406.18197) weighs both with 1.
    """

    def __init__(self, backbone, weight: float, sharpness: float = 10.0) -> None:  # type: ignore[no-untyped-def]
        self.weight, self.sharpness = weight, sharpness
        self.general = [features(backbone, GENERAL_NORMAL), features(backbone, GENERAL_ANOMALOUS)]
        self.meta = torch.stack([unit(rows.mean(dim=0)) for rows in self.general])

    def estimate(self, text: Tensor) -> None:
        """Take the sentences nearest to the prompts [blocks, 2, E] more into account."""
        means = unit(text.mean(dim=0))
        shares = [(self.sharpness * rows @ mean).softmax(dim=0) for rows, mean in zip(self.general, means)]
        self.meta = torch.stack([unit(share @ rows) for share, rows in zip(shares, self.general)])

    def guided(self, gradient: Tensor, text: Tensor) -> Tensor:
        """The gradient [blocks, 2, E] without what would move a feature away from its meta-prompt.

        A step goes against the gradient, so it leads away where the gradient points towards the meta-prompt.
        """
        along = self.meta - (text * self.meta).sum(dim=-1, keepdim=True) * text  # on the sphere, from text to meta
        towards = unit(along)
        leaving = (gradient * towards).sum(dim=-1, keepdim=True).clamp_min(0)
        return gradient - self.weight * leaving * towards

    def distance(self, text: Tensor) -> Tensor:
        """Mean `1 - cos` to the meta-prompts: the second form, a loss."""
        return 1 - (text * self.meta).sum(dim=-1).mean()
