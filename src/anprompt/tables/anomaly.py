"""Sheets of the protocol `anomaly`: figures by normal images, and paired comparisons over kinds of defects and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anprompt.evaluation.statistics import Cell as Place
from anprompt.evaluation.statistics import Spread, compare
from anprompt.experiments.schema import ExtendedRecord
from anprompt.tables.sheet import NEITHER, Cell, Column, Line, Sheet, columns

PROTOCOL = "anomaly"
FIGURES = {
    "image_auroc": "image AUROC", "image_ap": "image AP", "image_f1max": "image F1max", "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP", "pixel_f1max": "pixel F1max", "aupro": "AUPRO",
}  # fmt: skip
TESTED = ("image_auroc", "aupro")


def method_name(record: ExtendedRecord) -> str:
    """The method with the settings that differ from its own: "apt (bank=False)"."""
    changed = record["spec"]["settings"]
    told = ", ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return record["spec"]["method"] + (f" ({told})" if told else "")


def data_name(record: ExtendedRecord) -> str:
    """The data set, without the folders above it, and its category."""
    spec = record["spec"]
    name = spec["dataset"] if ":" in spec["dataset"] else Path(spec["dataset"]).name
    return f"{name}/{spec['category']}" if spec["category"] else name


def _order(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _shots(records: Sequence[ExtendedRecord]) -> list[int]:
    return sorted({record["spec"]["shots"] for record in records})


def _without_shots(method: str, records: Sequence[ExtendedRecord]) -> bool:
    """Whether a method was run without normal images alone: then it is the same beside any number of them."""
    return {record["spec"]["shots"] for record in records if method_name(record) == method} == {0}


def _at(records: Sequence[ExtendedRecord], method: str, shots: int) -> list[ExtendedRecord]:
    blind = _without_shots(method, records)
    return [r for r in records if method_name(r) == method and (blind or r["spec"]["shots"] == shots)]


def figure_sheet(records: Sequence[ExtendedRecord], figure: str) -> Sheet:
    """One figure of all defects together: data sets and methods by the number of normal images."""
    shots, lines = _shots(records), []
    for data in _order([data_name(r) for r in records]):
        own = [r for r in records if data_name(r) == data]
        for method in _order([method_name(r) for r in own]):
            cells = []
            for number in shots:
                found = [r["metrics"]["all"][figure] for r in _at(own, method, number) if figure in r["metrics"]["all"]]
                cells.append(Cell.of(Spread.of(found) if found else None))
            lines.append(Line(data, method, tuple(cells)))
    heads = ["zero-shot" if not n else f"{n} image" if n == 1 else f"{n} images" for n in shots]
    backbones = ", ".join(_order([r["backbone"]["id"] for r in records]))
    note = (
        f"{FIGURES[figure]} in percent, all defects together, mean ± standard deviation over seeds; backbone {backbones}. A method "
        "that learns from no image is the same in every column."
    )
    return Sheet(f"Anomaly detection: {FIGURES[figure]}", note, ("data", "method"), columns(heads), tuple(lines))


def cells_of(
    records: Sequence[ExtendedRecord], method: str, shots: int, figure: str, seeds: Sequence[int]
) -> Mapping[Place, float]:
    """A figure by (data set and kind of defect, seed); what has no chance in it counts for every seed."""
    found: dict[Place, float] = {}
    for record in _at(records, method, shots):
        kinds = [kind for kind in record["metrics"] if kind != "all"] or ["all"]
        own = seeds if _without_shots(method, records) else [record["spec"]["seed"]]
        found |= {
            (f"{data_name(record)}/{kind}", seed): record["metrics"][kind][figure]
            for kind in kinds for seed in own if figure in record["metrics"][kind]
        }  # fmt: skip
    return found


def paired_anomaly_sheet(records: Sequence[ExtendedRecord], reference: str = "apt") -> Sheet | None:
    """The reference minus every other method at every number of images, over kinds of defects and seeds."""
    methods = _order([method_name(r) for r in records])
    if reference not in methods or len(methods) < 2:
        return None
    seeds, lines = sorted({r["spec"]["seed"] for r in records}), []
    for number in [n for n in _shots(records) if n]:
        for method in methods:
            if method == reference:
                continue
            cells: list[Cell] = []
            for figure in TESTED:
                first, second = (cells_of(records, name, number, figure, seeds) for name in (reference, method))
                if not first.keys() & second.keys():
                    cells += [Cell()] * 3
                    continue
                paired = compare(first, second)
                cells += [Cell.difference(paired), Cell.p_value(paired.p), Cell(paired.score())]
            lines.append(Line(f"{number} images", f"{reference} minus {method}", tuple(cells)))
    heads = [
        Column(f"{FIGURES[figure]} {what}", NEITHER)
        for figure in TESTED
        for what in ("difference", "p", "won / level / lost")
    ]
    note = (
        "Points of difference over cells of one kind of defect (beside all normal images) and one seed; p of the two-sided Wilcoxon "
        "signed-rank test of one mean difference per kind of defect, since seeds of one kind are not independent."
    )
    return Sheet("Anomaly detection: paired", note, ("normal images", "compared"), tuple(heads), tuple(lines))


def anomaly_sheets(records: Sequence[ExtendedRecord]) -> list[Sheet]:
    """All sheets of records of this protocol; others are passed over."""
    own = [record for record in records if record["spec"]["protocol"] == PROTOCOL]
    if not own:
        return []
    made = [figure_sheet(own, figure) for figure in FIGURES if any(figure in r["metrics"]["all"] for r in own)]
    paired = paired_anomaly_sheet(own)
    return [*made, paired] if paired else made
