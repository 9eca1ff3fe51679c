"""Step 7: cut the unseen styles into 11 data sets and pack the drawings for the package.

Which things take part is decided here, before any model is measured: drawn in all four unseen styles and in at least
four pre-training emoji styles, then at most 32 a set by a seeded draw, whose order also splits base from new.

    python cut.py WORK NPM PICTURES
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
from labels import EMOJI_STYLES, UNSEEN_STYLES, slug
from PIL import Image

from pictures import load_rgba

STORED, MOST, COLUMNS = 72, 32, 32
TRAINED_STYLES = ["twemoji", "fluent-emoji-flat"]
SETS = {
    "animals": ["animal-mammal"],
    "wildlife": ["animal-bird", "animal-bug", "animal-marine", "animal-reptile", "animal-amphibian"],
    "garden": ["plant-flower", "plant-other", "food-fruit", "food-vegetable"],
    "food": ["food-prepared", "food-asian", "food-sweet", "drink", "dishware"],
    "transport": ["transport-ground", "transport-water", "transport-air"],
    "places": ["place-building", "place-geographic", "place-other", "place-religious", "place-map"],
    "clothing": ["clothing"],
    "play": ["sport", "game", "arts-crafts", "award-medal", "event"],
    "tools": [
        "music",
        "musical-instrument",
        "phone",
        "computer",
        "light-video",
        "office",
        "tool",
        "writing",
        "science",
    ],
    "faces": [
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-hand",
        "face-neutral-skeptical",
        "face-sleepy",
        "face-unwell",
        "face-hat",
        "face-glasses",
        "face-concerned",
        "face-negative",
        "face-costume",
    ],
    "sky": ["sky-weather", "time"],
}
KINDS = {
    "mammal": "animal",
    "bird": "bird",
    "bug": "small animal",
    "marine": "sea animal",
    "reptile": "reptile",
    "amphibian": "amphibian",
    "flower": "flower",
    "other": "plant",
    "fruit": "fruit",
    "vegetable": "vegetable",
    "prepared": "food",
    "asian": "Asian food",
    "sweet": "sweet food",
    "drink": "drink",
    "dishware": "dishware",
    "ground": "land transport",
    "water": "water transport",
    "air": "air transport",
    "building": "building",
    "geographic": "landscape",
    "religious": "religious building",
    "map": "map",
    "weather": "weather or sky sign",
    "time": "clock",
    "clothing": "clothing",
    "sport": "sport",
    "game": "game",
    "crafts": "craft",
    "medal": "award",
    "event": "festivity",
    "music": "music",
    "instrument": "musical instrument",
    "phone": "telephone",
    "computer": "computer part",
    "video": "light or video device",
    "office": "office thing",
    "tool": "tool",
    "writing": "writing thing",
    "science": "scientific instrument",
}


def kind_of(subgroup: str) -> str:
    if subgroup.startswith("face"):
        return "face"
    if subgroup == "place-other":
        return "place"
    return KINDS[subgroup.split("-")[-1]]


def find_drawings(things: list[dict], drawings: list[dict], drawn: np.ndarray) -> dict[tuple[int, str], int]:
    """(thing, style) -> the drawing row that shows the thing itself, not a variant of it."""
    found: dict[tuple[int, str], int] = {}
    for row, d in enumerate(drawings):
        if not drawn[row]:
            continue
        key = (d["thing"], d["style"])
        if key not in found or d["icon"] == slug(things[d["thing"]]["name"]):
            found[key] = row
    return found


def choose(things: list[dict], found: dict, subgroups: list[str], name: str) -> list[int]:
    fit = [
        t
        for t, thing in enumerate(things)
        if thing["subgroup"] in subgroups
        and "/" not in thing["name"]
        and all((t, s) in found for s in UNSEEN_STYLES)
        and sum((t, s) in found for s in EMOJI_STYLES) >= 4
    ]
    return random.Random(f"anprompt {name}").sample(fit, min(MOST, len(fit)))


def sprite(rgba: np.ndarray, rows: list[int]) -> Image.Image:
    """All drawings of a style on one sheet, COLUMNS to a line, colours not premultiplied."""
    sheet = np.zeros((-(-len(rows) // COLUMNS) * STORED, COLUMNS * STORED, 4), np.uint8)
    for k, row in enumerate(rows):
        pixels = rgba[row].transpose(1, 2, 0).astype(np.float64)
        alpha = pixels[..., 3:]
        pixels[..., :3] = np.where(alpha > 0, pixels[..., :3] * 255 / np.maximum(alpha, 1), 0)
        y, x = k // COLUMNS * STORED, k % COLUMNS * STORED
        sheet[y : y + STORED, x : x + STORED] = pixels.round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(sheet, "RGBA")


def style_rows(npm: Path) -> dict:
    rows = {}
    for style in UNSEEN_STYLES:
        info = json.loads((npm / f"@iconify-json/{style}/info.json").read_text())
        version = json.loads((npm / f"@iconify-json/{style}/package.json").read_text())["version"]
        rows[style] = {
            "file": f"{style}.webp",
            "trained": style in TRAINED_STYLES,
            "author": info["author"]["name"],
            "url": info["author"]["url"],
            "licence": info["license"]["spdx"],
            "version": version,
        }
    return rows


def main(work: Path, npm: Path, out: Path) -> None:
    things = json.loads((work / "things.json").read_text())
    drawings = json.loads((work / "drawings.json").read_text())
    rgba = load_rgba(work, STORED)
    drawn = np.array([rgba[i, 3].mean() > 5 for i in range(len(rgba))])
    found = find_drawings(things, drawings, drawn)
    sets = {name: choose(things, found, subgroups, name) for name, subgroups in SETS.items()}
    cells = {t: k for k, t in enumerate(t for chosen in sets.values() for t in chosen)}
    out.mkdir(parents=True, exist_ok=True)
    for style in UNSEEN_STYLES:
        sprite(rgba, [found[t, style] for t in cells]).save(out / f"{style}.webp", lossless=True, quality=100, method=6)
    manifest = {
        "version": 1,
        "seed": "anprompt pictures 1",
        "picture": 48,
        "drawing": STORED,
        "columns": COLUMNS,
        "template": "a picture of a {}.",
        "per_style": {"train": 16, "val": 4, "test": 5},
        "styles": style_rows(npm),
        "sets": {
            name: [
                {
                    "name": things[t]["name"],
                    "hexcode": things[t]["hexcode"],
                    "kind": kind_of(things[t]["subgroup"]),
                    "keywords": things[t]["keywords"],
                    "cell": cells[t],
                }
                for t in chosen
            ]
            for name, chosen in sets.items()
        },
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    for name, chosen in sets.items():
        print(f"{name:10s} {len(chosen)} classes:", ", ".join(things[t]["name"] for t in chosen))
    print({p.name: p.stat().st_size // 1024 for p in sorted(out.iterdir())}, "KB")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
