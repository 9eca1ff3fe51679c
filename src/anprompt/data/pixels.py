"""The one rule from decoded values to 8-bit RGB: levels of any depth, transparency, and very large images.

Files, Pillow images, arrays and tensors all end here, so that the same image gives the same pixels whatever
form it comes in. `examples/onnx_predict.py` carries the rule, too; `tests/cases/test_pixels.py` holds them equal.
"""

from __future__ import annotations

import logging

import numpy as np
from PIL import Image

from anprompt.errors import UserError

log = logging.getLogger("anprompt")

LARGE = 25_000_000  # pixels; beyond, an image is taken at a half, a quarter or an eighth of its sides

# The largest values that whole numbers are scaled by: a mask, then 8, 10, 12, 14 and 16 bits.
_TOPS = (1, 255, 1023, 4095, 16383, 65535)
_BLOCK = 1 << 20  # values turned at once, so that the steps between need little memory

_HIDDEN = 24  # levels by which a pixel must differ from the ground to be seen
_MOSTLY = 0.75  # share of a drawing that white must hide before black is the better ground
_DARK = 8  # levels: an image with hardly a pixel above says nothing to a model


def scale_down(width: int, height: int) -> int:
    """By how much the sides of an image are divided: 1 up to `LARGE` pixels, then 2, 4 or 8."""
    return next((factor for factor in (1, 2, 4) if width * height <= LARGE * factor * factor), 8)


def eight_bits(levels: np.ndarray, name: str, *, colour: bool = False) -> np.ndarray:
    """Levels of any type as uint8, scaled by what they use.

    Whole numbers from 0 are scaled by the smallest of 1, 8, 10, 12, 14 and 16 bits that holds the largest;
    floating-point ones by 1 or by 255. Grey levels outside (below zero, above 16 bits, or fractions up to
    neither) are stretched from the least to the largest. A guess is logged.

    Args:
        levels: of any shape.
        name: what to call the image in a message.
        colour: the values are colours, which stretching would change: refused instead.

    Raises:
        UserError: colours outside the ranges.
    """
    if levels.dtype == np.uint8:
        return levels
    if levels.dtype == bool:
        return levels.astype(np.uint8) * np.uint8(255)
    whole = levels.dtype.kind in "ui"
    low, high = _bounds(levels)
    if whole and low >= 0 and high <= _TOPS[-1]:
        top = next(top for top in _TOPS if high <= top)
        if top < _TOPS[-1]:
            log.info("%s: its levels go up to %d; read as %d bits", name, high, top.bit_length())
        shades = np.rint(np.arange(top + 1) / (top / 255)).astype(np.uint8)
        result = _by_blocks(levels, lambda block: shades[block])
    else:
        low, high = _range(low, high, whole, colour, name)
        result = _by_blocks(levels, lambda block: _stretched(block, low, high))
    if not colour and result.size and (result > _DARK).mean() < 0.001:
        log.warning("%s: nearly black; its levels go from %g to %g", name, low, high)
    return result


def _bounds(levels: np.ndarray) -> tuple[float, float]:
    """Least and largest value, of those that are finite."""
    low, high = levels.min(), levels.max()
    if not np.isfinite(low) or not np.isfinite(high):
        finite = levels[np.isfinite(levels)]
        low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    return (int(low), int(high)) if levels.dtype.kind in "ui" else (float(low), float(high))


def _range(low: float, high: float, whole: bool, colour: bool, name: str) -> tuple[float, float]:
    """What becomes 0 and 255. Resampling may overshoot a little, which says nothing about the range."""
    if not whole and low >= -0.02 and high <= 1.02:
        return 0.0, 1.0
    if not whole and low >= -5 and 8 < high <= 260:
        log.info("%s: its levels go up to %g; read as 0 to 255", name, high)
        return 0.0, 255.0
    if colour:
        raise UserError(
            f"{name}: colours must go from 0 to 1 or from 0 to 255, not from {low:g} to {high:g}; "
            "pass the image before it is normalised."
        )
    log.info("%s: its levels go from %g to %g; stretched to black and white", name, low, high)
    return low, high


def _stretched(block: np.ndarray, low: float, high: float) -> np.ndarray:
    values = np.nan_to_num(block.astype(np.float64), nan=low, posinf=high, neginf=low)
    # Two products for two kinds of range, as they always were: a division rounds otherwise.
    scaled = values * 255 if (low, high) == (0.0, 1.0) else (values - low) * (255 / max(high - low, 1e-12))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _by_blocks(levels: np.ndarray, turn) -> np.ndarray:  # type: ignore[no-untyped-def]
    flat, result = levels.reshape(-1), np.empty(levels.size, np.uint8)
    for start in range(0, flat.size, _BLOCK):
        result[start : start + _BLOCK] = turn(flat[start : start + _BLOCK])
    return result.reshape(levels.shape)


def rgb_of_levels(levels: np.ndarray, name: str) -> Image.Image:
    """[H, W], or [H, W, channels] of grey, grey and alpha, RGB, or RGB and alpha, as an RGB image.

    Raises:
        UserError: another shape or type, or values that are not levels.
    """
    shape, kind = list(levels.shape), levels.dtype
    if kind.kind not in "buif" or levels.ndim not in (2, 3) or not levels.size or (levels.ndim == 3 and shape[2] > 4):
        hint = "; transpose(1, 2, 0) may help" if levels.ndim == 3 and shape[0] in (1, 3, 4) and levels.size else ""
        raise UserError(
            f"{name}: an array must be [height, width], or [height, width, 3] of uint8, uint16 or floating-point "
            f"levels (or 1, 2 or 4 channels), not {shape} of {kind}{hint}."
        )
    if kind.kind == "f" and levels.ndim == 3 and shape[2] > 1 and not np.isfinite(levels).all():
        raise UserError(f"{name}: colours must be finite numbers; some are NaN or infinite.")
    return rgb(Image.fromarray(eight_bit_planes(levels, name)), name)


def eight_bit_planes(levels: np.ndarray, name: str) -> np.ndarray:
    """`eight_bits` of [H, W] or [H, W, 1 to 4], alpha apart from the colours; one channel becomes [H, W]."""
    planes = levels[..., None] if levels.ndim == 2 else levels
    shades = planes.shape[2] - (planes.shape[2] in (2, 4))
    parts = [eight_bits(planes[..., :shades], name, colour=shades == 3)]
    if shades < planes.shape[2]:
        parts.append(eight_bits(planes[..., shades:], f"{name} (alpha)", colour=True))
    joined = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
    return np.ascontiguousarray(joined[..., 0] if joined.shape[2] == 1 else joined)


def rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded, upright image of any mode as RGB; a copy, never the image given.

    Raises:
        ValueError, OSError, KeyError: Pillow can't convert this mode.
        UserError: see `eight_bits`.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(eight_bits(_grey_levels(image), name))
    factor = scale_down(*image.size)
    if image.has_transparency_data:
        return _on_ground(image, factor, name)
    converted = image.convert("RGB")
    if factor > 1:
        return converted.reduce(factor)
    return converted.copy() if converted is image else converted


def _grey_levels(image: Image.Image) -> np.ndarray:
    """The values; unsigned 32-bit ones, which Pillow holds as signed, as they were written."""
    levels = np.asarray(image)
    sample_format = getattr(image, "tag_v2", {}).get(339, (1,))
    unsigned = image.mode == "I" and getattr(image, "format", "") == "TIFF" and sample_format in (1, (1,))
    if unsigned and getattr(image, "tag_v2", {}).get(258) in (32, (32,)):
        return levels.view(np.uint32)
    return levels


def _on_ground(image: Image.Image, factor: int, name: str) -> Image.Image:
    """Laid over white; a drawing that white would hide is laid over black.

    Which it is depends on the pixels that can be seen, weighted by how opaque they are.
    """
    image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if factor > 1:  # with premultiplied colours, so that clear pixels do not mix in
        image = image.convert("RGBa").reduce(factor).convert("RGBA")
    ground = "white"
    hidden_white, hidden_black, seen = _hidden(np.asarray(image))
    if not seen:
        log.warning("%s: wholly transparent; read as a white image", name)
    elif hidden_white > _MOSTLY and hidden_black < hidden_white:
        ground = "black"
        log.info("%s: white on a transparent ground; laid over black", name)
    return Image.alpha_composite(Image.new("RGBA", image.size, ground), image).convert("RGB")


def _hidden(pixels: np.ndarray) -> tuple[float, float, bool]:
    """Shares of a drawing [H, W, 4] that white and black hide, and whether there is any."""
    total = white = black = 0
    step = max(1, _BLOCK // max(1, pixels.shape[1]))
    for start in range(0, pixels.shape[0], step):
        block = pixels[start : start + step]
        alpha, colours = block[..., 3].astype(np.int64), block[..., :3]
        total += int(alpha.sum())
        white += int(alpha[colours.min(axis=2) > 255 - _HIDDEN].sum())
        black += int(alpha[colours.max(axis=2) < _HIDDEN].sum())
    return white / max(total, 1), black / max(total, 1), total > 0
