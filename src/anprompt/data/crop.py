"""The cut of an image that a model looks at; apart from `views`, so that a process without torch can make it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

RATIO = (3 / 4, 4 / 3)
_LONGEST = 8  # aspect ratio beyond which the middle is cut out before resizing


def centre_view(picture: Image.Image, size: int) -> np.ndarray:
    """CLIP's preprocessing before normalising: short side to `size` (bicubic), centre cut out.

    Returns:
        [size, size, 3] uint8.
    """
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if long > _LONGEST * short:  # a strip: resized whole it could take gigabytes, and only its middle shows
        reach = _LONGEST * short // 2
        left, top = max(0, width // 2 - reach), max(0, height // 2 - reach)
        picture = picture.crop((left, top, min(width, left + 2 * reach), min(height, top + 2 * reach)))
        width, height = picture.size
    resized = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if picture.size != resized:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


def random_crop(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float] = RATIO
) -> tuple[int, int, int, int]:
    """A random crop as the field defines it: top, left, height, width.

    Area uniform in `scale`, aspect ratio log-uniform in `ratio`. After ten tries that do not fit, the
    largest centred crop within the ratios.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w
