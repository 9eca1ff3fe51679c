"""The model: a CLIP in transformers' format, and image features with a share of the patches left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from pictures import SIZE

EMBED = 128
VISION = dict(
    hidden_size=160,
    intermediate_size=640,
    num_hidden_layers=8,
    num_attention_heads=4,
    image_size=SIZE,
    patch_size=8,
    hidden_act="gelu",
    projection_dim=EMBED,
)
TEXT = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=8,
    num_attention_heads=4,
    hidden_act="gelu",
    max_position_embeddings=32,
    projection_dim=EMBED,
)


def grid_positions(width: int, side: int) -> Tensor:
    """Sines and cosines of row and column: told where patches are, a vision tower learns shapes much sooner."""
    rates = 1 / 50 ** (torch.arange(width // 4) / (width // 4))
    turns = torch.arange(side)[:, None] * rates
    waves = torch.cat([turns.sin(), turns.cos()], 1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)


def new_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    ids = dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(text_config=TEXT | ids, vision_config=VISION, projection_dim=EMBED)
    # Plain attention: on CPU in bfloat16 its backward takes half the time of the fused kernel's at this length.
    model = CLIPModel._from_config(config, attn_implementation="eager")
    vision = model.vision_model.embeddings
    with torch.no_grad():
        vision.position_embedding.weight[1:] = 0.3 * grid_positions(VISION["hidden_size"], SIZE // VISION["patch_size"])
    return model


def image_features(model: CLIPModel, pixels: Tensor, keep: int | None = None) -> Tensor:
    """Unit features; with `keep`, only that many random patches of each picture are looked at (FLIP)."""
    vision = model.vision_model
    x = vision.embeddings(pixels)
    if keep is not None:
        rows = torch.rand(len(x), x.shape[1] - 1).topk(keep, dim=1).indices + 1
        rows = torch.cat([torch.zeros(len(x), 1, dtype=torch.long), rows], 1)
        x = x.gather(1, rows[:, :, None].expand(-1, -1, x.shape[2]))
    norm = getattr(vision, "pre_layrnorm", None)
    x = vision.encoder(inputs_embeds=norm(x)).last_hidden_state
    return F.normalize(model.visual_projection(vision.post_layernorm(x[:, 0])).float(), dim=-1)


def text_features(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    pooled = model.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


class Proxies(nn.Module):
    """A learnt direction for every thing: its own, plus those of its subgroup and of the words of its name,
    so that things with common words lie near each other, as texts will have to."""

    def __init__(self, things: list[dict]):
        super().__init__()
        words = sorted({w for t in things for w in t["name"].split()})
        kinds = sorted({t["subgroup"] for t in things})
        parts = torch.zeros(len(things), len(words) + len(kinds))
        for row, thing in enumerate(things):
            for word in thing["name"].split():
                parts[row, words.index(word)] = 1 / len(thing["name"].split()) ** 0.5
            parts[row, len(words) + kinds.index(thing["subgroup"])] = 1
        self.register_buffer("parts", parts)
        self.own = nn.Parameter(torch.randn(len(things), EMBED) * 0.1)
        self.shared = nn.Parameter(torch.randn(parts.shape[1], EMBED) * 0.05)
        self.log_scale = nn.Parameter(torch.tensor(2.7))

    def forward(self) -> Tensor:
        return F.normalize(self.own + self.parts @ self.shared, dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        return self.log_scale.clamp(max=3.5).exp() * features @ self().T


def use_ema(average: dict[str, Tensor], module: nn.Module) -> None:
    module.load_state_dict(average)


def update_ema(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    now = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
    torch._foreach_lerp_([average[k] for k in now], list(now.values()), 1 - decay)
