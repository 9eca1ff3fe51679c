"""Sentences about states, where a method reads some; one place, so that none is tuned for a data set.

The state phrases and templates are WinCLIP's compositional ensemble (arXiv 2303.14814, supplement B), which is made of words
that hold for any object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anprompt.backbones.base import Backbone
from anprompt.prompting.prompts import ensemble_features, unit

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a photo of a {}.", "a photo of the {}.", "a cropped photo of the {}.", "a cropped photo of a {}.",
    "a close-up photo of a {}.", "a close-up photo of the {}.", "a bright photo of a {}.", "a bright photo of the {}.",
    "a dark photo of the {}.", "a dark photo of a {}.", "a jpeg corrupted photo of a {}.", "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.", "a blurry photo of a {}.", "a photo of a small {}.", "a photo of the small {}.",
    "a photo of a large {}.", "a photo of the large {}.", "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.", "a photo of the {} for anomaly detection.", "a photo of a {} for anomaly detection.",
)  # fmt: skip
# General anomaly semantics of the meta-prompt: no object, no kind of defect.
GENERAL_NORMAL = (
    "a photo of a normal object.",
    "a photo of a flawless object.",
    "a photo of a perfect object.",
    "a good one.",
)
GENERAL_ANOMALOUS = (
    "a photo of an abnormal object.",
    "a photo of a damaged object.",
    "a photo of a broken object.",
    "a bad one.",
)


def ensemble(backbone: Backbone, object_name: str) -> Tensor:
    """Mean unit features of the normal and the anomalous sentences of WinCLIP's ensemble: [2, E]."""
    rows = [[template.format(state.format(object_name)) for state in states for template in TEMPLATES]
            for states in (NORMAL_STATES, ANOMALOUS_STATES)]  # fmt: skip
    return ensemble_features(backbone, rows).cpu()


def two_sentences(backbone: Backbone, object_name: str) -> Tensor:
    """The floor: one sentence for each, [2, E]."""
    return features(backbone, [f"a photo of a normal {object_name}.", f"a photo of an anomalous {object_name}."])


@torch.no_grad()
def features(backbone: Backbone, sentences: Sequence[str]) -> Tensor:
    """Unit features of sentences, [n, E]."""
    return unit(backbone.encode_text(list(sentences), cut=True)).cpu()


def anomaly_share(found: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """Probability of the anomalous one of two sentences: unit [..., E] and [2, E] -> [...]."""
    return (logit_scale * found @ text.T).softmax(dim=-1)[..., 1]
