"""Kernels, samplers and random textures that the corruptions of `image.py` are made of.

Arrays are float32 in 0..255, [H, W] or [H, W, C]; `scale` is the picture's shorter side over 224.
scipy is imported where it is used: who only names a corruption does not wait for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from anprompt.noise.seeds import stable_seed

Array = np.ndarray


def to_bytes(x: Array) -> Array:
    # the published code truncates; the slack keeps 199.99999 of a float32 sum from becoming 199
    return np.clip(x + 1e-3, 0, 255).astype(np.uint8)


def shrink_kernel(kernel: Array, scale: float) -> Array:
    """A kernel (odd sides) for another picture size: each tap moves to `scale` times its offset.

    A tap between pixels is shared out among the three nearest so that its place and its spread are
    kept (two would blur more than asked for, which at 32 px is most of the blur there is). At
    scale 1 the kernel stays as it is.
    """

    def spread(size: int) -> Array:  # [new size, size]
        taps = (np.arange(size) - size // 2) * scale
        reach = math.ceil(abs(taps[0]) - 1e-9) + (scale < 1)
        places = np.arange(-reach, reach + 1)[:, None]
        if scale > 1:  # enlarged: fill the gaps between the taps
            return np.maximum(0, 1 - abs(places - taps) / scale)
        nearest = np.rint(taps)
        off = taps - nearest
        before, after = ((places == nearest - 1) * (off**2 - off) / 2, (places == nearest + 1) * (off**2 + off) / 2)
        return (places == nearest) * (1 - off**2) + before + after

    out = spread(kernel.shape[0]) @ kernel @ spread(kernel.shape[1]).T
    return (out * (kernel.sum() / out.sum())).astype(np.float32)


def convolve(x: Array, kernel: Array, border: Any) -> Array:
    """x [H, W] or [H, W, C] filtered with a kernel of odd sides, by Fourier transform."""
    from scipy import fft

    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    pads = [(top, top), (left, left)] + [(0, 0)] * (x.ndim - 2)
    padded = np.pad(x, pads, mode=border)
    shape = [fft.next_fast_len(side, real=True) for side in padded.shape[:2]]
    response = fft.rfft2(kernel.astype(np.float32), shape)
    spectrum = fft.rfft2(padded, shape, axes=(0, 1))
    spectrum *= response.reshape(response.shape + (1,) * (x.ndim - 2))
    out = fft.irfft2(spectrum, shape, axes=(0, 1))
    # rows before 2 * top are still missing part of the kernel or wrapped round
    return out[2 * top : 2 * top + x.shape[0], 2 * left : 2 * left + x.shape[1]]


@lru_cache(maxsize=64)
def disk(radius: int, smoothing: float, scale: float) -> Array:
    from scipy import ndimage

    reach = max(8, radius)
    offsets = np.arange(-reach, reach + 1)
    mask = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    mask /= mask.sum()
    # smoothing with mirrored borders adds up to 1.2 % where the disk touches them (radius 8 and 10):
    # so do the published figures, which are that much brighter
    half = 1 if radius <= 8 else 2
    window = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * smoothing**2))
    window /= window.sum()
    for axis in (0, 1):
        mask = ndimage.correlate1d(mask, window, axis=axis, mode="mirror")
    return shrink_kernel(mask, scale)


def motion_kernel(radius: int, sigma: float, angle: float, scale: float) -> Array:
    """A one-sided Gaussian along a line of whole pixels, as ImageMagick's motion blur has it."""
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
    columns = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1))
    # a convolution: what lies at +offset comes from the tap at -offset
    np.add.at(kernel, (2 * radius - rows, 2 * radius - columns), weights / weights.sum())
    return shrink_kernel(kernel, scale)


@lru_cache(maxsize=64)
def zooms(side: int, factors: tuple[float, ...]) -> Array:
    """Linear interpolation about the middle, [factors, side, side]: the zoomed rows from the rows."""
    out = np.zeros((len(factors), side, side), np.float32)
    for weights, factor in zip(out, factors):
        crop = math.ceil(side / factor)
        size = round(crop * factor)
        where = (np.arange(side) + (size - side) // 2) * (crop - 1) / max(size - 1, 1)
        weights[:] = np.maximum(0, 1 - abs((side - crop) // 2 + where[:, None] - np.arange(side)))
    return out


def gaussian(x: Array, sigma: float) -> Array:
    from scipy import ndimage

    return ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest")


def displaced(shape: tuple[int, int], delta: int, scale: float, rng: np.random.Generator) -> Array:
    """Which pixel each pixel shows after one pass over the picture, as flat indices [H * W].

    The published loop goes from the last pixel to the first and gives each the value that a random
    neighbour has at that moment (meant as an exchange, it is a copy). A neighbour passed before
    has a new value: its own source. Following these links to their end takes log(longest) steps.
    """
    height, width = shape
    here = np.arange(height * width)
    rows, columns = np.divmod(here, width)
    margin = math.ceil(delta * scale)
    moves = (rows > margin) & (rows <= height - margin) & (columns > margin) & (columns <= width - margin)
    # rounded at random, so that small pictures keep the mean displacement; exact at scale 1
    steps = rng.integers(-delta, delta, (2, here.size)) * scale
    steps = np.floor(steps + rng.random(steps.shape)).astype(np.intp)
    source = np.clip(rows + steps[0], 0, height - 1) * width + np.clip(columns + steps[1], 0, width - 1)
    source = np.where(moves, source, here)
    # nodes 0..n-1: the new value of a pixel; n..2n-1: its old value, where a chain ends
    passed = (source > here) & moves[source]
    link = np.concatenate([np.where(passed, source, source + here.size), here + here.size])
    while (link[: here.size] < here.size).any():
        link = link[link]
    return link[: here.size] - here.size


def resize(layer: Array, shape: tuple[int, int]) -> Array:
    """A layer [h, w] in float32 at the size of the picture."""
    if layer.shape == shape:
        return layer
    method = Image.Resampling.BOX if layer.shape[0] > shape[0] else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(layer.astype(np.float32)).resize(shape[::-1], method))


def plasma(side: int, decay: float, rng: np.random.Generator) -> Array:
    """A fractal height map in 0..1 by the diamond-square algorithm; side is a power of two."""
    heights = np.zeros((side, side))
    step, wobble = side, 100.0

    def mean_of(total: Array) -> Array:
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        middles = heights[half::step, half::step] = mean_of(total + np.roll(total, -1, 1))
        level = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        heights[::step, half::step] = mean_of(level)
        upright = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        heights[half::step, ::step] = mean_of(upright)
        step, wobble = half, wobble / decay
    heights -= heights.min()
    return heights / heights.max()


# mean levels of the five plates: those of the photographs in the published code
ICE_LEVELS = (0.48, 0.51, 0.60, 0.81, 0.81)


@lru_cache(maxsize=8)
def frost_texture(index: int, side: int) -> Array:
    """A plate of ice [side, side] in 0..255, drawn instead of the photographs of the published code.

    Needles: white noise filtered along six directions, the strongest of which shows at each point.
    Patches: a fractal, because ice does not cover a pane evenly.
    """
    from scipy import fft

    rng = np.random.default_rng(stable_seed("frost", index))
    rows, columns = fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None]
    noise = fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    needles = np.full((side, side), -np.inf)
    for angle in np.radians(rng.uniform(0, 30) + np.arange(0, 180, 30)):
        # frequencies across the needle reach far (thin), those along it do not (long)
        along = rows * np.sin(angle) + columns * np.cos(angle)
        across = rows * np.cos(angle) - columns * np.sin(angle)
        drawn = fft.irfft2(noise * np.exp(-((along / 0.02) ** 2) - (across / 0.15) ** 2), (side, side))
        needles = np.maximum(needles, drawn / drawn.std())
    patches = plasma(side, 1.7, rng)
    ice = 0.08 * _standard(needles) + 0.08 * _standard(patches)
    return np.clip(255 * (ICE_LEVELS[index] + ice), 0, 255).astype(np.float32)


def _standard(x: Array) -> Array:
    return (x - x.mean()) / x.std()


def sample(x: Array, rows: Array, columns: Array) -> Array:
    """x at real-valued places [H, W], linearly, mirrored at the borders."""
    height, width, _ = x.shape
    rows = height - 1 - abs(rows % (2 * height - 2) - (height - 1))
    columns = width - 1 - abs(columns % (2 * width - 2) - (width - 1))
    top, left = np.minimum(rows.astype(int), height - 2), np.minimum(columns.astype(int), width - 2)
    down = (rows - top).astype(np.float32)[..., None]
    right = (columns - left).astype(np.float32)[..., None]
    flat, at = x.reshape(-1, 3), top * width + left
    above = flat[at] * (1 - right) + flat[at + 1] * right
    below = flat[at + width] * (1 - right) + flat[at + width + 1] * right
    return above * (1 - down) + below * down


@lru_cache(maxsize=64)
def _smoothing(side: int, sigma: float) -> Array:
    """Response of a Gaussian, cut at 3 sigma, for each cosine of a mirrored signal of this length."""
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    angles = np.pi / side * np.arange(side)[:, None] * np.arange(-reach, reach + 1)
    return (np.cos(angles) @ (weights / weights.sum())).astype(np.float32)


def smooth_field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> Array:
    """Uniform noise in -1..1, smoothed. By cosine transform: sigma can exceed the picture."""
    from scipy import fft

    field = fft.dctn(2 * rng.random(shape, dtype=np.float32) - 1)
    return fft.idctn(field * _smoothing(shape[0], sigma)[:, None] * _smoothing(shape[1], sigma))
