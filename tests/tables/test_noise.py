"""Sheets on noise, against figures worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from anprompt import tables
from anprompt.errors import UserError
from tests.tables.test_tables import entry, run, texts, titled


def noisy_run(method: str = "m", **more: Any) -> dict[str, Any]:
    """Ten pictures; fog in two severities, snow in one, rotation (not of ImageNet-C), typos seen in training."""
    clean = {half: entry(80, "0000000011", ece=4) for half in ("base", "new")}

    def under(accuracy: float, answers: str, ece: float, seen: bool = False) -> dict[str, Any]:
        found: dict[str, Any] = {half: entry(accuracy, answers, ece=ece) for half in ("base", "new")}
        return {**found, "seen_in_training": seen}

    conditions = {
        "image:fog:1": under(60, "0000001111", 10), "image:fog:2": under(40, "0000111122", 20),
        "image:snow:1": under(30, "0001111111", 5), "image:rotated:1": under(20, "0011111111", 0),
        "text:typo:1": under(70, "0000000111", 1, seen=True), "text:case:1": under(80, "0000000011", 2),
        "template:unseen:2": under(50, "0000011111", 3),
    }  # fmt: skip
    return run({**clean, "conditions": {**conditions, **more}}, method=method, protocol="noise")


def test_noise_by_hand() -> None:
    found = tables.sheets([noisy_run()])
    summary = texts(found[0])
    # fog (60 + 40) / 2 = 50, with snow (50 + 30) / 2 = 40: half of 80; worst 30
    # changed: fog (2 + 6) / 2 = 4 of 10, snow 5: 45 %; a wrong answer that becomes another wrong one counts
    # ECE: fog 15, snow 5
    assert summary["base, pictures", "m"] == ["80.0", "40.0", "30.0", "50.0", "45.0", "4.0", "10.0"]
    assert summary["new, pictures, families beyond ImageNet-C", "m"][1:4] == ["20.0", "20.0", "75.0"]
    assert summary["base, class names", "m"][1:5] == ["80.0", "80.0", "0.0", "0.0"]
    assert summary["base, class names (noise seen in training)", "m"][1] == "70.0"
    assert summary["base, templates", "m"][1] == "50.0"
    severity = texts(titled(found, "by severity"))
    assert severity["base, pictures", "m"] == ["80.0", "45.0", "40.0"]  # (60 + 30) / 2, then fog alone
    assert ("base, templates", "m") not in severity  # an unseen template has a number, no strength
    family = texts(titled(found, "by family"))
    assert family["new, pictures", "fog"] == ["50.0"] and family["new, pictures", "snow"] == ["30.0"]


def test_only_conditions_of_all_runs_are_averaged() -> None:
    more = {"image:frost:1": {"base": entry(0, "1" * 10, 0), "new": entry(0, "1" * 10, 0)}}
    found = tables.sheets([noisy_run("zeroshot"), noisy_run("m", **more)])
    summary = texts(found[0])
    assert summary["base, pictures", "m"] == summary["base, pictures", "zeroshot"]
    assert "1 conditions that only some of the runs have" in found[0].note


def test_methods_have_the_names_of_their_papers_wherever_they_stand() -> None:
    assert tables.nice("mmrlpp") == "MMRL++" and tables.nice("mine") == "mine"
    assert tables.nice("coop (epochs=10)") == "CoOp (epochs=10)"
    assert tables.nice("anprompt − zeroshot") == "ANPrompt − zero-shot CLIP"


def test_what_a_method_does_not_read_is_no_figure_and_never_the_best() -> None:
    deaf = noisy_run("deaf")
    template = deaf["metrics"]["conditions"]["template:unseen:2"]
    for half in ("base", "new"):
        template[half] = {**deaf["metrics"][half], "unchanged": True}
    found = tables.sheets([deaf, noisy_run()])
    summary = texts(found[0])
    assert summary["base, templates", "deaf"] == ["80.0", *["not read"] * 4, "4.0", "not read"]
    assert summary["base, templates", "m"][1] == "50.0" and summary["base, pictures", "deaf"][1] == "40.0"
    assert texts(titled(found, "by family"))["new, templates", "unseen"] == ["not read", "50.0"]
    assert not [at for at in found[0].best() if found[0].lines[at[0]].cells[at[1]].text == "not read"]
    assert "Not read: learned vectors" in found[0].note
    others = texts(titled(tables.sheets([deaf, noisy_run(), noisy_run("anprompt")]), "run by run"))
    assert {pair for group, pair in others if group.startswith("base, templates")} == {"anprompt − m"}
    assert {pair for group, pair in others if group == "base, pictures, mean"} == {"anprompt − deaf", "anprompt − m"}
    assert "Not read" not in tables.sheets([noisy_run()])[0].note


def test_base_to_new_with_conditions_has_noise_sheets_too() -> None:
    record = noisy_run()
    record["spec"]["protocol"] = "base-to-new"
    titles = [sheet.title for sheet in tables.sheets([record])]
    assert titles[0] == "Base to new" and "Base to new under noise" in titles
    for condition in record["metrics"]["conditions"].values():  # as early records are: accuracies alone
        for half in ("base", "new"):
            condition[half] = {"accuracy": condition[half]["accuracy"]}
    for half in ("base", "new"):
        record["metrics"][half] = {"accuracy": 80}
    summary = texts(titled(tables.sheets([record]), "under noise"))
    assert summary["base, templates", "m"] == ["80.0", "50.0", "50.0", "37.5", "", "", ""]


def test_a_condition_of_another_form_is_one_line() -> None:
    record = noisy_run()
    record["metrics"]["conditions"]["fog"] = {}
    with pytest.raises(UserError, match="'fog', which is not KIND:FAMILY:STRENGTH"):
        tables.sheets([record])
