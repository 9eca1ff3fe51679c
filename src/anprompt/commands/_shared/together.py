"""A command as one of several processes of torchrun: one of them prints, and all stop when one does.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.terminal import error_line
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.prompting.process_group import Team

COMMANDS = ("fit", "eval")  # those that know what to do with several processes


def is_echo() -> bool:
    """Whether this is a process of torchrun besides the first: what it says of its input, that one says too."""
    return "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0"


def check_command(name: str) -> None:
    """`UserError` where torchrun started a command that is made for one process."""
    if "LOCAL_RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1" and name not in COMMANDS:
        raise UserError(
            f"'anprompt {name}' works in one process; start it without torchrun, which is for {' and '.join(COMMANDS)}."
        )


@contextlib.contextmanager
def together(device: str) -> Iterator[Team | None]:
    """The team of this process; None where it is alone.

    Raises:
        UserError: before the processes have met; later ones are printed here, once.
        SystemExit: with the exit code, after the last line is printed, by this process or by another.
    """
    from anprompt.prompting.process_group import LostProcess, join, leave, several_processes

    if not several_processes():
        yield None
        return
    before = signal.signal(signal.SIGTERM, _stopped)
    team = None
    try:
        team = join(device)
        with _hushed(team):
            yield team
        leave()
    except LostProcess as error:
        raise _last_line(team, str(error), 1, cause=False) from error
    except UserError as error:
        if team is None:
            raise
        raise _last_line(team, str(error), 2, cause=True) from error
    except KeyboardInterrupt:
        if is_echo():
            raise SystemExit(130) from None
        raise
    except Exception as error:  # a fault of the program: main prints it, the others need not wonder
        if team is not None:
            team.speaks(repr(error), cause=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_line(team: Team | None, line: str, code: int, *, cause: bool) -> SystemExit:
    if team.speaks(line, cause=cause) if team else not is_echo():
        error_line(line)
    return SystemExit(code)


def _stopped(number: int, frame: Any) -> None:
    """What torchrun sends to the processes that are left when one has failed."""
    from anprompt.prompting.process_group import LostProcess

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise LostProcess(
        "this run was stopped from outside, or by torchrun because another of its processes ended. Finished epochs "
        "are kept: run the same command again to resume."
    )


@contextlib.contextmanager
def _hushed(team: Team) -> Iterator[None]:
    """Only the first process prints."""
    if team.first:
        yield
        return
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        yield
