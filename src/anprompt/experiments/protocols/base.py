"""What a protocol is: one object that says everything about it, in one file.

A subclass names itself and its defaults, says which test parts a run has, and gives the few figures that stand for
a run. Training, measuring, sweeps, tables, the report and the command line ask it; none of them compares its name.
`docs/add-a-protocol.md` adds one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from anprompt.data.types import Dataset

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec


@dataclass(frozen=True)
class Part:
    """Test images to be told apart among some classes.

    Attributes:
        source: the data set as `open_dataset` takes it.
        which: which of its images; a name for people and for what is kept.
        data: `test` and `classnames` count.
        head: "trained", "unseen", or "auto" for what the class list says.
    """

    source: str
    which: str
    data: Dataset
    head: str = "auto"


class Protocol(ABC):
    """How a method is trained and tested; an instance is registered under its `name`.

    Attributes:
        name: as `anprompt bench NAME` and the records have it.
        title: as the headings of tables and reports have it.
        doc: one line for `--help`.
        figures: names of the few figures that stand for a run, in order; see `headline`.
        recipe: the protocol whose training recipe in the presets holds; "" for this one's own.
        classes: which of the classes are trained on: "all", "base" or "new".
        shots: images per class where none are asked for, one run each; None for all there are.
        compares_shots: whether runs of different shots stand in one table.
        takes_targets: whether it tests on other data sets than the one trained on.
        layout: how tables and report show it, one of `anprompt.tables.build.LAYOUTS`; "figures" is one table of
            `figures` for any protocol.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    doc: ClassVar[str] = ""
    figures: ClassVar[tuple[str, ...]]
    recipe: ClassVar[str] = ""
    classes: ClassVar[str] = "all"
    shots: ClassVar[tuple[int | None, ...]] = (16,)
    compares_shots: ClassVar[bool] = False
    takes_targets: ClassVar[bool] = False
    layout: ClassVar[str] = "figures"

    @abstractmethod
    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        """The test parts by the name they have in the record; asked before anything is trained.

        Args:
            spec: of the run, see `anprompt.experiments.spec.RunSpec`.
            dataset: the one trained on, with all its classes.
            targets: the other data sets of the specification by their names.

        Returns:
            Parts by name, in the order of tables.

        Raises:
            UserError: the specification can't be run.
        """

    @abstractmethod
    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a finished record in percent, by names of `figures`; some may be missing."""

    def metrics(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """What the record holds of the entries of all parts; the entries as they are unless overridden."""
        return dict(entries)

    def data_facts(self, dataset: Dataset, targets: Mapping[str, Dataset], parts: Mapping[str, Part]) -> dict[str, Any]:
        """What the record's "data" says besides: the number of classes of each part.

        Args:
            dataset: the one trained on, with all its classes.
            targets: the other data sets by name.
            parts: what `parts` gave.

        Returns:
            Plain values by key, as JSON holds them.
        """
        return {"classes": {name: len(part.data.classnames) for name, part in parts.items()}}

    def conditions(self, has_descriptions: bool) -> tuple[str, ...]:
        """Disturbed test conditions that are measured where none are asked for."""
        return ()

    def attacks(self) -> tuple[str, ...]:
        """Attacks that are run where none are asked for, as `anprompt.attacks.ThreatModel.parse` reads them; a
        protocol without any takes none."""
        return ()

    def targets(self, dataset: str) -> tuple[str, ...]:
        """Data sets to test on where none are given; only asked of those that take targets.

        Raises:
            UserError: none are known for this data set.
        """
        return ()
