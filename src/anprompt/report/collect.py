"""What a page is made from: records of several folders in a fixed order, and the pictures to show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.data.label_names import named
from anprompt.data.sources import open_dataset
from anprompt.data.types import Dataset
from anprompt.errors import UserError
from anprompt.experiments.records import Record, dataset_hash, read_records
from anprompt.report.gallery import Gallery, choose
from anprompt.report.grid import Kinds, noise_grid
from anprompt.tables import conditions, in_order, label, labels, shown_name
from anprompt.tables.rows import untrained
from anprompt.tables.runs import REFERENCE
from anprompt.tables.sound import sound_records

SETS = 12  # data sets with pictures on a page
CASES = (4, 1)  # pictures per data set: where methods differ, and of the rest


@sound_records()
def read(folders: Sequence[str | Path]) -> list[Record]:
    """The records of all folders, each run once, ordered by data set, method and seed.

    What has nothing to train comes first and ANPrompt last, as in tables.

    Raises:
        UserError: a folder is missing or holds no record.
    """
    found: dict[str, Record] = {}
    for folder in folders:
        for record in read_records(folder):
            found.setdefault(str(record.get("spec_hash") or record["spec"]), record)

    def place(record: Record) -> tuple[Any, ...]:
        name, spec = label(record), record["spec"]
        return not untrained(record), name == REFERENCE, name, str(spec["dataset"]), spec["seed"]

    return sorted(found.values(), key=place)


@sound_records()
def galleries(
    records: Sequence[Record], *, root: str | Path | None = None, seed: int = 1
) -> tuple[list[Gallery], list[str]]:
    """Pictures of every data set that lies here, and a sentence for every one that doesn't."""
    found: list[Gallery] = []
    missing: list[str] = []
    usable = noise_grid([r for r in Kinds.of(records).halves if "predicted" in r["metrics"]["base"]]).records
    for dataset in in_order(usable, "dataset")[:SETS]:
        own = one_each([r for r in usable if r["spec"]["dataset"] == dataset])
        if len(own) < 2:
            continue
        try:
            opened = open_same(own[0], root)
            found.append(choose(own, opened, seed=seed, differing=CASES[0], others=CASES[1]))
        except UserError as error:
            missing.append(f"No pictures of {shown_name(dataset)}: {error}")
    return found, missing


def one_each(records: Sequence[Record]) -> list[Record]:
    """The first seed's record of every method, of those with the same conditions as the first."""
    first = {label(record): record for record in reversed(records)}
    own = [first[name] for name in labels(records)]
    return [record for record in own if conditions([record]) == conditions(own[:1])]


def open_same(record: Record, root: str | Path | None) -> Dataset:
    """The data set of a record.

    Raises:
        UserError: it does not lie here, or it is not the one that was measured.
    """
    dataset = named(open_dataset(record["spec"]["dataset"], root=root), record["spec"].get("names") or None)
    if dataset_hash(dataset) != record["data"]["hash"]:
        raise UserError("the data here is not what was measured (other files, labels or class names).")
    return dataset
