"""What is taken for what: the most frequent confusions, and a small matrix of the classes they are among."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anprompt.experiments.records import Record, labels, predicted
from anprompt.report import markup
from anprompt.report.grid import HALVES, Grid
from anprompt.report.markup import Cell, Line
from anprompt.tables import nice, shown_name

TOP = 8  # confusions listed per data set
SIDE = 10  # classes in a matrix
Confusion = tuple[str, str, str]  # half, true name, answer


def confusions(grid: Grid) -> str:
    """The section: a fold per data set; empty where no record keeps its answers."""
    whole = Grid.all_sets(grid.records)
    folds = ""
    for dataset in whole.datasets:
        runs = {m: list(whole.runs(dataset, m).values()) for m in whole.methods}
        known = {
            m: [r for r in found if all(answers_known(r["metrics"][h]) for h in HALVES)] for m, found in runs.items()
        }
        known = {m: found for m, found in known.items() if found}
        if known:
            folds += markup.fold(shown_name(dataset), _dataset(known), opened=not folds)
    if not folds:
        return ""
    text = (
        f"The {TOP} most frequent confusions of each data set over all methods, as test pictures per run (the mean "
        "over seeds). Base pictures are told apart among base classes, new ones among new classes."
    )
    return markup.note(text) + folds


def answers_known(entry: Mapping[str, Any]) -> bool:
    """Whether an entry keeps true labels and answers of every picture."""
    return "labels" in entry and "predicted" in entry


def names(entry: Mapping[str, Any]) -> dict[int, str]:
    """Class names by label; a class without test pictures has none, and is called by its number."""
    present, known = sorted(set(labels(entry))), list(entry.get("per_class", {}))
    found = dict(zip(present, known)) if len(present) == len(known) else {}
    return {n: found.get(n, f"class {n + 1}") for n in {*present, *predicted(entry)}}


def count(records: Sequence[Record]) -> Counter[Confusion]:
    """How often a class was taken for another, over all of the records."""
    found: Counter[Confusion] = Counter()
    for record in records:
        for half in HALVES:
            entry = record["metrics"][half]
            called = names(entry)
            found.update(
                (half, called[true], called[told])
                for true, told in zip(labels(entry), predicted(entry))
                if true != told
            )
    return found


def _dataset(known: Mapping[str, Sequence[Record]]) -> str:
    counts = {m: count(records) for m, records in known.items()}
    total: Counter[Confusion] = Counter()
    for m, found in counts.items():
        for confusion, n in found.items():
            total[confusion] += n / len(known[m])  # type: ignore[assignment]
    top = sorted(total, key=lambda c: (-total[c], c))[:TOP]
    lines = []
    for half, true, told in top:
        row = [counts[m][half, true, told] / len(known[m]) for m in known]
        lines.append(Line(true, [Cell(told), Cell(half), *(Cell(f"{n:.3g}", "n") for n in row)]))
    if not lines:
        return markup.note("Not one wrong answer.")
    columns = ["true", "answered", "half", *map(nice, known)]
    listed = markup.table("Most frequent confusions", columns, lines, left=(1, 2))
    half = top[0][0]
    last = list(known)[-1] if "anprompt" not in known else "anprompt"
    shown = list(dict.fromkeys([next(iter(known)), last]))
    drawn = "".join(matrix(known[m][0], half, _among(top, total, half), nice(m)) for m in shown)
    return listed + f'<div class="two">{drawn}</div>'


def _among(top: Sequence[Confusion], total: Mapping[Confusion, float], half: str) -> list[str]:
    """The classes of a half that are confused most, in the order of their confusions."""
    ordered = sorted((c for c in total if c[0] == half), key=lambda c: (-total[c], c))
    found: dict[str, None] = {}
    for _, true, told in ordered:
        for name in (true, told):
            if len(found) < SIDE:
                found.setdefault(name)
    return list(found)


def matrix(record: Record, half: str, wanted: Sequence[str], method: str) -> str:
    """Answers of one run among some classes, as a table whose colours deepen with the share of the row."""
    entry = record["metrics"][half]
    called = names(entry)
    pairs = Counter((called[t], called[p]) for t, p in zip(labels(entry), predicted(entry)))
    pictures = Counter(called[t] for t in labels(entry))
    lines = []
    for true in wanted:
        cells = []
        for told in wanted:
            n = pairs[true, told]
            depth = round(4 * n / max(pictures[true], 1) + 0.49) if n else 0
            colour = f"{'u' if true == told else 'd'}{min(depth, 4)}" if n else "zero"
            cells.append(Cell(str(n) if n else "·", f"n {colour}", title=f"{true} answered as {told}: {n}"))
        others = pictures[true] - sum(pairs[true, told] for told in wanted)
        lines.append(Line(true, [*cells, Cell(str(others) if others else "·", "n")]))
    seed = record["spec"]["seed"]
    name = f"{method}, {half} classes, seed {seed}"
    heads = ["true", *wanted, "others"]
    return f"<div><h3>{markup.escape(name)}</h3>{markup.table(f'Confusion matrix: {name}', heads, lines, kind='matrix')}</div>"
