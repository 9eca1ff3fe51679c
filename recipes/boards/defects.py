"""Cut the embedded set `defects` from DeepPCB: six kinds of defects of circuit boards as classes.

    python recipes/boards/defects.py DEEP_PCB_FOLDER src/anprompt/assets/defects

What DeepPCB is stands in `make.py`. A crop of 64 px and one bit lies around the middle of a box; no box of another kind
reaches into it. Boards are divided, not crops: every board is in one part alone. All crops lie on one sheet,
`sheet.png`, and `manifest.json` says for each which class, part and board it is of. Equal input gives equal files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from make import Box, binary, boxes_of
from PIL import Image

SIDE = 64  # pixels of a crop
COLUMNS = 24
KINDS = ("open circuit", "short circuit", "mouse bite", "spur", "spurious copper", "pin hole")  # DeepPCB's 1 to 6
PARTS = ("train", "test", "train", "test", "val")  # of every five boards
MOST = {"train": 40, "val": 16, "test": 40}  # crops of a class


def main() -> None:
    """Write the sheet and its manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    crops: list[np.ndarray] = []
    rows: list[dict[str, str]] = []
    counts: dict[tuple[str, str], int] = {}
    for number, text in enumerate(sorted(args.pairs.glob("*.txt"))):
        part = PARTS[number % len(PARTS)]
        boxes = boxes_of(text)
        board = binary(text.with_name(f"{text.stem}_test.jpg"))
        for box in boxes:
            kind = KINDS[box[4] - 1]
            crop = around(board, box, boxes)
            if crop is None or counts.get((part, kind), 0) >= MOST[part]:
                continue
            counts[part, kind] = counts.get((part, kind), 0) + 1
            crops.append(crop)
            rows.append({"class": kind, "part": part, "board": text.stem})
    args.out.mkdir(parents=True, exist_ok=True)
    sheet = np.zeros((-(-len(crops) // COLUMNS) * SIDE, COLUMNS * SIDE), bool)
    for index, crop in enumerate(crops):
        y, x = index // COLUMNS * SIDE, index % COLUMNS * SIDE
        sheet[y : y + SIDE, x : x + SIDE] = crop
    Image.fromarray(sheet).save(args.out / "sheet.png", optimize=True)
    facts = {"side": SIDE, "columns": COLUMNS, "classes": KINDS, "crops": rows}
    (args.out / "manifest.json").write_text(json.dumps(facts, separators=(",", ":")) + "\n", encoding="utf-8")


def around(board: np.ndarray, box: Box, boxes: list[Box]) -> np.ndarray | None:
    """The crop around a box; None where it does not fit, or a box of another kind reaches into it."""
    height, width = board.shape
    x = min(max((box[0] + box[2]) // 2 - SIDE // 2, 0), width - SIDE)
    y = min(max((box[1] + box[3]) // 2 - SIDE // 2, 0), height - SIDE)
    if box[2] - box[0] > SIDE or box[3] - box[1] > SIDE:
        return None
    for left, top, right, bottom, kind in boxes:
        if kind != box[4] and left < x + SIDE and right > x and top < y + SIDE and bottom > y:
            return None
    return board[y : y + SIDE, x : x + SIDE]


if __name__ == "__main__":
    main()
