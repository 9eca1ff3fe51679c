"""PromptAD's prompts, learned from normal images alone (arXiv 2404.05231), without its choice of the epoch by the test score.

    normal     [SOS, P_1 .. P_n, OBJECT, ".", EOT]
    manual     the same P with a state in words: "damaged OBJECT", "OBJECT with flaw", ...      -> never trained apart from P
    learned    [SOS, P_1 .. P_n, OBJECT, S_1 .. S_n, ".", EOT]                                   S learned, several of them
    loss       cross-entropy of normal patches among one normal and all abnormal prompts (semantic concatenation)
               + hinge: a normal patch is nearer to the normal prompt than to the mean learned abnormal one (explicit margin)
               + learned and manual abnormal prompts have one mean
    map        softmax of (normal, mean abnormal), harmonic mean with the distance to a bank of normal patches

The last step's prompts stand: the published code keeps the epoch that scores best on the test images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.detection.bank import aggregated, distances, memory_bank
from anprompt.detection.base import DetectionMethod, Normals, Scored, needs_images, top_mean
from anprompt.detection.features import Look, Sight, default_blocks, projected
from anprompt.detection.sentences import ANOMALOUS_STATES, anomaly_share
from anprompt.methods.config import MethodConfig
from anprompt.methods.context import context_features, context_state, context_words, contexts_features
from anprompt.prompting.prompts import unit


@dataclass(frozen=True)
class PromptAdConfig(MethodConfig):
    """Settings of PromptAD.

    Attributes:
        n_context: learned vectors before the object, and behind it.
        suffixes: learned abnormal prompts.
        margin: of the hinge, in cosines.
        align: weight of the distance between the means of learned and manual abnormal prompts.
        bank_depths, bank_size: blocks and most patches of the bank.
        steps, lr, batch: of the training; a batch is of patches.
    """

    n_context: int = 4
    suffixes: int = 4
    margin: float = 0.0
    align: float = 0.001
    bank_depths: tuple[float, ...] = (0.5, 0.75)
    bank_size: int = 4000
    steps: int = 60
    lr: float = 0.002
    batch: int = 256


class PromptAd(DetectionMethod[PromptAdConfig]):
    """PromptAD on a frozen backbone."""

    name: ClassVar[str] = "promptad"
    paper: ClassVar[str] = "arXiv 2404.05231"
    doc: ClassVar[str] = "prompts learned from normal images alone, abnormal ones by suffixes, and a bank"
    Config: ClassVar[type[MethodConfig]] = PromptAdConfig
    trains: ClassVar[bool] = True

    def sight(self, tiles: int) -> Sight:
        depth = self.backbone.dims.vision_depth
        blocks = tuple(sorted({*default_blocks(depth, self.config.bank_depths), depth}))
        return Sight(tiles, blocks, "value", depth // 2 + 1)

    def fit(self, normals: Normals) -> None:
        needs_images(self, len(normals.looks))
        patches = torch.cat([projected(self.backbone, look.tokens[:, :, -1]).flatten(0, 1) for look in normals.looks])
        rows = torch.cat([aggregated(look.tokens[:, :, :-1]).flatten(0, 1) for look in normals.looks])
        self.tensors = {
            "text": tuned_suffixes(self, patches, normals),
            "bank": memory_bank(rows, self.config.bank_size, self.seed),
        }

    def score(self, look: Look) -> Scored:
        share = anomaly_share(
            projected(self.backbone, look.tokens[:, :, -1]), self.tensors["text"], self.backbone.logit_scale
        )
        rows = aggregated(look.tokens[:, :, :-1])
        near = distances(rows.flatten(0, 1), self.tensors["bank"].float()).view(rows.shape[:2])
        found = 2 / (1 / share.clamp_min(1e-6) + 1 / near.clamp(1e-6, 1))
        return Scored(found, top_mean(found))


def tuned_suffixes(method: PromptAd, patches: Tensor, normals: Normals) -> Tensor:
    """Train on unit patches [n, E] of normal images; the normal and the mean abnormal text feature, [2, E]."""
    config, backbone = method.config, method.backbone
    generator = torch.Generator().manual_seed(method.seed)
    width, count = backbone.dims.text_width, config.n_context
    shape = (1 + config.suffixes, count, width)
    learned = (0.02 * torch.randn(shape, generator=generator)).to(backbone.device).requires_grad_()
    names = [method.object_name, *(state.format(method.object_name) for state in ANOMALOUS_STATES)]
    before = context_state(backbone, names, context_words(backbone, "", count), count)
    around = context_state(backbone, names[:1], context_words(backbone, "", 2 * count), 2 * count, "middle")

    def text_features() -> tuple[Tensor, Tensor, Tensor]:
        prefix = learned[0]
        fixed = context_features(backbone, before, prefix, "shared")
        both = torch.stack([torch.cat([prefix, suffix]) for suffix in learned[1:]])
        return fixed[0].cpu(), fixed[1:].cpu(), contexts_features(backbone, around, both, "shared")[:, 0].cpu()

    optimizer = torch.optim.AdamW([learned], lr=config.lr, weight_decay=0.0)
    for step in range(config.steps):
        drawn = patches[torch.randint(len(patches), (config.batch,), generator=generator)]
        loss = normal_only_loss(drawn, *text_features(), backbone.logit_scale, config.margin, config.align)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        normals.progress(step + 1, config.steps, f"prompts, loss {float(loss.detach()):.3f}")
    with torch.no_grad():
        normal, manual, suffixed = text_features()
    return torch.stack([normal, unit(torch.cat([manual, suffixed]).mean(dim=0))])


def normal_only_loss(
    x: Tensor, normal: Tensor, manual: Tensor, learned: Tensor, logit_scale: float, margin: float, align: float
) -> Tensor:
    """The three parts for unit patches [n, E], the normal prompt [E], and abnormal ones [m, E] and [k, E]."""
    logits = logit_scale * x @ torch.cat([normal[None], manual, learned]).T
    cross = F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
    hinge = (x @ unit(learned.mean(dim=0)) - x @ normal + margin).clamp_min(0).mean()
    return cross + hinge + align * (unit(manual.mean(dim=0)) - unit(learned.mean(dim=0))).square().sum()
