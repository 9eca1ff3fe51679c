"""Pictures and files that the data tests make for themselves."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from anprompt.data.types import Item


def noise(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or noise(12, 12)).save(path, **options)
    return path


def truncated(path: Path, keep: float = 0.5, **options) -> Path:
    """A picture whose file ends early."""
    save(path, noise(60, 60), **options)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def corrupt_data(path: Path) -> Path:
    """A PNG with sound header and checksums around data that can't be decompressed."""
    header = struct.pack(">IIBBBBB", 20, 20, 8, 2, 0, 0, 0)
    return _png(path, (b"IHDR", header), (b"IDAT", b"not deflated at all"), (b"IEND", b""))


def bomb(path: Path, width: int = 50_000, height: int = 50_000) -> Path:
    """A PNG of a few bytes whose header promises a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _png(path, (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))


def _png(path: Path, *chunks: tuple[bytes, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)
    return path


def class_folders(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """root/<class>/<number>.png, tiny, no two alike; another `first` gives other images under the same names."""
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:03}.png", noise(6, 6, seed=1000 * sum(name.encode()) + first + number))
    return root


def items(count: int, classes: int = 3) -> list[Item]:
    return [Item(str(number), number % classes, f"class {number % classes}") for number in range(count)]
