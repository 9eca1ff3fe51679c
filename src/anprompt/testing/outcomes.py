"""Running checks one by one, and what is said of those that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from anprompt.errors import choices
from anprompt.utils.files import first_line

Case = TypeVar("Case")


class ContractBroken(AssertionError):
    """What was checked does not keep its contract; the message has a line for each check that failed."""


@dataclass(frozen=True)
class Outcome:
    """How one check ended.

    Attributes:
        check: its name.
        status: "passed", "failed", or "expected" for one that failed as it was announced to.
        reason: what was wrong, in one line; empty where it passed.
    """

    check: str
    status: str
    reason: str = ""


def require(condition: bool, message: str) -> None:
    """`AssertionError` with the message unless the condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def run_checks(
    what: str,
    case: Case,
    checks: Mapping[str, Callable[[Case], None]],
    only: Iterable[str] | None,
    expected_failures: Mapping[str, str] | None,
) -> list[Outcome]:
    """Run all checks, or those named, and raise one error about all that fail.

    Args:
        what: what is checked, for the message ("method 'vpt'").
        case: what each check is called with.
        checks: by name.
        only: names of those to run; None for all.
        expected_failures: reasons by names of checks that are known to fail.

    Raises:
        ContractBroken: at least one failed that was not expected to.
        UserError: there is no check of a name.
    """
    expected = dict(expected_failures or {})
    names = list(checks) if only is None else list(only)
    for name in [*names, *expected]:
        if name not in checks:
            raise choices("check", name, checks)
    outcomes = []
    for name in names:
        try:
            checks[name](case)
        except Exception as error:  # whatever a stranger's code raises is a check that failed
            status = "expected" if name in expected else "failed"
            outcomes.append(Outcome(name, status, expected.get(name) or f"{type(error).__name__}: {first_line(error)}"))
        else:
            outcomes.append(Outcome(name, "passed"))
    broken = [one for one in outcomes if one.status == "failed"]
    if broken:
        lines = "\n".join(f"  {one.check}: {one.reason}" for one in broken)
        raise ContractBroken(f"{what} fails {len(broken)} of {len(outcomes)} checks:\n{lines}")
    return outcomes
