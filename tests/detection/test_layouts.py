"""Layouts are recognised by their folders, an unclear folder is refused with what was seen, and bad ones get one line each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anprompt.detection.base import Scored
from anprompt.detection.evaluation import examine
from anprompt.detection.layouts import open_categories, open_category
from anprompt.detection.masks import read_mask, smaller
from anprompt.errors import UserError


def put(root: Path, *names: str, size: tuple[int, int] = (20, 16), colour: object = 128, mode: str = "L") -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        level = colour if not isinstance(colour, int) else min(255, colour + number)
        Image.new(mode, size, level).save(path)  # type: ignore[arg-type]


def mask(root: Path, name: str, size: tuple[int, int] = (20, 16)) -> None:
    put(root, name, size=size, colour=0)
    image = Image.open(root / name)
    image.putpixel((3, 3), 255)
    image.save(root / name)


def mvtec(root: Path) -> Path:
    put(root, "train/good/0.png", "train/good/1.png", "test/good/0.png", "test/crack/0.png", "test/crack/1.png")
    mask(root, "ground_truth/crack/0_mask.png")
    mask(root, "ground_truth/crack/1_mask.png")
    return root


def only(root: Path):  # type: ignore[no-untyped-def]
    return open_category(root)


def test_layouts(tmp_path: Path) -> None:
    found = only(mvtec(tmp_path / "bolt"))
    assert (found.layout, found.name, len(found.train), len(found.test), found.kinds) == (
        "mvtec",
        "bolt",
        2,
        3,
        ("crack",),
    )
    assert all(sample.mask for sample in found.test if sample.anomalous) and not found.notes
    put(tmp_path / "b", "train/ok/0.png", "test/ok/0.png", "test/ko/7.png")
    mask(tmp_path / "b", "ground_truth/ko/7.png")
    assert only(tmp_path / "b").layout == "btad" and only(tmp_path / "b").test[0].mask.endswith("ko/7.png")
    put(tmp_path / "v/candle", *(f"Data/Images/Normal/{n}.JPG" for n in range(5)), "Data/Images/Anomaly/0.JPG")
    mask(tmp_path / "v/candle", "Data/Masks/Anomaly/0.png")
    several = open_categories(tmp_path / "v")
    assert several["candle"].layout == "visa" and (len(several["candle"].train), len(several["candle"].test)) == (4, 2)
    (tmp_path / "v/split_csv").mkdir()
    rows = [
        "object,split,label,image,mask",
        *(f"candle,train,normal,candle/Data/Images/Normal/{n}.JPG," for n in range(2)),
    ]
    (tmp_path / "v/split_csv/1cls.csv").write_text("\n".join(rows))
    split = open_categories(tmp_path / "v")["candle"]
    assert (len(split.train), len(split.test)) == (2, 4)
    put(tmp_path / "own", *(f"normal/{n}.png" for n in range(10)), "abnormal/0.png")
    own = only(tmp_path / "own")
    assert (
        own.layout == "pairs"
        and (len(own.train), len(own.test)) == (8, 3)
        and "kept for testing (2 of 10)" in own.notes[-1]
    )
    put(tmp_path / "plain", "0.png", "1.jpg")
    assert only(tmp_path / "plain").layout == "plain" and not only(tmp_path / "plain").test
    assert len(open_category("embedded:boards").train) == 100


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "holds no normal image to learn from (it is empty)"),
        (("notes/a.txt",), "holds no normal image"),
        (("red/0.png", "blue/0.png"), "unclear which images are normal; it has the folders blue/, red/"),
        (("normal/0.png", "odd/0.png"), "has normal/ beside odd"),
    ],
)
def test_unclear_folders_are_refused_with_what_was_seen(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    for name in names:
        put(tmp_path, name) if name.endswith("png") else (tmp_path / name).parent.mkdir()
    with pytest.raises(UserError) as error:
        open_category(tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_choosing_a_category(tmp_path: Path) -> None:
    for name in ("bolt", "nut"):
        mvtec(tmp_path / name)
    with pytest.raises(UserError, match=r"2 categories \(bolt, nut\); choose one with --category"):
        open_category(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'bolt'"):
        open_category(tmp_path, "bold")
    assert open_category(tmp_path, "nut").name == "nut"
    for spec, said in (
        ("embedded:board", "Did you mean 'boards'"),
        (str(tmp_path / "x"), "does not exist"),
        (" ", "does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            open_category(spec)


def score(image: Image.Image, sample: object) -> Scored:
    import torch

    return Scored(torch.zeros(2, 2), 0.0)


def test_bad_images_and_masks_get_one_line_each_and_lose_nothing_else(tmp_path: Path) -> None:
    mvtec(tmp_path)
    put(tmp_path, *(f"test/crack/{name}.png" for name in ("other", "colour", "empty", "none")))
    mask(tmp_path, "ground_truth/crack/other_mask.png", size=(10, 8))
    put(tmp_path, "ground_truth/crack/colour_mask.png", colour=(255, 0, 0), mode="RGB")
    put(tmp_path, "ground_truth/crack/empty_mask.png", colour=0)
    mask(tmp_path, "ground_truth/crack/alone_mask.png")
    (tmp_path / "test/crack/broken.png").write_bytes(b"no image")
    deep = np.full((16, 20), 40_000, np.uint16)
    Image.fromarray(deep).save(tmp_path / "test/good/deep.png")
    category = open_category(tmp_path)
    assert any("1 masks have no image, first alone_mask.png" in line for line in category.notes)
    assert any("2 of 7 images have no mask" in line for line in category.notes)
    found = examine(category, score)
    for said in (
        "the mask is 10x8 and its image 20x16",
        "is in colour",
        "its mask is empty",
        "broken.png: is not a picture",
    ):
        assert sum(said in line for line in found.skipped) == 1, said
    assert len(found.samples) == len(category.test) - 1  # the broken one alone
    assert sum(one is not None and one.any() for one in found.masks) == 2


def test_masks_of_few_grey_levels_and_small_defects(tmp_path: Path) -> None:
    labels = np.zeros((300, 200), np.uint8)
    labels[7, 5] = 3  # VisA's masks hold small numbers
    Image.fromarray(labels).save(tmp_path / "m.png")
    found = read_mask(str(tmp_path / "m.png"), (200, 300))
    assert found.sum() == 1 and smaller(found, 128).sum() == 1 and max(smaller(found, 128).shape) <= 128
