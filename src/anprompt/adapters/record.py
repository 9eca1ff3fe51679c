"""The record in an adapter's `config.json`: what it was trained on, and how well it did.

Accuracies are in percent, as in the records of `anprompt bench`. Records of before this version had other names for
the same facts, and accuracies from 0 to 1; `of_today` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict


class AdapterRecord(TypedDict, total=False):
    """Facts and figures beside an adapter; no times, so that equal runs write equal files.

    Attributes:
        data: name of the data set.
        training_images, test_images: how many there were.
        val_accuracy_percent, test_accuracy_percent: after the last epoch, and at the end.
        test_is_val: the data have no test part, and the validation images were tested.
        loss: of the last epoch.
        labels: what the data, or the caller, called the classes, where these are not their names.
        images_left_out: how many could not be used.
        reading: how a folder or table was understood (`anprompt.data.reading`).
        image_marks: marks of the images trained on (`anprompt.data.trained_images`).
        run: fingerprint of the run (`training.job.Job.key`).
        epochs: loss parts and validation accuracy (0 to 1, as the log has it) by epoch.
        log: the course of the training, of adapters that a sweep keeps.
        parameters: those of the classifier (`adapters.parameters`).
        calibration: temperature and threshold (`evaluation.calibration`).
        recipe, auto: "auto" where settings were chosen on the training images, and by what evidence (`training.auto`).
        converted_from: the official file that the tensors are from.
    """

    data: str
    training_images: int
    test_images: int
    val_accuracy_percent: float
    test_accuracy_percent: float
    test_is_val: bool
    loss: float
    labels: list[Any]
    images_left_out: int
    reading: dict[str, Any]
    image_marks: dict[str, str]
    run: str
    epochs: list[dict[str, float]]
    log: dict[str, Any]
    parameters: dict[str, Any]
    calibration: dict[str, Any]
    recipe: str
    auto: dict[str, Any]
    converted_from: str


_FORMER = {
    "training pictures": "training_images", "pictures": "training_images", "test pictures": "test_images",
    "accuracy (val)": "val_accuracy_percent", "accuracy (test)": "test_accuracy_percent",
    "test images are val images": "test_is_val", "pictures left out": "images_left_out",
    "converted from": "converted_from",
}  # fmt: skip


def of_today(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record under today's names and units, whichever version wrote it.

    Examples:
        >>> of_today({"accuracy (test)": 0.5, "run": "a"})
        {'test_accuracy_percent': 50.0, 'run': 'a'}
    """
    known: dict[str, Any] = {}
    for key, value in record.items():
        name = _FORMER.get(key, key)
        fraction = name != key and name.endswith("_percent") and isinstance(value, (int, float))
        known.setdefault(name, 100 * value if fraction else value)
    return known


def in_former_names(record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that had another name before, under it and in its unit: `fit --json` gives both for one version."""
    former: dict[str, Any] = {}
    for old, new in _FORMER.items():
        if new in record and old != "pictures":
            former[old] = record[new] / 100 if new.endswith("_percent") else record[new]
    return former
