"""One self-contained HTML page from run records: no network, no script, pictures inside.

Everything that came from a user or a file (class names, data set names, paths) goes through `escape`.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path

from PIL import Image

from anprompt.report import charts
from anprompt.conditions import Condition
from anprompt.errors import UserError
from anprompt.files import write_text
from anprompt.gallery import Answer, Case, Gallery, Showing, gallery_png
from anprompt.results import Record
from anprompt.tables import (
    CLEAN,
    MEAN,
    Row,
    base_new_rows,
    condition_rows,
    conditions,
    in_order,
    label,
    labels,
    nice,
    shown_name,
)

__all__ = ["gallery_png", "render", "write_report"]

NEXT = "anprompt fit --data my_photos/ --shots 16 --out adapter/"


def write_report(path: str | Path, records: Sequence[Record], galleries: Sequence[Gallery] = ()) -> Path:
    """Write the page, atomically."""
    target = Path(path)
    write_text(target, render(records, galleries))
    return target


def render(records: Sequence[Record], galleries: Sequence[Gallery] = ()) -> str:
    """The page as HTML.

    Raises:
        UserError: no records.
    """
    if not records:
        raise UserError("No run records to report on.")
    style = (resources.files("anprompt") / "assets" / "report.css").read_text(encoding="utf-8")
    sections = [
        ("result", "Classes trained on, and classes never trained on", _result(records)),
        ("noise", "Under noise", _noise(records)),
        ("pictures", "What they answered", _pictures(galleries)),
        ("training", "Training, part by part", _training(records)),
        ("facts", "What was run, and on what", _facts(records)),
    ]
    shown = [(key, heading, body) for key, heading, body in sections if body]
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in shown)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{heading}</h2>{content}</section>'
        for key, heading, content in shown
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>anprompt: report</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#result">To the results</a>{_header(records)}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}{_next()}</main></body></html>\n'
    )


# --- sections -------------------------------------------------------------------------------------
def _header(records: Sequence[Record]) -> str:
    names, sets = labels(records), in_order(records, "dataset")
    what = f"{len(sets)} data sets" if len(sets) > 1 else f"the data set {shown_name(sets[0])}"
    tuned = [nice(label(record)) for record in records if record["log"]["steps"]]
    lead = f"Zero-shot CLIP on {what}."
    if tuned:
        who = ", ".join(dict.fromkeys(tuned))
        shots = ", ".join(in_order(records, "shots"))
        lead = (
            f"{who} learnt from {shots} pictures per class of the first half of the classes of {what}. "
            "The other half is never seen in training."
        )
    title = (
        " and ".join(nice(name) for name in reversed(names)) if len(names) <= 2 else f"{len(names)} methods"
    )
    return f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{_tiles(records)}</header>'


def _tiles(records: Sequence[Record]) -> str:
    """The last method's averages with their distance to the first's."""
    rows = _average(base_new_rows(records))
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    tiles = [
        _tile(last.base.mean, first.base.mean, "base classes, trained on"),
        _tile(last.new.mean, first.new.mean, "new classes, never trained on"),
        _tile(last.h.mean, first.h.mean, "H, their harmonic mean"),
    ]
    noises = [c for c in conditions(records) if Condition.parse(c).kind == "image"]
    noisy = [_average(base_new_rows(records, c)) for c in noises]
    if noisy:
        before, after = (statistics.fmean(rows[at].h.mean for rows in noisy) for at in (0, -1))
        kinds = f", average of {len(noises)} kinds" if len(noises) > 1 else ""
        tiles.append(_tile(after, before, f"H under noise{kinds}"))
    about = (
        f'<p class="note">{escape(nice(last.method))}, and its distance to {escape(nice(first.method))}:</p>'
    )
    return f'{about}<div class="tiles">{"".join(tiles)}</div>'


def _tile(value: float, before: float, text: str) -> str:
    return (
        f'<div class="tile"><b>{value:.1f} %</b><span>{escape(text)}</span>'
        f"<span>{charts.signed(value - before)} (from {before:.1f} %)</span></div>"
    )


def _average(rows: Sequence[Row]) -> list[Row]:
    """The averages over data sets; where there is one data set only, its own rows."""
    return [row for row in rows if row.dataset == MEAN] or list(rows)


def _result(records: Sequence[Record]) -> str:
    rows, names = base_new_rows(records), labels(records)
    groups = []
    for dataset in map(shown_name, in_order(records, "dataset")):
        own = {row.method: row for row in rows if row.dataset == dataset}
        if set(own) == set(names):  # of a half-done sweep, what can't be compared stays in the table only
            lines = [(half, [getattr(own[name], half).mean for name in names]) for half in ("base", "new")]
            groups.append((dataset, lines))
    spread = "± is the standard deviation over seeds. " if any(row.seeds > 1 for row in rows) else ""
    note = (
        f'<p class="note">Accuracy in percent. {spread}H is the harmonic mean of base and new. In the chart, the '
        "number at the right is the change from the first method to the last.</p>"
    )
    return f'<div class="two"><div>{table(rows)}{note}</div>{_chart(groups, names)}</div>'


def _chart(groups: charts.Groups, names: Sequence[str]) -> str:
    if not groups:
        return ""
    return f"<div>{charts.legend(names)}{charts.dumbbells(groups, names)}</div>"


def _noise(records: Sequence[Record]) -> str:
    if not conditions(records):
        return ""
    names = labels(records)
    rows = [
        dataclasses.replace(row, dataset=_condition_title(row.condition)) for row in condition_rows(records)
    ]
    groups = []
    for half in ("base", "new"):
        lines = []
        for title in dict.fromkeys(row.dataset for row in rows):
            own = {row.method: row for row in rows if row.dataset == title}
            if set(own) == set(names):
                lines.append((title, [getattr(own[name], half).mean for name in names]))
        groups.append((f"{half} classes", lines))
    return f'{_noise_text(records)}<div class="two"><div>{table(rows, "condition")}</div>{_chart(groups, names)}</div>'


def _noise_text(records: Sequence[Record]) -> str:
    over = ", on average over the data sets" if len(in_order(records, "dataset")) > 1 else ""
    parsed = [Condition.parse(condition) for condition in conditions(records)]
    unseen = "; ".join(c.title for c in parsed if not c.seen_in_training)
    seen = "; ".join(c.title for c in parsed if c.seen_in_training)
    told = f"The same test pictures, disturbed{over}."
    if unseen:
        told += f" Unseen in training: {unseen}."
    if seen:
        told += f" Of a kind that ANPrompt makes its own noisy sentences with, so not unseen: {seen}."
    return f"<p>{escape(told)}</p>"


def _condition_title(condition: str) -> str:
    return condition if condition == CLEAN else Condition.parse(condition).title


def _pictures(galleries: Sequence[Gallery]) -> str:
    full = [gallery for gallery in galleries if gallery.cases]
    if not full:
        return ""
    cards = "".join(_card(case) for gallery in full for case in gallery.cases)
    how = "".join(f"<li>{escape(gallery.how)}</li>" for gallery in full)
    return (
        f'<ul class="cases">{cards}</ul><details><summary>How these were chosen</summary>'
        f'<ul class="note">{how}</ul></details>'
    )


def _card(case: Case) -> str:
    half = {"base": "base: trained on", "new": "new: never trained on"}[case.half]
    showings = "".join(_showing(showing, case.truth) for showing in case.showings)
    return (
        f'<li class="case"><h4>{escape(case.truth)}</h4><span class="note">{escape(case.dataset)}, {half}</span>'
        f'<div class="pair">{showings}</div></li>'
    )


def _showing(showing: Showing, truth: str) -> str:
    alt = f"{truth}, {showing.condition}"
    answers = "".join(_answer(answer) for answer in showing.answers)
    return (
        f'<div><img src="{data_uri(showing.picture)}" alt="{escape(alt)}" loading="lazy">'
        f'<span class="condition">{escape(showing.condition)}</span>{answers}</div>'
    )


def _answer(answer: Answer) -> str:
    kind, mark = ("right", "✓") if answer.right else ("wrong", "✗")
    return (
        f'<span class="answer {kind}"><small>{escape(nice(answer.method))}: {kind}</small>'
        f'<span aria-hidden="true">{mark} </span>{escape(answer.name)}</span>'
    )


def data_uri(picture: Image.Image, side: int = 192) -> str:
    """A picture as a data URI, at most `side` pixels wide and high."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


PARTS = {
    "lr": "learning rate", "loss": "whole loss", "ce": "cross-entropy, z", "ce_rep": "cross-entropy, z_rep",
    "sim_image": "distance of image features", "sim_text": "distance of text features", "wa": "WALoss",
}  # fmt: skip


def _training(records: Sequence[Record]) -> str:
    """A panel per loss part; of several seeds the first is drawn."""
    trained = [record for record in records if record["log"]["epochs"]]
    by_name: dict[str, Record] = {}
    several = len(labels(trained)) > 1
    for record in trained:
        name = shown_name(record["spec"]["dataset"]) + (f", {label(record)}" if several else "")
        by_name.setdefault(name, record)
    parts = list(dict.fromkeys(part for r in trained for epoch in r["log"]["epochs"] for part in epoch))
    panels = ""
    for part in parts:
        series = {
            name: [epoch[part] for epoch in record["log"]["epochs"] if part in epoch]
            for name, record in by_name.items()
        }
        panels += charts.curves(PARTS.get(part, part), {k: v for k, v in series.items() if v})
    if not panels:
        return ""
    return charts.legend(list(by_name), "s") + f'<div class="panels">{panels}</div>'


def _facts(records: Sequence[Record]) -> str:
    first = records[0]
    trained = [record for record in records if record["log"]["steps"]]
    facts: dict[str, Iterable[object]] = {
        "backbone": [f"{r['backbone']['id']} (weights {r['backbone']['weight_hash'][:12]})" for r in records],
        "data": [f"{r['spec']['dataset']} (hash {r['data']['hash'][:12]})" for r in records],
        "classes": [
            f"{r['spec']['dataset']}: {r['data']['classes']['base']} base, {r['data']['classes']['new']} new"
            for r in records
        ],
        "template": [r["data"]["template"] for r in records],
        "shots": in_order(records, "shots"),
        "seeds": in_order(records, "seed"),
        "recipe": [_recipe(r) for r in trained],
        "head": [
            f"{half}: the {r['metrics'][half]['head']} head" for r in trained for half in ("base", "new")
        ],
        "trained parameters": [f"{r['method']['trained_parameters']:,}" for r in trained],
        "precision": in_order(records, "precision"),
        "seconds": [f"{statistics.fmean(r['timings']['train_s'] for r in trained):.0f} a training"]
        if trained
        else [],
        "memory": [f"{max(r['memory']['peak_mb'] for r in records):.0f} MB at most"],
        "files left out": [sum({r["spec"]["dataset"]: r["data"]["skipped_count"] for r in records}.values())],
        "hardware": [_hardware(r["hardware"]) for r in records],
        "versions": [", ".join(f"{name} {value}" for name, value in first["versions"].items())],
        "finished": [max(r["finished"] for r in records)],
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{'<br>'.join(escape(v) for v in dict.fromkeys(map(str, values)))}</dd>"
        for name, values in facts.items()
        if list(values)
    )
    return f"<dl>{rows}</dl>"


def _recipe(record: Record) -> str:
    train = record["train"]
    return (
        f"{label(record)}: {train['optimizer']}, lr {train['lr']:g}, {train['epochs']} epochs, "
        f"batch {train['batch_size']}"
    )


def _hardware(found: Mapping[str, object]) -> str:
    text = f"{found['cpu']}, {found['cores']} cores, {found['threads']} torch threads"
    return f"{found['gpu']}; {text}" if "gpu" in found else text


def _next() -> str:
    return f"<section><h2>With your own photos</h2><p>A folder with one folder per class is enough:</p><pre>{NEXT}</pre></section>"


# --- tables ---------------------------------------------------------------------------------------
def table(rows: Sequence[Row], first: str = "data") -> str:
    """Rows grouped by data set, the best of each group in bold."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.dataset, []).append(row)
    body = "".join(f"<tbody>{_group(name, group)}</tbody>" for name, group in groups.items())
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="Table of accuracies by {first}"><table><thead><tr>'
        f'<th scope="col">{first}</th><th scope="col">method</th><th scope="col" class="n">base</th>'
        '<th scope="col" class="n">new</th><th scope="col" class="n">H</th></tr></thead>'
        f"{body}</table></div>"
    )


def _group(name: str, group: Sequence[Row]) -> str:
    best = {key: max(getattr(row, key).mean for row in group) for key in ("base", "new", "h")}
    lines = []
    for index, row in enumerate(group):
        head = (
            f'<th class="long" scope="rowgroup" rowspan="{len(group)}">{escape(name)}</th>'
            if not index
            else ""
        )
        cells = ""
        for key in ("base", "new", "h"):
            spread = getattr(row, key)
            bold = " best" if len(group) > 1 and spread.mean == best[key] else ""
            cells += f'<td class="n{bold}">{escape(spread.text())}</td>'
        lines.append(f"<tr>{head}<td>{escape(row.method)}</td>{cells}</tr>")
    return "".join(lines)
