"""An answer to look at: the image, with the true defect's outline in green and the found one's in red, and its heat map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from PIL import Image, ImageDraw, ImageFont

GREEN, RED, INK, PAPER = (22, 163, 74), (226, 36, 36), (29, 35, 48), (255, 255, 255)
_COLOURS = np.array([[20, 24, 70], [30, 100, 180], [70, 190, 160], [250, 220, 90], [230, 90, 40], [150, 10, 20]], float)
GAP, LINE, LARGEST = 6, 20, 640


def heat(values: np.ndarray, floor: float, contour: float) -> np.ndarray:
    """A map [H, W] as colours uint8 [H, W, 3]: dark blue at what normal patches show, yellow at the contour's level."""
    share = np.clip((values - floor) / max(contour - floor, 1e-9) * 0.6, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(share.astype(int), len(_COLOURS) - 2)
    part = (share - low)[..., None]
    return np.rint(_COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part).astype(np.uint8)


def outlined(pixels: np.ndarray, mask: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """Pixels [H, W, 3] with the outline of a mask [H, W], as wide as a three-hundredth of the image."""
    width = max(1, round(max(mask.shape) / 300))
    inner = scipy.ndimage.binary_erosion(mask, iterations=width, border_value=1)
    return np.where((mask & ~inner)[..., None], np.array(colour, np.uint8), pixels)


def overlay(
    image: Image.Image,
    found: np.ndarray,
    *,
    floor: float,
    contour: float,
    truth: np.ndarray | None = None,
    title: str = "",
) -> Image.Image:
    """Image with outlines beside the image under its heat map.

    Args:
        found: the map, [H, W] of the image's size.
        floor, contour: the map's level on normal patches, and that from which on a place is outlined.
        truth: the mask, where one is known.
        title: a line above.
    """
    factor = min(1.0, LARGEST / max(image.size))
    if factor < 1:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        image = image.resize(size, Image.Resampling.BICUBIC)
        found = np.asarray(Image.fromarray(np.asarray(found, np.float32), "F").resize(size, Image.Resampling.BILINEAR))
        truth = None if truth is None else np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.NEAREST))
    pixels = np.asarray(image.convert("RGB"))
    drawn = outlined(pixels, found > contour, RED)
    drawn = drawn if truth is None else outlined(drawn, truth, GREEN)
    warm = np.rint(0.45 * pixels + 0.55 * heat(found, floor, contour)).astype(np.uint8)
    top = LINE if title else 0
    sheet = Image.new("RGB", (2 * image.width + GAP, image.height + top), PAPER)
    sheet.paste(Image.fromarray(drawn), (0, top))
    sheet.paste(Image.fromarray(warm), (image.width + GAP, top))
    if title:
        ImageDraw.Draw(sheet).text((2, 2), title, INK, font=ImageFont.load_default(13))
    return sheet


def gallery(sheets: Sequence[Image.Image], columns: int = 3, width: int = 420) -> Image.Image:
    """Several overlays on one sheet."""
    sized = [sheet.resize((width, round(sheet.height * width / sheet.width))) for sheet in sheets]
    rows = [sized[start : start + columns] for start in range(0, len(sized), columns)]
    heights = [max(one.height for one in row) + 2 * GAP for row in rows]
    page = Image.new("RGB", (columns * (width + 2 * GAP), sum(heights)), PAPER)
    for number, row in enumerate(rows):
        for place, one in enumerate(row):
            page.paste(one, (place * (width + 2 * GAP) + GAP, sum(heights[:number]) + GAP))
    return page
