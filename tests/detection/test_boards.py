"""The embedded boards: MVTec layout, a mask a defect, no board in both parts, small, and with their notice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import anprompt

BOARDS = Path(anprompt.__file__).parent / "assets/boards"
KINDS = ("copper", "mousebite", "open", "pin-hole", "short", "spur")


def boards_of(*folders: str) -> set[str]:
    return {path.name.split("_")[0] for folder in folders for path in (BOARDS / folder).glob("*.png")}


def test_no_board_is_in_both_parts() -> None:
    tested = boards_of("test/good", *(f"test/{kind}" for kind in KINDS))
    assert len(tested) == 60 and len(boards_of("train/good")) == 20
    assert not tested & boards_of("train/good")


def test_every_defect_has_a_mask_of_its_size() -> None:
    for kind in KINDS:
        crops = sorted((BOARDS / "test" / kind).glob("*.png"))
        assert len(crops) > 50
        for crop in crops:
            mask = np.asarray(Image.open(BOARDS / "ground_truth" / kind / f"{crop.stem}_mask.png"))
            assert mask.shape == Image.open(crop).size[::-1] == (96, 96)
            assert 0.001 < mask.mean() < 0.6


def test_small_and_with_notice() -> None:
    assert sum(path.stat().st_size for path in BOARDS.rglob("*") if path.is_file()) < 2e6
    notice = (BOARDS / "LICENSE").read_text()
    assert "MIT License" in notice and "Copyright (c) 2018 tangsanli5201" in notice
