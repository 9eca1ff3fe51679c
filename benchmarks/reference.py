"""The plain reference step, and a CLIP of ViT-B/16's size to run it on.

"field" does what the methods' public code does: 77 text positions, all blocks for every class at every
step, the frozen image encoder run apart, torch's stock layers. Ratios are to this step, in one process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt.backbones import Backbone, Tokens
from anprompt.backbones.hf import HFClip
from anprompt.data.embedded import manifest
from anprompt.methods.base import Method
from anprompt.prompting.packing import pack
from anprompt.prompting.prompts import ClassState, ImageState, unit

WORD = 7  # letters; longer words are two tokens, about what CLIP's own vocabulary makes of class names


class PieceTokenizer:
    """Stands in for CLIP's vocabulary, so that a full-size model needs no download."""

    def __call__(self, sentence: str) -> dict[str, list[int]]:
        words = sentence.replace(".", " .").split()
        pieces = [word[i : i + WORD] for word in words for i in range(0, len(word), WORD)]
        ids = [1000 + sum(ord(c) * 31**i for i, c in enumerate(piece)) % 40000 for piece in pieces]
        return {"input_ids": [49406, *ids, 49407]}


def vit_b16(activation: str = "quick_gelu", **tokens: int) -> Any:
    """transformers' CLIP of ViT-B/16's size with random weights.

    Args:
        tokens: ids of the text encoder's special tokens.
    """
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config={"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12,
                     "hidden_act": activation, **tokens},
        vision_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                       "num_hidden_layers": 12, "image_size": 224, "patch_size": 16, "hidden_act": activation},
        projection_dim=512,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return CLIPModel(config)


def random_vit_b16() -> Backbone:
    """The same behind our protocol."""
    model = vit_b16(eos_token_id=49407, bos_token_id=49406)
    return HFClip.from_model(model, PieceTokenizer(), name="vit-b16, random weights")


def class_names(count: int) -> list[str]:
    """Names of real things: those of the embedded sets, then pairs of them, one to five words long."""
    rows = [row for rows in manifest()["sets"].values() for row in rows]
    single = list(dict.fromkeys(str(row["name"]) for row in rows))
    pairs = [f"{a} {b}" for i, a in enumerate(single) for b in single[i + 1 :: 37]]
    return (single + pairs)[:count]


def whole(bank: ClassState, backbone: Backbone) -> ClassState:
    """The same class list at the full context length and from block 1 on, as the field's code runs it."""
    ids = long_ids(bank, backbone)
    with torch.no_grad():
        return WholeBank(
            bank.classnames, Tokens(ids, bank.tokens.eot), bank.prefix, bank.rows, pack(bank.tokens),
            bank.frozen, 1, backbone.embed_text(ids),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WholeBank(ClassState):
    """A class list as padded sentences of the full length."""

    sentences: Tensor

    @property
    def trunk(self) -> Tensor:
        return self.sentences


@torch.no_grad()
def see_apart(method: Method, pixels: Tensor) -> ImageState:
    """The frozen image encoder run whole beside the blocks that lead to the prompted ones."""
    start = method.backbone.pre_norm(method.backbone.embed_image(pixels))
    frozen = unit(method.backbone.encode_image(pixels))
    return ImageState(method.backbone.run_image(start, 1, method.first_block - 1), frozen)


def field_bank(method: Method, names: Sequence[str]) -> ClassState:
    """The class list of a method at the full context length, nothing of it computed beforehand."""
    bank = method.prepare(list(names))
    if not hasattr(bank, "slots"):
        return whole(bank, method.backbone)
    ids = long_ids(bank, method.backbone)  # learned context: embeddings as they are, with padding
    tokens = Tokens(ids, bank.tokens.eot)
    return dataclasses.replace(bank, tokens=tokens, packing=pack(tokens, bank.shared))


def long_ids(bank: ClassState, backbone: Backbone) -> Tensor:
    """Token ids padded to the full context length, [C, 77]."""
    ids = bank.tokens.ids
    return torch.cat([ids, ids[:, -1:].expand(-1, backbone.dims.context_length - ids.shape[1])], dim=1)
