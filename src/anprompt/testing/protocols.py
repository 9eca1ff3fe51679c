"""What every protocol keeps: parts that can be tested, a record that tells all, figures, tables, a report."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from anprompt.data.types import Dataset
from anprompt.evaluation.conditions import Condition
from anprompt.experiments import Event, ExperimentContext, RunSpec
from anprompt.experiments.protocols import PROTOCOLS, Part, Protocol, protocol
from anprompt.experiments.records import Record, read_records
from anprompt.experiments.sweep import run_all
from anprompt.report import write_report
from anprompt.tables import sheets
from anprompt.tables.build import LAYOUTS
from anprompt.testing.outcomes import Outcome, require, run_checks
from anprompt.testing.toys import tiny_backbone, tiny_image_folder

METHODS = ("zeroshot", "coop")
CONDITIONS = ("image:fog:3", "text:typo:2")
HEADS = ("auto", "trained", "unseen")


@dataclass(frozen=True)
class ProtocolCase:
    """A protocol to check, and a folder with tiny images to run it on; its runs are made once."""

    protocol: Protocol
    folder: Path

    def specification(self, method: str = "coop") -> RunSpec:
        """A run of one epoch on two images a class."""
        targets = (str(self.folder / "others"),) if self.protocol.takes_targets else ()
        train = (("epochs", 1),) if method != "zeroshot" else ()
        return RunSpec(
            str(self.folder / "images"), method, self.protocol.name, shots=2, backbone="tiny", train=train,
            conditions=CONDITIONS, targets=targets,
        )  # fmt: skip

    def context(self) -> ExperimentContext:
        """A fresh one, with the tiny backbone."""
        context = ExperimentContext()
        context.use("tiny", tiny_backbone())
        return context

    def run(self, runs: str, events: list[str] | None = None) -> list[Record]:
        """The runs of all methods into a folder of records, as `anprompt bench` makes them."""

        def observe(event: Event) -> None:
            if events is not None:
                events.append(event.kind)

        specs = [self.specification(method) for method in METHODS]
        return run_all(specs, self.folder / runs, context=self.context(), observe=observe)

    @cached_property
    def records(self) -> list[Record]:
        """One a method."""
        return self.run("runs")

    def parts(self) -> tuple[Dataset, dict[str, Dataset], dict[str, Part]]:
        """Data set, targets and parts of a run."""
        spec, context = self.specification(), self.context()
        dataset, targets = context.dataset(spec), {name: context.dataset(spec, name) for name in spec.targets}
        return dataset, targets, self.protocol.parts(spec, dataset, targets)


def it_says_what_it_is(case: ProtocolCase) -> None:
    """Name, title, figures, classes, shots, layout and recipe are of the kinds that all others read."""
    one = case.protocol
    require(bool(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", one.name)), f"the name {one.name!r} is not words-with-dashes")
    require(bool(one.title.strip()) and one.title.isprintable(), "the title is empty")
    require(bool(one.figures) and len(set(one.figures)) == len(one.figures), "figures are none, or one name twice")
    require(one.classes in ("all", "base", "new"), f"classes is {one.classes!r}, not 'all', 'base' or 'new'")
    whole = all(shots is None or (isinstance(shots, int) and shots > 0) for shots in one.shots)
    require(bool(one.shots) and whole, "shots are not numbers from 1 on, or None for all images")
    require(one.layout in LAYOUTS, f"layout {one.layout!r} is none of {', '.join(LAYOUTS)}")
    require(one.recipe in ("", *PROTOCOLS), f"recipe {one.recipe!r} is not a protocol")
    for known in (False, True):
        for condition in one.conditions(known):
            Condition.parse(condition)


def parts_can_be_tested(case: ProtocolCase) -> None:
    """There are parts, each with images among its own classes; asked twice they are the same."""
    _, _, parts = case.parts()
    require(bool(parts), "there are no parts to test")
    for name, part in parts.items():
        require(bool(part.data.test), f"part {name!r} has no test images")
        require(part.head in HEADS, f"part {name!r} has the head {part.head!r}, which is none of {', '.join(HEADS)}")
        count = len(part.data.classnames)
        require(
            all(0 <= item.label < count for item in part.data.test), f"part {name!r} has labels outside its classes"
        )
    again = case.parts()[2]
    same = {name: (part.data.classnames, part.data.test, part.head) for name, part in parts.items()}
    require(
        same == {name: (p.data.classnames, p.data.test, p.head) for name, p in again.items()}, "parts change by asking"
    )


def record_tells_the_run(case: ProtocolCase) -> None:
    """A record holds entries, conditions and facts as plain JSON, and names every part's number of classes."""
    for record in case.records:
        kept = json.loads(json.dumps({"metrics": record["metrics"], "data": record["data"]}, allow_nan=False))
        require(set(kept["metrics"]["conditions"]) == set(CONDITIONS), "metrics() drops conditions")
        require(bool(kept["data"].get("classes")), "data_facts() does not say how many classes there are")


def headline_has_the_figures(case: ProtocolCase) -> None:
    """`headline` gives percentages under the names of `figures`, the same of a record that was written and read."""
    written = {record["spec_hash"]: record for record in read_records(case.folder / "runs")} if case.records else {}
    for record in case.records:
        figures = case.protocol.headline(record)
        require(bool(figures), "headline() is empty")
        unknown = sorted(set(figures) - set(case.protocol.figures))
        require(not unknown, f"headline() has {unknown}, which `figures` lacks")
        for name, value in figures.items():
            require(math.isfinite(value) and 0 <= value <= 100, f"{name} is {value}, not a percentage")
        require(
            case.protocol.headline(written[record["spec_hash"]]) == figures, "a record read again has other figures"
        )


def runs_repeat_and_are_not_repeated(case: ProtocolCase) -> None:
    """Finished runs are skipped; run anew elsewhere they give the same numbers."""
    first, events = case.records, []  # type: list[Record], list[str]
    case.run("runs", events)
    require(set(events) == {"skip"}, f"finished runs are run again ({', '.join(sorted(set(events)))})")
    for before, after in zip(first, case.run("again")):
        require(before["metrics"] == after["metrics"], "the same specification gives other numbers the second time")


def tables_and_report_show_it(case: ProtocolCase) -> None:
    """Its records have a table with its title and a line a method, and a section of the report."""
    tables = sheets(case.records)
    require(bool(tables) and case.protocol.title in tables[0].title, "the first table does not bear the title")
    require(len(tables[0].lines) >= len(METHODS), "the first table has no line for each method")
    page = write_report(case.folder / "report.html", case.records, overwrite=True).read_text(encoding="utf-8")
    require(case.protocol.title in page, "the report does not bear the title")


CHECKS = {
    check.__name__: check
    for check in (
        it_says_what_it_is, parts_can_be_tested, record_tells_the_run, headline_has_the_figures,
        runs_repeat_and_are_not_repeated, tables_and_report_show_it,
    )
}  # fmt: skip


def protocol_checks() -> list[str]:
    """Names of the checks of `check_protocol`, in the order they run in."""
    return list(CHECKS)


@contextmanager
def _known(one: Protocol) -> Iterator[None]:
    """The protocol is known under its name, as specifications ask for it, and forgotten where it was not before."""
    before = PROTOCOLS.get(one.name)
    PROTOCOLS[one.name] = one
    try:
        yield
    finally:
        if before is None:
            del PROTOCOLS[one.name]
        else:
            PROTOCOLS[one.name] = before


def check_protocol(
    asked: str | Protocol | type[Protocol],
    *,
    only: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Check that a protocol keeps the contract of `anprompt.experiments.protocols.Protocol`, by running it.

    Zero-shot and CoOp are run on a folder of tiny images with a tiny model, clean and under two conditions.

    Args:
        asked: the protocol, its class, or its registered name; it need not be registered.
        only: names of checks (`protocol_checks`); None runs all.
        expected_failures: reasons by names of checks that are known to fail.

    Returns:
        One outcome per check, all "passed" or "expected".

    Raises:
        ContractBroken: a check failed; an `AssertionError` with one line for each that did.
        UserError: no protocol or check of a name.

    Examples:
        >>> check_protocol("few-shot", only=["it_says_what_it_is"])[0].status
        'passed'
    """
    one = protocol(asked) if isinstance(asked, str) else asked() if isinstance(asked, type) else asked
    with tempfile.TemporaryDirectory() as folder, _known(one):
        tiny_image_folder(Path(folder) / "images")
        tiny_image_folder(Path(folder) / "others", seed=1)
        return run_checks(f"protocol {one.name!r}", ProtocolCase(one, Path(folder)), CHECKS, only, expected_failures)
