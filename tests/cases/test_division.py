"""Data without parts: more images never move those that were there, and copies stay together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anprompt.data.division import divide
from anprompt.data.sources import open_dataset
from anprompt.data.types import Item
from tests.pictures import noise, save

EVERYWHERE = "eeerrarrraea"  # second letters of train, val and test
NAMES = st.sets(st.integers(0, 10_000), min_size=1, max_size=60)


def items(numbers: set[int], folder: str = "fruit/cat", classname: str = "cat", label: int = 0) -> list[Item]:
    return [Item(f"{folder}/{number:05}.jpg", label, classname) for number in sorted(numbers)]


def parts_by_name(found: list[Item], **shares: float) -> dict[str, str]:
    return {Path(item.path).stem: part for part, chosen in divide(found, **shares).items() for item in chosen}


@given(NAMES)
def test_every_image_is_in_one_part_and_small_classes_train_first(numbers):
    found = parts_by_name(items(numbers))
    assert len(found) == len(numbers)
    sizes = Counter(found.values())
    assert sizes["train"] >= 1
    assert (sizes["test"] >= 1) == (len(numbers) >= 2)
    assert (sizes["val"] >= 1) == (len(numbers) >= 3)


@settings(max_examples=300)
@given(st.sets(st.integers(0, 10_000), min_size=3, max_size=30), NAMES)
def test_more_images_take_none_from_training(numbers, more):
    before, after = parts_by_name(items(numbers)), parts_by_name(items(numbers | more))
    alone = parts_by_name(items(set(range(20_000, 20_200)) | numbers))  # each by its own place
    if any(alone[f"{number:05}"] == "train" for number in numbers):
        assert [name for name, part in before.items() if part == "train" and after[name] != "train"] == []


@settings(max_examples=100)
@given(
    st.sets(st.integers(0, 10_000), min_size=30, max_size=60),
    NAMES,
    st.sampled_from([(0.2, 0.3), (0.0, 0.3), (0.2, 0.0)]),
)
def test_in_a_class_with_all_parts_nothing_moves(numbers, more, shares):
    val, test = shares
    numbers |= set(range(20_000, 20_060))
    before = parts_by_name(items(numbers), val=val, test=test)
    after = parts_by_name(items(numbers | more), val=val, test=test)
    assert {name: after[name] for name in before} == before


@given(NAMES, st.randoms(use_true_random=False))
def test_order_place_and_other_classes_change_nothing(numbers, shuffler):
    alone = parts_by_name(items(numbers))
    moved = items(numbers, folder="/mnt/new drive/cat") + items(
        {1, 2, 3}, folder="/mnt/new drive/dog", label=1, classname="dog"
    )
    shuffler.shuffle(moved)
    found = {Path(i.path).stem: part for part, group in divide(moved).items() for i in group if i.classname == "cat"}
    assert found == alone


def test_the_division_is_the_same_on_every_machine():
    found = parts_by_name(items(set(range(12))))
    assert "".join(found[f"{number:05}"][1] for number in range(12)) == EVERYWHERE


def test_shares_stay_near_30_and_20_percent():
    sizes = Counter(parts_by_name(items(set(range(4000)))).values())
    assert abs(sizes["test"] / 4000 - 0.3) < 0.03 and abs(sizes["val"] / 4000 - 0.2) < 0.03


COPIES = [
    "{} - Copy", "{} - Copy (2)", "{} copy", "{} copy 2", "Copy of {}", "{} (copy)", "{} (another copy)", "{} (3rd copy)",
    "{} - Kopie", "{} Kopie 2", "Kopie von {}", "{} - Copie", "{} (1)", "{}(2)", "{} (kopie)",
]  # fmt: skip


@pytest.mark.parametrize("form", COPIES)
def test_a_copy_by_name_stays_with_its_original(form):
    for number in range(25):
        stem = f"photo {number}"
        group = [Item(f"cat/{name}.jpg", 0, "cat") for name in (stem, form.format(stem))]
        others = items(set(range(40)), folder="cat")
        found = parts_by_name(group + others)
        assert found[stem] == found[form.format(stem)], stem


def test_a_numbered_series_is_no_heap_of_copies():
    """Renaming many files at once numbers them in brackets."""
    series = [Item(f"cat/photo ({number}).jpg", 0, "cat") for number in range(1, 101)]
    assert min(Counter(parts_by_name(series).values()).values()) >= 8


def test_a_number_in_brackets_is_no_copy_if_the_image_is_another(tmp_path):
    for kind in ("cat", "dog"):
        for number in range(60):
            name = "photo" if number == 0 else f"photo ({number})"
            save(tmp_path / kind / f"{name}.png", noise(40, 30, seed=number))
    data = open_dataset(str(tmp_path))
    assert len(data.test) >= 12 and len(data.val) >= 6


def folder_of(root: Path, count: int, start: int = 0) -> Path:
    for kind, shift in (("cat", 0), ("dog", 1000)):
        for number in range(start, start + count):
            save(root / kind / f"{number:03}.png", noise(12, 12, seed=number + shift))
    return root


@pytest.mark.parametrize("added", [1, 5, 30])
def test_photos_added_to_a_folder_leave_the_test_part_alone(tmp_path, added):
    before = open_dataset(str(folder_of(tmp_path, 20)))
    after = open_dataset(str(folder_of(tmp_path, added, start=20)))
    for part in ("train", "val", "test"):
        assert {i.path for i in getattr(before, part)} <= {i.path for i in getattr(after, part)}


@pytest.mark.parametrize("name", ["{} (1).png", "other {}.png", "{}-edited.png", "sub/{}.png", "{}.PNG"])
def test_the_same_bytes_are_on_one_side(tmp_path, name):
    root = folder_of(tmp_path, 20)
    for file in sorted(root.rglob("*.png")):
        copy = file.parent / name.format(file.stem)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    data = open_dataset(str(root))
    side = {}
    for part in ("train", "val", "test"):
        for item in getattr(data, part):
            assert side.setdefault(Path(item.path).read_bytes(), part) == part
    assert set(side.values()) == {"train", "val", "test"}


def test_a_smaller_copy_with_a_number_stays_with_its_original(tmp_path):
    root = tmp_path / "data"
    for kind in ("cat", "dog"):
        for number in range(30):
            image = noise(8, 6, seed=number + 100 * (kind == "dog")).resize((160, 120), Image.Resampling.BICUBIC)
            save(root / kind / f"{number:03}.jpg", image, quality=95)
            save(root / kind / f"{number:03} (1).jpg", image.resize((80, 60)), quality=75)
    data = open_dataset(str(root))
    found = {Path(i.path): part for part in ("train", "val", "test") for i in getattr(data, part)}
    assert all(found[path] == found[path.with_name(f"{path.stem} (1).jpg")] for path in found if "(1)" not in path.stem)
