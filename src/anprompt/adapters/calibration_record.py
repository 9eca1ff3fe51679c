"""The calibration that an adapter folder holds, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.adapters.adapter import read_config, write_record
from anprompt.evaluation.calibration import KEY, Calibration, from_record


def of_adapter(folder: str | Path) -> Calibration | None:
    """The calibration that an adapter folder holds."""
    return from_record(record_of(folder).get(KEY), f"Adapter {str(folder)!r}")


def record_of(folder: str | Path) -> Mapping[str, Any]:
    """The record of an adapter; empty where there is none."""
    record = read_config(folder).get("record")
    return record if isinstance(record, Mapping) else {}


def save_calibration(folder: str | Path, found: Calibration) -> None:
    """Put a calibration into the record of an adapter, in place of an earlier one."""
    write_record(folder, {**record_of(folder), KEY: found.to_dict()})
