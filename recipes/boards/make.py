"""Cut the embedded anomaly set `boards` from pairs of DeepPCB.

    python recipes/boards/make.py DEEP_PCB_FOLDER src/anprompt/assets/boards

DeepPCB (Tang et al., "Online PCB Defect Detector On A New PCB Defect Dataset", 2019, https://github.com/tangsanli5201/DeepPCB,
MIT) has binarised photographs of circuit boards of 640 px in pairs, `*_temp.jpg` without and `*_test.jpg` with
defects, and boxes `x1 y1 x2 y2 kind`. The crops are of 96 px and one bit, in MVTec layout:

    train/good              from templates of every fourth board
    test/good               from tested boards, where no box is: the same camera as the defects
    test/KIND               around a box; no box of another kind reaches into the crop
    ground_truth/KIND       the boxes as masks

No board is in both train and test. A crop's name begins with its board's, so that any other division can keep
boards apart, too. Equal input gives equal files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96  # pixels of a crop
KINDS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")  # DeepPCB's 1 to 6
TRAIN_EVERY = 4  # one board in so many is for training
TRAIN_GOOD, TEST_GOOD, PER_BOARD = 5, 2, 2  # crops of a board; the last one of each kind
LARGEST_BOX = 64  # pixels; larger ones say little about where the defect is
SEED = 2018
TRIES = 60
Box = tuple[int, int, int, int, int]


def main() -> None:
    """Write the crops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(SEED)
    for number, text in enumerate(sorted(args.pairs.glob("*.txt"))):
        boxes = boxes_of(text)
        if number % TRAIN_EVERY == 0:
            board = binary(text.with_name(f"{text.stem}_temp.jpg"))
            save_good(args.out / "train/good", text.stem, board, [], TRAIN_GOOD, rng)
            continue
        board = binary(text.with_name(f"{text.stem}_test.jpg"))
        save_good(args.out / "test/good", text.stem, board, boxes, TEST_GOOD, rng)
        save_defects(args.out, text.stem, board, boxes, rng)


def boxes_of(text: Path) -> list[Box]:
    """The defects of a board: left, top, right, bottom in pixels, and the kind from 1 on."""
    return [tuple(map(int, line.split())) for line in text.read_text().splitlines() if line.strip()]  # type: ignore[misc]


def binary(path: Path) -> np.ndarray:
    """A board as booleans [H, W]: True for white."""
    return np.asarray(Image.open(path).convert("L")) > 127


def save_good(
    folder: Path, name: str, board: np.ndarray, boxes: list[Box], count: int, rng: np.random.Generator
) -> None:
    """Crops that no box touches and that show some copper and some ground."""
    made = 0
    for _ in range(TRIES * count):
        x, y = (int(rng.integers(0, side - SIDE + 1)) for side in board.shape[::-1])
        crop = board[y : y + SIDE, x : x + SIDE]
        if not 0.08 < crop.mean() < 0.92 or any(touches(box, x, y) for box in boxes):
            continue
        save(folder / f"{name}_{made}.png", crop)
        made += 1
        if made == count:
            return


def save_defects(out: Path, name: str, board: np.ndarray, boxes: list[Box], rng: np.random.Generator) -> None:
    """Crops around boxes, `PER_BOARD` of a kind, and their masks."""
    made = dict.fromkeys(range(1, len(KINDS) + 1), 0)
    for box in boxes:
        x1, y1, x2, y2, kind = box
        if made[kind] == PER_BOARD or max(x2 - x1, y2 - y1) > LARGEST_BOX:
            continue
        for _ in range(TRIES):
            x, y = (start(low, high, side, rng) for low, high, side in zip((x1, y1), (x2, y2), board.shape[::-1]))
            near = [other for other in boxes if touches(other, x, y)]
            if all(other[4] == kind for other in near):
                crop = board[y : y + SIDE, x : x + SIDE]
                file = f"{name}_{made[kind]}"
                save(out / "test" / KINDS[kind - 1] / f"{file}.png", crop)
                save(out / "ground_truth" / KINDS[kind - 1] / f"{file}_mask.png", mask(near, x, y))
                made[kind] += 1
                break


def start(low: int, high: int, side: int, rng: np.random.Generator) -> int:
    """Where a crop begins that holds low..high, at a random place."""
    first, last = max(0, high - SIDE + 3), min(side - SIDE, low - 3)
    return int(rng.integers(first, last + 1)) if first <= last else int(np.clip(low - SIDE // 2, 0, side - SIDE))


def touches(box: Box, x: int, y: int, margin: int = 4) -> bool:
    """Whether a box reaches into the crop at x, y."""
    x1, y1, x2, y2, _ = box
    return x1 - margin < x + SIDE and x2 + margin > x and y1 - margin < y + SIDE and y2 + margin > y


def mask(boxes: list[Box], x: int, y: int) -> np.ndarray:
    """The boxes within the crop at x, y."""
    found = np.zeros((SIDE, SIDE), bool)
    for x1, y1, x2, y2, _ in boxes:
        found[max(0, y1 - y) : max(0, y2 - y), max(0, x1 - x) : max(0, x2 - x)] = True
    return found


def save(path: Path, pixels: np.ndarray) -> None:
    """A PNG of one bit a pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
