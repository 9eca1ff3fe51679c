"""A tiny CLIP and a folder of tiny images: quick to make, the same everywhere, no network."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anprompt.backbones import Backbone

COLOURS = {
    "red_square": (220, 40, 40),
    "green square": (40, 200, 60),
    "blue_square": (50, 60, 220),
    "yellow square": (230, 210, 40),
}


def tiny_clip_folder(folder: str | Path) -> Path:
    """Write a random CLIP in hub format: 4 blocks a tower, 32 pixels, 64 tokens; its tokenizer knows bytes only.

    Args:
        folder: where it goes; made if it is not there.

    Returns:
        The folder, as `load_backbone` opens it. Its answers mean nothing; shapes, gradients and files are real.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.utils import logging as hf_logging

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    size = {"intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 4, "hidden_act": "quick_gelu"}
    start, end = len(words) - 2, len(words) - 1
    text = {"vocab_size": len(words), "hidden_size": 32, "max_position_embeddings": 64, **size}
    text |= {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    vision = {"hidden_size": 48, "image_size": 32, "patch_size": 8, **size}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    if shown:
        hf_logging.enable_progress_bar()
    return Path(folder)


@lru_cache(maxsize=1)
def tiny_backbone() -> Backbone:
    """The model of `tiny_clip_folder`, loaded; one for the process, since it is frozen."""
    from anprompt.backbones import load_backbone

    with tempfile.TemporaryDirectory() as folder:
        return load_backbone(tiny_clip_folder(Path(folder) / "tiny"))


def tiny_image_folder(folder: str | Path, images: int = 10, seed: int = 0) -> Path:
    """Write class folders of noisy coloured images, 48 x 40 pixels, of four classes that any model can tell apart.

    Args:
        folder: where it goes; made if it is not there.
        images: per class.
        seed: of the noise; another one gives other images of the same classes.

    Returns:
        The folder, as `open_dataset` and `fit` take it.
    """
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (Path(folder) / name).mkdir(parents=True)
        for index in range(images):
            noise = random.integers(-60, 60, (40, 48, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(Path(folder) / name / f"{index}.png")
    return Path(folder)
