"""Sheets on noise: what is left of accuracy on disturbed pictures and words, with how many changed answers.

Pictures, class names and templates are reported apart, and so are the operators that training itself used:
they do not test unseen noise.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anprompt.errors import UserError
from anprompt.evaluation.statistics import Spread, flip_rate, relative_drop
from anprompt.experiments.records import Record
from anprompt.noise.image import IMAGENET_C
from anprompt.tables.compare import paired_sheet
from anprompt.tables.cost import cost_sheet
from anprompt.tables.rows import shown_name
from anprompt.tables.runs import Batch, Grid, Measure, Values, average_spread, layout_of, note, spread_note, topic_of
from anprompt.tables.sheet import HIGH, LOW, Cell, Column, Line, Sheet, columns

PARTS = ("base", "new", "all", "source")  # then targets, by name
OTHER = "other"
KINDS = {
    "image": "pictures", OTHER: "pictures, families beyond ImageNet-C", "text": "class names", "template": "templates",
}  # fmt: skip
NUMBERED = ("unseen", "description")  # their number names a sentence; it is not a strength
SUMMARY = {
    "clean": HIGH, "mean": HIGH, "worst": HIGH, "drop %": LOW, "changed %": LOW, "ECE clean": LOW, "ECE noisy": LOW,
}  # fmt: skip
SUMMARY_NOTE = (
    "Accuracy in percent. Mean: over families, each the mean of its severities. Worst: the lowest of them "
    "all on each data set. Drop: (clean - mean) / clean. Changed: pictures whose answer is another one than "
    "on the clean input, right or wrong. ECE: expected calibration error in percent, 15 bins. All are "
    "worked out per run and then averaged over data sets."
)
SEEN_NOTE = "Noise that training itself used stands apart: it is not unseen."
UNREAD = Cell("not read")
UNREAD_NOTE = "Not read: learned vectors stand where the noise is, so none of it reaches the method."


@dataclass(frozen=True)
class Block:
    """Conditions that are averaged together: of one kind, on one part (base, new, ...), met in training or not."""

    part: str
    kind: str
    seen: bool
    conditions: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.part}, {KINDS.get(self.kind, self.kind)}{' (noise seen in training)' if self.seen else ''}"

    @functools.cached_property
    def families(self) -> dict[str, list[str]]:
        """Conditions by family."""
        found: dict[str, list[str]] = {}
        for condition in self.conditions:
            found.setdefault(split(condition)[1], []).append(condition)
        return found

    def only(self, keep: Callable[[str], bool]) -> Block:
        """The same of some conditions."""
        return dataclasses.replace(self, conditions=tuple(filter(keep, self.conditions)))


@functools.cache
def split(condition: str) -> tuple[str, str, int]:
    """Kind, family and strength of `image:fog:3`.

    Raises:
        UserError: another form.
    """
    words = condition.split(":")
    if len(words) != 3 or not (words[2].isascii() and words[2].isdigit()):
        raise UserError(f"A record has the condition {condition!r}, which is not KIND:FAMILY:STRENGTH.")
    return words[0], words[1], int(words[2])


def entries(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured, by part: base and new, all, or source and targets."""
    own = {name: entry for name, entry in metrics.items() if isinstance(entry, dict) and "accuracy" in entry}
    return {**own, **{shown_name(name): entry for name, entry in metrics.get("targets", {}).items()}}


def entry(metrics: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """What was measured of one part."""
    return metrics[part] if part in PARTS and part in metrics else entries(metrics)[part]


def _parts(records: Iterable[Record]) -> list[str]:
    """Parts that any record has, in the order of `PARTS`."""
    known = {part for record in records for part in entries(record["metrics"])}
    return sorted(known, key=lambda part: (PARTS.index(part) if part in PARTS else len(PARTS), part))


def kind_of(condition: str) -> str:
    """A key of `KINDS`; another kind of condition stands for itself."""
    kind, family, _ = split(condition)
    return OTHER if kind == "image" and family not in IMAGENET_C else kind


def conditions_of(record: Record) -> dict[str, Any]:
    """The disturbed measurements of a record by condition."""
    return record["metrics"].get("conditions", {})


def seen_in_training(records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Conditions of a kind that at least one of the methods met in its training."""
    return {
        name for record in records for name, entry in record["metrics"].get("conditions", {}).items()
        if entry.get("seen_in_training")
    }  # fmt: skip


def blocks(records: Sequence[Record]) -> list[Block]:
    """The conditions that all runs have which have any of that kind, sorted into blocks."""
    found: list[Block] = []
    all_parts = _parts(records)
    for kind in dict.fromkeys((*KINDS, *sorted({kind_of(c) for r in records for c in conditions_of(r)}))):
        own = [{c for c in conditions_of(record) if kind_of(c) == kind} for record in records]
        shared = set.intersection(*filter(None, own)) if any(own) else set()
        seen = seen_in_training(records)
        for trained in (False, True):
            names = tuple(sorted((c for c in shared if (c in seen) == trained), key=split))
            found += [Block(part, kind, trained, names) for part in all_parts if names]
    return sorted(found, key=lambda block: all_parts.index(block.part))


def left_out(records: Sequence[Record], used: Sequence[Block]) -> str:
    """A sentence on conditions that only some of the runs have."""
    known = {condition for record in records for condition in conditions_of(record)}
    count = len(known - {condition for block in used for condition in block.conditions})
    return f"{count} conditions that only some of the runs have are left out." if count else ""


# --- figures of one run ---------------------------------------------------------------------------
def balanced(block: Block, figure: Callable[[str], float | None]) -> float | None:
    """Mean over families of the mean over severities; None where any is missing."""
    means = []
    for names in block.families.values():
        values = [figure(name) for name in names]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        means.append(statistics.fmean(known))
    return statistics.fmean(means) if means else None


def covers(record: Record, block: Block) -> bool:
    """Whether a run has the part and all conditions of a block."""
    return block.part in entries(record["metrics"]) and set(block.conditions) <= conditions_of(record).keys()


def unread(grid: Grid, block: Block, method: str) -> bool:
    """Whether nothing of a block's noise reaches a method, whatever the data set and seed."""
    runs = [run for seeds in grid.runs[method].values() for run in seeds.values() if covers(run, block)]
    noisy = [entry(conditions_of(run)[c], block.part) for run in runs for c in block.conditions]
    return bool(noisy) and all(found.get("unchanged") for found in noisy)


def mean_accuracy(block: Block) -> Measure:
    """Of a run under the block's noise."""

    def measure(record: Record) -> float | None:
        if not block.conditions or not covers(record, block):
            return None
        return balanced(block, lambda c: entry(conditions_of(record)[c], block.part)["accuracy"])

    return measure


def summary(block: Block) -> dict[str, Measure]:
    """The columns of `SUMMARY`."""

    def clean(record: Record) -> Mapping[str, Any] | None:
        return entry(record["metrics"], block.part) if covers(record, block) else None

    def noisy(record: Record, condition: str) -> Mapping[str, Any]:
        return entry(conditions_of(record)[condition], block.part)

    def worst(record: Record) -> float | None:
        return min(noisy(record, c)["accuracy"] for c in block.conditions) if clean(record) else None

    def drop(record: Record) -> float | None:
        before, mean = clean(record), mean_accuracy(block)(record)
        return None if before is None or mean is None else relative_drop(before["accuracy"], mean)

    def changed(record: Record) -> float | None:
        before = clean(record)
        if before is None or "predicted" not in before:
            return None
        return balanced(block, lambda c: flip_rate(before, noisy(record, c)))

    def error(record: Record) -> float | None:
        return balanced(block, lambda c: noisy(record, c).get("ece")) if clean(record) else None

    return {
        "clean": lambda r: (clean(r) or {}).get("accuracy"), "mean": mean_accuracy(block), "worst": worst,
        "drop %": drop, "changed %": changed,
        "ECE clean": lambda r: (clean(r) or {}).get("ece"), "ECE noisy": error,
    }  # fmt: skip


# --- sheets ---------------------------------------------------------------------------------------
def noise_sheets(batch: Batch, reference: str) -> list[Sheet]:
    """Summary, per severity, per family, comparisons, cost; nothing where no run has a condition."""
    grid, found = Grid.of(batch.records, reference), blocks(batch.records)
    if not found:
        return []
    deaf = any(unread(grid, block, method) for block in found for method in grid.methods)
    sentences = (
        spread_note(batch.records), SEEN_NOTE, UNREAD_NOTE if deaf else "", left_out(batch.records, found)
    )  # fmt: skip
    told = [sentence for sentence in sentences if sentence]
    alone = layout_of(batch.protocol) == "noise"
    if not alone:
        batch = dataclasses.replace(batch, topic=f"{topic_of(batch.protocol)} under noise")
    compared = {f"{block.title}, mean": _read(grid, block) for block in found}
    made = [
        _summary(batch, grid, found, told),
        _severities(batch, grid, found, told),
        _families(batch, grid, found, told),
        paired_sheet(batch, grid, reference, compared),
        cost_sheet(batch, grid) if alone else None,
    ]
    return [sheet for sheet in made if sheet]


def _summary(batch: Batch, grid: Grid, found: Iterable[Block], told: Sequence[str]) -> Sheet:
    lines = []
    for block in found:
        values = [grid.values(measure) for measure in summary(block).values()]
        lines += _lines(grid, block, SUMMARY, values)
    heads = tuple(Column(name, better) for name, better in SUMMARY.items())
    about = note(batch.records, SUMMARY_NOTE, *told)
    return Sheet(batch.title(), about, ("classes, noise", "method"), heads, tuple(lines))


def _severities(batch: Batch, grid: Grid, found: Iterable[Block], told: Sequence[str]) -> Sheet | None:
    """Means over families at each strength; the columns are those that any block has."""
    graded = [block.only(lambda c: split(c)[1] not in NUMBERED) for block in found]
    graded = [block for block in graded if block.conditions]
    strengths = sorted({split(c)[2] for block in graded for c in block.conditions})
    if not strengths:
        return None
    lines, heads = [], ["clean", *(f"{strength}" for strength in strengths)]
    for block in graded:
        at = [block.only(lambda c, s=strength: split(c)[2] == s) for strength in strengths]  # type: ignore[misc]
        values = [grid.values(summary(block)["clean"]), *(grid.values(mean_accuracy(part)) for part in at)]
        lines += _lines(grid, block, heads, values)
    about = note(batch.records, "Accuracy in percent, mean over the families at each severity or strength.", *told)
    return Sheet(batch.title("by severity"), about, ("classes, noise", "method"), columns(heads), tuple(lines))


def _families(batch: Batch, grid: Grid, found: Iterable[Block], told: Sequence[str]) -> Sheet:
    """Families down, methods across."""
    lines = []
    for block in found:
        for family, names in block.families.items():
            own = block.only(lambda c, n=names: c in n)  # type: ignore[misc]
            values = grid.values(mean_accuracy(own))
            spreads = {method: _average(grid, values, method) for method in grid.methods}
            if any(spreads.values()):
                cells = [UNREAD if unread(grid, own, m) else Cell.of(found) for m, found in spreads.items()]
                lines.append(Line(block.title, family.replace("_", " "), tuple(cells)))
    about = note(batch.records, "Accuracy in percent, mean over the severities of each family.", *told)
    return Sheet(
        batch.title("by family"), about, ("classes, noise", "family"), columns(grid.methods),
        tuple(lines), across=True,
    )  # fmt: skip


def _lines(grid: Grid, block: Block, heads: Iterable[str], values: Sequence[Values]) -> list[Line]:
    """One a method that has any figure."""
    lines = []
    for method in grid.methods:
        spreads = [_average(grid, found, method) for found in values]
        if any(spreads):
            deaf = unread(grid, block, method)
            cells = [UNREAD if deaf and "clean" not in head else Cell.of(s) for head, s in zip(heads, spreads)]
            lines.append(Line(block.title, method, tuple(cells)))
    return lines


def _read(grid: Grid, block: Block) -> Values:
    """Means under a block's noise, of the methods that it reaches."""
    values = grid.values(mean_accuracy(block))
    return {method: sets for method, sets in values.items() if not unread(grid, block, method)}


def _average(grid: Grid, values: Values, method: str) -> Spread | None:
    """Over the data sets that have any figure at all; a method that lacks one of them has no average."""
    return average_spread(values, method, [d for d in grid.datasets if any(d in sets for sets in values.values())])
