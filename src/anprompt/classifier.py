"""A classifier with scikit-learn manners: `fit`, `predict`, `predict_proba`, `score`, `save`.

>>> import anprompt as ap
>>> clf = ap.PromptClassifier("embedded", shots=16).fit("my_photos/")
>>> clf.predict(["cat.jpg"]), clf.predict_proba(["cat.jpg"], classes=["lynx", "puma"])
>>> clf.save("adapter/"), ap.load("adapter/")
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from torch import Tensor

from anprompt.adapters import parameters
from anprompt.adapters.adapter import load_adapter, read_config, same_request, save_adapter
from anprompt.adapters.place import holds_adapter_here, holds_another
from anprompt.backbones import Backbone, load_backbone
from anprompt.data import trained_images
from anprompt.data.candidates import candidates
from anprompt.data.crop import centre_view
from anprompt.data.image_limits import limited
from anprompt.data.inputs import Picture, as_rgb, batches, labelled, pictures, targets
from anprompt.data.label_names import named
from anprompt.data.names import check_classnames, class_key
from anprompt.data.reading import reading_record
from anprompt.data.sources import open_dataset
from anprompt.data.splits import subset_classes
from anprompt.data.types import Dataset
from anprompt.data.views import normalised
from anprompt.errors import UserError, choices
from anprompt.evaluation.calibration import KEY, NONE, Calibration, calibrate, check_accept, from_record
from anprompt.evaluation.inference import predict_logits
from anprompt.methods.base import Method
from anprompt.methods.classifier import Classifier
from anprompt.prompting.compute import threads_for
from anprompt.training.job import plan, run, score
from anprompt.training.loop import TrainConfig

log = logging.getLogger("anprompt")

__all__ = ["NONE", "NotTrained", "Picture", "PromptClassifier", "as_rgb", "load"]

BATCH = 64
_OVERWRITE = "save(..., overwrite=True)"
LABELS = "labels"  # in an adapter's record: the caller's own labels, where they are not the class names


class NotTrained(UserError, NotFittedError):
    """Asked for answers before `fit`; scikit-learn knows it as `NotFittedError`."""


class PromptClassifier(ClassifierMixin, BaseEstimator):
    """Prompt tuning of a frozen CLIP as one estimator.

    Works where scikit-learn's classifiers work (`clone`, `cross_val_score`, `GridSearchCV`, `Pipeline`) with
    pictures for `X`: a list of them, an array [N, H, W, 3] of uint8, a tensor [N, 3, H, W], a generator, a
    column of paths, a folder. `anprompt.data.inputs` says which forms one picture may have.

    Args:
        backbone: "embedded", a folder, a hub id, or a loaded `Backbone`, which clones share.
        method: preset name, see `anprompt methods`.
        shots: pictures per class to train on; "all" or None for all there are.
        seed: of the draw, the start, the order and the views; 0 is a seed.
        settings, train: values that replace the preset's (method settings, training settings).
        template: a sentence with one "{}" for the class name; None takes the data's own.
        descriptions: sentences by class, for methods that read them.
        names: class names by label, for a `y` or folders of numbers or codes: {label: name}, names in the
            order of the labels, or a file of either (docs/data.md); None reads the labels as names.
        subset: "all", "base" or "new": which half of the data's classes to train on.
        calibrate: "temperature" fits one on validation pictures; None fits none.
        accept: share of the validation pictures that `none_of_these=True` is to accept; None chooses no
            threshold. Both options take the data set's validation part; with `y`, about a fifth of every class is
            kept from training for it.
        max_megapixels: largest image to decode, in millions of pixels (JPEG files may have four times as many,
            since they are decoded small); None takes the default, see `anprompt.data.images.pixel_limit`.
        device, dtype: where the backbone lives and the precision of its weights.
        classes: the name of `subset` before this version.

    Attributes:
        classes_: the trained classes, in label order: the labels of `y`, or the data set's names.
        method_: the trained method.
        calibration_: temperature and threshold with what they were fitted on, or None.
        log_: what happened in training; only after `fit`.
        skipped_: one line per picture that could not be used: by `fit`, or, of a folder, by the last answer.
        paths_: the files that the last answer for a folder is about, in its order.
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
        names: Mapping[Any, str] | Sequence[str] | str | None = None,
        subset: str = "all",
        calibrate: str | None = None,
        accept: float | None = None,
        max_megapixels: float | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        classes: str | None = None,
    ) -> None:
        self.backbone, self.method, self.shots, self.seed = backbone, method, shots, seed
        self.settings, self.train, self.template, self.descriptions = settings, train, template, descriptions
        self.names, self.subset, self.calibrate, self.accept = names, subset, calibrate, accept
        self.classes = classes
        self.max_megapixels, self.device, self.dtype = max_megapixels, device, dtype

    # --- scikit-learn's manners -----------------------------------------------------------------
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a table of numbers holds no pictures
        tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.no_validation = True
        return tags

    def __sklearn_clone__(self) -> PromptClassifier:
        """A copy of the parameters; a loaded backbone is frozen, so copies share it."""
        parameters = self.get_params(deep=False)
        copies: dict[str, Any] = {
            key: value if isinstance(value, Backbone) else clone(value, safe=False) for key, value in parameters.items()
        }
        return type(self)(**copies)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "method_")

    # --- training -------------------------------------------------------------------------------
    def fit(self, X: Any, y: Iterable[Any] | None = None) -> PromptClassifier:
        """Train.

        Args:
            X: a data set ("embedded:food", a folder of class folders, a CSV file, a `Dataset`); or, with
                `y`, pictures.
            y: labels of the pictures: class names, or anything that `names` gives the names of.

        Returns:
            The classifier itself.

        Raises:
            UserError: what is wrong with data, settings or backbone, in one line.
        """
        with limited(self.max_megapixels):
            return self._fit(X, y)

    def _fit(self, X: Any, y: Iterable[Any] | None) -> PromptClassifier:
        held = self._held_out()
        if y is None:
            dataset = named(self._dataset(X), self.names)
            labels = dict(zip(dataset.classnames, dataset.labels)) or None
        else:
            dataset, labels = labelled(list(pictures(X)), targets(y), self.names, held=held)
        if held:
            _require_validation(subset_classes(dataset, self._subset()))
        backbone = self.backbone
        if not isinstance(backbone, Backbone):
            backbone = load_backbone(backbone, device=self.device, dtype=self.dtype)
        job = plan(
            dataset, backbone, method=self.method, shots=None if self.shots == "all" else self.shots,  # type: ignore[arg-type]
            seed=self.seed, classes=self._subset(), settings=self.settings, train=self.train,
            template=self.template, descriptions=self.descriptions,
        )  # fmt: skip
        tuned = run(job)
        found: Calibration | None = None
        if held:
            found = calibrate(tuned.method, dataset, temperature=self.calibrate is not None, accept=self.accept)
        self.log_ = tuned.log
        self.skipped_ = tuple(dict.fromkeys((*dataset.skipped, *tuned.skipped)))
        self._train: TrainConfig | None = job.train
        self._facts: dict[str, Any] = {"data": dataset.name, "training_images": len(job.dataset.train), "run": job.key}
        if dataset.reading:
            self._facts["reading"] = reading_record(dataset)
        if len(job.dataset.train) <= trained_images.MOST:
            self._facts[trained_images.KEY] = trained_images.to_record(job.dataset.train)
        return self._adopt(tuned.method, labels, found)

    def _subset(self) -> str:
        """Which half of the classes, under whichever name it was given."""
        if self.classes is None:
            return self.subset
        warnings.warn("PromptClassifier's classes= is now subset=", DeprecationWarning, stacklevel=4)
        return self.classes

    def _held_out(self) -> bool:
        """Whether validation pictures are needed."""
        if self.calibrate not in (None, "temperature"):
            raise choices("calibration", self.calibrate, ("temperature",))
        if self.accept is not None:
            check_accept(self.accept)
        return self.calibrate is not None or self.accept is not None

    def _adopt(
        self, method: Method, labels: Mapping[str, Any] | None = None, found: Calibration | None = None
    ) -> PromptClassifier:
        """Take a trained method; `labels` are the caller's by class name, None where they are the names."""
        names = method.trained_classnames
        self.method_, self.calibration_ = method, found
        method.labels = tuple(str(labels[name]) for name in names) if labels else ()
        self.classes_ = np.array([labels[name] for name in names] if labels else names)
        self._ready: dict[tuple[str, ...], Classifier] = {}  # of the last class list
        return self

    @staticmethod
    def _dataset(data: Any, known: Sequence[str] = ()) -> Dataset:
        if isinstance(data, Dataset):
            return data
        if isinstance(data, (str, os.PathLike)):
            return open_dataset(str(data), known=known, least_classes=1 if known else 2)
        raise UserError("fit takes a data set (a folder, 'embedded:food', ...), or pictures and their names.")

    # --- answers --------------------------------------------------------------------------------
    def classifier(self, classes: Iterable[str] | None = None) -> Classifier:
        """The trained method with a class list (None: the trained one); text features are kept for the last.

        Raises:
            NotTrained: there was no `fit`.
            UserError: `classes` is one string, is empty, or has a name that can't be used.
        """
        if not hasattr(self, "method_"):
            raise NotTrained("This classifier is not trained yet; call fit, or open one with anprompt.load.")
        if isinstance(classes, str):
            raise UserError(f"classes must be a list of names, not the string {classes!r}.")
        names = self.method_.trained_classnames if classes is None else tuple(check_classnames(classes))
        if names not in self._ready:
            made = Classifier(self.method_, names)
            self._ready.clear()
            self._ready[names] = made
        return self._ready[names]

    def _logits(self, X: Any, classes: Iterable[str] | None) -> Tensor:
        """[n, classes], divided by the temperature where one was fitted for this head."""
        ready, backbone = self.classifier(classes), self.method_.backbone
        rows = [torch.zeros(0, len(ready.classnames))]
        with threads_for(backbone), limited(self.max_megapixels):
            for views in self._views(X, backbone.dims.image_size):
                pixels = normalised(np.stack(views), backbone.mean, backbone.std)
                rows.append(predict_logits(ready, pixels.__getitem__, len(views), batch_size=BATCH))
        return torch.cat(rows)

    def _views(self, X: Any, size: int) -> Iterator[list[np.ndarray]]:
        """Batches of views [size, size, 3]; of a folder those that can be read, told in `paths_` and `skipped_`.

        In a list every image has an answer, so one that can't be read is an error that says which it is.
        """
        folder = isinstance(X, (str, os.PathLike)) and os.path.isdir(X)
        read: list[Picture] = []
        skipped: list[str] = []
        number = 0
        for batch in batches(X, BATCH):
            views = []
            for picture in batch:
                number += 1
                try:
                    views.append(centre_view(as_rgb(picture, f"image {number}"), size))
                except UserError as error:
                    if not folder:
                        raise
                    skipped.append(str(error))
                    log.warning("skipped: %s", error)
                else:
                    read.append(picture)
            if views:
                yield views
        if folder:
            if not read:
                raise UserError(f"None of the {number} files in {str(X)!r} can be read; the first: {skipped[0]}")
            self.paths_, self.skipped_ = tuple(map(str, read)), tuple(skipped)

    def decision_function(self, X: Any, classes: Iterable[str] | None = None) -> np.ndarray:
        """Scaled logits [n, classes] of pictures `X` in any form; of two classes the second minus the first, [n], as scikit-learn has it."""
        logits = self._logits(X, classes).numpy()
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any, classes: Iterable[str] | None = None) -> np.ndarray:
        """Probabilities [n, classes], in the order of `classes` (None: `classes_`).

        Args:
            X: pictures in any form. Of a folder, files that can't be read are skipped: `paths_` says which
                file each row is about, `skipped_` what was left out.
            classes: any class names; they need not have been trained on.

        Returns:
            [n, classes], float32; each row sums to 1.
        """
        return self._logits(X, classes).softmax(dim=-1).numpy()

    def predict(
        self, X: Any, classes: Iterable[str] | None = None, *, none_of_these: bool | float = False
    ) -> np.ndarray:
        """The most probable class of every picture: one of `classes_`, or a name of `classes`.

        Args:
            X: pictures in any form, as `predict_proba` takes them.
            classes: any class names; None for `classes_`.
            none_of_these: True answers "none of these" (-1 where labels are numbers) for pictures whose
                largest probability is below the threshold that `accept` chose; a number from 0 to 1 is a
                threshold of the caller's own, for any class list.

        Returns:
            Answers [n], of the type of `classes_`, or strings where `classes` are given.
        """
        names = list(classes) if classes is not None and not isinstance(classes, str) else classes
        threshold = self._threshold(names, none_of_these)
        shares = self.predict_proba(X, names)
        labels = self.classes_ if names is None else np.array(self.classifier(names).classnames)
        answers = labels[shares.argmax(axis=1)]
        if threshold is None:
            return answers
        numbers = labels.dtype.kind in "iuf"
        answers = answers if numbers else answers.astype(np.result_type(answers, np.array(NONE)))
        answers[shares.max(axis=1, initial=0).astype(np.float64) < threshold] = -1 if numbers else NONE
        return answers

    def _threshold(self, names: Sequence[str] | None, wanted: bool | float) -> float | None:
        ready = self.classifier(names)
        if wanted is False:
            return None
        if wanted is not True:
            if not isinstance(wanted, (int, float, np.number)) or not 0 <= wanted <= 1:
                raise UserError(f"none_of_these must be True, False or a number from 0 to 1, not {wanted!r}.")
            return float(wanted)
        return trained_threshold(self.calibration_, ready)

    def score(self, X: Any, y: Iterable[Any] | None = None, sample_weight: Any = None, *, part: str = "test") -> float:
        """Accuracy: of pictures with labels `y`, or on one part of a data set.

        Args:
            X: pictures in any form, with `y`; or a data set as `fit` takes it.
            y: labels [n] of the pictures.
            sample_weight: weights [n] of the pictures, with `y`; None weighs all alike.
            part: "test", "val", "train", or "all" for a folder that was not trained on. A folder with some of
                the trained classes, and no other, is scored among all trained ones.

        Returns:
            The share of right answers, 0 to 1.

        Raises:
            UserError: not as many labels as pictures, or a data set that can't be scored.
        """
        if y is not None:
            answers = [class_key(answer) for answer in self.predict(X)]
            truth = [class_key(label) for label in targets(y)]
            if len(truth) != len(answers):
                raise UserError(f"{len(answers)} pictures but {len(truth)} names.")
            return float(np.average(np.array(answers) == np.array(truth), weights=sample_weight))
        self.classifier()
        with limited(self.max_megapixels):
            data = subset_classes(self._dataset(X, self.method_.trained_classnames), self._subset())
            data, told = candidates(data, self.method_.trained_classnames)
            for line in told:
                log.warning("%s", line)
            return score(self.method_, data, part=part)[0].accuracy

    # --- files ----------------------------------------------------------------------------------
    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the adapter folder; `anprompt.load` and the command line open it.

        Args:
            overwrite: replace what is there whoever wrote it; else only an adapter of this very request
                (method, settings, data, seed), as running a notebook again makes it.

        Returns:
            The folder.

        Raises:
            UserError: other files or the adapter of another request are there, or the folder can't be written.
        """
        self.classifier()
        record = dict(getattr(self, "_facts", {}))
        record[parameters.KEY] = parameters.to_record(self.get_params(deep=False), self.method_.descriptions)
        labels = self.classes_.tolist()
        if labels != list(self.method_.trained_classnames):
            record[LABELS] = labels
        if self.calibration_:
            record[KEY] = self.calibration_.to_dict()
        train = getattr(self, "_train", None)
        there = holds_adapter_here(Path(folder), overwrite=overwrite, option="", remedy=_OVERWRITE)
        if there and not same_request(folder, self.method_, train, record):
            raise holds_another(Path(folder), "", _OVERWRITE)
        return save_adapter(folder, self.method_, train=train, record=record, overwrite=overwrite)


def load(
    folder: str | Path, *, backbone: str | Backbone | None = None, device: str | None = None, dtype: str | None = None
) -> PromptClassifier:
    """Open an adapter folder as the classifier that was saved: its answers, and its parameters for `clone` and `fit`.

    Args:
        backbone: where the recorded backbone is now, or the loaded one; None loads it by its recorded name.
        device, dtype: of a backbone to load; None takes "cpu" (or "auto" where the classifier had it) and the
            recorded precision.

    Returns:
        The classifier, ready to answer.

    Raises:
        UserError: see `anprompt.adapters.adapter.load_adapter`.
    """
    config, where = read_config(folder), f"Adapter {str(folder)!r}"
    record = dict(config.get("record", {}))
    kept = parameters.from_record(record.pop(parameters.KEY, None), config, where)
    by_name = kept.pop("by_name") and backbone is None
    kept["device"] = device or kept.get("device", "cpu")
    kept["dtype"] = dtype or kept.get("dtype", "float32")
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, device=kept["device"], dtype=kept["dtype"])
    method = load_adapter(folder, backbone=backbone, device=kept["device"], dtype=kept["dtype"])
    classifier = PromptClassifier(
        config["backbone"]["id"] if by_name else method.backbone, method.preset, seed=method.seed, **kept
    )
    labels = _recorded_labels(record.pop(LABELS, None), method.trained_classnames, where)
    found = from_record(record.pop(KEY, None), where)
    classifier.skipped_, classifier._facts = (), record
    classifier._train = _recorded_train(config)
    return classifier._adopt(method, labels, found)


def _recorded_train(config: Mapping[str, Any]) -> TrainConfig | None:
    """The recipe in an adapter's config; None where there is none, or one of another version."""
    values = config.get("train")
    try:
        return cast(TrainConfig, TrainConfig.from_dict(values)) if isinstance(values, dict) else None
    except UserError:
        return None


def trained_threshold(found: Calibration | None, ready: Classifier) -> float:
    """The threshold of "none of these" for a class list.

    Raises:
        UserError: none was chosen, or the list is not the one it was chosen on.
    """
    if found is None or found.threshold is None:
        raise UserError(
            "No threshold was chosen for this adapter; fit with accept=0.95, run 'anprompt calibrate ADAPTER "
            "--accept 0.95', or give a threshold of your own."
        )
    if set(map(class_key, ready.classnames)) != set(map(class_key, ready.method.trained_classnames)):
        raise UserError(
            "The threshold was chosen for the trained classes and means nothing for another list; give one of "
            "your own, a probability from 0 to 1."
        )
    return found.threshold


# --- labels ---------------------------------------------------------------------------------------
def _recorded_labels(value: Any, names: Sequence[str], where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    sound = (
        isinstance(value, list) and len(value) == len(names) and all(isinstance(v, (str, int, float)) for v in value)
    )
    if not sound or len(set(value)) != len(value):
        raise UserError(f"{where}: its {LABELS} are not one label per class; train or copy it again.")
    return dict(zip(names, value))


def _require_validation(dataset: Dataset) -> None:
    if not dataset.val:
        raise UserError(
            f"{dataset.name} has no validation pictures to calibrate on; give at least three pictures per class, "
            "or leave out calibrate and accept."
        )
