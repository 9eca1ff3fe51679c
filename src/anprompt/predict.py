"""A classifier with scikit-learn manners: `fit`, `predict`, `predict_proba`, `score`, `save`.

>>> import anprompt as ap
>>> clf = ap.PromptClassifier("embedded", shots=16).fit("my_photos/")
>>> clf.predict(["cat.jpg"]), clf.predict_proba(["cat.jpg"], classes=["lynx", "puma"])
>>> clf.save("adapter/"), ap.load("adapter/")
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.checkpoint import load_adapter, save_adapter
from anprompt.data.images import open_picture, to_rgb
from anprompt.data.sources import open_dataset
from anprompt.data.splits import clean_classnames, subset_classes
from anprompt.data.types import Dataset, Item
from anprompt.data.views import centre_view
from anprompt.errors import UserError
from anprompt.methods.base import Classifier, Method
from anprompt.tuning import Job, plan, run, score

BATCH = 64

Picture = str | os.PathLike | Image.Image | np.ndarray


def as_rgb(picture: Picture) -> Image.Image:
    """A path, a Pillow image or an array [H, W, 3] of uint8 as an RGB image.

    Raises:
        UserError: a file that can't be read, or an array of another form.
    """
    if isinstance(picture, (str, os.PathLike)):
        return open_picture(picture)
    if isinstance(picture, Image.Image):
        if picture.width < 1 or picture.height < 1:
            raise UserError("A picture has no pixels.")
        return to_rgb(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or not picture.size:
            raise UserError(
                f"A picture array must be [height, width, 3] of uint8, not {list(picture.shape)} of {picture.dtype}."
            )
        return Image.fromarray(np.ascontiguousarray(picture))
    raise UserError(
        f"A picture is a path, a Pillow image or a uint8 array, not {type(picture).__name__!r} "
        "(tensors: pass .numpy())."
    )


def pixels_of(views: Sequence[np.ndarray], backbone: Backbone) -> Tensor:
    """Cut views [H, W, 3] uint8 as normalised pixels [B, 3, H, W]."""
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (backbone.mean, backbone.std))
    return (pixels - mean) / std


def _pictures(X: Any) -> list[Picture]:
    """A single picture counts as a list of one."""
    if isinstance(X, (str, os.PathLike, Image.Image)) or (isinstance(X, np.ndarray) and X.ndim == 3):
        return [X]
    if not isinstance(X, Iterable):
        raise UserError(f"Pictures must be a list of paths, images or arrays, not {type(X).__name__!r}.")
    return list(X)


class PromptClassifier(ClassifierMixin, BaseEstimator):
    """Prompt tuning of a frozen CLIP as one estimator.

    Args:
        backbone: "embedded", a folder, a hub id, or a loaded `Backbone`.
        method: preset name, see `anprompt methods`.
        shots: pictures per class to train on; "all" or None for all there are.
        seed: of the draw, the start, the order and the views; 0 is a seed.
        settings, train: values that replace the preset's (method settings, training settings).
        template: a sentence with one "{}" for the class name; None takes the data's own.
        descriptions: sentences by class, for methods that read them.
        classes: "all", "base" or "new": which half of the data's classes to train on.
        device, dtype: where the backbone lives and the precision of its weights.

    Attributes:
        classes_: names of the trained classes, in label order.
        method_: the trained method.
        log_: what happened in training; only after `fit`.
        skipped_: one line per picture that could not be used.
    """

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        method: str = "anprompt",
        shots: int | str | None = 16,
        seed: int = 1,
        *,
        settings: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        template: str | None = None,
        descriptions: Mapping[str, Sequence[str]] | None = None,
        classes: str = "all",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.backbone, self.method, self.shots, self.seed = backbone, method, shots, seed
        self.settings, self.train, self.template, self.descriptions = settings, train, template, descriptions
        self.classes, self.device, self.dtype = classes, device, dtype

    # --- training -------------------------------------------------------------------------------
    def fit(self, X: Any, y: Iterable[Any] | None = None) -> PromptClassifier:
        """Train.

        Args:
            X: a data set ("embedded:food", a folder of class folders, a CSV file, a `Dataset`); or, with
                `y`, a list of pictures (paths, Pillow images, uint8 arrays).
            y: class names of the pictures.

        Raises:
            UserError: what is wrong with data, settings or backbone, in one line.
        """
        dataset = self._dataset(X) if y is None else _labelled(_pictures(X), list(y))
        backbone = self.backbone
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone, device=self.device, dtype=self.dtype)
        job = plan(
            dataset, backbone, method=self.method, shots=None if self.shots == "all" else self.shots,  # type: ignore[arg-type]
            seed=self.seed, classes=self.classes, settings=self.settings, train=self.train,
            template=self.template, descriptions=self.descriptions,
        )  # fmt: skip
        tuned = run(job)
        self.log_, self.skipped_, self._job = tuned.log, tuned.skipped, job
        return self._adopt(tuned.method)

    def _adopt(self, method: Method) -> PromptClassifier:
        self.method_ = method
        self.classes_ = np.array(method.trained_classnames)
        self._ready: Classifier | None = None
        return self

    @staticmethod
    def _dataset(data: Any) -> Dataset:
        if isinstance(data, Dataset):
            return data
        if isinstance(data, (str, os.PathLike)):
            return open_dataset(str(data))
        raise UserError("fit takes a data set (a folder, 'embedded:food', ...), or pictures and their names.")

    # --- answers --------------------------------------------------------------------------------
    def classifier(self, classes: Iterable[str] | None = None) -> Classifier:
        """The trained method with a class list (None: the trained one); text features are kept for the last."""
        if not hasattr(self, "method_"):
            raise UserError("This classifier is not trained yet; call fit, or open one with anprompt.load.")
        if isinstance(classes, str):
            raise UserError(f"classes must be a list of names, not the string {classes!r}.")
        names = self.method_.trained_classnames if classes is None else tuple(clean_classnames(classes))
        if self._ready is None or self._ready.classnames != names:
            self._ready = Classifier(self.method_, names)
        return self._ready

    def predict_proba(self, X: Any, classes: Iterable[str] | None = None) -> np.ndarray:
        """Probabilities [n, classes], in the order of `classes` (None: `classes_`).

        Args:
            X: pictures: paths, Pillow images or uint8 arrays [H, W, 3].
            classes: any class names; they need not have been trained on.
        """
        ready = self.classifier(classes)
        backbone = self.method_.backbone
        pictures = _pictures(X)
        rows = [np.zeros((0, len(ready.classnames)), np.float32)]
        for start in range(0, len(pictures), BATCH):
            views = [
                centre_view(as_rgb(p), backbone.dims.image_size) for p in pictures[start : start + BATCH]
            ]
            rows.append(ready.logits(pixels_of(views, backbone)).softmax(dim=-1).cpu().numpy())
        return np.concatenate(rows)

    def predict(self, X: Any, classes: Iterable[str] | None = None) -> np.ndarray:
        """The most probable class name of every picture."""
        names = list(classes) if classes is not None and not isinstance(classes, str) else classes
        probabilities = self.predict_proba(X, names)
        return np.array(self.classifier(names).classnames)[probabilities.argmax(axis=1)]

    def score(self, X: Any, y: Iterable[Any] | None = None, sample_weight: Any = None) -> float:
        """Accuracy: of pictures with names `y`, or on the test part of a data set."""
        if y is not None:
            truth = np.array(clean_classnames((str(name) for name in y), allow_duplicates=True))
            answers = self.predict(X)
            if len(truth) != len(answers):
                raise UserError(f"{len(answers)} pictures but {len(truth)} names.")
            return float(np.average(answers == truth, weights=sample_weight))
        self.classifier()
        return score(self.method_, subset_classes(self._dataset(X), self.classes))[0].accuracy

    # --- files ----------------------------------------------------------------------------------
    def save(self, folder: str | Path) -> Path:
        """Write the adapter folder; `anprompt.load` and the command line open it."""
        self.classifier()
        job: Job | None = getattr(self, "_job", None)
        record = {"data": job.dataset.name, "pictures": len(job.dataset.train)} if job else None
        return save_adapter(folder, self.method_, train=job.train if job else None, record=record)


def load(
    folder: str | Path, *, backbone: str | Backbone | None = None, device: str = "cpu", dtype: str = "float32"
) -> PromptClassifier:
    """Open an adapter folder as a classifier.

    Args:
        backbone: where the recorded backbone is now, or the loaded one; None loads it by its recorded name.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, device=device, dtype=dtype)
    method = load_adapter(folder, backbone=backbone, device=device, dtype=dtype)
    classifier = PromptClassifier(
        method.backbone, method.preset, seed=method.seed, settings=method.config.to_dict(),
        template=method.template, descriptions=method.descriptions or None, device=device, dtype=dtype,
    )  # fmt: skip
    classifier.skipped_ = ()
    return classifier._adopt(method)


def _labelled(pictures: list[Picture], names: list[Any]) -> Dataset:
    """Pictures with names as a data set; classes in sorted order, all pictures for training."""
    if len(pictures) != len(names):
        raise UserError(f"{len(pictures)} pictures but {len(names)} names.")
    if not pictures:
        raise UserError("No pictures to train on.")
    raw = sorted({str(name) for name in names})
    clean = dict(zip(raw, clean_classnames(raw)))
    labels = {name: label for label, name in enumerate(raw)}
    items = tuple(
        Item(os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"#{index}", labels[str(name)],
             clean[str(name)])
        for index, (picture, name) in enumerate(zip(pictures, names))
    )  # fmt: skip
    by_path = {item.path: picture for item, picture in zip(items, pictures)}
    return Dataset("pictures", tuple(clean.values()), items, (), (), lambda item: as_rgb(by_path[item.path]))
