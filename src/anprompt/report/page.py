"""The page: which sections there are, its head, and the facts of the runs.

Everything that came from a user or a file (class names, data set names, paths) goes through `escape`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.protocols import PROTOCOLS
from anprompt.experiments.records import Record
from anprompt.report import charts, markup, training
from anprompt.report.attacked import attacked
from anprompt.report.confusion import confusions
from anprompt.report.gallery import Gallery
from anprompt.report.grid import Grid, Kinds, noise_grid, styles
from anprompt.report.markup import escape
from anprompt.report.noisy import noise
from anprompt.report.overview import heat, result
from anprompt.report.pictures import pictures
from anprompt.report.shots import few_shot
from anprompt.report.tables import pick, tables
from anprompt.tables import conditions, in_order, label, labels, nice, sheets, shown_name
from anprompt.tables.sheet import Sheet
from anprompt.tables.sound import sound_records
from anprompt.utils.files import check_output, write_text
from anprompt.utils.machine import in_words

# What says that a page was written here; the second is that of pages from before there was the first.
GENERATOR = '<meta name="generator" content="anprompt">'
MARKS = (GENERATOR.encode(), b"<title>anprompt: report</title>")
NEXT = "anprompt fit --data my_photos/ --shots 16 --out adapter/"
SECTIONS = {  # id: (in the list of sections, as a heading)
    "result": ("Base and new", "Classes trained on, and classes never trained on"),
    "sets": ("Data sets", "Data set by data set"),
    "noise": ("Noise", "Under noise"),
    "attacks": ("Attacks", "Under attack"),
    "shots": ("Few shots", "From few pictures"),
    "targets": ("Other data", "On data never trained on"),
    "others": ("Other protocols", "Other protocols"),
    "pictures": ("Pictures", "What they answered"),
    "compared": ("Compared", "Two methods side by side"),
    "confused": ("Confusions", "What is taken for what"),
    "training": ("Training", "Training, part by part"),
    "cost": ("Cost", "What it costs"),
    "facts": ("Facts", "What was run, and on what"),
}


def write_report(
    path: str | Path, records: Sequence[Record], galleries: Sequence[Gallery] = (), missing: Sequence[str] = (), *,
    overwrite: bool = False,
) -> Path:  # fmt: skip
    """Write the page, atomically.

    Args:
        overwrite: replace any regular file; else only a report.

    Raises:
        UserError: the file is another's or can't be written.
    """
    target = Path(path)
    check_report(target, overwrite)
    write_text(target, render(records, galleries, missing))
    return target


def check_report(target: Path, overwrite: bool = False) -> None:
    """`check_output`, which an older report passes."""
    check_output(target, overwrite=overwrite, ours=lambda head: any(mark in head for mark in MARKS))


@sound_records()
def render(records: Sequence[Record], galleries: Sequence[Gallery] = (), missing: Sequence[str] = ()) -> str:
    """The page as HTML; sections that the records have nothing for are left out.

    Args:
        missing: sentences on data sets whose pictures can't be shown.

    Raises:
        UserError: no records, or some that can't stand in one table.
    """
    if not records:
        raise UserError("No run records to report on.")
    kinds, marks = Kinds.of(records), styles(records)
    shown = [(key, body) for key, body in _sections(records, kinds, marks, galleries, missing).items() if body]
    links = "".join(f'<li><a href="#{key}">{SECTIONS[key][0]}</a></li>' for key, _ in shown)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{SECTIONS[key][1]}</h2>{content}</section>'
        for key, content in shown
    )
    style = (resources.files("anprompt") / "assets" / "report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"{GENERATOR}<title>anprompt: report</title><style>{style}</style></head><body>"
        f'<a class="skip" href="#{shown[0][0]}">To the results</a>{_header(records, kinds)}'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main>{body}{_next()}</main></body></html>\n'
    )


def _sections(
    records: Sequence[Record], kinds: Kinds, marks: dict[str, int], galleries: Sequence[Gallery],
    missing: Sequence[str],
) -> dict[str, str]:  # fmt: skip
    """The content of every section; that of some is empty."""
    made = sheets(records)
    own = [sheet for name in ("", "rank") for sheet in pick(made, name)]
    grid = Grid(kinds.halves)

    def of_layout(layout: str) -> list[Sheet]:
        topics = tuple(one.title for one in PROTOCOLS.values() if one.layout == layout)
        return [sheet for sheet in own if sheet.title.startswith(topics)] if topics else []

    main = of_layout("halves")
    noisy = pick(made, "noise")
    return {
        "result": result(grid, marks, main) if kinds.halves else "",
        "sets": heat(grid),
        "noise": noise(noise_grid(kinds.halves), marks, noisy) or tables(noisy, marks),
        "attacks": attacked(kinds.attacked, marks) + tables(of_layout("attacks"), marks, opened=1),
        "shots": few_shot(kinds.few_shot, marks) + tables(of_layout("shots"), marks, opened=1),
        "targets": tables(of_layout("targets"), marks, opened=2),
        "others": tables(of_layout("figures"), marks, opened=1),
        "pictures": pictures(galleries, missing),
        "compared": tables(pick(made, "compared"), marks),
        "confused": confusions(grid),
        "training": training.losses(records),
        "cost": tables(pick(made, "cost"), marks),
        "facts": _facts(records),
    }


# --- the head -------------------------------------------------------------------------------------
def _header(records: Sequence[Record], kinds: Kinds) -> str:
    names = labels(records)
    title = (
        " and ".join(nice(name) for name in reversed(names))
        if len(names) <= 2
        else f"{len(names)} methods on {_what(records)}"
    )
    lead = _lead(records, kinds)
    return f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{_tiles(kinds.halves)}</header>'


def _what(records: Sequence[Record]) -> str:
    sets = in_order(records, "dataset")
    return f"{len(sets)} data sets" if len(sets) > 1 else f"the data set {shown_name(sets[0])}"


def _lead(records: Sequence[Record], kinds: Kinds) -> str:
    """What was trained on what, in a sentence for each kind of run."""
    tuned = [record for record in records if record["log"]["steps"]]
    if not tuned:
        return f"Zero-shot CLIP on {_what(records)}."
    names = [nice(name) for name in labels(tuned)]
    who = ", ".join(names) if len(names) <= 2 else f"{len(names)} tuned methods"
    sentences = []
    halves = [record for record in kinds.halves if record["log"]["steps"]]
    if halves:
        sentences.append(
            f"{who} learnt from {', '.join(in_order(halves, 'shots'))} pictures per class of the first half of the "
            f"classes of {_what(kinds.halves)}. The other half is never seen in training."
        )
    if kinds.few_shot:
        shots = sorted(in_order(kinds.few_shot, "shots"), key=lambda n: (not n.isdigit(), n.zfill(9)))
        sentences.append(f"All classes of {_what(kinds.few_shot)}, learnt from {', '.join(shots)} pictures each.")
    if kinds.transfer:
        sentences.append(f"Trained on {_what(kinds.transfer)}, tested on others.")
    return " ".join(sentences)


def _tiles(records: Sequence[Record]) -> str:
    """ANPrompt's (or the last method's) averages with their distance to the first's."""
    grid = Grid(records)
    if len(grid.methods) < 2 or not grid.datasets:
        return ""
    first, last = grid.methods[0], "anprompt" if "anprompt" in grid.methods[1:] else grid.methods[-1]
    words = {
        "base": "base classes, trained on", "new": "new classes, never trained on", "h": "H, their harmonic mean",
    }  # fmt: skip
    tiles = []
    for what, text in words.items():
        after, before = grid.spread(last, what), grid.spread(first, what)
        if after and before:
            tiles.append(_tile(after.mean, before.mean, text))
    noises = [c for c in conditions(records) if Condition.parse(c).kind == "image"]
    disturbed = noise_grid(records)
    found = [disturbed.mean(m, "h", noises) if m in disturbed.methods else None for m in (last, first)]
    if noises and None not in found:
        kinds = f", average of {len(noises)} kinds" if len(noises) > 1 else ""
        tiles.append(_tile(found[0] or 0.0, found[1] or 0.0, f"H under noise{kinds}"))
    about = f'<p class="note">{escape(nice(last))}, and its distance to {escape(nice(first))}:</p>'
    return f'{about}<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(value: float, before: float, text: str) -> str:
    return (
        f'<div class="tile"><b>{value:.1f} %</b><span>{escape(text)}</span>'
        f"<span>{charts.signed(value - before)} (from\N{NO-BREAK SPACE}{before:.1f})</span></div>"
    )


# --- facts ----------------------------------------------------------------------------------------
def _facts(records: Sequence[Record]) -> str:
    trained = [record for record in records if record["log"]["steps"]]
    first = records[0]
    halves = [r for r in trained if "base" in r["metrics"]]
    facts: dict[str, Iterable[object]] = {
        "runs": [len(records)],
        "backbone": [f"{r['backbone']['id']} (weights {r['backbone']['weight_hash'][:12]})" for r in records],
        "data": [f"{r['spec']['dataset']} (hash {r['data']['hash'][:12]})" for r in records],
        "classes": [
            f"{r['spec']['dataset']}: " + ", ".join(f"{n} {half}" for half, n in r["data"]["classes"].items())
            for r in records
            if r["data"].get("classes")
        ],
        "template": [r["data"]["template"] for r in records],
        "shots": in_order(records, "shots"),
        "seeds": in_order(records, "seed"),
        "recipe": [_recipe(r) for r in trained],
        "head": [f"{half}: the {r['metrics'][half]['head']} head" for r in halves for half in ("base", "new")],
        "trained parameters": [f"{label(r)}: {r['method']['trained_parameters']:,}" for r in trained],
        "precision": in_order(records, "precision"),
        "seconds": _seconds(trained),
        "memory": [f"{max(r['memory']['peak_mb'] for r in records):.0f} MB at most"],
        "files left out": [sum({r["spec"]["dataset"]: r["data"]["skipped_count"] for r in records}.values())],
        "hardware": [in_words(r["hardware"]) for r in records],
        "versions": [", ".join(f"{name} {value}" for name, value in first["versions"].items())],
        "finished": [max(r["finished"] for r in records)],
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{'<br>'.join(escape(v) for v in dict.fromkeys(map(str, values)))}</dd>"
        for name, values in facts.items()
        if list(values)
    )
    return f"<dl>{rows}</dl>"


def _seconds(trained: Sequence[Record]) -> list[str]:
    return [f"{statistics.fmean(r['timings']['train_s'] for r in trained):.0f} a training"] if trained else []


def _recipe(record: Record) -> str:
    train = record["train"] or {}
    return (
        f"{label(record)}: {train['optimizer']}, lr {train['lr']:g}, {train['epochs']} epochs, "
        f"batch {train['batch_size']}"
    )


def _next() -> str:
    return (
        "<section><h2>With your own photos</h2><p>A folder with one folder per class is enough:</p>"
        f'<pre tabindex="0">{markup.escape(NEXT)}</pre></section>'
    )
