"""The record of an adapter: snake_case, percent, and those of before under today's names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from anprompt.adapters.adapter import read_config
from anprompt.adapters.calibration_record import record_of
from anprompt.adapters.record import AdapterRecord, in_former_names, of_today
from anprompt.classifier import load

FORMER = {
    "data": "photos", "training pictures": 8, "accuracy (val)": 0.5, "accuracy (test)": 0.75, "test pictures": 12,
    "loss": 0.1, "pictures left out": 1, "test images are val images": True, "run": "abc",
}  # fmt: skip


def test_names_are_plain_and_units_are_said() -> None:
    for name in AdapterRecord.__annotations__:
        assert re.fullmatch(r"[a-z_]+", name)
        assert "accuracy" not in name or name.endswith("_percent")


def test_an_adapter_of_before_reads_under_the_new_names(adapter_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "record": FORMER}))
    record = read_config(folder)["record"]
    assert record == {
        "data": "photos", "training_images": 8, "val_accuracy_percent": 50.0, "test_accuracy_percent": 75.0,
        "test_images": 12, "loss": 0.1, "images_left_out": 1, "test_is_val": True, "run": "abc",
    }  # fmt: skip
    assert record_of(folder) == record and of_today(record) == record
    assert in_former_names(record) == {k: v for k, v in FORMER.items() if k not in ("data", "loss", "run")}


def test_a_classifier_of_before_opens_and_is_saved_in_the_new_form(adapter_folder: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "record": {"data": "photos", "pictures": 8, "run": "a"}}))
    load(folder).save(tmp_path / "again")
    record = json.loads((tmp_path / "again/config.json").read_text())["record"]
    assert record["training_images"] == 8 and "pictures" not in record
