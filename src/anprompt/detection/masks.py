"""Masks of defects: reading them beside their images, and saying in one line what is wrong with one."""

from __future__ import annotations

import numpy as np
from PIL import Image

from anprompt.data.images import open_image, shown
from anprompt.errors import UserError


def read_mask(path: str, size: tuple[int, int]) -> np.ndarray:
    """The mask in a file as booleans [H, W]: everything that is not black.

    Args:
        size: (width, height) of its image.

    Raises:
        UserError: it can't be read, is of another size, or is in colour.
    """
    pixels = np.asarray(open_image(path))
    spread = int((pixels.max(axis=2).astype(int) - pixels.min(axis=2)).max())
    if spread > 16:
        raise UserError(f"{shown(path)}: is in colour, so it is not a mask of black and white; it is left out")
    if pixels.shape[1::-1] != tuple(size):
        raise UserError(
            f"{shown(path)}: the mask is {pixels.shape[1]}x{pixels.shape[0]} and its image {size[0]}x{size[1]}; it is left out"
        )
    levels = pixels.max(axis=2)
    return levels > (127 if levels.max() > 127 else 0)  # JPEG greys around white are not parts of a defect


def smaller(mask: np.ndarray, side: int) -> np.ndarray:
    """A mask with its longer side at most `side`: a pixel is set where any of those it stands for is."""
    factor = -(-max(mask.shape) // side)
    if factor == 1:
        return mask
    rows, columns = (-(-length // factor) for length in mask.shape)
    padded = np.zeros((rows * factor, columns * factor), bool)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(rows, factor, columns, factor).any(axis=(1, 3)))


def resized(scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A map [h, w] at another size, float32, smooth between patches."""
    picture = Image.fromarray(np.ascontiguousarray(scores, np.float32), "F")
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
