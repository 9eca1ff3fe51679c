"""Seeded corruptions of pictures: the 15 families of ImageNet-C in five severities, and three more.

Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019, https://arxiv.org/abs/1903.12261. The severity tables are those of the
published code, which is written for 224 px. For other sizes every length in pixels (radius, width,
displacement, flake) is multiplied by `scale = shorter side / 224`; shares, amplitudes and JPEG
qualities stay. So a small picture looks like the corrupted large one, made small.

A family is `change(x, c, scale, rng)`: x float32 [H, W, 3] in 0..255, c its row of the table.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from anprompt.errors import UserError, choices
from anprompt.noise import filters
from anprompt.noise.seeds import stable_seed

SEVERITIES = (0, 1, 2, 3, 4, 5)
REFERENCE_SIDE = 224
MIN_SIDE = 16

Array = np.ndarray
Change = Callable[[Array, Any, float, np.random.Generator], Array]
Picture = TypeVar("Picture", np.ndarray, Image.Image)


@dataclass(frozen=True)
class ImageNoise:
    """A registered family.

    Attributes:
        name: as conditions have it, `image:NAME:SEVERITY`.
        group: "noise", "blur", "weather", "digital" (ImageNet-C), "unseen" (ours), or another package's own.
        doc: one line for people.
        table: the parameters of severity 1 to 5.
        change: `(x, c, scale, rng)` -> x, float32 [H, W, 3] in 0..255; may return other float types and go out of bounds.
    """

    name: str
    group: str
    doc: str
    table: tuple[Hashable, ...]
    change: Change


IMAGE_NOISE: dict[str, ImageNoise] = {}
GROUPS: dict[str, tuple[str, ...]] = {}  # names of families by group, in the order of registration

IMAGENET_C_GROUPS = ("noise", "blur", "weather", "digital")
IMAGENET_C = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip


def corruption(group: str, *table: Hashable) -> Callable[[Change], Change]:
    """Decorator that registers `change(x, c, scale, rng)` as a family under the function's name.

    Other packages add theirs through the entry-point group `anprompt.corruptions` (docs/add-a-corruption.md).

    Args:
        group: where tables and the service's page show it; for new families a name of your own.
        table: `c` of severity 1 to 5, from weak to strong.

    Returns:
        A decorator that gives the function back as it is. The first line of its docstring describes the family.

    Raises:
        UserError: there are not five severities, the name is taken, or the group is one of ImageNet-C's.
    """

    def register(change: Change) -> Change:
        name, doc = change.__name__, (change.__doc__ or "").partition("\n")[0]
        if len(table) != len(SEVERITIES) - 1:
            raise UserError(f"Corruption {name!r} needs 5 severities, from weak to strong, not {len(table)}.")
        if name in IMAGE_NOISE and IMAGE_NOISE[name].change is not change:
            raise UserError(f"There is already a corruption {name!r}; choose another name.")
        if group in IMAGENET_C_GROUPS and name not in IMAGENET_C:
            raise UserError(f"Group {group!r} is ImageNet-C's, whose 15 families are fixed; choose another group.")
        IMAGE_NOISE[name] = ImageNoise(name, group, doc, table, change)
        GROUPS[group] = (*(known for known in GROUPS.get(group, ()) if known != name), name)
        return change

    return register


def corrupt(picture: Picture, family: str, severity: int, *, rng: np.random.Generator) -> Picture:
    """The picture with one corruption; severity 0 gives an equal copy.

    Args:
        picture: uint8 array [H, W, 3], or a PIL picture, which comes back as RGB.
        family: a name in `IMAGE_NOISE`.
        severity: 0 to 5.
        rng: where chance comes from, see `picture_rng`.

    Returns:
        A new picture of the same size and kind.

    Examples:
        >>> gray = np.full((64, 64, 3), 128, dtype=np.uint8)
        >>> noisy = corrupt(gray, "fog", 3, rng=picture_rng(1, "a.png", "fog"))
        >>> noisy.shape, bool((noisy == gray).all())
        ((64, 64, 3), False)

    Raises:
        UserError: unknown family or severity; no uint8 [H, W, 3]; a side shorter than 16 px.
    """
    if family not in IMAGE_NOISE:
        raise choices("corruption", family, IMAGE_NOISE)
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise choices("severity", severity, SEVERITIES)
    if isinstance(picture, Image.Image):
        return Image.fromarray(_corrupt_array(np.asarray(picture.convert("RGB")), family, severity, rng))
    return _corrupt_array(picture, family, severity, rng)


def _corrupt_array(picture: Array, family: str, severity: int, rng: np.random.Generator) -> Array:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"A picture is uint8 [H, W, 3], not {picture.dtype} {list(picture.shape)}.")
    if min(picture.shape[:2]) < MIN_SIDE:
        raise UserError(f"A picture of {picture.shape[1]} x {picture.shape[0]} px is too small to corrupt.")
    if severity == 0:
        return picture.copy()
    noise = IMAGE_NOISE[family]
    scale = min(picture.shape[:2]) / REFERENCE_SIDE
    out = noise.change(picture.astype(np.float32), noise.table[severity - 1], scale, rng)
    return filters.to_bytes(out)


def picture_rng(*key: int | str) -> np.random.Generator:
    """The generator of one corrupted picture, for a key such as (seed, item path, family).

    Returns:
        Equal keys give generators of equal draws, in every process.
    """
    return np.random.default_rng(stable_seed(*key))


# --- noise --------------------------------------------------------------------------------------


@corruption("noise", 0.08, 0.12, 0.18, 0.26, 0.38)
def gaussian_noise(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Normal noise on every value, as in low light."""
    return x + 255 * np.float32(c) * rng.standard_normal(x.shape, dtype=np.float32)


@corruption("noise", 60, 25, 12, 5, 3)
def shot_noise(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Poisson noise: the light arrives in few quanta."""
    return rng.poisson(x * (c / 255)) * np.float32(255 / c)


@corruption("noise", 0.03, 0.06, 0.09, 0.17, 0.27)
def impulse_noise(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Salt and pepper: values replaced by 0 or 255."""
    chance = rng.random(x.shape, dtype=np.float32)
    return np.where(chance < c / 2, 0, np.where(chance >= 1 - c / 2, 255, x))


# --- blur ---------------------------------------------------------------------------------------


@corruption("blur", (3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
def defocus_blur(x: Array, c: tuple[int, float], scale: float, rng: np.random.Generator) -> Array:
    """Out of focus: every point becomes a disk."""
    return filters.convolve(x, filters.disk(*c, scale), "reflect")


@corruption("blur", (0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
def glass_blur(x: Array, c: tuple[float, int, int], scale: float, rng: np.random.Generator) -> Array:
    """Through frosted glass: pixels change places with near ones."""
    sigma, delta, passes = c
    pixels = filters.to_bytes(filters.gaussian(x, sigma * scale)).astype(np.float32).reshape(-1, 3)
    for _ in range(passes):
        pixels = pixels[filters.displaced(x.shape[:2], delta, scale, rng)]
    return filters.gaussian(pixels.reshape(x.shape), sigma * scale)


@corruption("blur", (10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
def motion_blur(x: Array, c: tuple[int, float], scale: float, rng: np.random.Generator) -> Array:
    """Moved along a line within 45 degrees of level while the shutter was open."""
    return filters.convolve(x, filters.motion_kernel(*c, rng.uniform(-45, 45), scale), "edge")


_ZOOM_STEPS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))


@corruption("blur", *(tuple(np.arange(1, end, step).tolist()) for end, step in _ZOOM_STEPS))
def zoom_blur(x: Array, c: tuple[float, ...], scale: float, rng: np.random.Generator) -> Array:
    """Moved towards the scene: the mean over many zooms."""
    height, width, _ = x.shape
    rows = filters.zooms(height, c).reshape(-1, height) @ x.reshape(height, -1)
    rows = rows.reshape(len(c), height, width, 3).transpose(1, 3, 0, 2).reshape(height * 3, -1)
    out = rows @ filters.zooms(width, c).transpose(0, 2, 1).reshape(-1, width)
    return (x + out.reshape(height, 3, width).transpose(0, 2, 1)) / (len(c) + 1)


# --- weather ------------------------------------------------------------------------------------


def _reference_shape(x: Array, scale: float) -> tuple[int, int]:
    """The shape of a layer drawn for the picture as it would be at 224 px."""
    return round(x.shape[0] / scale), round(x.shape[1] / scale)


@corruption(
    "weather",
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
def snow(x: Array, c: tuple[Any, ...], scale: float, rng: np.random.Generator) -> Array:
    """Falling flakes and a whitened scene."""
    mean, spread, zoom, threshold, radius, sigma, keep = c
    shape = _reference_shape(x, scale)
    flakes = mean + spread * rng.standard_normal(shape, dtype=np.float32)
    flakes = filters.zooms(shape[0], (zoom,))[0] @ flakes @ filters.zooms(shape[1], (zoom,))[0].T
    flakes = np.floor(255 * np.clip(np.where(flakes < threshold, 0, flakes), 0, 1))
    flakes = filters.convolve(flakes, filters.motion_kernel(radius, sigma, rng.uniform(-135, -45), 1.0), "edge")
    flakes = filters.resize(flakes, x.shape[:2])[..., None]
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    whitened = np.maximum(x, 1.5 * grey[..., None] + 127.5)
    return keep * x + (1 - keep) * whitened + flakes + flakes[::-1, ::-1]


_ICE = np.array([0.89, 1.01, 1.10], np.float32)


@corruption("weather", (1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))
def frost(x: Array, c: tuple[float, float], scale: float, rng: np.random.Generator) -> Array:
    """Ice on the lens, from a drawn texture."""
    shape = _reference_shape(x, scale)
    texture = filters.frost_texture(int(rng.integers(5)), max(512, 2 ** max(shape).bit_length()))
    top, left = (int(rng.integers(texture.shape[0] - side + 1)) for side in shape)
    ice = np.rot90(texture[top : top + shape[0], left : left + shape[1]], 2 * int(rng.integers(2)))
    return c[0] * x + c[1] * filters.resize(np.ascontiguousarray(ice), x.shape[:2])[..., None] * _ICE


@corruption("weather", (1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
def fog(x: Array, c: tuple[float, float], scale: float, rng: np.random.Generator) -> Array:
    """A fractal haze in front of the scene."""
    height, width, _ = x.shape
    haze = filters.plasma(2 ** (max(height, width) - 1).bit_length(), c[1], rng)[:height, :width]
    most = x.max() / 255
    return (x + 255 * c[0] * haze[..., None]) * (most / (most + c[0]))


@corruption("weather", 0.1, 0.2, 0.3, 0.4, 0.5)
def brightness(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Overexposed: the value of HSV raised."""
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + 255 * c, 255)
    # with hue and saturation kept, all channels grow by the same factor; black turns grey
    return np.where(value > 0, x * (raised / np.maximum(value, 1)), raised)


# --- digital ------------------------------------------------------------------------------------


@corruption("digital", 0.4, 0.3, 0.2, 0.1, 0.05)
def contrast(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Each channel drawn towards its mean."""
    means = x.mean(axis=(0, 1), keepdims=True)
    return (x - means) * c + means


@corruption("digital", *((244 * a, 244 * s, 244 * p) for a, s, p in (
    (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
)))  # fmt: skip
def elastic_transform(x: Array, c: tuple[float, ...], scale: float, rng: np.random.Generator) -> Array:
    """Stretched like rubber: a random affine map, then a smooth random displacement."""
    strength, sigma, spread = c
    shape = x.shape[:2]
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    middle, arm = np.array(shape[::-1]) // 2, min(shape) // 3  # (x, y), as in the places below
    before = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform(-spread, spread, before.shape) * scale
    # solve for the map that takes the new place of the three points back to the old one
    back = np.linalg.solve(np.c_[after, np.ones(3)], before)
    places = columns[..., None] * back[0] + rows[..., None] * back[1] + back[2]
    x = filters.sample(x, places[..., 1], places[..., 0])
    # displacement ~ strength / sigma, so strength takes the scale twice for it to shrink once
    right = strength * scale**2 * filters.smooth_field(shape, sigma * scale, rng)
    down = strength * scale**2 * filters.smooth_field(shape, sigma * scale, rng)
    return filters.sample(x, rows + down, columns + right)


def _resampled(x: Array, share: float, down: Image.Resampling, up: Image.Resampling) -> Array:
    height, width, _ = x.shape
    small = (max(1, int(width * share)), max(1, int(height * share)))
    return np.asarray(Image.fromarray(x.astype(np.uint8)).resize(small, down).resize((width, height), up))


@corruption("digital", 0.6, 0.5, 0.4, 0.3, 0.25)
def pixelate(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Blocks of one colour; the table is the share of pixels left per side, at every size."""
    return _resampled(x, c, Image.Resampling.BOX, Image.Resampling.BOX)


@corruption("digital", 25, 18, 15, 10, 7)
def jpeg_compression(x: Array, c: int, scale: float, rng: np.random.Generator) -> Array:
    """Saved as JPEG of low quality."""
    buffer = io.BytesIO()
    Image.fromarray(x.astype(np.uint8)).save(buffer, "JPEG", quality=c)
    return np.asarray(Image.open(buffer))


# --- unseen: not in ImageNet-C, so nobody tuned on them ----------------------------------------


@corruption("unseen", 10, 20, 30, 45, 60)
def rotated(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Turned by an angle, to a random side; the corners are filled by reflection."""
    angle = math.radians(c) * (1 if rng.random() < 0.5 else -1)
    middle = [(side - 1) / 2 for side in x.shape[:2]]
    down, right = (grid - m for grid, m in zip(np.indices(x.shape[:2], dtype=np.float32), middle))
    rows = middle[0] + down * math.cos(angle) - right * math.sin(angle)
    return filters.sample(x, rows, middle[1] + down * math.sin(angle) + right * math.cos(angle))


@corruption("unseen", 0.1, 0.2, 0.3, 0.4, 0.5)
def occluded(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """One rectangle of a random colour over a share of the picture."""
    aspect = math.exp(rng.uniform(-math.log(2), math.log(2)))
    shares = math.sqrt(c * aspect), math.sqrt(c / aspect)
    sizes = [min(side, round(side * share)) for side, share in zip(x.shape, shares)]
    top, left = (int(rng.integers(side - size + 1)) for side, size in zip(x.shape, sizes))
    out = x.copy()
    out[top : top + sizes[0], left : left + sizes[1]] = rng.integers(0, 256, 3)
    return out


@corruption("unseen", 0.5, 0.4, 0.3, 0.2, 0.15)
def low_resolution(x: Array, c: float, scale: float, rng: np.random.Generator) -> Array:
    """Made small and large again, smoothly; the table is the share of pixels left per side."""
    return _resampled(x, c, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


UNSEEN = GROUPS["unseen"]

for _point in entry_points(group="anprompt.corruptions"):
    _point.load()  # a module; its decorators register
