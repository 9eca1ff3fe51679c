"""Tiles, generated anomalies, local attention, thresholds: the parts that detectors are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anprompt.backbones import load_backbone
from anprompt.detection.bank import coreset, distances
from anprompt.detection.features import Sight, block_tokens, look
from anprompt.detection.threshold import choose_threshold, needed
from anprompt.detection.tiles import MOST_WINDOWS, grid_of, joined, windows
from anprompt.errors import UserError
from anprompt.noise.anomalies import FAMILIES, generated


# --- tiles ------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 20_000), st.integers(1, 20_000), st.integers(1, 8), st.sampled_from([(48, 8), (224, 16), (224, 32)])
)
def test_windows_cover_every_image_and_are_bounded(width: int, height: int, tiles: int, model: tuple[int, int]) -> None:
    grid = grid_of(width, height, tiles, *model)
    assert grid.count <= MOST_WINDOWS
    ones = torch.ones(grid.count, grid.side, grid.side)
    assert bool((joined(ones, grid) == 1).all())  # a place that no window covers is 0 / 0


def test_joined_maps_are_in_their_places() -> None:
    grid = grid_of(96, 144, 2, 48, 8)
    pixels = np.repeat(np.repeat(np.arange(18 * 12).reshape(18, 12), 8, 0), 8, 1).astype(np.uint8)
    views = windows(Image.fromarray(pixels).convert("RGB"), grid)
    means = torch.from_numpy(views[..., 0]).float().view(len(views), 6, 8, 6, 8).mean(dim=(2, 4))
    assert torch.equal(joined(means, grid), torch.arange(18 * 12).view(18, 12).float() % 256)


# --- features ---------------------------------------------------------------------------------------
def test_plain_tokens_are_the_stock_forward_and_others_differ() -> None:
    """AnomalyCLIP's released layer maps were one tensor under several names: these are several."""
    backbone = load_backbone("embedded")
    pixels = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = backbone.pre_norm(backbone.embed_image(pixels))
        plain, last = block_tokens(backbone, x, Sight(blocks=(4, 8)))
        assert torch.equal(last, backbone.run_image(x)) and torch.equal(plain[:, :, 1], last[:, 1:])
        assert not torch.allclose(plain[:, :, 0], plain[:, :, 1])
        far = block_tokens(backbone, x, Sight(blocks=(4, 8), attention="local", first=5, radius=6))[0]
        near = block_tokens(backbone, x, Sight(blocks=(4, 8), attention="local", first=5, radius=1))[0]
        values = block_tokens(backbone, x, Sight(blocks=(4, 8), attention="value", first=5))[0]
    torch.testing.assert_close(far, plain)  # everything within reach is no mask
    assert torch.equal(near[:, :, 0], plain[:, :, 0]) and not torch.allclose(near[:, :, 1], plain[:, :, 1])
    assert not torch.allclose(values[:, :, 1], plain[:, :, 1])


def test_local_attention_does_not_see_far_patches() -> None:
    backbone = load_backbone("embedded")
    black, spot = Image.new("RGB", (48, 48)), Image.new("RGB", (48, 48))
    spot.paste((255, 255, 255), (40, 40, 48, 48))
    sight = Sight(blocks=(1,), attention="local", first=1, radius=1)
    change = (look(backbone, black, sight).tokens - look(backbone, spot, sight).tokens).abs().amax(dim=(2, 3))
    assert change[5, 5] > 1e-3 and change[4, 4] > 1e-4 and float(change[:4, :4].max()) < 1e-6


# --- generated anomalies ----------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_anomalies_are_where_the_mask_says(family: str) -> None:
    image = np.random.default_rng(0).integers(60, 200, (80, 100, 3), dtype=np.uint8)
    for number in range(4):
        made = generated(image, 1, "a.png", number, families=[family])
        again = generated(image, 1, "a.png", number, families=[family])
        assert np.array_equal(made.image, again.image) and np.array_equal(made.mask, again.mask)
        changed = (made.image != image).any(axis=2)
        assert made.mask.any() and changed[made.mask].mean() > 0.5 and changed.mean() < 0.6
    assert not np.array_equal(made.image, generated(image, 2, "a.png", 3, families=[family]).image)


def test_an_image_of_two_colours_keeps_them() -> None:
    board = np.zeros((96, 96, 3), np.uint8)
    board[:, 30:60] = 255
    for number in range(12):
        made = generated(board, number)
        assert set(np.unique(made.image)) <= {0, 255} and made.mask.any()


def test_unknown_family_and_wrong_arrays_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'smear'"):
        generated(np.zeros((8, 8, 3), np.uint8), 1, families=["smeer"])
    with pytest.raises(UserError, match="uint8"):
        generated(np.zeros((8, 8)), 1)


# --- bank -------------------------------------------------------------------------------------------
def test_coreset_keeps_what_is_far_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    crowd = torch.nn.functional.normalize(
        torch.tensor([1.0, 0, 0, 0]) + 0.01 * torch.randn(500, 4, generator=generator), dim=1
    )
    rare = torch.eye(4)[1:]
    kept = coreset(torch.cat([crowd, rare]), 6, seed=1)
    assert {500, 501, 502} <= set(kept.tolist())
    assert float(distances(rare, torch.cat([crowd, rare])[kept]).max()) < 1e-6


# --- thresholds -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("images", "rate"), [(20, 0.1), (60, 0.05), (200, 0.02)])
def test_the_promise_holds_over_resamplings(images: int, rate: float) -> None:
    """200 draws of held-out images: the rate that a large population sees lies within the stated interval in about 95 %."""
    rng = np.random.default_rng(7)
    population = np.exp(rng.normal(size=50_000))  # skewed, as scores are
    inside, rates = [], []
    for _ in range(200):
        chosen = choose_threshold(rng.choice(population, images, replace=False), rate)
        seen = float((population > chosen.value).mean())
        inside.append(chosen.low <= seen <= chosen.high)
        rates.append(seen)
        assert chosen.promised and chosen.expected <= rate
    assert 0.9 <= np.mean(inside) <= 0.99
    assert abs(np.mean(rates) - chosen.expected) < 0.25 * chosen.expected


def test_what_few_images_can_not_promise_is_said() -> None:
    chosen = choose_threshold(np.arange(20.0), 0.02)
    assert chosen.value == 19 and not chosen.promised
    assert "with 20 normal images a rate under 4.8% can't be promised; 49 are needed" in chosen.lines()[1]
    assert needed(0.02) == 49 and choose_threshold(np.arange(49.0), 0.02).promised
    for rate in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            choose_threshold([1.0], rate)
    with pytest.raises(UserError, match="there is none"):
        choose_threshold([], 0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(40, 900), st.integers(40, 900), st.integers(1, 6))
def test_windows_apart_cover_every_image_too(width: int, height: int, tiles: int) -> None:
    from anprompt.detection.tiles import Joining

    grid = grid_of(width, height, tiles, 48, 8)
    found = Joining(grid, torch.Size())
    found.add(torch.ones(len(grid.apart), 6, 6), grid.apart)
    assert bool((found.mean() == 1).all()) and len(grid.apart) <= grid.count
