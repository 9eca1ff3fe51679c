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

import pytest


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    """A command sets up the log for its process; here a test may come after one, or use what one has made."""
    log = logging.getLogger("anprompt")
    log.setLevel(logging.NOTSET)
    log.propagate, log.handlers = True, []


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of 4 blocks per tower, 32 pixels, 64 tokens; its tokenizer knows bytes only."""
    from anprompt.testing import tiny_clip_folder

    return tiny_clip_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path):
    """`tiny_folder` loaded in fp32; frozen, so tests can share it."""
    from anprompt.backbones import load_backbone

    return load_backbone(str(tiny_folder))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class folders of ten noisy coloured pictures each; tests must not change it."""
    from anprompt.testing import tiny_image_folder

    return tiny_image_folder(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def adapter_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ANPrompt adapter for the classes of `photo_folder`; tests must not change it."""
    from anprompt.adapters.adapter import save_adapter
    from anprompt.methods import build_method

    names = ["blue square", "green square", "red square", "yellow square"]
    method = build_method("anprompt", tiny_backbone, names, settings={"token_width": 16, "draws": 2})
    return save_adapter(tmp_path_factory.mktemp("adapters") / "adapter", method)
