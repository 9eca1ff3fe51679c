"""Picture noise: against independent implementations at 224 px, and what holds at every size."""

from __future__ import annotations

import colorsys
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anprompt.errors import UserError
from anprompt.noise import filters
from anprompt.noise.image import GROUPS, IMAGE_NOISE, IMAGENET_C, SEVERITIES, UNSEEN, corrupt, picture_rng
from tests.noise_pictures import fixed_pictures

ORACLE = json.loads((Path(__file__).parents[1] / "data" / "corruption_oracle.json").read_text())["families"]
DETERMINISTIC = (
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    "low_resolution",
)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return fixed_pictures()


def shrunk(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def effect(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(a.astype(float) - b).mean())


# --- against the oracle -------------------------------------------------------------------------

# Largest gap allowed in (mean, std, mean of difference, std of difference), in grey levels of 255,
# over the fixed pictures; and how many standard errors of the oracle's draws come on top. Filters
# without chance agree to rounding.
VARIABLE = ("motion_blur", "snow", "frost", "fog", "elastic_transform")
TOLERANCE = {
    "frost": 9.0  # a drawn texture instead of photographs
}


@pytest.mark.parametrize("family", IMAGENET_C)
def test_statistics_agree_with_independent_implementations(family, pictures):
    clean = np.stack(pictures).astype(float)
    for severity, theirs in ORACLE[family].items():
        rng = picture_rng(0, "oracle", family)
        draws = 3 if family in VARIABLE else 1
        rows = []
        for _ in range(draws):
            noisy = np.stack([corrupt(p, family, int(severity), rng=rng) for p in pictures]).astype(float)
            difference = noisy - clean
            rows.append([noisy.mean(), noisy.std(), difference.mean(), difference.std()])
        gap = abs(np.mean(rows, axis=0) - theirs["value"])
        # the spread is that of one draw; here two means over draws are compared
        error = np.array(theirs["spread"]) * (1 / draws + 1 / theirs["draws"]) ** 0.5
        allowed = TOLERANCE.get(family, 0.3) + 4 * error
        assert (gap <= allowed).all(), (family, severity, gap.round(2), allowed.round(2))


@pytest.mark.parametrize("family", [name for name in DETERMINISTIC if name in IMAGENET_C])
def test_filters_without_chance_agree_place_by_place(family, pictures):
    for severity, theirs in ORACLE[family].items():
        ours = corrupt(pictures[0], family, int(severity), rng=picture_rng(0))
        blocks = ours.reshape(8, 28, 8, 28, 3).mean(axis=(1, 3)).ravel()
        # 1 level in the last place of a tenth of the pixels, and the rounding of the stored figures
        assert abs(blocks - theirs["thumbnail"]).max() < 0.3


# --- what holds for every family ----------------------------------------------------------------


@pytest.mark.parametrize("family", IMAGE_NOISE)
@pytest.mark.parametrize("size", [(32, 32), (64, 48), (33, 70)])
def test_shape_type_and_determinism(family, size, pictures):
    picture = shrunk(pictures[0], *size)
    before, state = picture.copy(), np.random.get_state()[1].copy()
    for severity in (1, 5):
        first = corrupt(picture, family, severity, rng=picture_rng(1, family))
        assert first.shape == picture.shape and first.dtype == np.uint8
        assert (first == corrupt(picture, family, severity, rng=picture_rng(1, family))).all()
        others = [corrupt(picture, family, severity, rng=picture_rng(seed)) for seed in range(5)]
        assert all((first == other).all() for other in others) == (family in DETERMINISTIC)
        if not (family == "glass_blur" and severity == 1):  # next to nothing at 32 px, as it should
            assert effect(first, picture) > 0.3
    assert (picture == before).all(), "the caller's picture was written to"
    assert (np.random.get_state()[1] == state).all(), "numpy's global generator was used"


@pytest.mark.parametrize("family", IMAGE_NOISE)
def test_severity_zero_is_the_picture_and_pil_stays_pil(family, pictures):
    small = shrunk(pictures[1], 40, 36)
    same = corrupt(small, family, 0, rng=picture_rng(0))
    assert (same == small).all() and same is not small
    picture = Image.fromarray(small)
    assert corrupt(picture, family, 0, rng=picture_rng(0)).tobytes() == picture.tobytes()
    noisy = corrupt(picture, family, 3, rng=picture_rng(0, family))
    assert isinstance(noisy, Image.Image) and noisy.size == (40, 36) and noisy.mode == "RGB"
    assert (np.asarray(noisy) == corrupt(small, family, 3, rng=picture_rng(0, family))).all()


@pytest.mark.parametrize("family", IMAGE_NOISE)
def test_severity_grows(family, pictures):
    def at(severity: int) -> float:
        smalls = [shrunk(picture, 64, 64) for picture in pictures]
        rngs = [picture_rng(i, family) for i in range(len(smalls))]
        return float(np.mean([effect(corrupt(p, family, severity, rng=r), p) for p, r in zip(smalls, rngs)]))

    effects = [at(severity) for severity in SEVERITIES]
    assert effects[0] == 0
    if family == "elastic_transform":  # published: 1 and 2 move far, 3 to 5 ripple
        assert effects[1] < effects[2] and effects[3] < effects[4] < effects[5]
    elif family in ("glass_blur", "snow", "frost", "fog"):  # published: one parameter up, another down
        assert effects[1] < min(effects[3], effects[5])
    else:
        assert effects == sorted(set(effects))


@pytest.mark.parametrize(
    "family", ["defocus_blur", "motion_blur", "zoom_blur", "snow", "frost", "brightness", "contrast", "rotated"]
)
def test_a_small_picture_looks_like_the_large_one_made_small(family, pictures):
    for picture in (pictures[0], pictures[-1]):
        small = shrunk(picture, 64, 64)
        for severity in (1, 3, 5):
            large = corrupt(picture, family, severity, rng=picture_rng(3, family))
            ours = corrupt(small, family, severity, rng=picture_rng(3, family))
            assert effect(shrunk(large, 64, 64), ours) < 0.5 * effect(small, ours)


def test_families_are_data():
    assert len(IMAGENET_C) == 15 and UNSEEN == ("rotated", "occluded", "low_resolution")
    assert GROUPS["noise"] == ("gaussian_noise", "shot_noise", "impulse_noise")
    assert GROUPS["blur"] == ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
    assert GROUPS["weather"] == ("snow", "frost", "fog", "brightness")
    assert GROUPS["digital"] == ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
    assert all(noise.doc.endswith(".") and len(noise.table) == 5 for noise in IMAGE_NOISE.values())
    assert set(ORACLE) == set(IMAGENET_C)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gausian_noise"}, "Did you mean 'gaussian_noise'?"),
        ({"severity": 6}, "Unknown severity '6'. Available: 0, 1, 2, 3, 4, 5."),
        ({"severity": True}, "Unknown severity 'True'"),
        ({"picture": np.zeros((32, 32), np.uint8)}, "not uint8 [32, 32]"),
        ({"picture": np.zeros((32, 32, 3), np.float32)}, "not float32 [32, 32, 3]"),
        ({"picture": np.zeros((8, 32, 3), np.uint8)}, "32 x 8 px is too small"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"picture": np.zeros((32, 32, 3), np.uint8), "family": "fog", "severity": 1}
    with pytest.raises(UserError) as caught:
        corrupt(**(arguments | change), rng=picture_rng(0))
    assert message in str(caught.value)


@pytest.mark.parametrize("family", IMAGE_NOISE)
def test_flat_pictures_are_no_trap(family):
    for value in (0, 255):
        flat = np.full((32, 32, 3), value, np.uint8)
        noisy = corrupt(flat, family, 5, rng=picture_rng(0))
        if GROUPS["blur"].count(family) or family in ("contrast", "pixelate", "rotated", "low_resolution"):
            assert (noisy == flat).all()


# --- families by hand ---------------------------------------------------------------------------


def test_brightness_is_the_value_of_hsv(pictures):
    small = shrunk(pictures[4], 16, 16)
    noisy = corrupt(small, "brightness", 3, rng=picture_rng(0)).reshape(-1, 3)
    for pixel, got in zip(small.reshape(-1, 3), noisy):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))) * 255
        assert abs(got - wanted).max() <= 1


def test_noise_has_the_share_and_width_of_the_table():
    grey = np.full((224, 224, 3), 128, np.uint8)
    for severity, share in enumerate(IMAGE_NOISE["impulse_noise"].table, start=1):
        noisy = corrupt(grey, "impulse_noise", severity, rng=picture_rng(severity))
        assert np.mean(noisy == 0) == pytest.approx(share / 2, rel=0.05)
        assert np.mean(noisy == 255) == pytest.approx(share / 2, rel=0.05)
    assert corrupt(grey, "gaussian_noise", 1, rng=picture_rng(0)).std() == pytest.approx(0.08 * 255, rel=0.02)
    shot = corrupt(grey, "shot_noise", 1, rng=picture_rng(0)) / 255
    assert shot.std() == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.02)


def test_a_point_out_of_focus_is_a_disk_of_the_table_radius():
    point = np.zeros((65, 65), np.float32)
    point[32, 32] = 1
    disk = filters.convolve(point, filters.disk(6, 0.5, 1.0), "reflect")
    rows, columns = np.nonzero(disk > 0.5 * disk.max())
    assert np.hypot(rows - 32, columns - 32).max() == pytest.approx(6, abs=0.5)
    assert disk.sum() == pytest.approx(1, abs=1e-5)
    half = filters.convolve(point, filters.disk(6, 0.5, 0.5), "reflect")
    rows, columns = np.nonzero(half > 0.5 * half.max())
    assert np.hypot(rows - 32, columns - 32).max() == pytest.approx(3, abs=0.5)


def test_motion_is_one_sided_and_along_its_angle():
    kernel = filters.motion_kernel(10, 30, 30.0, 1.0)  # sigma so wide that the weights are level
    rows, columns = np.nonzero(kernel > 1e-6)
    assert len(set(columns)) == 18 and kernel.sum() == pytest.approx(1, abs=1e-6)
    assert rows.max() == 20 and columns.max() == 20  # from the middle, one way only
    slope = (rows.max() - rows.min()) / (columns.max() - columns.min())
    assert np.degrees(np.arctan(slope)) == pytest.approx(30, abs=3)
    assert filters.shrink_kernel(kernel, 1.0) == pytest.approx(kernel, abs=1e-7)
    assert filters.shrink_kernel(kernel, 64 / 224).sum() == pytest.approx(1, abs=1e-6)


def test_occlusion_covers_its_share_in_one_colour():
    clean = np.zeros((100, 100, 3), np.uint8)
    for severity, share in enumerate((0.1, 0.2, 0.3, 0.4, 0.5), start=1):
        noisy = corrupt(clean, "occluded", severity, rng=picture_rng(severity))
        covered = noisy.any(axis=2)
        assert covered.mean() == pytest.approx(share, abs=0.01)
        assert len(np.unique(noisy[covered], axis=0)) == 1


def test_rotation_turns_about_the_middle():
    clean = np.zeros((101, 101, 3), np.uint8)
    clean[50, 50] = 255
    clean[50, 80] = (255, 0, 0)
    noisy = corrupt(clean, "rotated", 3, rng=picture_rng(0)).astype(int)  # 30 degrees
    assert (noisy[50, 50] == 255).all()
    red = noisy[..., 0] - noisy[..., 1]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert abs(row - 50) == 15 and column - 50 == 26


# --- the parts against plain ways to compute the same -------------------------------------------


def test_glass_shuffle_is_the_published_loop():
    shape, delta = (40, 30), 3
    got = filters.displaced(shape, delta, 1.0, picture_rng(5))
    dy, dx = picture_rng(5).integers(-delta, delta, (2, 40 * 30)).reshape(2, *shape)
    picture = np.arange(40 * 30).reshape(shape)
    for h in range(40 - delta, delta, -1):
        for w in range(30 - delta, delta, -1):
            picture[h, w] = picture[h + dy[h, w], w + dx[h, w]]
    assert (got == picture.ravel()).all()
    assert len(np.unique(got)) < got.size  # a copy, not an exchange


def test_parts_agree_with_scipy(pictures):
    x = pictures[2].astype(np.float32)
    part = x[:50, :60]
    kernel = picture_rng(1).random((7, 5)).astype(np.float32)
    wanted = ndimage.convolve(part, kernel[..., None], mode="mirror")
    assert filters.convolve(part, kernel, "reflect") == pytest.approx(wanted, rel=1e-4)

    rows, columns = picture_rng(2).uniform(-30, 250, (2, 50, 60))
    channels = [ndimage.map_coordinates(x[..., c], [rows, columns], order=1, mode="mirror") for c in range(3)]
    assert filters.sample(x, rows, columns) == pytest.approx(np.stack(channels, axis=-1), abs=0.02)

    noise = 2 * picture_rng(3).random((40, 56), dtype=np.float32) - 1
    for sigma in (0.7, 2.44, 30.0):
        smooth = ndimage.gaussian_filter(noise, sigma, mode="reflect", truncate=3)
        assert filters.smooth_field((40, 56), sigma, picture_rng(3)) == pytest.approx(smooth, abs=1e-5)

    zoomed = ndimage.zoom(x[(224 - 187) // 2 :][:187, :, 0], (1.2, 1), order=1)
    trim = (zoomed.shape[0] - 224) // 2
    assert filters.zooms(224, (1.2,))[0] @ x[..., 0] == pytest.approx(zoomed[trim : trim + 224], abs=0.01)


def test_seeds_name_the_picture():
    assert picture_rng(1, "a", "fog").random() == picture_rng(1, "a", "fog").random()
    assert len({picture_rng(*key).random() for key in ((1, "a"), (1, "b"), (2, "a"), ("1", "a"))}) == 4
