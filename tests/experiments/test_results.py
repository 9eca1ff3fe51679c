"""Run records: where they lie, what they say, when a run counts as finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.evaluation.evaluate import Metrics
from anprompt.experiments import records as results
from anprompt.experiments.measurement import metrics_entry
from anprompt.utils import machine


def record(dataset: str, method: str, seed: int) -> dict:
    """The least that is a record."""
    spec = {"protocol": "base-to-new", "dataset": dataset, "method": method, "seed": seed, "shots": 16}
    return {"format": results.FORMAT, "spec": spec}


def dataset_of(paths: list[str]) -> Dataset:
    items = tuple(Item(path, index, f"c{index}") for index, path in enumerate(paths))
    return Dataset("d", tuple(f"c{i}" for i in range(len(paths))), items, (), (), lambda item: None)  # type: ignore[arg-type,return-value]


# --- records --------------------------------------------------------------------------------------
def test_path_depends_on_the_specification_only(tmp_path: Path) -> None:
    spec = {"protocol": "base-to-new", "dataset": "embedded:food", "method": "anprompt", "seed": 1}
    path = results.record_path(tmp_path, spec)
    assert path == results.record_path(tmp_path, dict(reversed(spec.items())))
    assert path != results.record_path(tmp_path, {**spec, "shots": 4})
    assert path.parent == tmp_path and path.name.startswith("base-to-new_embedded-food_anprompt_s1_")


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b\\c:d*?", "x" * 400, "été \n東京", ""])
def test_any_data_set_name_gives_a_plain_file_name(tmp_path: Path, name: str) -> None:
    path = results.record_path(tmp_path, {"dataset": name, "seed": 1})
    assert path.parent == tmp_path and len(path.name) < 200
    path.write_text("{}")


def test_only_a_whole_record_of_the_same_specification_is_finished(tmp_path: Path) -> None:
    made = record("embedded:food", "anprompt", 1)
    spec = made["spec"]
    assert results.finished(tmp_path, spec) is None
    path = Path(results.save_record(tmp_path, made))
    assert results.finished(tmp_path, spec) == made
    assert results.finished(tmp_path, {**spec, "seed": 2}) is None
    path.write_text(path.read_text()[:-20])  # half a file
    assert results.finished(tmp_path, spec) is None
    path.mkdir() if not path.exists() else path.unlink()
    assert results.finished(tmp_path, spec) is None


def test_read_records_passes_over_other_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        results.read_records(tmp_path / "none")
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(UserError, match="no run record"):
        results.read_records(tmp_path)
    results.save_record(tmp_path, record("a", "zeroshot", 1))
    assert len(results.read_records(tmp_path)) == 1


def test_data_hash_follows_content_and_not_place() -> None:
    here = results.dataset_hash(dataset_of(["/home/a/photos/cat/1.png", "/home/a/photos/dog/1.png"]))
    assert here == results.dataset_hash(dataset_of(["/mnt/photos/cat/1.png", "/mnt/photos/dog/1.png"]))
    assert here != results.dataset_hash(dataset_of(["/mnt/photos/cat/1.png", "/mnt/photos/dog/2.png"]))
    assert here != results.data_hash([])


def test_metrics_entry_keeps_predictions_and_domains() -> None:
    metrics = Metrics(
        0.75, {"a": 1.0, "b": 0.5}, torch.tensor([0, 0, 1, 0]), torch.tensor([0, 0, 1, 1]),
        torch.tensor([0.5, 0.7, 0.9, 0.9]), "trained",
    )  # fmt: skip
    entry = metrics_entry(metrics, ["x", "y", "x", "y"])
    assert entry["accuracy"] == 75 and entry["confidence"] == pytest.approx(75)
    assert results.predicted(entry) == [0, 0, 1, 0] and len(results.labels(entry)) == 4
    assert entry["per_domain"] == {"x": 100, "y": 50}
    assert "per_domain" not in metrics_entry(metrics, ["", "", "", ""])


def test_hardware_and_versions_are_told() -> None:
    assert machine.hardware()["cores"] >= 1 and machine.hardware()["cpu"]
    assert results.versions()["torch"] == torch.__version__.split("+")[0] or "+" in results.versions()["torch"]
    assert machine.peak_memory_mb() > 10
