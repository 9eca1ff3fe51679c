"""SigLIP, and SigLIP 2 of fixed resolution, through transformers (arXiv 2303.15343, 2502.14786).

    text    [place, words, EOS, padding .. to 64]     attention both ways, feature read at the last position
    vision  [place, patch_1 .. patch_P]               feature pooled from all tokens by one attention head

Neither tower has a start token. A place is kept at position 0, which takes no part in attention, so that
prompts stand where every method puts them; after the last vision block it holds the pooled feature.
`docs/backbones.md` says what this means for each method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.backbones.base import Dims, Hook, Tokens, identity_hook
from anprompt.backbones.hf import HubModel
from anprompt.errors import UserError


def _place(x: Tensor) -> Tensor:
    """Tokens [n, L, D] with an empty place in front, [n, 1 + L, D]."""
    return F.pad(x, (0, 0, 1, 0))


class HFSiglip(HubModel):
    """transformers' `SiglipModel`, frozen and split into blocks.

    Attributes:
        logit_bias: b of the model's own probabilities, sigmoid(scale * cos + b); it changes no order of
            classes and no cross-entropy over them, so methods do not read it.
    """

    kind: ClassVar[str] = "siglip"
    default_mean = (0.5, 0.5, 0.5)
    default_std = (0.5, 0.5, 0.5)
    causal_text = False
    class_token = False

    def _setup(self, model: Any, picture: dict[str, Any], name: str, dtype: torch.dtype) -> None:
        text, vision = model.config.text_config, model.config.vision_config
        if not vision.vision_use_head:
            raise UserError(f"Backbone {name!r} has no pooling head, so there is no image feature to compare.")
        if text.projection_size != vision.hidden_size:
            raise UserError(
                f"Backbone {name!r}: text features have {text.projection_size} channels but image features "
                f"{vision.hidden_size}; fix its config.json."
            )
        pad = self._tokenizer.pad_token_id
        self._pad = int(text.pad_token_id if pad is None else pad)
        self.logit_bias = float(model.logit_bias.detach())
        super()._setup(model, picture, name, dtype)

    def _dims(self, config: Any) -> Dims:
        text, vision = config.text_config, config.vision_config
        return Dims(
            text_width=text.hidden_size,
            vision_width=vision.hidden_size,
            embed=text.projection_size,
            text_depth=text.num_hidden_layers,
            vision_depth=vision.num_hidden_layers,
            context_length=text.max_position_embeddings + 1,  # with the place in front
            image_size=vision.image_size,
            patch_size=vision.patch_size,
        )

    # --- text -----------------------------------------------------------------------------------
    def tokenize(self, sentences: Sequence[str], cut: bool = False) -> Tokens:
        # Lower case is what these models were trained on; not every tokenizer file says so.
        ids = self._ids([s.lower() for s in sentences], cut, self.dims.context_length - 1)
        length = max(len(row) for row in ids)
        rows = [[self._pad, *row] + [self._pad] * (length - len(row)) for row in ids]
        eot = torch.tensor([len(row) for row in ids], device=self.device)
        return Tokens(torch.tensor(rows, device=self.device), eot)

    def complete(self, tokens: Tokens) -> Tokens:
        length = self.dims.context_length
        ids = F.pad(tokens.ids, (0, length - tokens.ids.shape[1]), value=self._pad)
        return Tokens(ids, torch.full_like(tokens.eot, length - 1))

    def embed_words(self, ids: Tensor) -> Tensor:
        return self.model.text_model.embeddings.token_embedding(ids)

    def text_positions(self, length: int) -> Tensor:
        weight = self.model.text_model.embeddings.position_embedding.weight
        return _place(weight[None, : length - 1])[0]

    def run_text(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        layers = self.model.text_model.encoder.layers
        for block in range(first, (last if last is not None else len(layers)) + 1):
            x = hook(block, x)
            x = torch.cat([x[:, :1], layers[block - 1](x[:, 1:], attention_mask=None)], dim=1)
        return x

    def read_text(self, x: Tensor, eot: Tensor) -> Tensor:
        pooled = x[torch.arange(len(x), device=x.device), eot]
        return self.model.text_model.head(self.model.text_model.final_layer_norm(pooled))

    # --- vision ---------------------------------------------------------------------------------
    def embed_image(self, pixels: Tensor) -> Tensor:
        return _place(self.model.vision_model.embeddings(pixels))

    def pre_norm(self, x: Tensor) -> Tensor:
        return x

    def run_image(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        layers = self.model.vision_model.encoder.layers
        for block in range(first, (last if last is not None else len(layers)) + 1):
            x = hook(block, x)
            tokens = layers[block - 1](x[:, 1:], attention_mask=None)
            read = self._pooled(tokens)[:, None] if block == len(layers) else x[:, :1]
            x = torch.cat([read, tokens], dim=1)
        return x

    def _pooled(self, tokens: Tensor) -> Tensor:
        """The model's feature of all tokens, prompts among them: [B, N, D_v] -> [B, D_v]."""
        return self.model.vision_model.head(self.post_norm(tokens))

    def post_norm(self, x: Tensor) -> Tensor:
        return self.model.vision_model.post_layernorm(x)

    @property
    def image_projection(self) -> Tensor:
        """What one token adds to the pooled feature, per unit of attention: [D_v, D_v].

        The pooling head has no projection of its own; this is its value map followed by its output map,
        the head's linear part (without biases and the residual MLP behind it).
        """
        attention = self.model.vision_model.head.attention
        value = attention.in_proj_weight[2 * attention.embed_dim :]
        return value.T @ attention.out_proj.weight.T

    def read_image(self, x: Tensor) -> Tensor:
        """The pooled feature, which stands at position 0 after the last block: [B, N, D_v] -> [B, E]."""
        return x[:, 0]

    # --- for the contract test --------------------------------------------------------------------
    def stock_forward(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return super().stock_forward(ids[:, 1:], pixels)
