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


def read_picture(path: str) -> Image.Image:
    """The picture upright and in RGB, transparent parts white."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


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
        print(answer["picture"], *(f"{row['class']} {100 * row['probability']:.1f} %" for row in answer["top"]), sep="  ")


if __name__ == "__main__":
    main()
