"""Records in folders and at URLs: whole or not at all, the same either way."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from anprompt.errors import UserError
from anprompt.experiments.records import finished, read_records, record_name, save_record
from anprompt.utils import storage as store

SPEC = {"protocol": "base-to-new", "dataset": "embedded:food", "method": "coop", "seed": 1}


def record(seed: int = 1) -> dict:
    return {"format": 1, "spec": {**SPEC, "seed": seed}, "metrics": {"H": 50.0, "by": {"größe": [1, 2]}}}


@pytest.fixture(params=["folder", "file", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[store.Place]:
    name = uuid.uuid4().hex
    yield {"folder": tmp_path / name, "file": f"file://{tmp_path}/{name}", "memory": f"memory://{name}"}[request.param]
    fsspec.filesystem("memory").store.clear()


def test_a_record_is_the_same_wherever_it_lies(place: store.Place) -> None:
    assert finished(place, record()["spec"]) is None
    with pytest.raises(UserError, match="bench"):
        read_records(place)
    for seed in (2, 1):
        where = save_record(place, record(seed))
        assert where == store.shown(place, record_name(record(seed)["spec"]))
    store.write_text(place, "other.json", "[1]")
    assert finished(place, record()["spec"]) == record()
    assert finished(place, record(3)["spec"]) is None
    assert read_records(place) == [record(1), record(2)]
    assert sorted(store.json_names(place)) == sorted([*(record_name(record(s)["spec"]) for s in (1, 2)), "other.json"])


def test_half_a_record_is_none(place: store.Place) -> None:
    save_record(place, record())
    name = record_name(record()["spec"])
    store.write_text(place, name, '{"format": 1, "spec": {"prot')
    assert finished(place, record()["spec"]) is None
    with pytest.raises(UserError, match=name[:20]):
        read_records(place)
    save_record(place, record())  # and may be written over
    assert finished(place, record()["spec"]) == record()


def test_a_write_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = f"file://{tmp_path}"
    save_record(place, record())
    before = [path.read_bytes() for path in tmp_path.iterdir()]

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "mv", full)
    with pytest.raises(UserError, match=r"Can't write file://.*No space left"):
        save_record(place, {**record(), "metrics": {}})
    assert [path.read_bytes() for path in tmp_path.iterdir()] == before  # and no other file beside it


@pytest.mark.parametrize("url", ["nonsense://bucket/runs", "s3n3://x"])
def test_unknown_kinds_of_urls_are_told_in_one_line(url: str) -> None:
    with pytest.raises(UserError, match=f"Can't open {url}") as told:
        store.check(url)
    assert "\n" not in str(told.value)


def test_what_need_not_last_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.scratch(tmp_path) == tmp_path
    monkeypatch.delenv("ANPROMPT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = store.scratch("s3://bucket/runs")
    assert here.is_relative_to(tmp_path) and here == store.scratch("s3://bucket/runs")
    assert here != store.scratch("s3://bucket/others")
    assert store.place_of("s3://bucket/runs/") == "s3://bucket/runs" and store.place_of("runs/") == Path("runs")
