"""DeepPCB's pairs at full size in MVTec layout, for measuring beside the checkout.

python recipes/boards/full.py DEEP_PCB_FOLDER OUT

train/good      templates of every fourth board
test/good       templates of the others
test/defect     tested images of the others, each with several defects; ground_truth/defect has their boxes
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from make import TRAIN_EVERY, binary
from PIL import Image


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for number, text in enumerate(sorted(args.pairs.glob("*.txt"))):
        name, train = text.stem, number % TRAIN_EVERY == 0
        save(
            args.out / ("train/good" if train else "test/good") / f"{name}.png",
            binary(text.with_name(f"{name}_temp.jpg")),
        )
        if train:
            continue
        board = binary(text.with_name(f"{name}_test.jpg"))
        mask = np.zeros_like(board)
        for line in text.read_text().splitlines():
            x1, y1, x2, y2, _ = map(int, line.split())
            mask[y1:y2, x1:x2] = True
        save(args.out / "test/defect" / f"{name}.png", board)
        save(args.out / "ground_truth/defect" / f"{name}_mask.png", mask)


def save(path: Path, pixels: np.ndarray) -> None:
    """A PNG of one bit a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
