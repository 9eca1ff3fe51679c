"""The floor: a frozen CLIP, two sentences, no image seen before.

image score = softmax(tau cos(image, [normal, anomalous]))[1]; map = the same for the patches of the last block
"""

from __future__ import annotations

from typing import ClassVar

from anprompt.detection.base import DetectionMethod, Normals, Scored
from anprompt.detection.features import Look, Sight, projected
from anprompt.detection.sentences import anomaly_share, two_sentences
from anprompt.methods.config import MethodConfig


class TwoSentences(DetectionMethod[MethodConfig]):
    """Zero-shot CLIP."""

    name: ClassVar[str] = "clip"
    paper: ClassVar[str] = "arXiv 2103.00020"
    doc: ClassVar[str] = "two sentences, nothing learned: the floor"
    few_shot: ClassVar[bool] = False

    def sight(self, tiles: int) -> Sight:
        return Sight(tiles, (self.backbone.dims.vision_depth,))

    def fit(self, normals: Normals) -> None:
        self.tensors = {"text": two_sentences(self.backbone, self.object_name)}

    def score(self, look: Look) -> Scored:
        text, scale = self.tensors["text"], self.backbone.logit_scale
        found = anomaly_share(projected(self.backbone, look.tokens[:, :, -1]), text, scale)
        return Scored(found, float(anomaly_share(look.image, text, scale)))
