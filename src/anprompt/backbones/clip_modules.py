"""CLIP's two towers as plain modules: same names, operations and numbers as transformers' `CLIPModel`.

To import transformers' model module costs more processor time than all else that one answer takes: it brings
generation, distribution and compilation along, of which a frozen encoder uses nothing. What is left of the model is
linear layers, norms and torch's own attention (arXiv 2103.00020, section 2.4). `HFClip.stock_forward` runs
transformers' model on the same weights; tests hold the two equal bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one tower, under the names that config.json has for them; what a tower has not is 0."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    hidden_act: str
    layer_norm_eps: float
    vocab_size: int = 0
    max_position_embeddings: int = 0
    num_channels: int = 0
    image_size: int = 0
    patch_size: int = 0


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of the model, under the names that config.json has for them."""

    text_config: TowerConfig
    vision_config: TowerConfig
    projection_dim: int


class QuickGELUActivation(nn.Module):
    """`x sigmoid(1.702 x)`, as the first CLIPs were trained."""

    def forward(self, input: Tensor) -> Tensor:
        return input * torch.sigmoid(1.702 * input)


ACTIVATIONS: dict[str, type[nn.Module]] = {"quick_gelu": QuickGELUActivation, "gelu": nn.GELU}


def _table(rows: int, width: int) -> nn.Embedding:
    """An embedding whose values come later; torch's own random ones would import its compiler."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class _Attention(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.k_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, is_causal: bool) -> Tensor:
        head_shape = (*x.shape[:-1], -1, x.shape[-1] // self.num_heads)
        q, k, v = (part(x).view(head_shape).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal and x.shape[1] > 1)
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


class _Mlp(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.activation_fn = ACTIVATIONS[config.hidden_act]()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = _Mlp(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, attention_mask: None = None, is_causal: bool = False) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), is_causal)
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))


class _TextEmbeddings(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.token_embedding = _table(config.vocab_size, config.hidden_size)
        self.position_embedding = _table(config.max_position_embeddings, config.hidden_size)


class _TextTower(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.embeddings = _TextEmbeddings(config)
        self.encoder = _Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _VisionEmbeddings(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, kernel_size=patch, stride=patch, bias=False)
        self.position_embedding = _table((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        start = self.class_embedding.expand(pixels.shape[0], 1, -1)  # len() would fix the size of an exported batch
        return torch.cat([start, patches], dim=1) + self.position_embedding.weight


class _VisionTower(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.embeddings = _VisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)  # the name in all files
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class ClipModel(nn.Module):
    """Both towers, their projections and the logit scale; the values of its weights are undefined until loaded.

    Args:
        config: sizes; `hidden_act` one of `ACTIVATIONS`.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = _TextTower(config.text_config)
        self.vision_model = _VisionTower(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.empty(()))
