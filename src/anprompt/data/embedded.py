"""The pictures and the model that ship with the package: 11 small data sets of composed pictograms, and their CLIP.

Only the drawings are stored. A picture is a pure function of (set, class, style, split, number): a drawing in some
pose, ink and light on some background, so the same item is the same picture on every machine and in every run.
Two styles are trained on; the two others are in the test split only. Styles are the items' domains.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError, choices

LICENCE = "drawings: CC BY 4.0 (twemoji) and MIT (fluent emoji); see assets/ATTRIBUTIONS.md"
CANVAS = 2  # pictures are composed at twice their size and halved: clean edges


def _assets() -> Path:
    return Path(str(resources.files("anprompt"))) / "assets"


def embedded_model_folder() -> Path:
    """The folder of the embedded CLIP, in transformers' format."""
    return _assets() / "model"


@functools.lru_cache(maxsize=1)
def manifest() -> dict[str, Any]:
    """What ships: sets, their classes, styles with licences, seeds and numbers of pictures."""
    return json.loads((_assets() / "pictures" / "manifest.json").read_text(encoding="utf-8"))


EMBEDDED_SETS: tuple[str, ...] = (
    "animals",
    "wildlife",
    "garden",
    "food",
    "transport",
    "places",
    "clothing",
    "play",
    "tools",
    "faces",
    "sky",
)


def _rows(name: str) -> list[dict[str, Any]]:
    """The classes of a set, in label order; the first half (rounded up) are its base classes."""
    if name not in EMBEDDED_SETS:
        raise choices("embedded data set", name, EMBEDDED_SETS)
    return manifest()["sets"][name]


def embedded_dataset(name: str) -> Dataset:
    """One of `EMBEDDED_SETS` with its splits; train and validation hold the two trained styles, test all four."""
    rows = _rows(name)
    styles = manifest()["styles"]
    trained = [style for style, row in styles.items() if row["trained"]]

    def items(split: str, split_styles: list[str]) -> tuple[Item, ...]:
        count = manifest()["per_style"][split]
        return tuple(
            Item(f"embedded:{name}/{row['name']}/{style}/{split}/{number:04d}", label, row["name"], style)
            for label, row in enumerate(rows)
            for style in split_styles
            for number in range(count)
        )

    return Dataset(
        name=name,
        classnames=tuple(row["name"] for row in rows),
        train=items("train", trained),
        val=items("val", trained),
        test=items("test", list(styles)),
        read=read_embedded,
        describe=lambda: embedded_descriptions(name),
        template=manifest()["template"],
        licence=LICENCE,
        citation="Unicode emoji drawn by " + ", ".join(f"{row['author']} ({style})" for style, row in styles.items()),
    )


def embedded_descriptions(name: str) -> dict[str, list[str]]:
    """A few clean sentences for each class, from its name, kind and Unicode keywords."""
    return {row["name"]: _sentences(row) for row in _rows(name)}


def _sentences(row: dict[str, Any]) -> list[str]:
    name, kind = row["name"], row["kind"]
    words = [word for word in row["keywords"] if word.lower() not in name]
    sentences = [f"{_article(name)} {name}, a kind of {kind}."]
    if words:
        sentences.append(f"{_article(name)} {name}, a kind of {kind}: {', '.join(words[:4])}.")
        sentences.append(f"a picture of {_article(name)} {name}: {', '.join(words[-3:])}.")
    sentences.append(f"a small drawing of {_article(name)} {name}.")
    return sentences


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


# ---------------------------------------------------------------------------------------------- composing pictures


@functools.lru_cache(maxsize=8)
def _sheet(style: str) -> Image.Image:
    """All drawings of a style on one RGBA sheet."""
    with Image.open(_assets() / "pictures" / manifest()["styles"][style]["file"]) as sheet:
        return sheet.convert("RGBA")


def _drawing(style: str, cell: int) -> Image.Image:
    size, columns = manifest()["drawing"], manifest()["columns"]
    x, y = cell % columns * size, cell // columns * size
    return _sheet(style).crop((x, y, x + size, y + size))


@functools.lru_cache(maxsize=1)
def _cells() -> dict[tuple[str, str], int]:
    return {(name, row["name"]): row["cell"] for name, rows in manifest()["sets"].items() for row in rows}


def _generator(path: str) -> np.random.Generator:
    """A generator of its own for every picture, seeded by what the picture is called."""
    digest = hashlib.sha256(f"{manifest()['seed']}|{path}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def read_embedded(item: Item) -> Image.Image:
    """Compose the RGB picture of an item of an embedded data set."""
    try:
        name, classname, style, _, _ = item.path.removeprefix("embedded:").split("/")
        cell = _cells()[name, classname]
        manifest()["styles"][style]
    except (KeyError, ValueError):
        raise UserError(f"{item.path}: no such embedded picture.") from None
    rng = _generator(item.path)
    side = manifest()["picture"] * CANVAS
    front = _ink(_place(_drawing(style, cell), side, rng, (0.6, 0.95), 0.0), style, rng)
    back = _background(side, rng)
    if rng.random() < 0.35:
        back = _clutter(back, style, name, rng)
    colour = (front[..., :3] * front[..., 3:]).sum((0, 1)) / max(front[..., 3].sum(), 1.0)
    if np.abs(colour - back.mean((0, 1))).max() < 0.25:  # the background would swallow the drawing
        back = (back + 0.5) % 1.0
    picture = front[..., :3] * front[..., 3:] + back * (1 - front[..., 3:])
    picture = picture.reshape(side // CANVAS, CANVAS, side // CANVAS, CANVAS, 3).mean((1, 3))
    return Image.fromarray((_light(picture, rng) * 255 + 0.5).astype(np.uint8), "RGB")


def _place(
    drawing: Image.Image, side: int, rng: np.random.Generator, scales: tuple[float, float], outward: float
) -> np.ndarray:
    """The drawing scaled, turned and shifted on an empty canvas, as float RGBA [side, side, 4]."""
    scale = scales[0] + (scales[1] - scales[0]) * rng.random()
    width = max(8, round(side * scale * (0.92 + 0.16 * rng.random())))
    height = max(8, round(side * scale * (0.92 + 0.16 * rng.random())))
    turned = drawing.resize((width, height), Image.Resampling.BILINEAR).rotate(
        (rng.random() + rng.random() - 1) * 30, Image.Resampling.BILINEAR, expand=True
    )
    room = max(0.04 * side, (side - max(width, height)) / 2) + outward * side
    shift = (2 * rng.random(2) - 1) * room
    if outward:  # clutter sits at the margin
        shift = np.sign(shift) * np.maximum(np.abs(shift), 0.45 * side)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(turned, (round((side - turned.width) / 2 + shift[0]), round((side - turned.height) / 2 + shift[1])))
    return np.asarray(canvas, np.float64) / 255


def _ink(front: np.ndarray, style: str, rng: np.random.Generator) -> np.ndarray:
    """Drawings of one black ink get another ink half of the time."""
    ink, other = rng.random(3), rng.random() < 0.5
    if style.endswith("high-contrast") and other:
        front = np.concatenate([front[..., :3] + (1 - front[..., :3]) * ink, front[..., 3:]], -1)
    return front


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    """Flat, gradient, soft blobs or stripes between two colours; only exact arithmetic, alike on every machine."""
    first = np.ones(3) if rng.random() < 0.2 else rng.random(3)
    second = np.clip(first + (2 * rng.random(3) - 1) * 0.5, 0, 1)
    line = np.linspace(-1, 1, side)
    angle = rng.random() * 2 * math.pi
    ramp = math.cos(angle) * line[None, :] + math.sin(angle) * line[:, None]
    kind, cells = rng.random(), rng.random((5, 5))
    if kind < 0.25:
        mix = np.full((side, side), 0.5)
    elif kind < 0.5:
        mix = ramp / 2 + 0.5
    elif kind < 0.8:
        grey = Image.fromarray((cells * 255).astype(np.uint8), "L")
        mix = np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR), np.float64) / 255
    else:
        mix = np.abs((ramp * (1 + 4 * cells[0, 0])) % 2 - 1)
    mix = np.clip(mix, 0, 1)[..., None]
    return first * mix + second * (1 - mix)


def _clutter(back: np.ndarray, style: str, name: str, rng: np.random.Generator) -> np.ndarray:
    """A faded drawing from another set, of the same style, reaching in from the margin."""
    others = [cell for (other, _), cell in _cells().items() if other != name]
    extra = _place(_drawing(style, others[int(rng.integers(len(others)))]), back.shape[0], rng, (0.4, 0.8), 0.55)
    alpha = extra[..., 3:] * (0.4 + 0.5 * rng.random())
    return extra[..., :3] * alpha + back * (1 - alpha)


def _light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light from a side, exposure, a colour cast, sometimes blur, sometimes grain."""
    line = np.linspace(-1, 1, len(picture))
    tilt = (2 * rng.random(2) - 1) * 0.2
    shade = 1 + tilt[0] * line[None, :, None] + tilt[1] * line[:, None, None]
    picture = picture * shade * (0.75 + 0.4 * rng.random()) * (0.93 + 0.14 * rng.random(3))
    if rng.random() < 0.2:
        wide = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
        picture = (wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] + 2 * picture) / 6
    grain = max(0.0, rng.random() * 0.12 - 0.06)
    return np.clip(picture + (rng.random(picture.shape) - 0.5) * 3.4 * grain, 0, 1)
