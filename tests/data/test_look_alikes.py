"""Images that show the same in other bytes are found; images that do not are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset
from anprompt.data.look_alikes import alike, look_alikes
from anprompt.data.sources import open_dataset
from tests.pictures import noise, save
from tests.shared import shared

Change = Callable[[Image.Image], Image.Image]


def scene(seed: int, size: tuple[int, int] = (480, 360)) -> Image.Image:
    """Something like a photograph: soft light, a shape, grain."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(40, 215, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    ImageDraw.Draw(soft).ellipse(
        [*rng.integers(40, 150, 2), *rng.integers(200, 340, 2)], fill=tuple(rng.integers(0, 255, 3))
    )
    return Image.blend(soft, noise(*size, seed=seed), 0.06)


def smaller(side: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        made = image.copy()
        made.thumbnail((side, side))
        return made

    return change


def as_it_is(image: Image.Image) -> Image.Image:
    return image


SAVED_AGAIN: dict[str, tuple[str, Change, dict[str, Any]]] = {
    "better quality": ("a.jpg", as_it_is, {"quality": 98}), "quality 75": ("a.jpg", as_it_is, {"quality": 75}),
    "quality 30": ("a.jpg", as_it_is, {"quality": 30}), "progressive": ("a.jpg", as_it_is, {"progressive": True}),
    "png": ("a.png", as_it_is, {}), "webp": ("a.webp", as_it_is, {"quality": 60}), "bmp": ("a.bmp", as_it_is, {}),
    "tiff": ("a.tif", as_it_is, {}), "half": ("a.jpg", smaller(240), {}), "thumbnail of 160": ("a.jpg", smaller(160), {}),
    "thumbnail of 96": ("a.png", smaller(96), {}),
    "twice the size": ("a.jpg", lambda image: image.resize((960, 720), Image.Resampling.BICUBIC), {}),
    "one pixel off": ("a.png", lambda image: image.resize((479, 359), Image.Resampling.BICUBIC), {}),
    "stripped of its orientation": ("a.jpg", lambda image: image.transpose(Image.Transpose.ROTATE_270), {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0"}),
    "transparent": ("a.png", lambda image: image.convert("RGBA"), {}),
}  # fmt: skip


@pytest.mark.parametrize("way", SAVED_AGAIN)
def test_an_image_saved_again_is_found(tmp_path: Path, way: str) -> None:
    name, change, options = SAVED_AGAIN[way]
    originals = [save(tmp_path / f"{seed}/photo.jpg", scene(seed), quality=92) for seed in range(4)]
    again = []
    for path in originals:
        with Image.open(path) as image:
            again.append(save(path.parent / "again" / name, change(image.convert("RGB")), **options))
    paths = [str(path) for path in (*originals, *again)]
    assert look_alikes(paths, [0] * 4 + [1] * 4) == [(index, index + 4) for index in range(4)]
    assert look_alikes(paths, [0] * 8) == [] and alike(paths[0], paths[4]) and not alike(paths[0], paths[5])


OTHERS: dict[str, Change] = {
    "another scene": lambda image: scene(99), "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "cropped": lambda image: image.crop((30, 20, 480, 340)).resize(image.size),
    "stretched": lambda image: image.resize((480, 300)), "brighter": lambda image: image.point(lambda level: level + 12),
    "blue for red": lambda image: Image.merge("RGB", image.split()[::-1]),
    "a spot": lambda image: spotted(image), "blurred away": lambda image: image.filter(ImageFilter.GaussianBlur(60)),
}  # fmt: skip


def spotted(image: Image.Image) -> Image.Image:
    """With a defect of a fiftieth of the width."""
    made = image.copy()
    ImageDraw.Draw(made).rectangle(
        [200, 150, 212, 162], fill=(0, 0, 0) if sum(image.getpixel((206, 156))) > 380 else (255, 255, 255)
    )
    return made


@pytest.mark.parametrize("way", OTHERS)
def test_what_only_resembles_is_left_alone(tmp_path: Path, way: str) -> None:
    one, other = save(tmp_path / "a.png", scene(5)), save(tmp_path / "b.png", OTHERS[way](scene(5)))
    assert look_alikes([str(one), str(other)], [0, 1]) == []


def test_flat_images_and_icons_of_one_shape_are_no_copies(tmp_path: Path) -> None:
    paths = [str(save(tmp_path / f"flat{level}.png", Image.new("L", (64, 64), level))) for level in (120, 121)]
    for name, colour in (("red", (200, 30, 40)), ("violet", (90, 55, 160)), ("green", (10, 128, 15))):
        icon = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(icon).rectangle([16, 16, 47, 47], fill=colour)
        paths.append(str(save(tmp_path / f"{name}.png", icon)))
    assert look_alikes(paths, range(len(paths))) == []


def test_what_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.jpg", scene(1))
    (tmp_path / "b.jpg").write_bytes(whole.read_bytes()[:300])
    (tmp_path / "c.jpg").write_text("no image")
    save(tmp_path / "d.jpg", scene(1), quality=60)
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "missing.jpg")] + ["embedded:food/0"]
    assert (
        look_alikes(paths, range(6)) == [(0, 3)] and look_alikes([], []) == [] and look_alikes(paths[1:3], [0, 1]) == []
    )


def test_many_equal_images_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anprompt.data.look_alikes._MOST_CHECKED", 200)
    monkeypatch.setattr("anprompt.data.look_alikes._ROWS", 16)
    paths = [
        str(save(tmp_path / f"{index}.png", smaller(60)(scene(3)), compress_level=index % 9)) for index in range(120)
    ]
    assert 0 < len(look_alikes(paths, range(120))) < 120 * 119 // 2


def told(root: Path) -> str:
    data = open_dataset(root)
    assert data.reading is not None
    return "\n".join(data.reading.warnings)


def test_a_folder_says_which_images_look_the_same(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for kind in ("apple", "banana"):
            for index in range(3):
                save(
                    tmp_path / part / kind / f"{index}.jpg", scene(sum((part + kind).encode()) * 10 + index, (200, 150))
                )
    assert "look" not in told(tmp_path)
    with Image.open(tmp_path / "train/apple/0.jpg") as image:
        save(tmp_path / "test/apple/shared.webp", smaller(120)(image))
        save(tmp_path / "train/banana/other.png", image)
    line = told(tmp_path)
    assert "1 image to test or validate on looks like one that is trained on" in line and "shared.webp (test)" in line
    assert "2 pairs of images under two classes look the same" in line and "other.png (banana)" in line


@pytest.mark.parametrize("name", EMBEDDED_SETS[::5])
def test_no_false_alarm_on_embedded_sets(tmp_path: Path, name: str) -> None:
    data = embedded_dataset(name)
    items = [*data.train, *data.val, *data.test][::8]
    paths = [str(save(tmp_path / f"{index}.png", data.read(item))) for index, item in enumerate(items)]
    assert look_alikes(paths, range(len(paths))) == []


@pytest.mark.parametrize("name", ["deep_pcb", "magnetic_tile", "neu_steel"])
def test_no_false_alarm_on_real_surfaces(name: str) -> None:
    """Circuit boards are there twice, with and without defects. Of one tile there are three shots from one place."""
    paths = sorted(str(path) for path in shared(f"real/{name}").rglob("*") if path.suffix in (".jpg", ".bmp"))[:300]
    paths = [path for path in paths if "ground_truth" not in path]
    found = {
        frozenset((Path(paths[one]).name[:4], Path(paths[other]).name[:4]))
        for one, other in look_alikes(paths, range(len(paths)))
    }
    assert found <= {frozenset({"exp5"})}
