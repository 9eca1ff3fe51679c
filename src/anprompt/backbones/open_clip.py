"""Models of open_clip (extra `[open-clip]`): CLIP-shaped ones, with a ViT and a causal text encoder.

    open-clip:ViT-B-32/laion2b_s34b_b79k     a model and a tag, or a file of weights, of the library
    open-clip:hf-hub:org/repository          a hub repository with open_clip_config.json
    /a/folder                                a local folder with open_clip_config.json

The library's own modules do the work. Others of its models (convolutional or timm towers, text encoders of
transformers, CoCa) are refused with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.backbones.base import Backbone, BlockParts, Dims, Hook, Tokens, identity_hook
from anprompt.backbones.hf import CLIP_MEAN, CLIP_STD, weight_hash
from anprompt.backbones.linear import quicken
from anprompt.errors import UserError
from anprompt.utils.files import first_line

PREFIX = "open-clip:"


def is_open_clip_folder(spec: str) -> bool:
    """Whether a folder holds a model saved by open_clip and none in hub format."""
    folder = Path(spec)
    return (folder / "open_clip_config.json").is_file() and not (folder / "config.json").is_file()


def library() -> Any:
    """The open_clip module.

    Raises:
        UserError: not installed, or it can't be imported (most often its torchvision does not fit torch).
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise UserError(f"open_clip is there, but {error.name!r} which it needs is not.") from error
        raise UserError(
            "open_clip models need the extra: pip install 'anprompt[open-clip]'; models in hub format do not."
        ) from error
    except Exception as error:  # a torchvision of another build fails in many ways
        first = first_line(error)
        raise UserError(
            f"open_clip can't be imported ({first}); install a torchvision that fits torch {torch.__version__}."
        ) from error
    return open_clip


def _source(spec: str) -> tuple[str, str | None]:
    """The library's model name and weights of a spec."""
    if not spec.startswith(PREFIX):
        return f"local-dir:{spec}", None
    rest = spec[len(PREFIX) :]
    if rest.startswith("hf-hub:"):
        return rest, None
    model, _, weights = rest.partition("/")
    if not model or not weights:
        raise UserError(
            f"Backbone {spec!r} names no weights; write open-clip:MODEL/WEIGHTS, like "
            "open-clip:ViT-B-32/laion2b_s34b_b79k, or open-clip:hf-hub:ORG/REPOSITORY."
        )
    return model, weights


def _load(spec: str) -> tuple[Any, Any]:
    """Model in fp32 and tokenizer."""
    name, weights = _source(spec)
    lib = library()
    try:
        with warnings.catch_warnings():
            # The library goes on with a warning where accuracy is silently lost.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            model = lib.create_model(
                name, weights, precision="fp32", device="cpu", require_pretrained=True, pretrained_text=False
            )
        return model.float(), lib.get_tokenizer(name)
    except UserError:
        raise
    except Exception as error:  # unknown names, no network, files that do not fit
        first = first_line(error)
        if "QuickGELU mismatch" in first:
            first = f"these weights need the other activation; see for a model {name + '-quickgelu'!r}"
        raise UserError(f"Can't load backbone {spec!r}: {first[:300]}.") from error


def _refuse_other_shapes(name: str, model: Any, tokenizer: Any) -> None:
    """`UserError` with the reason where the blocks can't be run one by one as here."""
    visual, text = model.visual, getattr(model, "text", model)
    reason = ""
    if type(visual).__name__ != "VisionTransformer":
        reason = f"its image tower is a {type(visual).__name__}, not the library's VisionTransformer"
    elif visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
        reason = "its image feature is not read from a class token through a projection"
    elif len(set(visual.image_size)) != 1 or len(set(visual.patch_size)) != 1:
        reason = "its pictures or patches are not square"
    elif type(text).__name__ not in ("CLIP", "TextTransformer"):
        reason = f"its text tower is a {type(text).__name__}, not the library's TextTransformer"
    elif getattr(text, "attn_mask", None) is None or getattr(text, "cls_emb", None) is not None:
        reason = "its text attention is not plainly causal"
    elif getattr(text, "text_pool_type", getattr(text, "pool_type", "")) not in ("argmax", "eos"):
        reason = "its text feature is not read at end-of-text"
    elif type(tokenizer).__name__ != "SimpleTokenizer":
        reason = f"its tokenizer is a {type(tokenizer).__name__}, not the library's SimpleTokenizer"
    elif any(
        type(block).__name__ != "ResidualAttentionBlock" or hasattr(block, "ln_1_kv")
        for tower in (visual, text)
        for block in tower.transformer.resblocks
    ):
        reason = "its blocks are of a custom kind"
    if reason:
        raise UserError(f"Backbone {name!r} is not supported: {reason}.")


def _activation(module: nn.Module) -> str:
    """The activation's name as in hub configs."""
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    return {"QuickGELU": "quick_gelu"}.get(type(module).__name__, type(module).__name__)


class OpenClip(Backbone):
    """A CLIP of open_clip, frozen and split into blocks.

    Args:
        spec: see the top of this file.
        dtype: precision of the weights; the hash is taken in fp32 before the cast.

    Raises:
        UserError: the library is missing or broken, the model is not found or of another shape.
    """

    def __init__(self, spec: str, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model, tokenizer = _load(spec)
        self._setup(model, tokenizer, spec, dtype)

    @classmethod
    def from_model(cls, model: nn.Module, tokenizer: Any, *, name: str) -> OpenClip:
        """Wrap a model that is already in memory."""
        self = cls.__new__(cls)
        Backbone.__init__(self)
        self._setup(model, tokenizer, name, next(model.parameters()).dtype)
        return self

    def _setup(self, model: Any, tokenizer: Any, name: str, dtype: torch.dtype) -> None:
        _refuse_other_shapes(name, model, tokenizer)
        visual, text = model.visual, getattr(model, "text", model)
        picture = getattr(visual, "preprocess_cfg", None) or {}
        self.id = name
        self.weight_hash = weight_hash(model)
        self.activation = _activation(text.transformer.resblocks[0].mlp.gelu)
        self.mean = tuple(picture.get("mean") or CLIP_MEAN)
        self.std = tuple(picture.get("std") or CLIP_STD)
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.dims = Dims(
            text_width=text.transformer.width,
            vision_width=visual.transformer.width,
            embed=visual.proj.shape[1],
            text_depth=len(text.transformer.resblocks),
            vision_depth=len(visual.transformer.resblocks),
            context_length=text.positional_embedding.shape[0],
            image_size=visual.image_size[0],
            patch_size=visual.patch_size[0],
        )
        self._tokenizer = tokenizer
        self.model = model.to(dtype)
        self.freeze()
        quicken(self.model)

    @property
    def _text(self) -> Any:
        return getattr(self.model, "text", self.model)

    @property
    def _visual(self) -> Any:
        return self.model.visual

    # --- text -----------------------------------------------------------------------------------
    def tokenize(self, sentences: Sequence[str], cut: bool = False) -> Tokens:
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        limit = self.dims.context_length
        ids = [[start, *self._tokenizer.encode(s), end] for s in sentences]
        if cut:
            ids = [row if len(row) <= limit else [*row[: limit - 1], end] for row in ids]
        for sentence, row in zip(sentences, ids):
            if len(row) > limit:
                raise UserError(
                    f"Sentence {sentence!r} has {len(row)} tokens; {self.id} reads at most {limit}. Shorten the name."
                )
        length = max(len(row) for row in ids)
        padded = [row + [end] * (length - len(row)) for row in ids]
        eot = [len(row) - 1 for row in ids]
        return Tokens(torch.tensor(padded, device=self.device), torch.tensor(eot, device=self.device))

    def embed_words(self, ids: Tensor) -> Tensor:
        return self._text.token_embedding(ids)

    def text_positions(self, length: int) -> Tensor:
        return self._text.positional_embedding[:length]

    def run_text(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        blocks, mask = self._text.transformer.resblocks, None
        for block in range(first, (last if last is not None else len(blocks)) + 1):
            x = hook(block, x)
            if mask is None or len(mask) != x.shape[1]:  # prompts may go beyond the context length
                mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device, x.dtype)
            x = blocks[block - 1](x, attn_mask=mask)
        return x

    def read_text(self, x: Tensor, eot: Tensor) -> Tensor:
        pooled = self._text.ln_final(x[torch.arange(len(x), device=x.device), eot])
        projection = self._text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Module) else pooled @ projection

    # --- vision ---------------------------------------------------------------------------------
    def embed_image(self, pixels: Tensor) -> Tensor:
        visual = self._visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        start = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat([start, patches], dim=1) + visual.positional_embedding.to(patches.dtype)

    def pre_norm(self, x: Tensor) -> Tensor:
        return self._visual.ln_pre(x)

    def run_image(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        blocks = self._visual.transformer.resblocks
        for block in range(first, (last if last is not None else len(blocks)) + 1):
            x = blocks[block - 1](hook(block, x))
        return x

    def post_norm(self, x: Tensor) -> Tensor:
        return self._visual.ln_post(x)

    @property
    def image_projection(self) -> Tensor:
        return self._visual.proj

    def read_image(self, x: Tensor) -> Tensor:
        return self.post_norm(x[:, 0]) @ self.image_projection

    # --- parts ------------------------------------------------------------------------------------
    def text_parts(self, block: int) -> BlockParts:
        return _parts(self._text.transformer.resblocks[block - 1])

    def vision_parts(self, block: int) -> BlockParts:
        return _parts(self._visual.transformer.resblocks[block - 1])

    # --- for the contract test --------------------------------------------------------------------
    def stock_forward(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Text and image features of the library's own forward; `ids` are padded to the context length."""
        ids = F.pad(ids, (0, self.dims.context_length - ids.shape[1]))
        return self.model.encode_text(ids), self.model.encode_image(pixels)


def _parts(block: Any) -> BlockParts:
    attention = block.attn

    def linear(index: int) -> Callable[[Tensor], Tensor]:
        rows = slice(index * attention.embed_dim, (index + 1) * attention.embed_dim)
        return lambda x: F.linear(x, attention.in_proj_weight[rows], attention.in_proj_bias[rows])

    return BlockParts(
        norm1=block.ln_1,
        q=linear(0),
        k=linear(1),
        v=linear(2),
        out=lambda x: block.ls_1(attention.out_proj(x)),
        norm2=block.ln_2,
        mlp=lambda x: block.ls_2(block.mlp(x)),
        heads=attention.num_heads,
    )
