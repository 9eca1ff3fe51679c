"""The claims ledger: sound, recomputed from the records, and shown without mixing the two kinds of figure."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anprompt.commands.main import main
from anprompt.evaluation.statistics import harmonic_mean
from anprompt.experiments.protocols import PROTOCOLS
from anprompt.methods import methods
from anprompt.methods.presets import tomllib
from anprompt.tables.claims import from_records, ledgers, problems

ROOT = Path(__file__).parents[2]
ENTRIES = [
    pytest.param(entry, id=f"{name}-{number}")
    for name, content in ledgers().items()
    for number, entry in enumerate(content["entries"])
]
MEASURED = [
    pytest.param(name, entry["measured"], id=name)
    for name, content in ledgers().items()
    for entry in content["entries"]
    if entry["measured"] and entry["protocol"] == "base-to-new"
]


@pytest.mark.parametrize("name", ledgers())
def test_every_ledger_is_sound(name: str) -> None:
    assert problems(ledgers()[name]) == []
    assert ledgers()[name]["method"] == name


def test_every_method_has_one_and_names_the_same_paper() -> None:
    assert set(methods()) <= set(ledgers())
    for name, cls in methods().items():
        assert ledgers()[name]["paper"] == cls.paper


def test_the_wheel_has_the_ledger() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "claims/*.json" in packaged["anprompt"]


def drop(*keys: Any) -> Callable[[dict], None]:
    """Delete the value at a path of keys."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value: Any, *keys: Any) -> Callable[[dict], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (drop("method"), "'method' is missing"),
        (drop("entries", 0, "backbone"), "'backbone' is missing"),
        (put("base2new", "entries", 0, "protocol"), "unknown protocol 'base2new'"),
        (drop("entries", 0, "reported", 0, "source"), "no source"),
        (put("rumour", "entries", 0, "reported", 0, "kind"), "'rumour'"),
        (put({"acc": 1.0}, "entries", 0, "reported", 0, "values"), "figures must be"),
        (put(101.0, "entries", 0, "reported", 0, "values", "base"), "not a percentage"),
        (put(True, "entries", 0, "reported", 0, "values", "base"), "not a percentage"),
        (drop("entries", 0, "reason"), "no reason"),
        (drop("entries", -1, "measured", "command"), "measured without 'command'"),
        (drop("entries", -1, "measured", "records"), "measured without 'records'"),
        (put([], "entries", -1, "measured", "seeds"), "measured without 'seeds'"),
        (put(None, "entries", -1, "measured"), "neither reported nor measured"),
    ],
)
def test_faults_are_found(change: Callable[[dict], None], words: str) -> None:
    content = copy.deepcopy(ledgers()["coop"])
    assert problems(content) == []
    change(content)
    assert words in "\n".join(problems(content))


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_reported_h_belongs_to_its_base_and_new(entry: dict[str, Any]) -> None:
    """A slip of the pen in one of the three would show."""
    figures = [claim["values"] for claim in entry["reported"]]
    figures += [entry["measured"]["values"]] if entry["measured"] else []
    for values in figures:
        assert set(values) <= set(PROTOCOLS[entry["protocol"]].figures)
        if "H" in values:
            assert abs(harmonic_mean(values["base"], values["new"]) - values["H"]) < 0.02


@pytest.mark.parametrize("entry", ENTRIES)
def test_measured_figures_of_the_small_model_stand_beside_no_reported_one(entry: dict[str, Any]) -> None:
    if entry["measured"]:
        assert entry["backbone"] == "embedded" and entry["reported"] == []
    else:
        assert entry["reported"] and entry["reason"].startswith("not measured")


@pytest.mark.parametrize("name, measured", MEASURED)
def test_measured_figures_follow_from_the_records(name: str, measured: dict[str, Any]) -> None:
    found = from_records(ROOT / measured["records"], name, measured["seeds"])
    assert found["data_sets"] == measured["data_sets"] == 11
    for kind in ("values", "spread"):
        assert found.get(kind, {}).keys() == measured.get(kind, {}).keys()
        for key, value in found.get(kind, {}).items():
            assert abs(value - measured[kind][key]) <= 0.05, (kind, key)


def test_seeds_that_were_not_run_are_not_averaged() -> None:
    with pytest.raises(LookupError, match="no runs of coop"):
        from_records(ROOT / "results/embedded-base-to-new", "coop", [1, 99])


# --- the command ------------------------------------------------------------------------------------
def test_reported_and_measured_never_share_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "coop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = next(line for line in lines if "reported by others" in line)
    second, third = header.index("reported by others"), header.index("measured here")
    content = ledgers()["coop"]
    reported = [f"{v:.2f}" for e in content["entries"] for c in e["reported"] for v in c["values"].values()]
    measured = [f"{v:.2f}" for e in content["entries"] if e["measured"] for v in e["measured"]["values"].values()]
    assert reported and measured
    table = "\n".join(line[second:third] for line in lines[lines.index(header) :] if not line.startswith("note"))
    for value in reported:
        assert re.search(rf"\b{re.escape(value)}\b", table)
    ours = "\n".join(line[third:] for line in lines)
    for value in measured:
        assert value in ours and value not in table
    assert not any(value in ours for value in set(reported) - set(measured))
    assert "not measured: weights or data not available" in ours


def test_all_of_it_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims"]) == 0
    out = capsys.readouterr().out
    assert all(content["method"] in out for content in ledgers().values())
    assert main(["claims", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == list(ledgers().values())
    assert main(["claims", "anprompt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choices"]["noise_amount"]["value"] == 0.1 and found["ablation"]["rows"]


def test_an_unknown_method_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "mapel"]) == 2
    assert "Did you mean 'maple'?" in capsys.readouterr().err
