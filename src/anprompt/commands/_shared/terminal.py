"""What commands print, and how: rich for people, JSON for programs, one line for errors.

Class names and file names come from users: they are printed as they are, never as rich markup, and
control characters in them as escapes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anprompt.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

_REPEATS = 5  # lines of one kind of warning before the rest is only counted


def safe(text: object) -> str:
    """One printable line, whatever the text holds."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def error_line(message: str, kind: str = "error: ") -> None:
    """The one line on stderr that says what is wrong."""
    with contextlib.suppress(OSError):  # a full or closed stderr changes no exit code
        print(f"anprompt: {kind}{safe(' '.join(message.split()))}", file=sys.stderr, flush=True)


def note_line(message: str) -> None:
    """A line on stderr beside the results."""
    with contextlib.suppress(OSError):
        print(f"anprompt: {safe(message)}", file=sys.stderr, flush=True)


def set_up() -> None:
    """A character that the terminal can't show must not end a command; nor must a closed stdin or stderr.

    Raises:
        UserError: stdout is closed.
    """
    closed = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for name in closed:  # else the next file that is opened takes its number, and what libraries print
        setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115
    if "stdout" in closed:
        raise UserError("stdout is closed, so no result could be shown; send it to a file, or to /dev/null.")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def quiet_libraries(*, verbose: bool, quiet: bool) -> None:
    """The library's log as plain lines on stderr; other libraries say nothing unless asked."""
    log = logging.getLogger("anprompt")
    log.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    for handler in [h for h in log.handlers if isinstance(h, _Lines)]:
        log.removeHandler(handler)
    log.addHandler(_Lines(_REPEATS if not verbose else 10**9))
    log.propagate = False
    if not verbose:
        warnings.simplefilter("ignore")
        logging.getLogger("transformers").setLevel(logging.ERROR)


class _Lines(logging.Handler):
    """Records as lines; of warnings, after a few of one kind, it says once that there are more.

    An error stands whole, with its traceback: what says that the log has the details must be true.
    """

    def __init__(self, repeats: int) -> None:
        super().__init__()
        self.repeats = repeats
        self.seen: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
            for line in text.splitlines():
                note_line(line)
            return
        count = self.seen[record.msg] = self.seen.get(record.msg, 0) + 1
        if count <= self.repeats:
            note_line(record.getMessage())
        elif count == self.repeats + 1:
            note_line("... and more of this kind (all with --verbose)")


def console(*, stderr: bool = False) -> Console:
    """A rich console; made when needed, so that redirected output is honoured."""
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # `cli.main` knows what to do; rich ends with exit code 1

    made = Plain(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = 10_000  # a file or a pipe: one line per row, however long
    return made


def say(text: object, style: str | None = None) -> None:
    """One line for people on stdout; never wrapped, so that paths can be copied."""
    console().print(safe(text), style=style, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> None:
    """A plain table; columns whose index is in `right` are set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(safe(cell)) for cell in row))
    console().print(made)


def print_json(value: Any) -> None:
    """JSON on stdout, ASCII only, so that no name can disturb a terminal."""
    print(json.dumps(value, indent=2, allow_nan=False))


def percent(share: float) -> str:
    """0.8125 -> "81.2 %"."""
    return f"{100 * share:.1f} %"


@contextlib.contextmanager
def progress(label: str, *, enabled: bool = True) -> Iterator[Any]:
    """A progress bar on stderr as `update(done, total, text)`; silent where stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Column

    screen = console(stderr=True)
    if not enabled or not screen.is_terminal:
        yield lambda done, total, text="": None
        return
    # On a narrow terminal the text is cut, so that bar, count and time left stay.
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=16, table_column=Column(min_width=16)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[text]}", markup=False, table_column=rest),
    )
    # Lines for stdout go above the bar on a terminal, but must stay on stdout where that is a file.
    shared = sys.stdout.isatty()
    with Progress(*columns, console=screen, transient=True, expand=True, redirect_stdout=shared) as bar:
        task = bar.add_task(safe(label), total=None, text="")

        def update(done: int, total: int, text: str = "") -> None:
            bar.update(task, completed=done, total=total, text=safe(text))

        yield update
