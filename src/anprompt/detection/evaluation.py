"""Testing a detector on a category: every image once, figures over all defects and for each kind of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anprompt.data.images import open_image, shown
from anprompt.detection.base import Progress, Scored, silent
from anprompt.detection.layouts import Category, Sample
from anprompt.detection.masks import read_mask, resized, smaller
from anprompt.detection.metrics import EVALUATED_SIDE, Figures, figures
from anprompt.errors import UserError
from anprompt.utils.files import file_hash

ALL = "all"


@dataclass
class Examined:
    """What a test gave, image by image, in the order of the category.

    Attributes:
        samples: the images that could be read.
        scores: higher for more anomalous.
        masks: booleans, at most `EVALUATED_SIDE` px long; None for an anomalous image without a usable mask.
        maps: scores of the same sizes.
        skipped: one line for each image or mask that could not be used, and for each that looks wrong.
    """

    category: Category
    samples: list[Sample] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    maps: list[np.ndarray] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def figures(self, kind: str = ALL) -> Figures:
        """Of all defects, or of one kind beside all normal images."""
        chosen = [i for i, s in enumerate(self.samples) if kind == ALL or not s.anomalous or s.kind == kind]
        return figures(
            [self.samples[i].anomalous for i in chosen], [self.scores[i] for i in chosen],
            [self.masks[i] for i in chosen], [self.maps[i] for i in chosen],
        )  # fmt: skip

    def by_kind(self) -> dict[str, Figures]:
        """Figures of all defects together, then of each kind where there are several."""
        kinds = self.category.kinds
        return {kind: self.figures(kind) for kind in ((ALL, *kinds) if len(kinds) > 1 else (ALL,))}


def examine(
    category: Category, score: Callable[[Image.Image, Sample], Scored], *, learned: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Examined:  # fmt: skip
    """Score every test image; what can't be read is told and left out.

    Args:
        score: from an image to its map and score.
        learned: content hashes of the images that were learned from, as a detector records them; one that is tested,
            too, is told.

    Raises:
        UserError: there are no test images, or none can be read.
    """
    if not category.test:
        raise UserError(f"{category.name} has no test images; put some below test/good and test/DEFECT, as MVTec does.")
    found = Examined(category)
    for number, sample in enumerate(category.test, 1):
        try:
            image = open_image(sample.path)
            answer = score(image, sample)
        except UserError as error:
            found.skipped.append(str(error))
            continue
        if learned and (twin := learned.get(file_hash_or_none(sample.path))):
            found.skipped.append(
                f"{shown(sample.path)}: is the image {twin} that was learned from; it is tested all the same"
            )
        mask = _mask(sample, image.size, found.skipped)
        reduced = smaller(np.zeros(image.size[::-1], bool) if mask is None else mask, EVALUATED_SIDE)
        found.samples.append(sample)
        found.scores.append(answer.score)
        found.masks.append(None if mask is None else reduced)
        found.maps.append(resized(answer.map.numpy(), reduced.shape))
        progress(number, len(category.test), "test images")
    if not found.samples:
        raise UserError(
            f"None of the {len(category.test)} test images of {category.name} can be read; first: {found.skipped[0]}"
        )
    return found


def _mask(sample: Sample, size: tuple[int, int], skipped: list[str]) -> np.ndarray | None:
    """The mask of an image, all False for a normal one; None where there is none to use."""
    if not sample.anomalous:
        return np.zeros(size[::-1], bool)
    if not sample.mask:
        return None
    try:
        mask = read_mask(sample.mask, size)
    except UserError as error:
        skipped.append(str(error))
        return None
    if not mask.any():
        skipped.append(
            f"{shown(sample.path)}: its mask is empty; is it a normal image among {sample.kind}? It counts as its folder says, "
            "and not for pixels"
        )
        return None
    return mask


def file_hash_or_none(path: str) -> str:
    """The content's hash; empty where the file can't be read."""
    try:
        return file_hash(Path(path))
    except OSError:
        return ""


def mean_figures(several: Mapping[str, Figures]) -> dict[str, float]:
    """The mean over categories of every figure, as the field reports it; figures that a category lacks are left out."""
    names = Figures.__dataclass_fields__
    rows = [one.to_dict() for one in several.values()]
    return {
        name: statistics.fmean(row[name] for row in rows if name in row)
        for name in names
        if any(name in row for row in rows)
    }
