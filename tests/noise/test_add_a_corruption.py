"""docs/add-a-corruption.md is run as it is printed: the function, the entry point, the use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.noise import image
from anprompt.noise.image import GROUPS, IMAGE_NOISE, IMAGENET_C, SEVERITIES, corrupt, corruption, picture_rng
from anprompt.tables.noise import kind_of
from tests.noise_pictures import fixed_pictures
from tests.plugins import blocks, install

PAGE = "add-a-corruption.md"


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names of the page's code; its corruption is known until the test is over."""
    before, groups = dict(IMAGE_NOISE), dict(GROUPS)
    names: dict[str, Any] = {"__name__": "my_film"}
    for block in blocks(PAGE, "python"):
        exec(compile(block, PAGE, "exec"), names)
    yield names
    for known, kept in ((IMAGE_NOISE, before), (GROUPS, groups)):
        known.clear()
        known.update(kept)


def test_the_page_s_corruption_is_one_like_the_others(page: dict[str, Any]) -> None:
    assert not np.array_equal(page["noisy"], page["image"])
    assert str(Condition.parse("image:scratches:3")) == "image:scratches:3" and GROUPS["film"] == ("scratches",)
    clean = fixed_pictures()[0]
    kept = clean.copy()
    gaps = []
    for severity in SEVERITIES:
        one, other = (corrupt(clean, "scratches", severity, rng=picture_rng(1, "a")) for _ in range(2))
        assert np.array_equal(one, other) and one.shape == clean.shape and one.dtype == np.uint8
        gaps.append(abs(one.astype(float) - clean).mean())
    assert gaps[0] == 0 and gaps == sorted(gaps) and len(set(gaps)) == 6
    assert np.array_equal(clean, kept)
    for size in ((16, 16), (300, 40)):
        assert corrupt(Image.new("RGB", size), "scratches", 5, rng=picture_rng(2)).size == size


def test_it_stands_beside_the_average_of_imagenet_c(page: dict[str, Any]) -> None:
    assert "scratches" not in IMAGENET_C and len(IMAGENET_C) == 15
    assert kind_of("image:scratches:3") == kind_of("image:rotated:3") != kind_of("image:fog:3")
    assert kind_of("image:of_a_package_that_is_not_here:3") == kind_of("image:scratches:3")


@pytest.mark.parametrize(
    ("group", "table", "name", "words"),
    [
        ("film", (1, 2, 3), "dust", "5 severities"),
        ("film", (1, 2, 3, 4, 5), "fog", "already a corruption 'fog'"),
        ("blur", (1, 2, 3, 4, 5), "dust", "ImageNet-C's"),
    ],
)
def test_what_would_mix_up_results_is_refused(group: str, table: tuple, name: str, words: str) -> None:
    def change(x: np.ndarray, c: float, scale: float, rng: np.random.Generator) -> np.ndarray:
        return x

    change.__name__ = name
    with pytest.raises(UserError, match=words):
        corruption(group, *table)(change)
    assert "dust" not in IMAGE_NOISE and IMAGE_NOISE["fog"].change is not change


def test_an_entry_point_makes_it_known_to_every_process(tmp_path: Path) -> None:
    install(tmp_path, "my_film", PAGE)
    code = "from anprompt.noise.image import IMAGE_NOISE; print(IMAGE_NOISE['scratches'].doc)"
    for first in ("", "import my_film; "):
        done = subprocess.run(
            [sys.executable, "-c", first + code],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.stdout == "Bright vertical scratches, as on an old film.\n", done.stderr


def test_the_registry_holds_imagenet_c_whole() -> None:
    groups = [name for group in image.IMAGENET_C_GROUPS for name in GROUPS[group]]
    assert groups == list(IMAGENET_C) == list(IMAGE_NOISE)[:15]
