"""Test pictures with the methods' answers, clean and under noise: for the report and for the README."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from anprompt.data.splits import subset_classes
from anprompt.data.types import Dataset, Item
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.records import Record, data_hash, predicted
from anprompt.tables import CLEAN, label, nice
from anprompt.utils.files import atomic_write, check_output

MADE_BY = ("Software", "anprompt")  # in a PNG's own table of facts: that it may be replaced


@dataclass(frozen=True)
class Answer:
    """What one method said to one picture."""

    method: str
    name: str
    right: bool


@dataclass(frozen=True)
class Showing:
    """A picture under one condition, with the answers to it."""

    condition: str
    picture: Image.Image
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Case:
    """One test picture, clean and disturbed; `half` is "base" or "new"."""

    dataset: str
    half: str
    truth: str
    showings: tuple[Showing, ...]


@dataclass(frozen=True)
class Gallery:
    """Cases, and in words how they were chosen."""

    cases: tuple[Case, ...]
    how: str


@dataclass(frozen=True)
class _Place:
    """A test picture of a half under a condition, before it is opened."""

    half: str
    index: int
    condition: str
    differ: int  # right with the last method but not the first: 1; the reverse: -1; among others only: 2; else 0


def choose(
    records: Sequence[Record], dataset: Dataset, *, seed: int = 1, differing: int = 5, others: int = 3
) -> Gallery:
    """A seeded sample of a data set's test pictures: some on which the methods differ, some of the rest.

    Methods differ on a picture if one of them is right and another is not, clean or disturbed. Of those,
    gains and losses are drawn alike, so they show up in about their true proportion.

    Args:
        records: of this data set, one per method, all with the same picture conditions.
    """
    halves = {half: subset_classes(dataset, half) for half in ("base", "new")}
    noises = [c for c in records[0]["metrics"]["conditions"] if c.startswith("image:")]
    if not all(_aligned(record, halves) for record in records):
        return Gallery((), "")
    places = _places(records, halves, noises)
    rng = random.Random(f"gallery {seed} {dataset.name}")
    pools = [[p for p in places if p.differ], [p for p in places if not p.differ]]
    chosen = [place for pool, count in zip(pools, (differing, others)) for place in _sample(pool, count, rng)]
    cases = tuple(_case(records, halves[p.half], p, dataset) for p in chosen)
    return Gallery(cases, _how(records, dataset.name, pools, (differing, others), seed))


def _how(
    records: Sequence[Record], name: str, pools: Sequence[Sequence[_Place]], counts: tuple[int, int], seed: int
) -> str:
    """How the cases were chosen, with how many there were to choose from."""
    gains, losses = (sum(place.differ == sign for place in pools[0]) for sign in (1, -1))
    apart = "one method is right and another wrong" if len(records) > 2 else "one method is right and the other wrong"
    return (
        f"{name}: {min(counts[0], len(pools[0]))} of the {len(pools[0])} (picture, noise) pairs where {apart} "
        f"({gains} for {label(records[-1])}, {losses} for {label(records[0])}), then "
        f"{min(counts[1], len(pools[1]))} of the other {len(pools[1])}; drawn with seed {seed}."
    )


def _aligned(record: Record, halves: dict[str, Dataset]) -> bool:
    """Whether the record's predictions belong to these very pictures, in this order."""
    return all(record["metrics"][half]["items_hash"] == data_hash(part.test) for half, part in halves.items())


def _places(records: Sequence[Record], halves: dict[str, Dataset], noises: Sequence[str]) -> list[_Place]:
    places = []
    for half, part in halves.items():
        clean = [predicted(_entry(record, half, CLEAN)) for record in records]
        for noise in noises or [CLEAN]:
            disturbed = [predicted(_entry(record, half, noise)) for record in records]
            for index, item in enumerate(part.test):
                leads = [_lead([row[index] == item.label for row in rows]) for rows in (clean, disturbed)]
                places.append(_Place(half, index, noise, leads[1] or leads[0]))
    return places


def _lead(right: Sequence[bool]) -> int:
    """`_Place.differ` of one picture under one condition, from what each method got right."""
    return right[-1] - right[0] or (2 if len(set(right)) > 1 else 0)


def _entry(record: Record, half: str, condition: str) -> dict[str, Any]:
    metrics = record["metrics"]
    return metrics[half] if condition == CLEAN else metrics["conditions"][condition][half]


def _sample(pool: Sequence[_Place], count: int, rng: random.Random) -> list[_Place]:
    """Up to `count`, no picture twice."""
    shuffled = rng.sample(list(pool), len(pool))
    chosen: list[_Place] = []
    for place in shuffled:
        if len(chosen) == count:
            break
        if (place.half, place.index) not in {(c.half, c.index) for c in chosen}:
            chosen.append(place)
    return chosen


def _case(records: Sequence[Record], part: Dataset, place: _Place, dataset: Dataset) -> Case:
    item = part.test[place.index]
    wanted = [CLEAN] if place.condition == CLEAN else [CLEAN, place.condition]
    showings = []
    for condition in wanted:
        answers = []
        for record in records:
            told = predicted(_entry(record, place.half, condition))[place.index]
            answers.append(Answer(label(record), part.classnames[told], told == item.label))
        picture, title = _picture(dataset, item, condition, records[0]["backbone"]["image_size"])
        showings.append(Showing(title, picture, tuple(answers)))
    return Case(dataset.name, place.half, item.classname, tuple(showings))


def _picture(dataset: Dataset, item: Item, condition: str, size: int) -> tuple[Image.Image, str]:
    if condition == CLEAN:
        return dataset.read(item), CLEAN
    noise = Condition.parse(condition)
    return noise.reader(dataset.read, size)(item), noise.title


# --- the README's picture -------------------------------------------------------------------------
INK, SOFT, PAPER, RIGHT, WRONG = "#1d2330", "#5d6675", "#ffffff", "#127a3c", "#b3261e"
SIDE, PAD, LINE = 190, 18, 24


def gallery_png(
    path: str | Path, cases: Sequence[Case], *, columns: int = 3, title: str = "", overwrite: bool = False
) -> Path:
    """The cases as one picture: clean and disturbed side by side, true name above, answers below.

    Raises:
        UserError: a file that is there and no such picture, unless `overwrite`; or it can't be written.
    """
    if not cases:
        raise ValueError("no cases to draw")
    methods = len(cases[0].showings[0].answers)
    width, height = 2 * SIDE + PAD + 8, 2 * LINE + SIDE + 10 + methods * LINE + PAD
    rows = -(-len(cases) // columns)
    top = PAD + (2 * LINE if title else 0)
    sheet = Image.new("RGB", (PAD + columns * (width + PAD), top + rows * (height + PAD)), PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((PAD, PAD), title, INK, font=ImageFont.load_default(22))
    for number, case in enumerate(cases):
        left = PAD + number % columns * (width + PAD)
        _draw_case(sheet, draw, case, left, top + number // columns * (height + PAD))
    target = Path(path)
    check_gallery(target, overwrite)
    facts = PngInfo()
    facts.add_text(*MADE_BY)
    atomic_write(target, lambda temporary: sheet.quantize(256).save(temporary, "PNG", optimize=True, pnginfo=facts))
    return target


def check_gallery(target: Path, overwrite: bool = False) -> None:
    """`check_output`, which an earlier sheet of cases passes."""
    mark = "\0".join(MADE_BY).encode()
    check_output(target, overwrite=overwrite, ours=lambda head: head.startswith(b"\x89PNG") and mark in head)


def _draw_case(sheet: Image.Image, draw: ImageDraw.ImageDraw, case: Case, left: int, top: int) -> None:
    big, small, tiny = (ImageFont.load_default(size) for size in (18, 15, 13))
    halves = {"base": "trained on this class", "new": "class never trained on"}
    draw.text((left, top), _fitting(draw, case.truth, big, 2 * SIDE), INK, font=big)
    draw.text((left, top + LINE), f"{case.dataset}, {halves[case.half]}", SOFT, font=small)
    for column, showing in enumerate(case.showings[:2]):
        x, y = left + column * (SIDE + 8), top + 2 * LINE
        sheet.paste(showing.picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        y += SIDE + 4
        if column:
            draw.text(
                (x + 4, y - LINE), showing.condition.split(",")[0], PAPER, font=small, stroke_width=2, stroke_fill=INK
            )
        for answer in showing.answers:
            _mark(draw, x + 7, y + 9, answer.right)
            who = nice(answer.method).removeprefix("zero-shot ")  # short: two names must fit a picture's width
            draw.text((x + 18, y + 1), who, SOFT, font=tiny)
            start = x + 24 + draw.textlength(who, font=tiny)
            name = _fitting(draw, answer.name, small, x + SIDE - start)
            draw.text((start, y), name, RIGHT if answer.right else WRONG, font=small)
            y += LINE - 4


def _mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool) -> None:
    """A tick or a cross; drawn, because not every font has them."""
    if right:
        draw.line([(x - 6, y), (x - 2, y + 5), (x + 6, y - 6)], RIGHT, width=3)
    else:
        draw.line([(x - 5, y - 5), (x + 5, y + 5)], WRONG, width=3)
        draw.line([(x - 5, y + 5), (x + 5, y - 5)], WRONG, width=3)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> str:
    """The text, cut with dots where it is too wide."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text.rstrip() + "..."
