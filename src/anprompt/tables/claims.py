"""The claims ledger: what others reported of a method, and what was measured here, never in one figure.

`claims/METHOD.json` holds `entries`, one per protocol, backbone and data. An entry's `reported` are figures
with the place they were read in; `measured` is None with a `reason`, or figures with seeds, hardware, command
and the folder of their run records. Figures of another backbone or other data are entries of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from anprompt.errors import choices
from anprompt.experiments.protocols import PROTOCOLS
from anprompt.experiments.protocols.base_to_new import BaseToNew

Ledger = dict[str, Any]

KINDS = ("published", "secondary", "re-run")
_WHERE = ("protocol", "backbone", "data", "shots")
_MEASURED = ("values", "data_sets", "seeds", "hardware", "command", "records")


@lru_cache(maxsize=1)
def ledgers() -> dict[str, Ledger]:
    """All ledgers by method, the shipped files as they are."""
    folder = resources.files("anprompt") / "claims"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda file: file.name)
    return {file.name[:-5]: json.loads(file.read_text(encoding="utf-8")) for file in files}


def ledger(method: str) -> Ledger:
    """One method's; `UserError` with the nearest name if there is none."""
    if method not in ledgers():
        raise choices("method in the ledger", method, ledgers())
    return ledgers()[method]


# --- what a ledger must hold ----------------------------------------------------------------------
def problems(content: Mapping[str, Any]) -> list[str]:
    """What is wrong with a ledger, one line each; empty where it is sound."""
    found = [f"{key!r} is missing" for key in ("method", "entries") if not content.get(key)]
    for number, entry in enumerate(content.get("entries", [])):
        found += [f"entry {number}: {line}" for line in _entry_problems(entry)]
    return found


def _entry_problems(entry: Mapping[str, Any]) -> list[str]:
    found = [f"{key!r} is missing" for key in _WHERE if not entry.get(key)]
    if entry.get("protocol") not in PROTOCOLS:
        return [*found, f"unknown protocol {entry.get('protocol')!r}"]
    names = PROTOCOLS[entry["protocol"]].figures
    measured, reported = entry.get("measured"), entry.get("reported", [])
    if not reported and not measured:
        found.append("neither reported nor measured")
    for claim in reported:
        if not claim.get("source"):
            found.append("a reported figure has no source")
        if claim.get("kind") not in KINDS:
            found.append(f"kind {claim.get('kind')!r} is none of {', '.join(KINDS)}")
        found += _value_problems(claim.get("values"), names)
    if measured is None:
        return found if entry.get("reason") else [*found, "not measured, and no reason"]
    found += [f"measured without {key!r}" for key in _MEASURED if not measured.get(key)]
    return found + _value_problems(measured.get("values"), names)


def _value_problems(values: Any, names: tuple[str, ...]) -> list[str]:
    if not isinstance(values, Mapping) or not values or not set(values) <= set(names):
        return [f"figures must be some of {', '.join(names)}, not {values!r}"]
    return [f"{key} = {v!r} is not a percentage" for key, v in values.items()
            if isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 <= v <= 100]  # fmt: skip


# --- from records ---------------------------------------------------------------------------------
def from_records(folder: str | Path, preset: str, seeds: list[int]) -> dict[str, Any]:
    """Base-to-new averages over the data sets of a records folder, by a preset as it is.

    Args:
        seeds: of the runs to average; others in the folder are passed over.

    Returns:
        "values" {"base", "new", "H"} with H of the averages, "spread" (standard deviation over seeds) where
        there are several, and the number of "data_sets".

    Raises:
        UserError: no records there.
        LookupError: no runs of the preset with all these seeds.
    """
    from anprompt.experiments.records import Record, read_records
    from anprompt.tables import MEAN, base_new_rows, in_order, label

    def wanted(record: Record) -> bool:
        spec = record["spec"]
        return spec["protocol"] == BaseToNew.name and label(record) == preset and spec["seed"] in seeds

    records = [record for record in read_records(folder) if wanted(record)]
    rows = base_new_rows(records)
    row = next((row for row in rows if row.dataset == MEAN and row.seeds == len(seeds)), None)
    if row is None:
        raise LookupError(f"{folder} has no runs of {preset} with seeds {seeds} on every data set")
    spreads = {"base": row.base, "new": row.new, "H": row.h}
    found: dict[str, Any] = {"values": {key: round(spread.mean, 2) for key, spread in spreads.items()}}
    if len(seeds) > 1:
        found["spread"] = {key: round(spread.std or 0.0, 2) for key, spread in spreads.items()}
    return {**found, "data_sets": len(in_order(records, "dataset"))}
