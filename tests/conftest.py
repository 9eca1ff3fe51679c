"""A tiny CLIP with random weights in hub format, and a folder of small pictures; no network."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything heavy is imported. No test may wait for a network; and on models this small a second
# thread only waits, which on a busy machine makes every operation many times slower.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ANPROMPT_CACHE", "off")  # no test writes into its user's home

import logging

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red_square": (220, 40, 40), "green square": (40, 200, 60), "blue_square": (50, 60, 220),
           "yellow square": (230, 210, 40)}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    """A command sets up the log for its process; here a test may come after one, or use what one has made."""
    log = logging.getLogger("anprompt")
    log.setLevel(logging.NOTSET)
    log.propagate, log.handlers = True, []


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 4 blocks per tower, 32 pixels, 64 tokens; its tokenizer knows bytes only."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    size = {
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 32, "max_position_embeddings": 64,
            "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1, **size,
        },
        vision_config={"hidden_size": 48, "image_size": 32, "patch_size": 8, **size},
        projection_dim=24,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path):
    """`tiny_folder` loaded in fp32; frozen, so tests can share it."""
    from anprompt.backbones import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class folders of ten noisy coloured pictures each; tests must not change it."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(10):
            noise = rng.integers(-60, 60, (40, 48, 3)) + np.array(colour)
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def adapter_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ANPrompt adapter for the classes of `photo_folder`; tests must not change it."""
    from anprompt.adapters.adapter import save_adapter
    from anprompt.methods import build_method

    names = sorted(name.replace("_", " ") for name in COLOURS)
    method = build_method("anprompt", tiny_backbone, names, settings={"token_width": 16, "draws": 2})
    return save_adapter(tmp_path_factory.mktemp("adapters") / "adapter", method)
