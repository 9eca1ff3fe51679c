"""A CLIP and its tokenizer read from their files, without transformers.

Only what is fully understood is read here: one file of weights with exactly the tensors of the sizes in config.json,
a known activation, a known tokenizer. `None` says "not here", and transformers opens the model, slower and with its
own messages; so nothing can be read by half. Nothing is executed and nothing unpickled.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.backbones.clip_modules import ACTIVATIONS, ClipConfig, ClipModel, TowerConfig

CONFIG, WEIGHTS, PICTURE, PROCESSOR = (
    "config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"

# What transformers takes where config.json is silent (its CLIPTextConfig and CLIPVisionConfig).
_BLOCKS = {"num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT = {**_BLOCKS, "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
         "max_position_embeddings": 77}  # fmt: skip
_VISION = {**_BLOCKS, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_channels": 3,
           "image_size": 224, "patch_size": 32}  # fmt: skip
_TENSORS_PER_BLOCK = 16
_BUFFERS = {
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
}  # of older files; 0, 1, 2, ...
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def model_folder(spec: str) -> Path | None:
    """The folder with a model's files: itself, or a hub id's in the hub's cache, filled where it is not yet.

    None where the hub gives nothing, or a file that is read here is not part of the model.
    """
    if (folder := Path(spec)).is_dir():
        return folder
    try:
        from huggingface_hub import hf_hub_download

        config = Path(hf_hub_download(spec, CONFIG))
        if json.loads(config.read_text(encoding="utf-8")).get("model_type") != "clip":
            return None
        for name in (WEIGHTS, TOKENIZER, TOKENIZER_CONFIG):  # all of one state of the repository
            hf_hub_download(spec, name, revision=config.parent.name)
        for name in (PICTURE, PROCESSOR):  # which a model need not have
            with contextlib.suppress(OSError):
                hf_hub_download(spec, name, revision=config.parent.name)
    except Exception:  # any of a dozen kinds; transformers will say what is wrong
        return None
    return config.parent


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, or another thing in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_clip(folder: Path) -> ClipModel | None:
    """The model of a folder in fp32, or None."""
    config = _config(read_object(folder / CONFIG))
    if config is None:
        return None
    try:
        return _with_weights(config, folder / WEIGHTS)
    except Exception:  # the reader raises its own kinds for a file that is no such file
        return None


def _config(found: Mapping[str, Any] | None) -> ClipConfig | None:
    if found is None or found.get("model_type") != "clip" or "quantization_config" in found:
        return None
    text, vision = _tower(found, "text_config", _TEXT), _tower(found, "vision_config", _VISION)
    embed = found.get("projection_dim", 512)
    if text is None or vision is None or type(embed) is not int or embed < 1:
        return None
    return ClipConfig(text, vision, embed)


def _tower(found: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> TowerConfig | None:
    """One tower's sizes; a "..._dict" beside it, from before 2023, is the whole truth where it is given."""
    given = found.get(f"{name}_dict")
    given = found.get(name, {}) if given is None else given
    if not isinstance(given, Mapping) or "quantization_config" in given:
        return None
    values = {key: given.get(key, default) for key, default in defaults.items()}
    for key, value in values.items():
        if type(value) is not type(defaults[key]) or (type(value) is int and value < 1):
            return None
    fits = values["hidden_size"] % values["num_attention_heads"] == 0
    return TowerConfig(**values) if fits and values["hidden_act"] in ACTIVATIONS else None


def _with_weights(config: ClipConfig, path: Path) -> ClipModel | None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = set(file.keys()) - _BUFFERS
        blocks = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers
        if len(names) < _TENSORS_PER_BLOCK * blocks:  # before as many modules are made
            return None
        with torch.device("meta"):
            model = ClipModel(config)
        wanted = model.state_dict()
        if names != set(wanted):
            return None
        tensors: dict[str, Tensor] = {}
        for name in wanted:
            tensor = file.get_tensor(name)
            if tensor.shape != wanted[name].shape or tensor.dtype not in _DTYPES:
                return None
            tensors[name] = tensor.to(torch.float32)
    model.load_state_dict(tensors, assign=True)
    return model


def read_picture_settings(folder: Path) -> dict[str, Any] | None:
    """The image processor's settings, empty where the model has none; None where they are in another file."""
    if (folder / PROCESSOR).exists():
        return None
    return read_object(folder / PICTURE) if (folder / PICTURE).exists() else {}
