"""Tables made of run records, against figures worked out by hand."""

from __future__ import annotations

import csv
import io

import pytest

from anprompt import results, tables
from anprompt.errors import UserError


def record(
    dataset: str, method: str, seed: int, base: float, new: float, **noise: tuple[float, float]
) -> dict:
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
    assert float(parsed[0]["base_mean"]) == 82 and float(parsed[0]["base_std"]) == pytest.approx(
        2**0.5, abs=1e-6
    )
    assert tables.terminal(rows, "title").row_count == 1


def test_terminal_prints_names_as_they_are() -> None:
    from rich.console import Console

    rows = tables.base_new_rows([record("[red]x:fog:[/red]", "m", 1, 80, 40)])
    out = io.StringIO()
    Console(file=out, width=120).print(tables.terminal(rows))
    assert "[red]x:fog:[/red]" in out.getvalue()
