"""Models in hub format: what all of them share, and CLIP.

A CLIP in the usual files is read without transformers (`clip_files`), which spares a start of most of its processor
time; whatever else, and every fault, goes through transformers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anprompt.backbones.base import Backbone, BlockParts, Dims, Hook, Tokens, identity_hook
from anprompt.backbones.clip_files import model_folder, read_clip, read_object, read_picture_settings
from anprompt.backbones.clip_modules import ClipModel
from anprompt.backbones.clip_tokenizer import read_tokenizer
from anprompt.backbones.linear import quicken
from anprompt.backbones.tokenizers import check_ids, check_tokenizer
from anprompt.errors import UserError
from anprompt.utils.files import first_line

log = logging.getLogger("anprompt")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def weight_hash(model: nn.Module) -> str:
    """sha256 over names, shapes and fp32 values of all weights, so the file format does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()


def _refuse_wrong_activation(spec: str, config: Any) -> None:
    text, vision = config.text_config.hidden_act, config.vision_config.hidden_act
    if text != vision:
        raise UserError(f"Backbone {spec!r}: text uses {text!r} but vision uses {vision!r}; fix its config.json.")
    if "openai/clip-vit" in spec and text != "quick_gelu":
        raise UserError(
            f"Backbone {spec!r}: config says activation {text!r}, but these weights were trained with "
            "'quick_gelu'; with the wrong one accuracy is silently lost. Set hidden_act in its config.json."
        )


# Code that comes with a model is never run, nor asked about: transformers would ask on a terminal.
NO_CODE: dict[str, Any] = {"trust_remote_code": False}

# model_type in config.json -> the class of transformers that opens it.
KINDS = {"clip": "CLIPModel", "siglip": "SiglipModel"}


@contextlib.contextmanager
def _plain_errors(spec: str) -> Iterator[None]:
    """Load errors made plain."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library raises a dozen types for "not there" and "broken"
        raise UserError(_load_failure(spec, error)) from error


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """No progress bar of transformers' over reading a file."""
    from transformers.utils import logging as hf_logging

    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def hub_kind(spec: str) -> str:
    """Which of `KINDS` a hub id or folder holds.

    Raises:
        UserError: not found, or of a type that is not supported.
    """
    folder = Path(spec)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"Backbone folder {spec!r} has no config.json; point at a folder saved in hub format.")
    files = model_folder(spec)
    if files is not None and (read_object(files / "config.json") or {}).get("model_type") == "clip":
        return "clip"
    from transformers import AutoConfig

    with _plain_errors(spec), _no_bar():
        kind = str(AutoConfig.from_pretrained(spec, **NO_CODE).model_type)
    if kind == "siglip2":
        raise UserError(
            f"Backbone {spec!r} is a SigLIP 2 of the NaFlex kind, which takes pictures of any shape and is not "
            "supported; use one of fixed resolution, like 'google/siglip2-base-patch16-224'."
        )
    if kind not in KINDS:
        known = ", ".join(repr(name) for name in KINDS)
        raise UserError(f"Backbone {spec!r} is of type {kind!r}; supported here: {known}.")
    return kind


def load_hub(spec: str, kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """Model in fp32, tokenizer and image-processor settings.

    Raises:
        UserError: not found, incomplete, not of this kind, or its activation does not fit its weights.
    """
    if kind == "clip" and (folder := model_folder(spec)) is not None and (model := read_clip(folder)) is not None:
        _refuse_wrong_activation(spec, model.config)
        tokenizer = _checked(spec, read_tokenizer(folder) or _tokenizer(spec), model)
        picture = read_picture_settings(folder)
        return model, tokenizer, _picture_settings(spec) if picture is None else picture
    return _by_transformers(spec, kind)


def _by_transformers(spec: str, kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """`load_hub` for whatever is not read directly."""
    import transformers
    from transformers import AutoConfig

    found = hub_kind(spec)
    if found != kind:
        raise UserError(f"Backbone {spec!r} is of type {found!r}, not {kind!r}; load_backbone opens both.")
    with _plain_errors(spec), _no_bar():
        _refuse_wrong_activation(spec, AutoConfig.from_pretrained(spec, **NO_CODE))
        # fp32 first: the hash must not depend on the precision that is asked for.
        loaded: Any = getattr(transformers, KINDS[kind]).from_pretrained(
            spec, dtype=torch.float32, attn_implementation="sdpa", output_loading_info=True, **NO_CODE
        )
        model, report = loaded
    tokenizer = _checked(spec, _tokenizer(spec), model)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"Backbone {spec!r} lacks {len(missing)} weights, e.g. {missing[0]!r}: its file is incomplete.")
    return model, tokenizer, _picture_settings(spec)


def _tokenizer(spec: str) -> Any:
    from transformers import AutoTokenizer

    with _plain_errors(spec), _no_bar():
        tokenizer = AutoTokenizer.from_pretrained(spec, **NO_CODE)
    # What is too long is refused by name in `tokenize`; a warning besides would alarm whoever only asked.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _checked(spec: str, tokenizer: Any, model: Any) -> Any:
    with _plain_errors(spec):
        check_tokenizer(spec, tokenizer, model.text_model.embeddings.token_embedding.num_embeddings)
    return tokenizer


def _picture_settings(spec: str) -> dict[str, Any]:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(spec)[0]
    except OSError:
        return {}


def _load_failure(spec: str, error: Exception) -> str:
    first = first_line(error).rstrip(".")
    if "sentencepiece" in str(error).lower():
        return f"The tokenizer of {spec!r} needs sentencepiece: pip install 'anprompt[siglip]'."
    if Path(spec).exists():
        return f"Can't read backbone {spec!r}: {first}. The folder needs config.json, weights and tokenizer files."
    return (
        f"Can't load backbone {spec!r}: no such folder, and the hub gave nothing ({type(error).__name__}). "
        "Check the name and the network, or download the model elsewhere and pass its folder; "
        "'embedded' needs no download."
    )


class HubModel(Backbone):
    """A dual encoder of transformers, frozen; subclasses say where its blocks are.

    Args:
        spec: hub id ("openai/clip-vit-base-patch16") or a folder in hub format.
        dtype: precision of the weights; the hash is taken in fp32 before the cast.

    Raises:
        UserError: see `load_hub`.
    """

    kind: ClassVar[str]
    default_mean: ClassVar[tuple[float, float, float]]
    default_std: ClassVar[tuple[float, float, float]]
    model: Any

    def __init__(self, spec: str, *, dtype: torch.dtype = torch.float32, name: str | None = None) -> None:
        super().__init__()
        model, self._tokenizer, picture = load_hub(spec, self.kind)
        self._setup(model, picture, name or spec, dtype)

    @classmethod
    def from_model(cls, model: nn.Module, tokenizer: Any, *, name: str, picture: dict[str, Any] | None = None) -> Any:
        """Wrap a model that is already in memory (random weights in benchmarks, own pre-training)."""
        self = cls.__new__(cls)
        Backbone.__init__(self)
        self._tokenizer = tokenizer
        self._setup(model, picture or {}, name, next(model.parameters()).dtype)
        return self

    def _setup(self, model: Any, picture: dict[str, Any], name: str, dtype: torch.dtype) -> None:
        self.id = name
        self.weight_hash = weight_hash(model)
        self.activation = model.config.text_config.hidden_act
        self.mean = tuple(picture.get("image_mean") or self.default_mean)
        self.std = tuple(picture.get("image_std") or self.default_std)
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.dims = self._dims(model.config)
        self.model = model.to(dtype)
        self.freeze()
        for tower in (self.model.text_model, self.model.vision_model):
            quicken(tower)

    @abstractmethod
    def _dims(self, config: Any) -> Dims:
        """Sizes, from the names that this kind of model's config has for them."""

    def _ids(self, sentences: Sequence[str], cut: bool, limit: int) -> list[list[int]]:
        """The tokenizer's ids of each sentence; see `tokenize`."""
        ids = [self._tokenizer(s)["input_ids"] for s in sentences]
        if cut:
            ids = [row if len(row) <= limit else [*row[: limit - 1], row[-1]] for row in ids]
        rows = self.model.text_model.embeddings.token_embedding.num_embeddings
        for sentence, row in zip(sentences, ids):
            check_ids(self.id, sentence, row, rows)
            if len(row) > limit:
                raise UserError(
                    f"Sentence {sentence!r} has {len(row)} tokens; {self.id} reads at most {limit}. Shorten the name."
                )
        return ids

    # --- parts ------------------------------------------------------------------------------------
    def text_parts(self, block: int) -> BlockParts:
        return _parts(self.model.text_model.encoder.layers[block - 1])

    def vision_parts(self, block: int) -> BlockParts:
        return _parts(self.model.vision_model.encoder.layers[block - 1])

    # --- for the contract test --------------------------------------------------------------------
    def stock_forward(self, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Text and image features of transformers' own forward on these weights, which the blocks must equal."""
        own = isinstance(self.model, ClipModel)
        model = _stock(self.model, self._tokenizer.eos_token_id) if own else self.model
        text = model.get_text_features(input_ids=ids).pooler_output
        return text, model.get_image_features(pixel_values=pixels).pooler_output


def _stock(model: ClipModel, end: int) -> Any:
    """transformers' model with the weights of ours, and the same products."""
    from transformers import CLIPConfig, CLIPModel

    sizes = dataclasses.asdict(model.config)
    sizes["text_config"]["eos_token_id"] = end
    stock = CLIPModel._from_config(CLIPConfig(**sizes), attn_implementation="sdpa", dtype=model.logit_scale.dtype)
    stock.load_state_dict(model.state_dict())
    for tower in (stock.text_model, stock.vision_model):
        quicken(tower)
    return stock.eval().requires_grad_(False).to(model.logit_scale.device)


class HFClip(HubModel):
    """A CLIP in hub format, frozen and split into blocks: our modules, or transformers' where it had to read them."""

    kind: ClassVar[str] = "clip"
    default_mean = CLIP_MEAN
    default_std = CLIP_STD

    def _dims(self, config: Any) -> Dims:
        text, vision = config.text_config, config.vision_config
        return Dims(
            text_width=text.hidden_size,
            vision_width=vision.hidden_size,
            embed=config.projection_dim,
            text_depth=text.num_hidden_layers,
            vision_depth=vision.num_hidden_layers,
            context_length=text.max_position_embeddings,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
        )

    # --- text -----------------------------------------------------------------------------------
    def tokenize(self, sentences: Sequence[str], cut: bool = False) -> Tokens:
        ids = self._ids(sentences, cut, self.dims.context_length)
        length = max(len(row) for row in ids)
        padded = [row + [row[-1]] * (length - len(row)) for row in ids]
        eot = [len(row) - 1 for row in ids]
        return Tokens(torch.tensor(padded, device=self.device), torch.tensor(eot, dtype=torch.long, device=self.device))

    def embed_words(self, ids: Tensor) -> Tensor:
        return self.model.text_model.embeddings.token_embedding(ids)

    def text_positions(self, length: int) -> Tensor:
        return self.model.text_model.embeddings.position_embedding.weight[:length]

    def run_text(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        layers = self.model.text_model.encoder.layers
        for block in range(first, (last if last is not None else len(layers)) + 1):
            x = layers[block - 1](hook(block, x), attention_mask=None, is_causal=True)
        return x

    def read_text(self, x: Tensor, eot: Tensor) -> Tensor:
        pooled = x[torch.arange(len(x), device=x.device), eot]
        return self.model.text_projection(self.model.text_model.final_layer_norm(pooled))

    # --- vision ---------------------------------------------------------------------------------
    def embed_image(self, pixels: Tensor) -> Tensor:
        return self.model.vision_model.embeddings(pixels)

    def pre_norm(self, x: Tensor) -> Tensor:
        return self.model.vision_model.pre_layrnorm(x)

    def run_image(self, x: Tensor, first: int = 1, last: int | None = None, hook: Hook = identity_hook) -> Tensor:
        layers = self.model.vision_model.encoder.layers
        for block in range(first, (last if last is not None else len(layers)) + 1):
            x = layers[block - 1](hook(block, x), attention_mask=None)
        return x

    def post_norm(self, x: Tensor) -> Tensor:
        return self.model.vision_model.post_layernorm(x)

    @property
    def image_projection(self) -> Tensor:
        return self.model.visual_projection.weight.T


def _parts(layer: Any) -> BlockParts:
    attention = layer.self_attn
    return BlockParts(
        norm1=layer.layer_norm1,
        q=attention.q_proj,
        k=attention.k_proj,
        v=attention.v_proj,
        out=attention.out_proj,
        norm2=layer.layer_norm2,
        mlp=layer.mlp,
        heads=attention.num_heads,
    )
