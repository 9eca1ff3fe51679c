"""Names for pictures from a file that `anprompt export` wrote; needs numpy, pillow and onnxruntime alone.

python onnx_predict.py model.onnx picture.jpg other.png
python onnx_predict.py model.onnx --top 5 --json picture.jpg
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

LARGE = 25_000_000  # pixels; beyond, a half, a quarter or an eighth of the sides is enough


def read_picture(path: str) -> Image.Image:
    """The image upright and in RGB, by the rule in the file beside the model (`anprompt.data.images` is the same)."""
    Image.MAX_IMAGE_PIXELS = 4 * 80_000_000
    with Image.open(path) as file:
        file.seek(largest_page(file))
        factor = scale_down(*file.size)
        if file.format in ("JPEG", "MPO") and factor > 1:
            file.draft(None, (file.width // factor, file.height // factor))
        shades = deep_colours(file, path)
        if shades is not None:
            file.paste(Image.fromarray(shades))
        picture = ImageOps.exif_transpose(file)
        if picture.mode == "F" or picture.mode.startswith("I"):
            picture = Image.fromarray(eight_bits(grey_levels(file, picture)))
    factor = scale_down(*picture.size)
    if not picture.has_transparency_data:
        picture = picture.convert("RGB")
        return picture.reduce(factor) if factor > 1 else picture
    picture = picture.convert("RGBA")
    if factor > 1:
        picture = picture.convert("RGBa").reduce(factor).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground(np.asarray(picture))), picture).convert("RGB")


def largest_page(file: Image.Image) -> int:
    """Of a TIFF; other formats have frames, of which the first counts."""
    best, area = 0, 0
    for page in range(64 if file.format == "TIFF" else 0):
        try:
            file.seek(page)
        except Exception:
            break
        if file.width * file.height > area:
            best, area = page, file.width * file.height
    return best


def scale_down(width: int, height: int) -> int:
    """What the sides of a large image are divided by."""
    return next((factor for factor in (1, 2, 4) if width * height <= LARGE * factor**2), 8)


def eight_bits(levels: np.ndarray) -> np.ndarray:
    """Whole numbers by the fewest of 1, 8, 10, 12, 14 and 16 bits, fractions by 1 or 255, the rest stretched."""
    finite = levels[np.isfinite(levels)]
    low, high = (finite.min().item(), finite.max().item()) if finite.size else (0, 0)
    if levels.dtype.kind in "ui" and low >= 0 and high <= 65535:
        top = next(top for top in (1, 255, 1023, 4095, 16383, 65535) if high <= top)
        return np.rint(levels / (top / 255)).astype(np.uint8)
    if levels.dtype.kind == "f" and low >= -0.02 and high <= 1.02:
        low, scale = 0, 255.0
    elif levels.dtype.kind == "f" and low >= -5 and 8 < high <= 260:
        low, high, scale = 0, 255, 1.0
    else:
        scale = 255 / max(high - low, 1e-12)
    values = np.nan_to_num(levels.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint(((values - low) * scale).clip(0, 255)).astype(np.uint8)


def grey_levels(file: Image.Image, picture: Image.Image) -> np.ndarray:
    """The values; Pillow holds unsigned 32-bit ones as signed."""
    tags = getattr(file, "tag_v2", {})
    unsigned = picture.mode == "I" and tags.get(258) in (32, (32,)) and tags.get(339, (1,)) in (1, (1,))
    return np.asarray(picture).view(np.uint32) if unsigned else np.asarray(picture)


def deep_colours(file: Image.Image, path: str) -> np.ndarray | None:
    """Colours of 16 bits as 8; Pillow keeps the upper byte, or, told the other order, the lower."""
    orders = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in getattr(file, "tile", []) if tile[3]}
    if len(orders) != 1 or file.mode not in ("RGB", "RGBA") or file.width * file.height > LARGE:
        return None
    order = orders.pop()
    if order not in [f"{file.mode};16{end}" for end in "BLN"]:
        return None
    little = order[-1] == "L" or (order[-1] == "N" and sys.byteorder == "little")
    swapped = order[:-1] + ("B" if little else "L")
    with Image.open(path) as again:
        again.seek(file.tell())
        again.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in again.tile
        ]
        levels = np.asarray(file).astype(np.uint16) * 256 + np.asarray(again)
    return np.concatenate([eight_bits(part) for part in (levels[..., :3], levels[..., 3:]) if part.size], axis=2)


def ground(pixels: np.ndarray) -> str:
    """White; black under a drawing that white would hide (within 24 levels, by three quarters of its opacity)."""
    alpha, total = pixels[..., 3].astype(np.int64), max(1, int(pixels[..., 3].sum(dtype=np.int64)))
    white = alpha[pixels[..., :3].min(axis=2) > 231].sum() / total
    black = alpha[pixels[..., :3].max(axis=2) < 24].sum() / total
    return "black" if white > 0.75 and black < white else "white"


def centre_view(picture: Image.Image, size: int, longest: int) -> np.ndarray:
    """Short side to `size`, centre cut out: [3, size, size] in 0..1."""
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if long > longest * short:  # a strip: only its middle shows
        reach = longest * short // 2
        left, top = max(0, width // 2 - reach), max(0, height // 2 - reach)
        picture = picture.crop((left, top, min(width, left + 2 * reach), min(height, top + 2 * reach)))
        width, height = picture.size
    resized = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if picture.size != resized:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    view = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32)
    return view.transpose(2, 0, 1) / 255


def load(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """The model, and the facts beside it; leaves where the two do not belong together."""
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        sys.exit(f"{path} is not the file that {path.with_suffix('.json')} describes; copy both again.")
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]), facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--top", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    session, facts = load(args.model)
    size, longest, names = facts["picture"]["size"], facts["picture"]["longest"], facts["classes"]
    answers = []
    for path in args.pictures:  # stack several for a batch: the first axis takes any number
        pixels = centre_view(read_picture(path), size, longest)[None]
        (shares,) = session.run(["probabilities"], {"pixels": pixels})
        best = np.argsort(-shares[0])[: args.top]
        top = [{"class": names[label], "probability": round(float(shares[0, label]), 6)} for label in best]
        answers.append({"picture": path, "top": top})
    if args.json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        print(
            answer["picture"], *(f"{row['class']} {100 * row['probability']:.1f} %" for row in answer["top"]), sep="  "
        )


if __name__ == "__main__":
    main()
