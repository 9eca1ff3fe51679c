"""The demo, on the embedded model and pictures, and the table one watches."""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import select
from pathlib import Path

import pytest
from rich.console import Console

from anprompt.commands import demo
from anprompt.commands.progress import SHOWN, SweepProgress
from anprompt.errors import UserError
from anprompt.experiments import Event
from anprompt.experiments.records import read_records
from anprompt.experiments.sweep import plan


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_quick_demo_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "CONDITIONS", ("image:fog:3",))
    out = tmp_path / "report"
    args = parsed("--quick", "--sets", "faces,food", "--jobs", "1", "--out", str(out))
    assert demo.run(args) == 0
    told = capsys.readouterr().out
    assert "faces" in told and "fog, severity 3 (unseen)" in told and "food" not in told
    lines = told.replace(str(out / "report.html"), "REPORT").splitlines()
    assert "REPORT" in lines[-3] and lines[-1].endswith(demo.NEXT.removeprefix("anprompt"))
    html = (out / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/webp") == 16 and "How these were chosen" in html
    assert (out / "pictures.png").stat().st_size > 10_000
    assert {record["spec"]["method"] for record in read_records(out / "runs")} == {"zeroshot", "anprompt"}
    assert demo.run(args) == 0  # from the records
    assert capsys.readouterr().out.count("(was there)") == 2


def test_the_default_is_three_sets_that_exist() -> None:
    specs = demo.specifications(parsed())
    assert len({spec.dataset for spec in specs}) == 3 and len(specs) == 6
    assert {spec.shots for spec in specs} == {16} and all(len(spec.conditions) >= 3 for spec in specs)


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'food'"):
        demo.specifications(parsed("--sets", "foood"))


# --- the table one watches ------------------------------------------------------------------------
RECORD = {
    "spec": {"protocol": "base-to-new"},
    "metrics": {"base": {"accuracy": 51.23}, "new": {"accuracy": 42.0}, "H": 46.2},
}


def drawn(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()


def test_the_table_fills_while_runs_go_on() -> None:
    specs = plan(["[b]d[/b]:fog:"], ["zeroshot", "anprompt"], [1])
    live = SweepProgress(specs, Console(file=io.StringIO()))
    assert drawn(live.table()).count("waiting") == 2
    live(Event(specs[0], "done", 1.0, record=RECORD))
    live(Event(specs[1], "step", 0.5, "epoch 5/10"))
    text = drawn(live.table())
    assert "51.2" in text and "epoch 5/10" in text and "[b]d[/b]:fog:" in text
    live(Event(specs[1], "evaluate", 0.0, "clean"))
    assert "testing, clean" in drawn(live.table())


def test_a_long_sweep_fits_a_screen() -> None:
    specs = plan([f"d{i}" for i in range(60)], ["zeroshot"], [1])
    live = SweepProgress(specs, Console(file=io.StringIO()))
    text = drawn(live.table())
    assert len(re.findall(r"waiting", text)) == SHOWN and "60 runs in all" in text


def test_without_a_terminal_there_is_a_line_per_run() -> None:
    out = io.StringIO()
    specs = plan(["d"], ["zeroshot"], [1])
    with SweepProgress(specs, Console(file=out, width=120)) as live:
        live(Event(specs[0], "step", 0.5, "epoch 1/2"))
        live(Event(specs[0], "skip", 1.0, record=RECORD))
    assert out.getvalue() == "d  zeroshot  seed 1  base 51.2  new 42.0  H 46.2  (was there)\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_on_a_terminal_it_is_drawn_in_place() -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as file:
        specs = plan(["d"], ["zeroshot"], [1])
        with SweepProgress(specs, Console(file=file, width=100, force_terminal=True)) as live:
            live(Event(specs[0], "done", 1.0, record=RECORD))
        file.flush()
        shown = ""
        while "\x1b[?25h" not in shown and select.select([reader], [], [], 10)[0]:  # it comes in pieces
            shown += os.read(reader, 100_000).decode(errors="replace")
    os.close(reader)
    assert "51.2" in shown and "\x1b[?25l" in shown and "\x1b[?25h" in shown  # the cursor comes back


def test_the_command_it_ends_with_runs_whether_or_not_the_program_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(demo.sys, "executable", str(place / "python"))
    assert demo.runnable("anprompt fit --shots 4") == f"{place / 'python'} -m anprompt fit --shots 4"
    (place / "anprompt").touch(mode=0o755)
    assert demo.runnable("anprompt fit --shots 4") == f"{place / 'anprompt'} fit --shots 4"
    monkeypatch.chdir(tmp_path)
    assert demo.runnable("anprompt fit --shots 4") == "bin/anprompt fit --shots 4"
    monkeypatch.setenv("PATH", str(place))
    assert demo.runnable("anprompt fit --shots 4") == "anprompt fit --shots 4"
