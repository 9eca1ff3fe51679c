"""Run records: one JSON file a run, written whole when the run is finished.

A run counts as done if its record is there, parses, has its checksum, and is of the same specification; a
folder, a log line or half a file is not a result. Times of files decide nothing here.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from anprompt.data.identity import contents
from anprompt.data.names import spoken
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.experiments.schema import FORMAT, first_fault
from anprompt.experiments.schema import Record as Record  # whoever reads records asks here
from anprompt.utils import storage as store
from anprompt.utils.files import json_text, package_versions

log = logging.getLogger("anprompt")

CHECKSUM = "checksum"
PACKAGES = ("anprompt", "torch", "transformers", "numpy", "pillow", "scikit-learn")


class OtherFormat(UserError):
    """A run record of a version of the schema that is not read here."""


# --- where a record lies --------------------------------------------------------------------------
def spec_hash(spec: Mapping[str, Any]) -> str:
    """sha256 of a specification, the same whatever order its keys came in."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def record_name(spec: Mapping[str, Any]) -> str:
    """The file name of a run: words for people, and the specification's hash to tell runs apart."""
    words = [str(spec.get(key, "")) for key in ("protocol", "dataset", "method")]
    words.append(f"s{spec.get('seed', '')}")
    name = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", word).strip("-.")[-40:] for word in words)
    return f"{name}_{spec_hash(spec)[:12]}.json"


def record_path(runs_dir: str | Path, spec: Mapping[str, Any]) -> Path:
    """The file of a run in a folder of records."""
    return Path(runs_dir) / record_name(spec)


def finished(runs: str | Path, spec: Mapping[str, Any]) -> Record | None:
    """The record of a finished run of this very specification in a folder or at a URL, or None.

    Raises:
        OtherFormat: there is one of a format that this version can't read.
    """
    name = record_name(spec)
    try:
        record = _opened(store.read_json(runs, name), store.shown(runs, name))
    except OtherFormat:  # a run here would write over it
        raise
    except UserError:  # not there, not whole, or changed: then the run is not done
        return None
    return record if record and record["spec"] == dict(spec) else None


def save_record(runs: str | Path, record: Record) -> str:
    """Write a record with its checksum at the place its specification gives; where that is."""
    name = record_name(record["spec"])
    plain = json.loads(json_text(record))  # as it will be read: keys are strings then
    store.write_text(runs, name, json_text({**plain, CHECKSUM: checksum(plain)}))
    return store.shown(runs, name)


def checksum(record: Mapping[str, Any]) -> str:
    """sha256 of what a record says, however it is laid out in the file."""
    return spec_hash({key: value for key, value in record.items() if key != CHECKSUM})


def read_records(runs: str | Path) -> list[Record]:
    """All records of a folder or URL, in the order of their file names; other JSON files are passed over.

    Records of a format that this version can't read are passed over too, with a warning that names the first.

    Raises:
        UserError: the place does not exist or holds no record, or a record is damaged.
    """
    if not store.is_url(runs) and not Path(runs).is_dir():
        raise UserError(f"There is no folder {runs}; 'anprompt bench ... --runs {runs}' makes it.")
    records: list[Record] = []
    unread: list[OtherFormat] = []
    for name in store.json_names(runs):
        try:
            record = _opened(store.read_json(runs, name), store.shown(runs, name))
        except OtherFormat as error:
            unread.append(error)
        else:
            records += [record] if record else []
    if unread:
        more = f" So are {len(unread) - 1} more." if len(unread) > 1 else ""
        log.warning("left out: %s%s", unread[0], more)
    if not records and unread:
        raise unread[0]
    if not records:
        raise UserError(f"{runs} holds no run record; 'anprompt bench ... --runs {runs}' makes some.")
    return records


def _opened(content: Any, where: str) -> Record | None:
    """A record without its checksum; None for other JSON. Records from before there were checksums have none.

    Raises:
        OtherFormat: it is a record of a format that this version can't read.
        UserError: the checksum is another one, or a part is missing or of another kind (`schema`).
    """
    if not isinstance(content, dict) or not isinstance(content.get("format"), int) or "spec" not in content:
        return None
    if content["format"] != FORMAT:
        raise OtherFormat(
            f"{where} is a run record of format {content['format']}, and this version reads format {FORMAT}; "
            "open it with the version that wrote it, or move it to another folder."
        )
    if content.get(CHECKSUM, known := checksum(content)) != known:
        raise UserError(f"{where} is damaged or was changed (its checksum differs); delete it and run it again.")
    if fault := first_fault(content):
        raise UserError(f"{where}: {fault}; it is of another version or was edited. Run it again.")
    return cast(Record, {key: value for key, value in content.items() if key != CHECKSUM})


# --- what a record says ---------------------------------------------------------------------------
def data_hash(items: Iterable[Item]) -> str:
    """sha256 over images and labels, wherever they lie.

    Images are known by their content; those of official lists, and those that are no files, by their paths,
    of which a common folder is cut off.
    """
    listed = list(items)
    known = iter(contents([item.path for item in listed if not item.listed]))
    paths = [item.path if item.listed else next(known) for item in listed]
    if paths and all(os.path.isabs(path) for path in paths):
        top = os.path.commonpath([os.path.dirname(path) for path in paths])
        paths = [os.path.relpath(path, top) for path in paths]
    lines = "\n".join(f"{path}\t{item.label}" for path, item in zip(paths, listed))
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()


def dataset_hash(dataset: Dataset) -> str:
    """`data_hash` over all parts of a data set, with its class names."""
    items = data_hash([*dataset.train, *dataset.val, *dataset.test])
    return hashlib.sha256("\n".join([items, *map(spoken, dataset.classnames)]).encode()).hexdigest()


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
