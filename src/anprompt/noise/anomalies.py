"""Self-generated anomalies: seeded noise on soft masks laid over normal images.

After the noise module of APT (arXiv 2508.16157) and of its predecessor (arXiv 2406.18197), which put Gaussian noise on a
binary mask of the object. The papers' strengths, sizes and families can't be read; those here are ours: a mask is one to
three soft blobs of any place, size and shape, and what it shows is one of five families. None knows a real defect.

>>> flat = np.full((64, 64, 3), 128, dtype=np.uint8)
>>> made = generated(flat, 1, "part.png", 0)
>>> made.image.shape, made.mask.dtype, 0 < made.mask.mean() < 0.5
((64, 64, 3), dtype('bool'), True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anprompt.errors import UserError, choices
from anprompt.noise import filters
from anprompt.noise.seeds import stable_seed

Array = np.ndarray
Change = Callable[[Array, Array, np.random.Generator], Array]

SHARES = (0.001, 0.06)  # of the image's area that one blob may have
MOST_BLOBS = 3
LONGEST = 6.0  # times as long as wide
SEEN = 10.0  # levels of 255 that a pixel must differ by, on average around it, to count as changed
MOST_COLOURS, FEW_COLOURS = 2, 0.9  # colours that make up this share of an image of few colours
ONE_COLOUR = 3.0  # levels that a colour may vary by on average
TRIES = 8  # draws before an image on which nothing shows is given up


@dataclass(frozen=True)
class Generated:
    """An image with a generated anomaly.

    Attributes:
        image: uint8 [H, W, 3].
        mask: booleans [H, W]: where it visibly differs from the normal image.
        family: the kind of noise.
    """

    image: Array
    mask: Array
    family: str


def soft_mask(height: int, width: int, rng: np.random.Generator) -> Array:
    """One to three blobs with uneven outlines and soft edges: float32 [height, width] in 0..1."""
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, MOST_BLOBS + 1))):
        mask = np.maximum(mask, _blob(height, width, rng))
    return mask


def _blob(height: int, width: int, rng: np.random.Generator) -> Array:
    area = height * width * np.exp(rng.uniform(*np.log(SHARES)))
    aspect, angle = np.exp(rng.uniform(0, np.log(LONGEST))), rng.uniform(0, np.pi)
    long, wide = np.sqrt(area * aspect / np.pi), np.sqrt(area / aspect / np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = y - rng.uniform(0, height), x - rng.uniform(0, width)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    inside = 1 - np.sqrt((along / max(long, 1.5)) ** 2 + (across / max(wide, 1.5)) ** 2)
    uneven = filters.smooth_field((height, width), max(1.0, float(wide) / 2), rng)
    uneven /= max(float(uneven.std()), 1e-6)
    softness = rng.uniform(2, 10)
    return np.clip((inside + 0.25 * uneven) * softness + 0.5, 0, 1).astype(np.float32)


# --- families -------------------------------------------------------------------------------------
def gaussian(x: Array, mask: Array, rng: np.random.Generator) -> Array:
    """Normal noise of some grain, as in both papers."""
    grain = rng.uniform(0, 2.5)
    noise = rng.standard_normal((*x.shape[:2], 1), dtype=np.float32)
    if grain > 0.5:
        noise = filters.gaussian(noise, grain)
        noise /= max(float(noise.std()), 1e-6)
    return x + 255 * rng.uniform(0.08, 0.5) * noise


def level(x: Array, mask: Array, rng: np.random.Generator) -> Array:
    """One colour: of another place of the image, or darker or lighter than what was there."""
    if rng.random() < 0.5:
        colour = x[int(rng.integers(len(x))), int(rng.integers(x.shape[1]))]
    else:
        here = (x * mask[..., None]).sum((0, 1)) / max(float(mask.sum()), 1e-6)
        colour = np.clip(here + rng.choice([-1, 1]) * rng.uniform(40, 200), 0, 255)
    strength = rng.uniform(0.5, 1)
    return (1 - strength) * x + strength * colour


def paste(x: Array, mask: Array, rng: np.random.Generator) -> Array:
    """What is seen at another place of the same image (after CutPaste, arXiv 2104.04015), turned over or not."""
    moved = np.roll(x, (int(rng.integers(len(x))), int(rng.integers(x.shape[1]))), axis=(0, 1))
    for axis in (0, 1):
        moved = np.flip(moved, axis) if rng.random() < 0.5 else moved
    return moved


def smear(x: Array, mask: Array, rng: np.random.Generator) -> Array:
    """Blurred."""
    return filters.gaussian(x, rng.uniform(0.01, 0.05) * min(x.shape[:2]) + 1)


def shade(x: Array, mask: Array, rng: np.random.Generator) -> Array:
    """In another light."""
    return x * (rng.uniform(0.3, 0.75) if rng.random() < 0.5 else rng.uniform(1.3, 2.2))


FAMILIES: dict[str, Change] = {change.__name__: change for change in (gaussian, level, paste, smear, shade)}


def generated(image: Array, *key: int | str, families: Sequence[str] = ()) -> Generated:
    """A copy of a normal image with an anomaly; equal keys give equal ones.

    Args:
        image: uint8 [H, W, 3].
        key: what the anomaly is a function of, such as (seed, path, number).
        families: names in `FAMILIES` to draw from; empty for all.

    Returns:
        The copy, with the mask of what visibly changed. Where nothing shows after `TRIES` draws (an image of one
        level, smeared), noise is laid over it.

    Raises:
        UserError: an unknown family.
    """
    names = list(families or FAMILIES)
    for name in names:
        if name not in FAMILIES:
            raise choices("family of generated anomalies", name, FAMILIES)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"An image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}.")
    rng = np.random.default_rng(stable_seed("anomaly", *key))
    for attempt in range(TRIES):
        family = names[int(rng.integers(len(names)))] if attempt < TRIES - 1 else "gaussian"
        made = overlaid(image, soft_mask(image.shape[0], image.shape[1], rng), family, rng)
        if made.mask.any():
            break
    return made


def in_its_colours(x: Array, image: Array) -> Array:
    """Values [H, W, 3] as an image of few colours (a drawing, a binarised photograph) would show them.

    Where `MOST_COLOURS` hold nearly all of the normal image, each value becomes the nearest of them: a grey that no normal
    image and no real defect has would be all there is to learn. Other images stay as they are.
    """
    codes = (image >> 5).astype(np.int32) @ np.array([64, 8, 1])
    known, counts = np.unique(codes, return_counts=True)
    common = known[np.argsort(-counts)[:MOST_COLOURS]]
    if np.isin(codes, common).mean() < FEW_COLOURS:
        return x
    colours = np.stack([image[codes == code].mean(axis=0) for code in common])
    off = [np.abs(image[codes == code] - colour).mean() for code, colour in zip(common, colours)]
    if max(off) > ONE_COLOUR:  # shades, not colours
        return x
    nearest = ((x[:, :, None] - colours) ** 2).sum(axis=-1).argmin(axis=-1)
    return np.where((x == image).all(axis=-1, keepdims=True), x, colours[nearest]).astype(np.float32)


def overlaid(image: Array, mask: Array, family: str, rng: np.random.Generator) -> Generated:
    """One family of noise on a soft mask [H, W] over an image."""
    x = image.astype(np.float32)
    y = np.clip(FAMILIES[family](x, mask, rng), 0, 255)
    out = filters.to_bytes(in_its_colours(x + mask[..., None] * (y - x), image))
    change = np.abs(out.astype(np.float32) - x).max(axis=2, keepdims=True)
    around = filters.gaussian(change, max(1.0, min(image.shape[:2]) / 150))[..., 0]
    return Generated(out, (around > SEEN) & (mask > 0.2), family)
