"""The schema of run records: every committed record fits, what does not is named, other versions are told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from anprompt.errors import UserError
from anprompt.experiments.records import OtherFormat, finished, read_records, record_name, save_record
from anprompt.experiments.schema import FORMAT, Record, first_fault

ROOT = Path(__file__).parents[2]
SPEC = {"dataset": "embedded:sky", "method": "coop", "protocol": "few-shot", "seed": 1}
RECORD: Record = {"format": FORMAT, "spec": SPEC, "metrics": {}}  # type: ignore[typeddict-item]


def test_committed_records_fit_the_schema() -> None:
    """Records of all versions so far, every fifth of each folder."""
    checked = 0
    for folder in (path for path in (ROOT / "results").iterdir() if path.is_dir()):
        for file in sorted(folder.glob("*_s[0-9]_*.json"))[::5]:
            content = json.loads(file.read_text(encoding="utf-8"))
            assert first_fault(content) is None, file.name
            checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("spec", {**SPEC, "seed": "one"}, "spec.seed must be int, not 'one'"),
        ("spec", {**SPEC, "seed": True}, "spec.seed must be int, not True"),
        ("spec", {**SPEC, "shots": "4"}, "spec.shots must be int or nothing, not '4'"),
        ("spec", {"dataset": "a", "method": "b", "protocol": "c"}, "spec.seed is missing"),
        ("timings", {"train_s": "3 s"}, "timings.train_s must be float, not '3 s'"),
        ("data", [], r"data must be dict, not \[\]"),
        ("train", 3, "train must be dict or nothing, not 3"),
    ],
)
def test_what_does_not_fit_is_named(part: str, value: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**RECORD, part: value}))
    with pytest.raises(UserError, match=words):
        read_records(tmp_path)


def test_another_version_is_told_and_never_written_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_record(tmp_path, RECORD)
    newer = {**SPEC, "seed": 2}
    later = tmp_path / record_name(newer)
    later.write_text(json.dumps({"format": FORMAT + 1, "spec": newer, "figures": {}}))
    with caplog.at_level(logging.WARNING, "anprompt"):
        assert [record["spec"]["seed"] for record in read_records(tmp_path)] == [1]
    assert later.name in caplog.text and f"format {FORMAT + 1}" in caplog.text
    with pytest.raises(OtherFormat, match="the version that wrote it"):
        finished(tmp_path, newer)
    (tmp_path / record_name(SPEC)).unlink()
    with pytest.raises(OtherFormat):
        read_records(tmp_path)
