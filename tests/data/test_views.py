"""Views are pure functions of (item, epoch, seed), equal to the field's, and survive broken files."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anprompt.data.crop import centre_view, random_crop
from anprompt.data.images import read_item
from anprompt.data.types import Item
from anprompt.data.views import Views
from anprompt.errors import UserError
from tests.pictures import items, noise, save, truncated

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


class Pictures:
    """A `read` that counts how often each picture is asked for."""

    def __init__(self, sizes, broken=()):
        self.pictures = [noise(*size, seed=number) for number, size in enumerate(sizes)]
        self.broken, self.reads = broken, Counter()

    def __call__(self, item: Item) -> Image.Image:
        self.reads[item.path] += 1
        if int(item.path) in self.broken:
            raise UserError(f"{item.path}: is damaged")
        return self.pictures[int(item.path)]


def views(sizes, size=16, broken=(), **options) -> Views:
    return Views(items(len(sizes)), Pictures(sizes, broken), image_size=size, mean=MEAN, std=STD, **options)


SIZES = [(20, 20), (40, 30), (30, 50), (16, 16), (9, 70), (1, 1)]


def test_shapes_and_types():
    made = views(SIZES)
    for batch in (made.train_batch([0, 4], 1), made.eval_batch(torch.tensor([3, 3]))):
        assert batch.shape == (2, 3, 16, 16) and batch.dtype == torch.float32 and batch.is_contiguous()
    assert made.labels.tolist() == [0, 1, 2, 0, 1, 2] and made.labels.dtype == torch.long
    assert len(made) == 6
    assert made.eval_batch([]).shape == (0, 3, 16, 16)
    with pytest.raises(IndexError):
        made.eval_batch([6])


def test_eval_view_is_clip_preprocessing():
    made = views([(40, 30), (16, 16)])
    resized = noise(40, 30, seed=0).resize((21, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    expected = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.equal(made.eval_batch([0])[0], expected)
    untouched = made.eval_batch([1])[0] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    raw = torch.from_numpy(np.array(noise(16, 16, seed=1))).permute(2, 0, 1) / 255
    assert torch.allclose(untouched, raw, atol=1e-6)


def test_large_pictures_keep_exact_eval_views():
    read = Pictures([(300, 200)])
    made = Views(items(1), read, image_size=16, mean=MEAN, std=STD)
    made.train_batch([0], 0)  # keeps a smaller copy
    pixels = made.eval_batch([0])[0] * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    expected = torch.from_numpy(centre_view(read.pictures[0], 16)).permute(2, 0, 1) / 255
    assert torch.allclose(pixels, expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 9), st.integers(0, 9))
def test_a_view_depends_on_item_epoch_and_seed_only(order, epoch, seed):
    first, second = views(SIZES, seed=seed), views(SIZES, seed=seed, cache_mb=0)
    whole = first.train_batch(range(6), epoch)
    for place, index in enumerate(order):
        second.train_batch([order[place - 1]], epoch + 1)
        assert torch.equal(second.train_batch([index], epoch)[0], whole[index])
    assert torch.equal(second.train_batch(order, epoch), whole[list(order)])


def test_epochs_seeds_and_items_differ():
    made, other = views([(30, 30)] * 2), views([(30, 30)] * 2, seed=1)
    base = made.train_batch([0], 0)
    assert not torch.equal(base, made.train_batch([0], 1))
    assert not torch.equal(base, other.train_batch([0], 0))
    assert torch.equal(made.eval_batch([0]), other.eval_batch([0]))


def test_no_global_random_state_is_touched():
    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    views(SIZES).train_batch(range(6), 0)
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert torch.equal(before[1], torch.get_rng_state())


def test_flip_mirrors_half_of_the_views():
    read = Pictures([(16, 16)])
    options = dict(image_size=16, mean=(0, 0, 0), std=(1, 1, 1), crop_scale=(1.0, 1.0))
    made = Views(items(1), read, **options)
    still = Views(items(1), read, flip=False, **options)
    mirrored = sum(not torch.equal(made.train_batch([0], epoch), still.train_batch([0], epoch)) for epoch in range(200))
    assert 70 < mirrored < 130
    for epoch in range(20):
        pair = made.train_batch([0], epoch), still.train_batch([0], epoch)
        assert torch.equal(*pair) or torch.equal(pair[0].flip(-1), pair[1])


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000))
def test_crops_lie_inside(height, width, seed):
    top, left, h, w = random_crop(np.random.default_rng(seed), height, width, (0.08, 1.0))
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width and h > 0 and w > 0


def test_crops_have_the_asked_area_and_ratio():
    rng = np.random.default_rng(0)
    crops = np.array([random_crop(rng, 400, 400, (0.3, 0.6))[2:] for _ in range(500)])
    area, ratio = crops.prod(1) / 160_000, crops[:, 1] / crops[:, 0]
    assert 0.295 < area.min() < 0.33 and 0.57 < area.max() < 0.605
    assert 0.74 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.35


@pytest.mark.parametrize(("size", "box"), [((1, 5000), (2500, 0, 1, 1)), ((9000, 90), (0, 4440, 90, 120))])
def test_strips_fall_back_to_the_centre(size, box):
    width, height = size
    top, left, h, w = random_crop(np.random.default_rng(0), height, width, (0.9, 1.0))
    assert (h, w) == box[2:] and abs(top - box[0]) <= 1 and abs(left - box[1]) <= 1


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (40, 4000), (1, 1), (2000, 3)])
def test_strips_make_views_of_the_right_size(size):
    made = views([size], size=48)
    assert made.train_batch([0], 0).isfinite().all() and made.eval_batch([0]).shape == (1, 3, 48, 48)


def test_a_strip_shows_its_middle():
    strip = Image.new("RGB", (10_000, 20), "red")
    strip.paste("blue", (4990, 0, 5010, 20))
    assert tuple(centre_view(strip, 20)[10, 10]) == (0, 0, 255)


def test_each_picture_is_read_once_within_the_cache():
    read = Pictures([(20, 25)] * 4)
    made = Views(items(4), read, image_size=16, mean=MEAN, std=STD)
    for epoch in range(3):
        made.train_batch(range(4), epoch)
        made.eval_batch(range(4))
    assert set(read.reads.values()) == {1}


def test_eval_probe_keeps_large_pictures_ready():
    read = Pictures([(300, 200)] * 3)
    made = Views(items(3), read, image_size=16, mean=MEAN, std=STD, probe="eval")
    made.eval_batch(range(3))
    assert set(read.reads.values()) == {1}


def test_the_cache_keeps_within_its_budget():
    read = Pictures([(20, 20)] * 8)  # 1,200 bytes each
    budget = 3 * 1200 / 2**20
    made = Views(items(8), read, image_size=16, mean=MEAN, std=STD, cache_mb=budget)
    for epoch in range(3):
        made.train_batch(range(8), epoch)
        assert 0 < made._cache.used <= 3 * 1200
    assert made._cache.used == sum(made._cache.get(key).nbytes for key in made._cache)
    roomy = views([(20, 20)] * 8)
    assert torch.equal(made.train_batch(range(8), 2), roomy.train_batch(range(8), 2))


def test_large_pictures_are_kept_small():
    made = views([(600, 400)])
    assert made._cache.used <= 3 * 49 * 33


def test_broken_pictures_are_dropped_logged_and_counted(caplog):
    with caplog.at_level(logging.WARNING, "anprompt"):
        made = views(SIZES, broken=(1, 4))
    assert made.skipped == ("1: is damaged", "4: is damaged")
    assert [record.message for record in caplog.records] == [f"left out: {line}" for line in made.skipped]
    assert [item.path for item in made.items] == ["0", "2", "3", "5"]
    assert made.labels.tolist() == [0, 2, 0, 2] and len(made) == 4
    assert made.train_batch(range(4), 0).shape[0] == 4
    whole = views(SIZES)
    assert torch.equal(made.train_batch([1, 3], 5), whole.train_batch([2, 5], 5))  # the others stay the same


def test_a_folder_with_a_broken_file_trains(tmp_path):
    paths = [save(tmp_path / f"{number}.jpg", noise(40, 40, number)) for number in range(3)]
    paths.append(truncated(tmp_path / "broken.jpg"))
    made = Views([Item(str(path), 0, "x") for path in paths], read_item, image_size=16, mean=MEAN, std=STD)
    assert len(made) == 3 and "broken.jpg" in made.skipped[0]
    assert made.train_batch(range(3), 0).shape == (3, 3, 16, 16)


def test_nothing_usable_is_an_error():
    with pytest.raises(UserError, match=r"None of the 2 pictures.*0: is damaged"):
        views(SIZES[:2], broken=(0, 1))
    with pytest.raises(UserError, match="None of the 0 pictures"):
        views([])


def test_unprobed_pictures_fail_when_asked_for():
    made = views(SIZES, broken=(1,), probe=None)
    assert made.eval_batch([0]).shape[0] == 1
    with pytest.raises(UserError, match="1: is damaged"):
        made.train_batch([0, 1], 0)


@pytest.mark.parametrize(
    "options",
    [{"crop_scale": (0.0, 1.0)}, {"crop_scale": (0.9, 0.5)}, {"crop_scale": (0.5, 1.5)}, {"seed": -1}, {"size": 0}],
)
def test_settings_out_of_range(options):
    with pytest.raises(UserError, match="|".join(options).replace("size", "image_size")):
        views(SIZES, **options)


def test_large_views_in_threads_equal_those_made_alone():
    made = views([(150, 120)] * 5, size=112)
    batch = made.train_batch(range(5), 0)
    assert all(torch.equal(made.train_batch([index], 0)[0], batch[index]) for index in range(5))
