"""The fixed pictures on which corruptions are compared: seven photographs and a drawing, 224 px."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

SIDE = 224
# (photograph, left, top, side) of the squares cut out
CROPS = (
    ("china.jpg", 106, 0, 427),
    ("china.jpg", 0, 0, 224),
    ("china.jpg", 300, 180, 224),
    ("china.jpg", 200, 120, 300),
    ("flower.jpg", 106, 0, 427),
    ("flower.jpg", 200, 60, 240),
    ("flower.jpg", 0, 200, 224),
)


def drawing() -> np.ndarray:
    """Flat colours with sharp edges, down to 0 and up to 255, as in icons."""
    rows, columns = np.indices((SIDE, SIDE))
    out = np.full((SIDE, SIDE, 3), 255, np.uint8)
    out[(rows - 100) ** 2 + (columns - 90) ** 2 < 60**2] = (220, 20, 60)
    out[150:200, 40:190] = (0, 0, 0)
    out[(rows % 16 < 8) & (columns > 160)] = (30, 144, 255)
    return out


def fixed_pictures() -> list[np.ndarray]:
    cut = []
    for name, left, top, side in CROPS:
        photo = Image.fromarray(load_sample_image(name)).crop((left, top, left + side, top + side))
        cut.append(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return [*cut, drawing()]
