"""Figures of independent ImageNet-C implementations, for tests/noise/test_image.py to agree with.

The figures come from `imagecorruptions` 1.1.2 (14 families; its elastic transform differs from the
published one) and `imagenet-c` 0.0.3 (elastic transform). Both want old libraries, so they get an
environment of their own; run from the repository's root:

    python3 -m venv /tmp/oracle
    /tmp/oracle/bin/pip install "numpy<2" "scipy<1.13" "opencv-python<4.11" "scikit-image<0.25" \
        "scikit-learn<1.6" "setuptools<80" imagecorruptions==1.1.2
    /tmp/oracle/bin/pip install --no-deps imagenet-c==0.0.3
    /tmp/oracle/bin/python benchmarks/corruption_oracle.py            # some minutes
    python benchmarks/corruption_oracle.py --compare                  # in anprompt's environment
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.noise_pictures import fixed_pictures  # noqa: E402

FIGURES = ROOT / "tests" / "data" / "corruption_oracle.json"
DETERMINISTIC = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
SLOW = {"glass_blur": 4}  # a Python loop over pixels in the oracle; its figures hardly vary
NAMES = ("mean", "std", "difference_mean", "difference_std")


def figures(clean: np.ndarray, noisy: np.ndarray) -> list[float]:
    """Mean and standard deviation of the corrupted pictures and of what was added to them."""
    noisy, clean = noisy.astype(np.float64), clean.astype(np.float64)
    difference = noisy - clean
    return [noisy.mean(), noisy.std(), difference.mean(), difference.std()]


def thumbnail(picture: np.ndarray) -> list[float]:
    """Means of 28 px squares: where things are, not only how many there are."""
    blocks = picture.reshape(8, 28, 8, 28, 3).mean(axis=(1, 3))
    return [round(float(value), 1) for value in blocks.ravel()]


def oracle() -> Callable[[np.ndarray, str, int], np.ndarray]:
    """The two packages behind one call, with today's names for what they import."""
    import skimage.filters

    gaussian = skimage.filters.gaussian

    def with_channels(*args, multichannel=False, **options):
        return gaussian(*args, **options, channel_axis=-1 if multichannel else None)

    skimage.filters.gaussian = with_channels
    # imagenet_c binds ImageMagick at import; its elastic transform does not use it
    for name in ("wand", "wand.image", "wand.api", "wand.color"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["wand.image"].Image = object
    sys.modules["wand.api"].library = types.SimpleNamespace(MagickMotionBlurImage=types.SimpleNamespace())
    sys.modules["wand"].color = sys.modules["wand.color"]
    import imagecorruptions
    from imagenet_c import corruptions

    def corrupt(picture: np.ndarray, family: str, severity: int) -> np.ndarray:
        if family == "elastic_transform":
            return np.uint8(corruptions.elastic_transform(Image.fromarray(picture), severity))
        return imagecorruptions.corrupt(picture, severity=severity, corruption_name=family)

    return corrupt


def measure(corrupt: Callable[[np.ndarray, str, int], np.ndarray], families: list[str], draws: int) -> dict:
    """Figures over all pictures, mean and spread over the draws, per family and severity."""
    pictures = fixed_pictures()
    clean = np.stack(pictures)
    out: dict = {}
    for family in families:
        times = 1 if family in DETERMINISTIC else min(draws, SLOW.get(family, draws))
        for severity in (1, 2, 3, 4, 5):
            noisy = [np.stack([corrupt(p, family, severity) for p in pictures]) for _ in range(times)]
            rows = np.array([figures(clean, one) for one in noisy])
            entry = {
                "draws": times,
                "value": rows.mean(axis=0).round(3).tolist(),
                "spread": rows.std(axis=0, ddof=1).round(3).tolist() if times > 1 else [0.0] * 4,
            }
            if family in DETERMINISTIC:
                entry["thumbnail"] = thumbnail(noisy[0][0])
            out.setdefault(family, {})[str(severity)] = entry
        print(family, [out[family][str(s)]["value"] for s in (1, 5)], flush=True)
    return out


def compare(draws: int) -> None:
    """Print ours beside the stored figures."""
    from anprompt.noise.image import IMAGENET_C, corrupt, picture_rng

    rng = picture_rng(0, "compare")
    stored = json.loads(FIGURES.read_text())["families"]
    for family in IMAGENET_C:
        ours = measure(lambda p, f, s: corrupt(p, f, s, rng=rng), [family], draws)[family]
        for severity, theirs in stored[family].items():
            gap = np.subtract(ours[severity]["value"], theirs["value"]).round(2)
            print(f"  {severity} oracle {theirs['value']} ours - oracle {gap.tolist()} spread {theirs['spread']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", action="store_true", help="print ours beside the stored figures")
    parser.add_argument("--draws", type=int, default=32, help="draws of each random family")
    args = parser.parse_args()
    if args.compare:
        return compare(args.draws)
    corrupt = oracle()
    import imagecorruptions

    np.random.seed(0)  # the packages draw from numpy's global state
    families = [name for name in imagecorruptions.get_corruption_names("common")]
    made = "benchmarks/corruption_oracle.py with imagecorruptions 1.1.2, imagenet-c 0.0.3 (elastic_transform)"
    record: dict = {"made_with": made, "figures": NAMES}
    record["families"] = measure(corrupt, families, args.draws)
    FIGURES.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
