"""A sweep as one watches it: a table that fills while it runs, or a line per run where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from anprompt.experiments.protocols import protocol
from anprompt.experiments.records import Record
from anprompt.tables import shown_name

if TYPE_CHECKING:
    from anprompt.experiments import Event, RunSpec

SHOWN = 24


class SweepProgress:
    """An observer for `run_all`, to be used as a context manager."""

    def __init__(self, specs: Sequence[RunSpec], console: Console, title: str = "") -> None:
        self.console, self.title = console, title
        self.last: dict[RunSpec, Event | None] = dict.fromkeys(specs)
        self.since: dict[RunSpec, float] = {}
        self.several_shots = len({spec.shots for spec in specs}) > 1
        self._live = Live(
            get_renderable=self.table, console=console, refresh_per_second=4, auto_refresh=console.is_terminal
        )

    def __enter__(self) -> SweepProgress:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        self.since.setdefault(event.spec, time.monotonic())
        self.last[event.spec] = event
        if not self.console.is_terminal and event.kind == "failed":
            words = [*self._names(event.spec), "failed:", event.text]
            self.console.print("  ".join(words), highlight=False, markup=False)
        elif not self.console.is_terminal and event.record is not None:
            self.console.print(self._line(event.spec, event.kind, event.record), highlight=False, markup=False)

    def _line(self, spec: RunSpec, kind: str, record: Record) -> str:
        how = "was there" if kind == "skip" else f"{self._seconds(spec):.0f} s"
        found = "  ".join(f"{name} {value:.1f}" for name, value in figures(record).items())
        return f"{'  '.join(self._names(spec))}  {found}  ({how})"

    def _names(self, spec: RunSpec) -> list[str]:
        """What tells a run from the others."""
        drawn = [f"{spec.shots or 'all'} shots"] if self.several_shots else []
        return [shown_name(spec.dataset), spec.method, *drawn, f"seed {spec.seed}"]

    def _seconds(self, spec: RunSpec) -> float:
        return time.monotonic() - self.since[spec]

    def table(self) -> Table:
        """All runs, or the ones around the running one where there are too many for a screen."""
        specs = list(self.last)
        table = Table(title=self.title or None, title_justify="left", expand=False)
        for name in ("data", "method", *(["shots"] if self.several_shots else []), "seed"):
            table.add_column(name, overflow="fold")
        table.add_column("state", min_width=26)
        columns = protocol(specs[0].protocol).figures if specs else ()
        for name in columns:
            table.add_column(name, justify="right", min_width=5)
        begun = sum(event is not None for event in self.last.values())
        first = max(0, min(begun - SHOWN // 2, len(specs) - SHOWN))
        for spec in specs[first : first + SHOWN]:
            event = self.last[spec]
            found = figures(event.record) if event and event.record else {}
            shown = [f"{found[name]:.1f}" if name in found else "" for name in columns]
            names = [Text(name.removeprefix("seed ").removesuffix(" shots")) for name in self._names(spec)]
            table.add_row(*names, self._state(event), *shown)
        if len(specs) > SHOWN:
            table.caption = f"{len(specs)} runs in all"
        return table

    def _state(self, event: Event | None) -> Table | Text:
        if event is None:
            return Text("waiting", style="dim")
        if event.kind == "skip":
            return Text("was there already", style="dim")
        if event.kind == "done":
            return Text(f"done in {self._seconds(event.spec):.0f} s")
        if event.kind == "failed":
            return Text(f"failed: {event.text}", style="red")
        grid = Table.grid(padding=(0, 1))
        text = f"testing, {event.text}" if event.kind == "evaluate" else event.text or "starting"
        grid.add_row(ProgressBar(total=1.0, completed=event.progress, width=12), Text(text))
        return grid


def figures(record: Record) -> dict[str, float]:
    """The few figures of a run that stand for it, by name."""
    return protocol(record["spec"]["protocol"]).headline(record)
