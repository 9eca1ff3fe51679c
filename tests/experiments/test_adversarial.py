"""The adversarial protocol: what its records, tables, page and options say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anprompt import report
from anprompt.attacks import ThreatModel
from anprompt.commands.main import main
from anprompt.data.embedded import EMBEDDED_SETS
from anprompt.errors import UserError
from anprompt.experiments import ExperimentContext, RunSpec, run_protocol
from anprompt.experiments.attacked import in_order
from anprompt.experiments.protocols.adversarial import by_size, left
from anprompt.tables import sheets

ATTACKS = ("pgd-margin:linf:8/255:3x1", "pgd-ce:linf:4/255:3x1", "pgd-margin:linf:4/255:3x1")
DATA = f"embedded:{sorted(EMBEDDED_SETS)[0]}"


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    spec = RunSpec(DATA, "zeroshot", protocol="adversarial", attacks=ATTACKS, images=8)
    yield run_protocol(spec, ExperimentContext())


def test_records_carry_the_threat_model_and_whats_left(record: dict[str, Any]) -> None:
    metrics = record["metrics"]
    assert set(metrics["attacks"]) == set(ATTACKS)
    for name, halves in metrics["attacks"].items():
        threat = ThreatModel.parse(name)
        for half in ("base", "new"):
            entry = halves[half]
            assert entry["threat"]["eps"] == threat.eps and entry["threat"]["knows"] and entry["threat"]["seed"] == 0
            assert entry["pictures"] == 8 == metrics[half]["pictures"]
            assert entry["items_hash"] == metrics[half]["items_hash"]  # clean and attacked are of the same images
            assert entry["clean"] == pytest.approx(metrics[half]["accuracy"])
            assert entry["accuracy"] <= metrics[half]["accuracy"]
    for half in ("base", "new"):
        small, large = metrics["attacks"][ATTACKS[2]][half], metrics["attacks"][ATTACKS[0]][half]
        assert large["accuracy"] <= small["accuracy"]
        assert large["attacked_pictures"] == round(small["accuracy"] * 8 / 100)  # the lost ones stay lost


def test_attacked_counts_images_that_withstand_all_of_a_size(record: dict[str, Any]) -> None:
    metrics = record["metrics"]
    assert list(by_size(metrics["attacks"])) == ["linf 4/255", "linf 8/255"]
    small = by_size(metrics["attacks"])["linf 4/255"]
    worst = left(metrics, "base", small)
    assert worst <= min(metrics["attacks"][name]["base"]["accuracy"] for name in small)
    found = sheets([record])
    assert [column.name for column in found[0].columns] == ["base", "new", "base attacked", "new attacked", "H of four"]
    assert found[0].lines[0].cells[2].mean == pytest.approx(worst)
    assert "upper bound" in found[0].note and "pgd-ce:linf:4/255:3x1" in found[0].note
    assert any(sheet.title.endswith("base classes, by attack and size") for sheet in found)
    page = report.render([record])
    assert 'id="attacks"' in page and "size of the attack" in page and 'id="result"' not in page


def test_an_interrupted_run_goes_on_from_its_batches(record: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    from anprompt.experiments import attacked, measurement

    monkeypatch.setattr(measurement, "PAUSE", 0.0)
    real, calls = attacked.attack_images, []

    def broken(*args: Any, **more: Any) -> Any:
        calls.append(args[2])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **more)

    spec = RunSpec(DATA, "zeroshot", protocol="adversarial", attacks=ATTACKS, images=8)
    monkeypatch.setattr(attacked, "attack_images", broken)
    with pytest.raises(KeyboardInterrupt):
        run_protocol(spec, ExperimentContext(), state=tmp_path)
    again = run_protocol(spec, ExperimentContext(), state=tmp_path)
    assert len(calls) == 4 + 6 - 3  # three were measured and kept
    for name in ATTACKS:
        for half in ("base", "new"):
            assert (
                again["metrics"]["attacks"][name][half]["predicted"]
                == record["metrics"]["attacks"][name][half]["predicted"]
            )


def test_a_dry_run_counts_the_attacks() -> None:
    from anprompt.experiments.estimate import looks

    assert looks((), 16) == 1 and looks((), 16, ("pgd-ce:linf:1/255:100x2",)) == 401
    assert looks((), 3, ("apgd-t:linf:1/255:10x1", "square:linf:1/255:10x1")) == 1 + 40 + 500
    names = [str(ThreatModel(name)) for name in ("autoattack", "apgd-ce", "apgd-t", "fab-t", "square")]
    assert looks((), 16, names[:1]) == looks((), 16, names[1:])


def test_smaller_sizes_come_first() -> None:
    assert [str(threat) for threat in in_order(ATTACKS)] == [ATTACKS[1], ATTACKS[2], ATTACKS[0]]


def test_a_budget_draws_the_same_images_for_every_method_and_seed() -> None:
    from anprompt.experiments.protocols import protocol

    context, parts = ExperimentContext(), []
    for method, seed in (("zeroshot", 1), ("coop", 2)):
        spec = RunSpec(DATA, method, protocol="adversarial", seed=seed, images=5)
        parts.append(protocol("adversarial").parts(spec, context.dataset(spec), {}))
    assert parts[0]["base"].data.test == parts[1]["base"].data.test and len(parts[0]["new"].data.test) == 5


def test_specifications_of_before_keep_their_identity() -> None:
    assert not {"attacks", "images"} & set(RunSpec("embedded:sky").identity())
    spec = RunSpec("embedded:sky", protocol="adversarial")
    assert len(spec.identity()["attacks"]) == 6 and "pgd-ce:linf:1/255:100x1" in spec.attacks
    with pytest.raises(UserError, match="Did you mean 'pgd-ce'"):
        RunSpec("embedded:sky", protocol="adversarial", attacks=("pgd-cc:linf:1/255:3x1",))


def bench_words(runs: Path, *words: str) -> list[str]:
    """The protocol on zero-shot CLIP, which trains nothing."""
    return ["bench", "adversarial", "--data", DATA, "--methods", "zeroshot", "--runs", str(runs), *words]


@pytest.mark.parametrize(
    "options,says",
    [
        (["--eps", "0"], "above 0"),
        (["--eps", "1.5"], "at most 1"),
        (["--eps", "wide"], "not a number or a fraction"),
        (["--attack-steps", "0"], "1 to 10,000 steps"),
        (["--restarts", "0"], "restarts"),
        (["--attacks", "pgd-mrgin"], "Did you mean 'pgd-margin'"),
        (["--norm", "l7"], "Unknown norm 'l7'"),
        (["--attacks", ","], "--attacks is empty"),
    ],
)
def test_wrong_options_are_one_line(options: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    assert main(bench_words(tmp_path, *options)) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


def test_other_protocols_take_no_attacks(tmp_path: Path, capsys: Any) -> None:
    words = ["bench", "base-to-new", "--data", DATA, "--methods", "zeroshot", "--runs", str(tmp_path), "--eps", "1/255"]
    assert main(words) == 2 and "runs no attacks; leave out --eps" in capsys.readouterr().err


def test_a_missing_extra_is_told_before_anything_runs(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "pyautoattack" else real(name, *a)
    )
    assert (
        main(bench_words(tmp_path, "--attacks", "apgd-ce")) == 2
        and "pip install 'anprompt[attack]'" in capsys.readouterr().err
    )


def test_the_command_writes_records_and_tables(tmp_path: Path, capsys: Any) -> None:
    words = bench_words(tmp_path, "--json", "--jobs", "1")
    assert main([*words, "--attacks", "pgd-margin", "--eps", "4/255", "--attack-steps", "2", "--images", "4"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "base attacked" in told["tables"][0]["lines"][0] and (tmp_path / "table.md").is_file()
