"""The page of the protocol `anomaly`: tables, ROC and PRO curves, and test images with the true and the found outline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anprompt.detection.layouts import open_category
from anprompt.detection.masks import read_mask, resized
from anprompt.detection.overlay import overlay
from anprompt.errors import UserError
from anprompt.experiments.schema import ExtendedRecord
from anprompt.report import charts, markup, plots
from anprompt.report.markup import data_uri, escape
from anprompt.report.page import GENERATOR, check_report
from anprompt.report.tables import tables
from anprompt.tables.anomaly import anomaly_sheets, data_name, method_name
from anprompt.utils.files import write_text
from anprompt.utils.machine import in_words

FLOOR, CONTOUR = 0.0, 100.0  # of the maps that records keep
EVERY = 5  # of a curve's points one is marked
WIDE = 420  # pixels of an image with its map


def write_anomaly_report(
    path: str | Path,
    records: Sequence[ExtendedRecord],
    sources: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write the page, atomically.

    Args:
        sources: the folder of each data set by its name in the records, for the images.

    Raises:
        UserError: no records, the file is another's, or it can't be written.
    """
    target = Path(path)
    check_report(target, overwrite)
    write_text(target, render(records, sources or {}))
    return target


def render(records: Sequence[ExtendedRecord], sources: Mapping[str, str]) -> str:
    """The page as HTML."""
    if not records:
        raise UserError("No run records to report on.")
    methods = list(dict.fromkeys(method_name(r) for r in records))
    styles = {name: number for number, name in enumerate(methods)}
    sections = {
        "Figures": tables(anomaly_sheets(records), styles, opened=1),
        "Curves": _curves(records, styles),
        "Images": _images(records, sources),
        "What was run": _facts(records),
    }
    style = (resources.files("anprompt") / "assets" / "report.css").read_text(encoding="utf-8")
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections.items() if content)
    data = ", ".join(dict.fromkeys(data_name(r) for r in records))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"{GENERATOR}<title>anprompt: report</title><style>{style}</style></head><body>"
        f'<header><h1>Anomaly detection</h1><p class="lead">{len(methods)} methods on {escape(data)}.</p></header>'
        f"<main>{body}</main></body></html>\n"
    )


def _curves(records: Sequence[ExtendedRecord], styles: Mapping[str, int]) -> str:
    """ROC and PRO of the first seed at the largest number of images, for every data set."""
    parts = [charts.legend(list(styles), dict(styles))]
    for data in dict.fromkeys(data_name(r) for r in records):
        own = _largest([r for r in records if data_name(r) == data])
        for kind, title, x_name, ticks in (
            ("roc", "ROC of images", "share of normal images flagged, %", [(0.0, "0"), (50.0, "50"), (100.0, "100")]),
            ("pro", "PRO of defects", "share of normal pixels flagged, %", [(0.0, "0"), (15.0, "15"), (30.0, "30")]),
        ):
            scale = 100.0 if kind == "roc" else 30.0
            curves = [
                plots.Curve(
                    method_name(r), styles[method_name(r)],
                    [scale * x for x in r["curves"]["false_alarms"][::EVERY]], [100 * y for y in r["curves"][kind][::EVERY]],
                )
                for r in own if kind in r["curves"]
            ]  # fmt: skip
            parts.append(plots.chart(f"{data}: {title}", curves, ticks, x_name, (0.0, 100.0)))
    return parts[0] + f'<div class="grid">{"".join(parts[1:])}</div>'


def _largest(records: Sequence[ExtendedRecord]) -> list[ExtendedRecord]:
    """Of every method the run with most images and the first seed."""
    found: dict[str, ExtendedRecord] = {}
    for record in sorted(records, key=lambda r: (-r["spec"]["shots"], r["spec"]["seed"])):
        found.setdefault(method_name(record), record)
    return list(found.values())


def _images(records: Sequence[ExtendedRecord], sources: Mapping[str, str]) -> str:
    """Image with true (white) and found (red) outline, and the heat map: those that records keep, per method."""
    parts = []
    for data in dict.fromkeys(data_name(r) for r in records):
        own = _largest([r for r in records if data_name(r) == data])
        try:
            spec = own[0]["spec"]
            source = sources.get(spec["dataset"], spec["dataset"])
            samples = {f"{s.kind}/{Path(s.path).name}": s for s in open_category(source, spec["category"] or None).test}
        except UserError as error:
            parts.append(markup.note(f"The images of {data} can't be shown: {error}"))
            continue
        for record in own:
            shown = "".join(_figure(name, kept, samples, record) for name, kept in record["gallery"].items())
            heading = f"{data}: {method_name(record)}, {record['spec']['shots']} images"
            parts.append(
                markup.fold(heading, f'<div class="grid">{shown}</div>', opened=record["spec"]["method"] == "apt")
            )
    return markup.note("White: the true defect; red: where the map is above what normal images show. The first images of every "
                       "kind, chosen by their names.") + "".join(parts)  # fmt: skip


def _figure(name: str, kept: Mapping[str, Any], samples: Mapping[str, Any], record: ExtendedRecord) -> str:
    sample = samples.get(name)
    if sample is None:
        return ""
    try:
        with Image.open(sample.path) as file:
            image = file.convert("RGB")
        truth = read_mask(sample.mask, image.size) if sample.mask else None
    except (OSError, UserError):
        return ""
    levels = np.frombuffer(base64.b64decode(kept["hundredths"]), np.uint8).reshape(kept["shape"]).astype(np.float32)
    sheet = overlay(image, resized(levels, image.size[::-1]), floor=FLOOR, contour=CONTOUR, truth=truth)
    score = record["images"]["scores"][record["images"]["names"].index(name)]
    words = f"{name}, score {score:.3f}"
    return f'<figure><img alt="{escape(words)}" src="{data_uri(sheet, WIDE)}"><figcaption>{escape(words)}</figcaption></figure>'


def _facts(records: Sequence[ExtendedRecord]) -> str:
    machines = ", ".join(dict.fromkeys(in_words(r["hardware"]) for r in records))
    lines = [
        markup.Line(f"{data_name(r)}, {method_name(r)}", [
            markup.Cell(str(r["spec"]["shots"]), "n"), markup.Cell(str(r["data"]["tiles"]), "n"),
            markup.Cell(str(r["data"]["test"]), "n"), markup.Cell(f"{r['timings']['fit_s']:.1f}", "n"),
        ])
        for r in _largest_everywhere(records)
    ]  # fmt: skip
    heads = ("run", "normal images", "windows on the shorter side", "test images", "fit, s")
    return markup.table("What was run", heads, lines) + markup.note(f"{len(records)} runs. {machines}")


def _largest_everywhere(records: Sequence[ExtendedRecord]) -> list[ExtendedRecord]:
    names = dict.fromkeys(data_name(r) for r in records)
    return [one for data in names for one in _largest([r for r in records if data_name(r) == data])]
