"""A detector with the manners of scikit-learn's outlier detectors: `fit`, `predict`, `decision_function`, `score_samples`.

>>> from anprompt import AnomalyDetector
>>> detector = AnomalyDetector(method="patchcore", shots=4).fit("embedded:boards")
>>> detector.predict(["board.png"])                       # 1 normal, -1 anomalous
>>> detector.save("detector/"); AnomalyDetector.load("detector/")
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.exceptions import NotFittedError
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.data.image_limits import limited
from anprompt.data.inputs import Picture, as_rgb, pictures
from anprompt.detection import detection_method, store
from anprompt.detection.base import DetectionMethod, Normals, Progress, Scored, silent
from anprompt.detection.features import Look, Sight, look
from anprompt.detection.layouts import Category, Sample, open_category
from anprompt.detection.masks import resized
from anprompt.detection.threshold import Threshold, choose_threshold
from anprompt.detection.tiles import MOST_TILES, auto_tiles
from anprompt.errors import UserError
from anprompt.noise.seeds import stable_seed
from anprompt.prompting.compute import threads_for
from anprompt.utils.files import file_hash

log = logging.getLogger("anprompt")

FALSE_ALARMS = 0.05  # the rate of `fit`, where held-out normal images allow a threshold
MOST_HELD = 200  # held-out images that `fit` looks at for it


class NotFitted(UserError, NotFittedError):
    """Asked for answers before `fit`; scikit-learn knows it as `NotFittedError`."""


@dataclass(frozen=True)
class Answer:
    """What a detector says of one image.

    Attributes:
        name: its path, or its number.
        score: higher for more anomalous.
        anomalous: whether the score is above the threshold; None without a threshold.
        map: [H, W] of the image's own size, higher for more anomalous.
        image: the image, RGB.
    """

    name: str
    score: float
    anomalous: bool | None
    map: np.ndarray
    image: Image.Image


class AnomalyDetector(OutlierMixin, BaseEstimator):
    """Anomaly detection from a few normal images.

    Args:
        backbone: "embedded", a folder, a hub id, or a loaded `Backbone`.
        method: see `anprompt.detection.DETECTION_METHODS`.
        shots: normal images to learn from, drawn by the seed; None for all there are, 0 for zero-shot methods.
        seed: of the draw, the start and the generated anomalies.
        settings: values that replace the method's.
        object_name: what the images show, for the sentences that name it.
        tiles: windows along the shorter side; "auto" takes as many as show about each pixel, at most four.
        false_alarms: rate for which `fit` chooses a threshold, where the folder has normal images left that were not drawn; None
            chooses none.
        max_megapixels: largest image to read, in millions of pixels.
        device, dtype: where the backbone lives and the precision of its weights.

    Attributes:
        method_: the fitted method.
        threshold_: with what it can promise, or None.
        offset_: `decision_function` is `score_samples` minus this; without a threshold the lowest of the learned images'.
        floor_, contour_: levels of normal maps, for colours and outlines.
        learned_: names by content hash of the files that were learned from.
        tiles_, images_: windows along the shorter side, and the number of images learned from.
        skipped_: one line per image that could not be used.
    """

    def __init__(
        self, backbone: str | Backbone = "embedded", method: str = "apt", shots: int | None = None, seed: int = 1, *,
        settings: Mapping[str, Any] | None = None, object_name: str = "object", tiles: int | str = "auto",
        false_alarms: float | None = FALSE_ALARMS, max_megapixels: float | None = None, device: str = "cpu", dtype: str = "float32",
    ) -> None:  # fmt: skip
        self.backbone, self.method, self.shots, self.seed = backbone, method, shots, seed
        self.settings, self.object_name, self.tiles, self.false_alarms = settings, object_name, tiles, false_alarms
        self.max_megapixels, self.device, self.dtype = max_megapixels, device, dtype

    def __sklearn_clone__(self) -> AnomalyDetector:
        values: dict[str, Any] = {key: value if isinstance(value, Backbone) else clone(value, safe=False)
                  for key, value in self.get_params(deep=False).items()}  # fmt: skip
        return type(self)(**values)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "method_")

    # --- learning -------------------------------------------------------------------------------
    def fit(self, X: Any, y: Any = None, *, progress: Progress = silent) -> AnomalyDetector:
        """Learn from normal images.

        Args:
            X: "embedded:boards" or a folder as `anprompt.detection.layouts` reads it, of which nothing below `test/` is
                opened; a `Category`; or normal images in any form.
            y: ignored.
            progress: called as `(done, total, text)`.

        Returns:
            The detector itself.

        Raises:
            UserError: what is wrong with data, settings or backbone, in one line.
        """
        with limited(self.max_megapixels):
            return self._fit(X, progress)

    def _fit(self, X: Any, progress: Progress) -> AnomalyDetector:
        kind = detection_method(self.method)
        config = kind.Config.from_dict(dict(self.settings or {}))
        if self.shots is not None and self.shots < 0:
            raise UserError(f"shots must be 0 or more, not {self.shots}.")
        if kind.few_shot and self.shots == 0:
            raise UserError(f"Method {self.method!r} learns from normal images; give shots of at least 1.")
        backbone = self.backbone
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone, device=self.device, dtype=self.dtype)
        drawn, held = self._drawn(X)
        self.skipped_: tuple[str, ...] = ()
        named, unread = _readable(drawn, held, len(drawn) if self.shots is None else self.shots, self._skip)
        sizes = [min(image.size) for _, image in named] or [backbone.dims.image_size]
        self.tiles_ = self._tiles(float(np.median(sizes)), backbone.dims.image_size)
        self.method_ = kind(backbone, config, object_name=self.object_name, seed=self.seed)
        self._learn(named, progress)
        self.images_: int = len(named)
        self.threshold_: Threshold | None = None
        files = dict([*drawn, *held])
        self.learned_ = {file_hash(Path(files[name])): name for name, _ in named if _is_file(files[name])}
        if unread and self.false_alarms is not None:
            self._choose(unread[:MOST_HELD], self.false_alarms, progress)
        return self

    def _drawn(self, X: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        """Normal images with their names, those to learn from first; what is not drawn is held out."""
        if isinstance(X, (str, os.PathLike)) and (str(X).startswith("embedded:") or not os.path.isfile(X)):
            X = open_category(str(X))
        if isinstance(X, Category):
            for line in X.notes:
                log.info("%s: %s", X.name, line)
            every: list[tuple[str, Any]] = [(_key(sample), sample.path) for sample in X.train]
        else:
            every = [
                (str(p) if isinstance(p, (str, os.PathLike)) else f"image {n}", p) for n, p in enumerate(pictures(X), 1)
            ]
        if not every:
            raise UserError("No normal images to learn from.")
        if self.shots is None:
            return every, []
        every.sort(key=lambda pair: stable_seed(self.seed, "draw", pair[0]))
        if len(every) < self.shots:
            log.warning("%d shots were asked for, and there are %d normal images", self.shots, len(every))
        return every[: self.shots], every[self.shots :]

    def _skip(self, line: str) -> None:
        self.skipped_ = (*self.skipped_, line)
        log.warning("skipped: %s", line)

    def _tiles(self, shorter_side: float, image_size: int) -> int:
        if self.tiles == "auto":
            return auto_tiles(shorter_side, image_size)
        if not isinstance(self.tiles, (int, np.integer)) or not 1 <= self.tiles <= MOST_TILES:
            raise UserError(f"tiles must be 'auto' or a whole number from 1 to {MOST_TILES}, not {self.tiles!r}.")
        return int(self.tiles)

    def _learn(self, named: Sequence[tuple[str, Image.Image]], progress: Progress) -> None:
        sight, backbone = self.method_.sight(self.tiles_), self.method_.backbone
        with threads_for(backbone):
            looks = []
            for number, (_, image) in enumerate(named, 1):
                looks.append(look(backbone, image, sight))
                progress(number, len(named), "normal images")
            self.method_.fit(Normals(
                [np.asarray(image) for _, image in named], [key for key, _ in named], looks,
                lambda pixels: look(backbone, Image.fromarray(pixels), sight), progress,
            ))  # fmt: skip
            own = [self.method_.score(seen) for seen in looks]
        self.offset_ = -max((one.score for one in own), default=0.0)
        self._see_levels([one.map for one in own])

    def _see_levels(self, maps: Sequence[Tensor]) -> None:
        """Levels of the maps of normal images, for colours and contours alone: the middle, and the usual maximum."""
        self.floor_ = float(np.median([float(one.median()) for one in maps])) if maps else 0.0
        self.contour_ = float(np.median([float(one.max()) for one in maps])) if maps else 0.5

    def _choose(self, held: Sequence[tuple[str, Any]], rate: float, progress: Progress) -> None:
        """A threshold from images that were not drawn."""
        found = []
        for number, (name, source) in enumerate(held, 1):
            try:
                found.append(self._scored(as_rgb(source, name)))
            except UserError as error:
                self._skip(str(error))
            progress(number, len(held), "held-out normal images")
        if found:
            self.set_threshold(choose_threshold([one.score for one in found], rate))
            self._see_levels([one.map for one in found])

    def set_threshold(self, threshold: Threshold | None) -> None:
        """Take a threshold for all later answers."""
        self.threshold_ = threshold
        if threshold:
            self.offset_ = -threshold.value

    # --- answers --------------------------------------------------------------------------------
    @property
    def sight(self) -> Sight:
        """How images are looked at."""
        return self._fitted().sight(self.tiles_)

    def _fitted(self) -> DetectionMethod:
        if not hasattr(self, "method_"):
            raise NotFitted("This detector is not fitted yet; call fit, or open one with AnomalyDetector.load.")
        return self.method_

    def _scored(self, image: Image.Image) -> Scored:
        method = self._fitted()
        with threads_for(method.backbone):
            return self.scored(look(method.backbone, image, self.sight))

    def scored(self, seen: Look) -> Scored:
        """Map and score of an image that was looked at before, by `self.sight`.

        Raises:
            UserError: they are not finite.
        """
        found = self._fitted().score(seen)
        if not np.isfinite(found.score) or not bool(found.map.isfinite().all()):
            raise UserError(
                "The detector's answer is not a number; its backbone is broken, or --dtype too small for it."
            )
        return found

    def scored_image(self, image: Image.Image) -> Scored:
        """Map in patches and score of an RGB image."""
        return self._scored(image)

    def not_learned(self, category: Category) -> list[Sample]:
        """The normal images of a category that this detector was not fitted on.

        Raises:
            UserError: there are none.
        """
        held = [s for s in category.train if not _is_file(s.path) or file_hash(Path(s.path)) not in self.learned_]
        if not held:
            raise UserError(
                f"All {len(category.train)} normal images of {category.name} were learned from; a threshold needs others."
            )
        return held

    def answer(self, picture: Picture, name: str = "image") -> Answer:
        """Score, verdict and map of one image in any form.

        Args:
            picture: a path, bytes, a Pillow image, an array [H, W, 3], ...
            name: what to call an image that is not a path.

        Returns:
            The answer, its map of the image's own size.

        Raises:
            UserError: it can't be read; the line names it.
        """
        with limited(self.max_megapixels):
            image = as_rgb(picture, name)
            found = self._scored(image)
        anomalous = found.score > self.threshold_.value if self.threshold_ else None
        at_full_size = resized(found.map.numpy(), image.size[::-1])
        return Answer(
            str(picture) if isinstance(picture, (str, os.PathLike)) else name,
            found.score,
            anomalous,
            at_full_size,
            image,
        )

    def answers(self, X: Any) -> Iterator[Answer | UserError]:
        """Answers for images, one after the other; for one that can't be read, the error, and the others go on."""
        for number, picture in enumerate(pictures(X), 1):
            try:
                yield self.answer(picture, f"image {number}")
            except UserError as error:
                yield error

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the anomaly score of every image, [n]: higher for more normal, as scikit-learn has it.

        Raises:
            UserError: an image can't be read; in a list every image has an answer.
        """
        found = []
        for answer in self.answers(X):
            if isinstance(answer, UserError):
                raise answer
            found.append(-answer.score)
        return np.array(found)

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` minus `offset_`, [n]: negative for anomalies."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for normal images and -1 for anomalies, [n]."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    # --- files ----------------------------------------------------------------------------------
    def save(self, folder: str | Path, *, overwrite: bool = False, record: Mapping[str, Any] | None = None) -> Path:
        """Write the detector's folder; `AnomalyDetector.load` and the command line open it.

        Args:
            overwrite: replace whatever is there.
            record: facts to keep beside it, plain JSON values.

        Returns:
            The folder.

        Raises:
            UserError: other files are there, or it can't be written.
        """
        method = self._fitted()
        store.check_place(folder, overwrite=overwrite)
        config = {
            "method": method.name, "settings": method.config.to_dict(), "object": method.object_name, "seed": method.seed,
            "tiles": self.tiles_, "images": self.images_, "offset": self.offset_,
            "floor": self.floor_, "contour": self.contour_, "learned": self.learned_, "record": dict(record or {}),
            "threshold": self.threshold_.to_dict() if self.threshold_ else None,
        }  # fmt: skip
        return store.save(folder, method.state(), config, method.backbone)

    @classmethod
    def load(
        cls, folder: str | Path, *, backbone: str | Backbone | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> AnomalyDetector:
        """Open a detector's folder.

        Args:
            backbone: where the recorded backbone is now, or the loaded one.
            device, dtype: of a backbone to load.

        Returns:
            The detector, ready to answer.

        Raises:
            UserError: no detector, another backbone, or damaged tensors.
        """
        config = store.read_config(folder)
        kind = detection_method(config["method"])
        settings = kind.Config.from_dict(config["settings"])
        state = store.read_state(folder, config)
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone or config["backbone"]["id"], device=device, dtype=dtype)
        if backbone.weight_hash != config["backbone"].get("weight_hash"):
            raise UserError(
                f"Detector {str(folder)!r} was fitted on other weights than those of {backbone.id!r}, so its answers would "
                "mean nothing. Give the backbone it was fitted on with --backbone, or fit again."
            )
        made = cls(backbone, config["method"], config["images"], config["seed"], settings=config["settings"],
                   object_name=config["object"], tiles=config["tiles"])  # fmt: skip
        made.method_ = kind(backbone, settings, object_name=config["object"], seed=config["seed"])
        made.tiles_, made.images_, made.skipped_ = made._tiles(0, 1), config["images"], ()
        made.offset_, made.floor_, made.contour_ = (config[key] for key in ("offset", "floor", "contour"))
        made.learned_ = config["learned"]
        made.method_.load_state(state)
        made.set_threshold(Threshold(**config["threshold"]) if config.get("threshold") else None)
        made._probe(folder)
        return made

    def _probe(self, folder: str | Path) -> None:
        """Score a grey image: tensors of a wrong shape or name are found before an answer is asked for."""
        size = self.method_.backbone.dims.image_size
        try:
            self._scored(Image.new("RGB", (size, size), (128, 128, 128)))
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"Detector {str(folder)!r}: its tensors do not fit its method; copy or fit it again."
            ) from error


def _key(sample: Sample) -> str:
    """What an image is called wherever its folder lies."""
    return Path(sample.path).name


def _is_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and os.path.isfile(source)


def _readable(
    drawn: Sequence[tuple[str, Any]], held: Sequence[tuple[str, Any]], count: int, skip: Any
) -> tuple[list[tuple[str, Image.Image]], list[tuple[str, Any]]]:
    """The first `count` images that can be read, and what is left of those that were not needed."""
    read: list[tuple[str, Image.Image]] = []
    left = [*drawn, *held]
    while left and len(read) < count:
        name, source = left.pop(0)
        try:
            read.append((name, as_rgb(source, name)))
        except UserError as error:
            skip(str(error))
    if count and not read:
        raise UserError("None of the normal images can be read, so there is nothing to learn from.")
    return read, left
