"""Tables made of run records, against figures worked out by hand."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from anprompt import tables
from anprompt.errors import UserError
from anprompt.experiments import records as results
from anprompt.tables import Cell, Column, Line, Sheet


def record(dataset: str, method: str, seed: int, base: float, new: float, **noise: tuple[float, float]) -> dict:
    """The least that a table of base and new accuracy reads."""
    spec = {"protocol": "base-to-new", "dataset": dataset, "method": method, "seed": seed, "shots": 16}
    conditions = {
        f"image:{name}:3": {"base": {"accuracy": b}, "new": {"accuracy": n}} for name, (b, n) in noise.items()
    }
    metrics = {"base": {"accuracy": base}, "new": {"accuracy": new}, "conditions": conditions}
    return {"format": results.FORMAT, "spec": spec, "metrics": metrics, "backbone": {"id": "tiny"}}


# --- base and new as rows -------------------------------------------------------------------------
def test_h_of_the_averages_and_average_of_the_h() -> None:
    records = [record("a", "m", 1, 80, 40), record("b", "m", 1, 60, 60)]
    rows = {row.dataset: row for row in tables.base_new_rows(records)}
    assert rows["a"].h.mean == pytest.approx(2 * 80 * 40 / 120)
    assert rows[tables.MEAN].h.mean == pytest.approx(2 * 70 * 50 / 120)  # 58.33
    assert rows[tables.MEAN_H].h.mean == pytest.approx((2 * 80 * 40 / 120 + 60) / 2)  # 56.67
    assert rows[tables.MEAN].base.mean == rows[tables.MEAN_H].base.mean == 70


def test_averages_take_seeds_that_all_data_sets_have() -> None:
    records = [record("a", "m", 1, 80, 80), record("a", "m", 2, 20, 20), record("b", "m", 1, 60, 60)]
    mean = next(row for row in tables.base_new_rows(records) if row.dataset == tables.MEAN)
    assert (mean.base.mean, mean.seeds) == (70, 1)


def test_a_data_set_without_a_method_leaves_no_average() -> None:
    records = [record("a", "m", 1, 80, 80), record("b", "n", 1, 60, 60)]
    assert [row.dataset for row in tables.base_new_rows(records)] == ["a", "b"]
    assert tables.matched(records, ["m", "n"]) == []


def test_the_same_seed_twice_is_refused() -> None:
    records = [record("a", "m", 1, 80, 80), record("a", "m", 1, 70, 80)]
    records[1]["spec"]["shots"] = 4
    with pytest.raises(UserError, match="seed 1"):
        tables.base_new_rows(records)


def test_changed_settings_are_another_row() -> None:
    records = [record("a", "m", 1, 80, 80), record("a", "m", 1, 70, 80)]
    records[1]["spec"]["train"] = {"epochs": 2}
    assert [row.method for row in tables.base_new_rows(records)] == ["m", "m (epochs=2)"]


def test_condition_rows_start_with_clean() -> None:
    records = [record("a", "m", 1, 80, 80, fog=(50, 40)), record("b", "m", 1, 60, 60, fog=(30, 20))]
    rows = tables.condition_rows(records)
    assert [(row.condition, row.base.mean) for row in rows] == [("clean", 70), ("image:fog:3", 40)]


def test_markdown_csv_and_terminal() -> None:
    records = [record("embedded:a|b", "m", seed, 80 + seed, 40) for seed in (1, 3)]
    rows = tables.base_new_rows(records)
    text = tables.markdown(rows, tables.markdown_note(records))
    assert "| a\\|b | m | 82.0 ± 1.4 | 40.0 ± 0.0 |" in text and "16 shots" in text
    parsed = list(csv.DictReader(io.StringIO(tables.as_csv(rows))))
    assert float(parsed[0]["base_mean"]) == 82 and float(parsed[0]["base_std"]) == pytest.approx(2**0.5, abs=1e-6)
    assert tables.terminal(rows, "title").row_count == 1


def test_terminal_prints_names_as_they_are() -> None:
    rows = tables.base_new_rows([record("[red]x:fog:[/red]", "m", 1, 80, 40)])
    out = io.StringIO()
    Console(file=out, width=120).print(tables.terminal(rows))
    assert "[red]x:fog:[/red]" in out.getvalue()


# --- sheets: the records --------------------------------------------------------------------------
def entry(accuracy: float, right: str = "", ece: float | None = None, items: str = "same") -> dict[str, Any]:
    """`right`: one digit a picture, the answer; the true labels are all 0."""
    found: dict[str, Any] = {"accuracy": accuracy, "items_hash": items}
    if right:
        found |= {"predicted": " ".join(right), "labels": " ".join("0" * len(right))}
    return found | ({} if ece is None else {"ece": ece})


def run(
    metrics: dict[str, Any], method: str = "m", seed: int = 1, dataset: str = "a", protocol: str = "base-to-new",
    **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    """A record with everything that sheets read; zero-shot has nothing to train."""
    full = {"protocol": protocol, "dataset": dataset, "method": method, "seed": seed, "shots": 16, **spec}
    return {
        "format": results.FORMAT, "spec": full, "metrics": {"conditions": {}, **metrics},
        "backbone": {"id": "tiny", "weight_hash": "0123456789"}, "data": {"hash": dataset},
        "method": {"trained_parameters": 0 if method == "zeroshot" else 12, "settings": {}}, "train": {"seed": seed},
        "timings": {"train_s": 10.0 * seed, "step_s": 0.25, "eval_s": 1.0}, "memory": {"peak_mb": 100.0 + seed},
        "hardware": {"cpu": "none", "cores": 2, "threads": 1},
    }  # fmt: skip


def base_new(base: float, new: float, **where: Any) -> dict[str, Any]:
    return run({"base": entry(base), "new": entry(new)}, **where)


def texts(sheet: Sheet) -> dict[tuple[str, str], list[str]]:
    return {(line.group, line.name): [cell.text for cell in line.cells] for line in sheet.lines}


def titled(found: Sequence[Sheet], part: str) -> Sheet:
    return next(sheet for sheet in found if part in sheet.title)


SWEEP = [
    base_new(base + seed, new - seed, method=method, seed=seed, dataset=dataset)
    for dataset, shift in (("embedded:a", 0), ("embedded:b", 10))
    for method, base, new in (("anprompt", 80 + shift, 60), ("coop", 70 + shift, 50))
    for seed in (1, 2, 3)
] + [base_new(60, 55, method="zeroshot", dataset=dataset) for dataset in ("embedded:a", "embedded:b")]


# --- sheets: base to new --------------------------------------------------------------------------
def test_base_to_new_by_hand() -> None:
    main = tables.sheets(SWEEP)[0]
    found = texts(main)
    assert found["a", "zeroshot"] == ["60.0", "55.0", "57.4", "1"]  # 2 * 60 * 55 / 115
    assert found["a", "anprompt"][:2] == ["82.0 ± 1.0", "58.0 ± 1.0"]
    assert found["b", "coop"][:2] == ["82.0 ± 1.0", "48.0 ± 1.0"]
    of_averages, of_h = main.lines[-4].cells[2], main.lines[-1].cells[2]
    assert (main.lines[-4].group, main.lines[-1].group) == (tables.MEAN, tables.MEAN_H)
    harmonic = [(2 * b * n / (b + n)) for s in (1, 2, 3) for b, n in [(85 + s, 60 - s)]]
    assert of_averages.mean == pytest.approx(sum(harmonic) / 3)
    each = [2 * b * n / (b + n) for s in (1, 2, 3) for b, n in [(80 + s, 60 - s), (90 + s, 60 - s)]]
    assert of_h.mean == pytest.approx(sum(each) / 6)
    assert [line.name for line in main.lines[:3]] == ["zeroshot", "coop", "anprompt"]
    for word in ("tiny (weights 01234567)", "16 shots", "seeds 1, 2, 3", "fp32", "average of each", "2 data sets"):
        assert word in main.note


def test_sheets_agree_with_the_rows_of_the_committed_records() -> None:
    records = results.read_records(Path(__file__).parents[2] / "results" / "embedded-base-to-new")
    lines = {(line.group, line.name): line.cells for line in tables.sheets(records)[0].lines}
    rows = tables.base_new_rows(records)
    assert len(rows) == len(lines) > 80
    for row in rows:
        for cell, spread in zip(lines[row.dataset, row.method], (row.base, row.new, row.h)):
            assert cell.mean == pytest.approx(spread.mean, abs=1e-9) and cell.n == spread.n


def test_rank_cost_and_paired_sheets() -> None:
    found = tables.sheets(SWEEP)
    assert texts(titled(found, "average rank"))["", "anprompt"] == ["1.00", "1.00", "1.00"]
    assert texts(titled(found, "average rank"))["", "coop"] == ["2.00", "3.00", "2.00"]
    cost = texts(titled(found, "cost"))
    assert cost["", "anprompt"] == ["12", "20.0", "250.0", "1.0", "102", "6"]  # medians over seeds 1, 2, 3
    assert cost["", "zeroshot"][0] == "0"
    paired = titled(found, "run by run")
    assert texts(paired)["base", "anprompt − coop"][0] == "+10.0"
    # zero-shot's one run stands against each of the three seeds
    against = texts(paired)["new", "anprompt − zeroshot"]
    assert (against[0], against[4], against[5]) == ("+3.0", "6 / 0 / 0", "6")


def test_reference_may_be_another_method_and_must_be_there() -> None:
    assert ("base", "coop − anprompt") in texts(titled(tables.sheets(SWEEP, "coop"), "coop against"))
    with pytest.raises(UserError, match="Did you mean 'coop'"):
        tables.sheets(SWEEP, "cop")
    alone = [record for record in SWEEP if record["spec"]["method"] != "anprompt"]
    assert not any("against" in sheet.title for sheet in tables.sheets(alone))


def test_zero_shot_run_twice_counts_once() -> None:
    again = base_new(60, 55, method="zeroshot", seed=2, dataset="embedded:a")
    assert texts(tables.sheets([*SWEEP, again])[0]) == texts(tables.sheets(SWEEP)[0])


def test_pictures_are_compared_at_the_first_common_seed() -> None:
    records = [
        run({"base": entry(0, answers), "new": entry(0, "00")}, method=method, seed=seed)
        for method, seed, answers in (
            ("anprompt", 1, "1111"), ("anprompt", 2, "0001"), ("coop", 2, "1110"), ("zeroshot", 5, "0011"),
        )
    ]  # fmt: skip
    found = texts(titled(tables.sheets(records), "picture by picture"))
    assert found["base", "coop"] == ["3", "1", "4", "0.625"]  # seed 2: 2 * (1 + 4) / 2^4
    assert found["base", "zeroshot"] == ["0", "2", "4", "0.500"]  # seed 1 against the only run there is
    records[0]["metrics"]["base"]["items_hash"] = "other"
    with pytest.raises(UserError, match="different test pictures"):
        tables.sheets(records)


# --- sheets: what may not be mixed ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("backbone", "weight_hash"), "fedcba9876", "weights fedcba98"),
        (("spec", "precision"), "bf16", "bf16"),
        (("spec", "shots"), 4, "4 shots"),
        (("spec", "descriptions"), "d.json", "descriptions d.json"),
    ],
)
def test_other_circumstances_get_tables_of_their_own(path: tuple[str, str], value: object, word: str) -> None:
    other = base_new(10, 10, seed=2)
    other[path[0]][path[1]] = value
    mains = [s for s in tables.sheets([base_new(80, 60), other]) if s.columns[0].name == "base" and s.stub[0]]
    assert len(mains) == 2 and any(word in sheet.title for sheet in mains)
    assert sorted(sheet.lines[0].cells[0].text for sheet in mains) == ["10.0", "80.0"]


def test_changed_settings_get_a_row_of_their_own() -> None:
    records = [base_new(80, 60), base_new(10, 10, train={"epochs": 2}), base_new(20, 20, settings={"rank": 1})]
    assert {name for _, name in texts(tables.sheets(records)[0])} == {"m", "m (epochs=2)", "m (rank=1)"}


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(UserError, match="m on a have seed 1"):
        tables.sheets([base_new(80, 60), base_new(70, 60)])
    moved = base_new(80, 60, seed=2)
    moved["data"]["hash"] = "other"
    with pytest.raises(UserError, match="different pictures or classes"):
        tables.sheets([base_new(80, 60), moved])
    retuned = base_new(80, 60, seed=2)
    retuned["train"]["epochs"], first = 5, base_new(80, 60)
    first["train"]["epochs"] = 10
    with pytest.raises(UserError, match="different settings \\(epochs: 10 and 5\\)"):
        tables.sheets([first, retuned])
    with pytest.raises(UserError, match="No run records"):
        tables.sheets([])
    with pytest.raises(UserError, match="base-to-new record lacks 'new'"):
        tables.sheets([run({"base": entry(1)})])
    with pytest.raises(UserError, match="Unknown protocol"):
        tables.sheets([base_new(1, 1, protocol="other")])


# --- sheets: few shots, transfer ------------------------------------------------------------------
def test_few_shots_by_hand() -> None:
    records = [
        run({"all": entry(50 + 10 * shots + seed)}, seed=seed, dataset=dataset, protocol="few-shot", shots=shots)
        for shots in (2, 1) for seed in (1, 3) for dataset in ("a", "b") if (shots, seed, dataset) != (1, 3, "b")
    ]  # fmt: skip
    records += [run({"all": entry(40)}, method="zeroshot", dataset=d, protocol="few-shot", shots=1) for d in "ab"]
    main = tables.sheets(records)[0]
    assert [column.name for column in main.columns] == ["1 shot", "2 shots"]
    found = texts(main)
    assert found["a", "m"] == ["62.0 ± 1.4", "72.0 ± 1.4"] and found["b", "m"] == ["61.0", "72.0 ± 1.4"]
    assert found["a", "zeroshot"] == ["40.0", "40.0"]  # run at one shot, the same at two
    assert found["average of 2", "m"] == ["61.0", "72.0 ± 1.4"]  # seed 3 is not on both


@pytest.mark.parametrize("protocol", ["cross-dataset", "domains"])
def test_transfer_by_hand(protocol: str) -> None:
    def made(method: str, source: str, accuracy: float, **targets: float) -> dict[str, Any]:
        found = {f"embedded:{name}": entry(value) for name, value in targets.items()}
        metrics = {"source": entry(accuracy), "targets": found}
        return run(metrics, method=method, dataset=f"embedded:{source}", protocol=protocol)

    records = [
        made("m", "a", 90, b=60, c=50), made("m", "b", 80, a=40, c=20),
        made("n", "a", 70, b=80), made("n", "b", 60, a=50, c=10),
    ]  # fmt: skip
    main = tables.sheets(records)[0]
    assert [column.name for column in main.columns] == ["source", "a", "b", "c", "average of targets"]
    found = texts(main)
    assert found["a", "m"] == ["90.0", "", "60.0", "50.0", "55.0"]
    assert found["a", "n"] == ["70.0", "", "80.0", "", ""]  # over fewer targets: no average
    assert found["average of 2 sources", "m"] == ["85.0", "40.0", "60.0", "35.0", "42.5"]


# --- sheets: the best, and the forms --------------------------------------------------------------
def sheet_of(*rows: tuple[str, str, list[float | None]], across: bool = False, better: str = "high") -> Sheet:
    lines = tuple(Line(group, name, tuple(map(Cell.number, values))) for group, name, values in rows)
    heads = tuple(Column(f"c{i}", better) for i in range(len(rows[0][2])))
    return Sheet("Title", "Note.", ("data", "method"), heads, lines, across)


def test_the_best_of_each_group() -> None:
    rows = ("a", "x", [1.0, 2.0]), ("a", "y", [3.0, 2.0 + 1e-6]), ("b", "x", [9.0, None])
    assert sheet_of(*rows).best() == {(1, 0), (0, 1), (1, 1)}  # level ones are both best; b has no rival
    assert sheet_of(*rows, better="low").best() == {(0, 0), (0, 1), (1, 1)}
    assert sheet_of(*rows, across=True).best() == {(0, 1), (1, 0)}
    assert sheet_of(*rows, better="").best() == set()
    with pytest.raises(ValueError, match="1 of 2 cells"):
        Sheet("t", "", ("", "m"), (Column("a"), Column("b")), (Line("", "x", (Cell(),)),))


def test_forms_by_hand() -> None:
    sheet = sheet_of(("a|b", "x_1", [1.0, 2.0]), ("a|b", "50%", [3.0, 1.0]))
    text = tables.to_markdown([sheet])
    assert "| a\\|b | x_1 | 1.0 | **2.0** |" in text and "|  | 50% | **3.0** | 1.0 |" in text
    latex = tables.to_latex([sheet])
    assert r"{}a\textbar{}b & {}x\_1 & 1.0 & \textbf{2.0} \\" in latex and r"50\% & \textbf{3.0}" in latex
    out = io.StringIO()
    Console(file=out, width=80).print(tables.to_terminal(sheet))
    assert "a|b" in out.getvalue() and "Note." in out.getvalue()


def test_csv_keeps_every_digit() -> None:
    found = tables.sheets([base_new(80 + 1 / 3, 60, seed=1), base_new(70, 60, seed=2)])
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(found))))
    base = next(row for row in rows if row["column"] == "base")
    cell = found[0].lines[0].cells[0]
    assert (float(base["mean"]), float(base["std"]), float(base["ci95"])) == (cell.mean, cell.std, cell.half)
    assert (base["sheet"], base["group"], base["name"], base["n"]) == ("Base to new", "a", "m", "2")


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
@example("[red]x[/red]", "\\end{table} & 5% $_#^~", "a|b*`<b>\n\x1b[31m\ud800")
def test_any_name_passes_through_every_form(group: str, name: str, head: str) -> None:
    lines = tuple(Line(group, name, (Cell.number(value),)) for value in (1.0, 2.0))
    sheet = Sheet(head, name, ("data", group), (Column(head),), lines)
    for form in (tables.to_markdown, tables.to_latex, tables.to_csv):
        form([sheet]).encode("utf-8")
    table = [line for line in tables.to_markdown([sheet]).split("\n") if line.startswith("|")]
    assert len(table) == 4 and {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {4}
    body = tables.to_latex([sheet]).split(r"\midrule")[1].split(r"\bottomrule")[0]
    bare = re.sub(r"\\(?:text\w+(?:\{\})?|pm|[\\{}&%$#_])", "", body.replace("$\\pm$", "").replace("$-$", ""))
    assert not set(bare) & set('%$#_^~\\<>|"') and bare.count("&") == 4
    assert len(list(csv.reader(io.StringIO(tables.to_csv([sheet]))))) == 3
    out = io.StringIO()
    Console(file=out, width=200).print(tables.to_terminal(sheet))
    assert "\x1b" not in out.getvalue()


@settings(max_examples=5, deadline=None)
@given(st.permutations(SWEEP))
def test_the_order_of_records_changes_nothing(records: list[dict[str, Any]]) -> None:
    assert tables.sheets(records) == tables.sheets(SWEEP)


def test_sheets_are_written_in_three_forms(tmp_path: Path) -> None:
    found = tables.sheets(SWEEP)
    paths = tables.write_sheets(tmp_path / "runs", found)
    assert sorted(path.name for path in paths) == ["table.csv", "table.md", "table.tex"]
    assert {path.read_text(encoding="utf-8") for path in paths} == {
        tables.to_csv(found), tables.MARK + tables.to_markdown(found), tables.to_latex(found),
    }  # fmt: skip
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="in the way"):
        tables.write_sheets(tmp_path / "file", found)
