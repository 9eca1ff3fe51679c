"""Draw docs/pictures/corruptions.png: every family of picture noise at every severity.

python benchmarks/draw_noise.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

from anprompt.noise.image import GROUPS, IMAGE_NOISE, SEVERITIES, corrupt, picture_rng

TILE, GAP, LABEL, HEAD, COLOURS = 88, 4, 132, 26, 200
OUT = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "corruptions.png"


def photograph() -> Image.Image:
    photo = Image.fromarray(load_sample_image("china.jpg")).crop((30, 10, 390, 370))
    return photo.resize((TILE, TILE), Image.Resampling.LANCZOS)


def main() -> None:
    clean = photograph()
    names = [name for group in GROUPS.values() for name in group]
    half = -(-len(names) // 2)
    block = LABEL + len(SEVERITIES) * (TILE + GAP)
    sheet = Image.new("RGB", (2 * block + GAP, HEAD + half * (TILE + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for side in (0, 1):
        for severity in SEVERITIES:
            text = f"severity {severity}" if severity else "clean"
            pen.text((side * block + LABEL + severity * (TILE + GAP) + 8, 6), text, "black", font)
    for place, name in enumerate(names):
        left, top = place // half * block, HEAD + place % half * (TILE + GAP)
        pen.text((left + 6, top + TILE // 2 - 18), name.replace("_", " "), "black", font)
        pen.text((left + 6, top + TILE // 2), IMAGE_NOISE[name].group, "#777777", font)
        for severity in SEVERITIES:
            rng = picture_rng(0, "sheet", name)
            tile = corrupt(clean, name, severity, rng=rng)
            sheet.paste(tile, (left + LABEL + severity * (TILE + GAP), top))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    # noise hardly compresses; a palette keeps the file small without hiding it
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(OUT, optimize=True)
    size = OUT.stat().st_size / 1e3
    print(f"{OUT.name}: {np.prod(sheet.size) / 1e6:.2f} Mpx, {size:.0f} KB")


if __name__ == "__main__":
    main()
