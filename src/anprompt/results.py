"""Run records: one JSON file a run, written whole when the run is finished.

A run counts as done if its record is there, parses, and is of the same specification; a folder, a log
line or half a file is no result.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.evaluate import Metrics, calibration_error
from anprompt.files import package_versions, read_json, write_json

Record = dict[str, Any]

FORMAT = 1
PACKAGES = ("anprompt", "torch", "transformers", "numpy", "pillow", "scikit-learn")


# --- where a record lies --------------------------------------------------------------------------
def spec_hash(spec: Mapping[str, Any]) -> str:
    """sha256 of a specification, the same whatever order its keys came in."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def record_path(runs_dir: str | Path, spec: Mapping[str, Any]) -> Path:
    """The file of a run: words for people, and the specification's hash to tell runs apart."""
    words = [str(spec.get(key, "")) for key in ("protocol", "dataset", "method")]
    words.append(f"s{spec.get('seed', '')}")
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-.")[-40:] for word in words)
    return Path(runs_dir) / f"{name}_{spec_hash(spec)[:12]}.json"


def finished(runs_dir: str | Path, spec: Mapping[str, Any]) -> Record | None:
    """The record of a finished run of this very specification, or None."""
    try:
        record = read_json(record_path(runs_dir, spec))
    except UserError:  # not there, or not whole: then the run is not done
        return None
    same = isinstance(record, dict) and record.get("format") == FORMAT
    return record if same and record.get("spec") == dict(spec) else None


def save_record(runs_dir: str | Path, record: Record) -> Path:
    """Write a record at the place its specification gives, atomically."""
    path = record_path(runs_dir, record["spec"])
    write_json(path, record)
    return path


def read_records(runs_dir: str | Path) -> list[Record]:
    """All records of a folder, in the order of their file names; other JSON files are passed over.

    Raises:
        UserError: the folder does not exist or holds no record.
    """
    folder = Path(runs_dir)
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; 'anprompt bench ... --runs {folder}' makes it.")
    records = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        if isinstance(content, dict) and content.get("format") == FORMAT and "spec" in content:
            records.append(content)
    if not records:
        raise UserError(f"{folder} holds no run record; 'anprompt bench ... --runs {folder}' makes some.")
    return records


# --- what a record says ---------------------------------------------------------------------------
def data_hash(items: Iterable[Item]) -> str:
    """sha256 over paths and labels; a common folder is cut off, so that moving the data changes nothing."""
    listed = list(items)
    paths = [item.path for item in listed]
    if paths and all(os.path.isabs(path) for path in paths):
        top = os.path.commonpath([os.path.dirname(path) for path in paths])
        paths = [os.path.relpath(path, top) for path in paths]
    lines = "\n".join(f"{path}\t{item.label}" for path, item in zip(paths, listed))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def dataset_hash(dataset: Dataset) -> str:
    """`data_hash` over all parts of a data set, with its class names."""
    items = data_hash([*dataset.train, *dataset.val, *dataset.test])
    return hashlib.sha256("\n".join([items, *dataset.classnames]).encode()).hexdigest()


def metrics_entry(metrics: Metrics, domains: Iterable[str] = ()) -> dict[str, Any]:
    """Accuracies in percent, with the predicted labels in the order of the items.

    Args:
        domains: one per picture; more than one kind gives accuracies per domain as well.
    """
    right = (metrics.predictions == metrics.labels).tolist()
    by_domain: dict[str, list[bool]] = {}
    for domain, hit in zip(domains, right):
        by_domain.setdefault(domain, []).append(hit)
    entry = {
        "accuracy": 100 * metrics.accuracy,
        "pictures": len(right),
        "head": metrics.head,
        "confidence": 100 * float(metrics.confidences.mean()),
        "ece": 100 * calibration_error(metrics.confidences, metrics.predictions == metrics.labels),
        "per_class": {name: round(100 * value, 4) for name, value in metrics.per_class.items()},
        "labels": " ".join(map(str, metrics.labels.tolist())),
        "predicted": " ".join(map(str, metrics.predictions.tolist())),
    }
    if len(by_domain) > 1:
        entry["per_domain"] = {name: 100 * sum(hits) / len(hits) for name, hits in by_domain.items()}
    return entry


def predicted(entry: Mapping[str, Any]) -> list[int]:
    """The predicted labels of a `metrics_entry`."""
    return [int(word) for word in entry["predicted"].split()]


def labels(entry: Mapping[str, Any]) -> list[int]:
    """The true labels of a `metrics_entry`, in the order of `predicted`."""
    return [int(word) for word in entry["labels"].split()]


def versions() -> dict[str, str]:
    """Python and the packages that can change a number."""
    return {"python": platform.python_version(), **package_versions(PACKAGES, "not installed")}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
