"""The HTML page, its gallery and charts."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anprompt import report
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.experiments import ExperimentContext, RunSpec
from anprompt.experiments.records import Record
from anprompt.experiments.sweep import plan, run_all
from anprompt.report import charts
from anprompt.report.gallery import Answer, Case, Gallery, Showing, choose, gallery_png

EVIL = '<script>alert("1")</script>&'
VOID = {"meta", "img", "line", "circle", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and the text; checks that every tag is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", list[str]()
        self.feed(html)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-3:]}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def context(tiny_backbone) -> ExperimentContext:
    made = ExperimentContext()
    made.use("embedded", tiny_backbone)
    return made


@pytest.fixture(scope="module")
def specs(photo_folder: Path) -> list[RunSpec]:
    changes = ((("token_width", 8), ("draws", 2)), (("epochs", 2), ("lr", 0.01)))
    return plan(
        [str(photo_folder)], ["zeroshot", "anprompt"], [1, 2], shots=2, overrides={"anprompt": changes},
        conditions=("image:fog:4", "image:contrast:5", "text:typo:2"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def records(specs: list[RunSpec], context: ExperimentContext, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    return run_all(specs, tmp_path_factory.mktemp("runs"), context=context)


@pytest.fixture(scope="module")
def dataset(specs: list[RunSpec], context: ExperimentContext) -> Dataset:
    return context.dataset(specs[0])


@pytest.fixture(scope="module")
def gallery(records: list[Record], dataset: Dataset) -> Gallery:
    return choose(records[:2], dataset, seed=1)


def evil_case() -> Case:
    picture = Image.new("RGB", (20, 20), "teal")
    answers = (Answer(EVIL, EVIL, False), Answer("anprompt", EVIL, True))
    return Case(EVIL, "new", EVIL, (Showing("clean", picture, answers), Showing(EVIL, picture, answers)))


# --- the page -------------------------------------------------------------------------------------
def test_page_is_whole_and_needs_no_network(records: list[Record], gallery: Gallery) -> None:
    html = report.render(records, [gallery])
    page = Page(html)
    assert not page.named("script") and not page.named("link") and "@import" not in html and "url(" not in html
    assert all(image["src"].startswith("data:image/") for image in page.named("img"))
    assert all((link["href"] or "").startswith("#") for link in page.named("a"))
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {(link["href"] or "")[1:] for link in page.named("a")} <= targets


def test_page_shows_the_records_figures(records: list[Record]) -> None:
    text = Page(report.render(records)).text
    base = records[0]["metrics"]["base"]["accuracy"]
    assert f"{base:.1f}" in text and "standard deviation over seeds" in text
    assert "Unseen in training: fog, severity 4; contrast, severity 5" in text
    assert records[1]["backbone"]["weight_hash"][:12] in text and records[1]["hardware"]["cpu"] in text
    assert "WALoss" in text and "cross-entropy" in text


def test_strings_of_users_are_escaped(records: list[Record]) -> None:
    changed = [
        {**r, "spec": {**r["spec"], "dataset": EVIL}, "data": {**r["data"], "template": EVIL, "name": EVIL}}
        for r in records
    ]
    html = report.render(changed, [Gallery((evil_case(),), EVIL)])
    assert "<script" not in html and "alert(&quot;1&quot;)" in html
    assert EVIL in Page(html).text


def test_page_is_usable_by_keyboard_and_screen_reader(records: list[Record], gallery: Gallery) -> None:
    page = Page(report.render(records, [gallery]))
    assert page.named("html")[0]["lang"] == "en" and page.named("meta")[1]["name"] == "viewport"
    assert all(image.get("alt") for image in page.named("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") or svg.get("role") == "img" for svg in page.named("svg"))
    regions = [attributes for tag, attributes in page.tags if attributes.get("role") == "region"]
    assert regions and all(region["tabindex"] == "0" and region["aria-label"] for region in regions)
    assert ":focus-visible" in report.render(records)


def test_right_and_wrong_are_told_by_symbol_too() -> None:
    html = report.render([plain_record()], [Gallery((evil_case(),), "how")])
    assert html.count("✓") == 2 and html.count("✗") == 2 and "ANPrompt: right" in html


def plain_record() -> Record:
    """A zero-shot record with nothing beyond the needed."""
    entry = {"accuracy": 50.0, "head": "trained"}
    return {
        "format": 1, "finished": "2026-01-01T00:00:00+00:00",
        "spec": {"dataset": "d", "method": "zeroshot", "seed": 1, "shots": None, "precision": "fp32",
                 "protocol": "base-to-new"},
        "backbone": {"id": "b", "weight_hash": "0" * 64},
        "data": {"hash": "0" * 64, "template": "{}", "classes": {"base": 1, "new": 1}, "skipped_count": 0},
        "log": {"epochs": [], "steps": 0}, "metrics": {"base": entry, "new": entry, "H": 50.0},
        "memory": {"peak_mb": 1}, "versions": {}, "hardware": {"cpu": "c", "cores": 1, "threads": 1},
    }  # fmt: skip


def test_page_of_one_untrained_run(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "deep" / "report.html", [plain_record()])
    page = Page(path.read_text(encoding="utf-8"))
    assert "Zero-shot CLIP on the data set d" in page.text and "Under noise" not in page.text


def test_no_records_is_a_plain_error() -> None:
    with pytest.raises(UserError):
        report.render([])


def test_pictures_are_made_small() -> None:
    assert len(report.data_uri(Image.effect_noise((1000, 1000), 90))) < 60_000


# --- the gallery ----------------------------------------------------------------------------------
def test_gallery_tells_the_answers_of_the_records(records: list[Record], dataset: Dataset, gallery: Gallery) -> None:
    assert gallery.cases and "drawn with seed 1" in gallery.how
    for case in gallery.cases:
        assert case.truth in dataset.classnames
        for showing in case.showings:
            assert [answer.right for answer in showing.answers] == [a.name == case.truth for a in showing.answers]
        assert case.showings[0].condition == "clean" and not case.showings[1].condition.startswith("typo")


def test_gallery_is_seeded(records: list[Record], dataset: Dataset, gallery: Gallery) -> None:
    again, other = choose(records[:2], dataset, seed=1), choose(records[:2], dataset, seed=2)
    shown = [[np.asarray(case.showings[0].picture).sum() for case in g.cases] for g in (gallery, again, other)]
    assert shown[0] == shown[1] != shown[2]


def test_gallery_draws_gains_and_losses_from_all_that_differ(records: list[Record], dataset: Dataset) -> None:
    everything = choose(records[:2], dataset, seed=1, differing=1000, others=1000)
    counts = [int(n) for n in re.search(r"of the (\d+) .*\((\d+) for .*, (\d+) for", everything.how).groups()]  # type: ignore[union-attr]
    assert counts[0] == counts[1] + counts[2]
    some = choose(records[:2], dataset, seed=1, differing=2, others=0)
    assert len(some.cases) == min(2, counts[0])


def test_no_gallery_for_other_pictures(records: list[Record], dataset: Dataset) -> None:
    moved = dataclasses.replace(dataset, test=tuple(Item(i.path + "x", i.label, i.classname) for i in dataset.test))
    assert choose(records[:2], moved).cases == ()


def test_gallery_png(tmp_path: Path, gallery: Gallery) -> None:
    path = gallery_png(tmp_path / "demo.png", [*gallery.cases[:5], evil_case()], columns=3, title="Title")
    with Image.open(path) as picture:
        assert picture.width > 900 and picture.height > 400
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
    assert path.stat().st_size < 500_000


# --- charts ---------------------------------------------------------------------------------------
def test_no_change_is_not_minus_zero() -> None:
    assert (charts.signed(-0.04), charts.signed(0.04), charts.signed(-2)) == ("+0.0", "+0.0", "\N{MINUS SIGN}2.0")


def test_dumbbell_places_values_on_the_axis() -> None:
    html = charts.dumbbells([("d", [("base", [52.0, 68.0]), ("new", [61.0, 59.0])])], ["a", "b"])
    places = [float(x) for x in re.findall(r'<circle class="m\d" cx="([\d.]+)%"', html)]
    assert places == pytest.approx([3 + 94 * (v - 50) / 20 for v in (52, 68, 61, 59)], abs=0.01)
    assert "+16.0" in html and "\N{MINUS SIGN}2.0" in html and "base: a 52.0 %, b 68.0 %" in html


@pytest.mark.parametrize(
    "values, axis", [([52.0, 68.0], (50, 70)), ([0.0, 100.0], (0, 100)), ([55.0], (50, 60)), ([100.0], (90, 100))]
)
def test_axis_covers_the_values(values: list[float], axis: tuple[float, float]) -> None:
    assert charts.scale(values) == axis


def test_curves_survive_odd_series() -> None:
    assert charts.curves("loss", {}) == ""
    assert charts.curves("loss", {"a": [float("nan")]}) == ""
    html = charts.curves("loss", {"a": [1.0], "b": [2.0, float("inf"), 1.0]})
    assert html.count("<polyline") == 2 and "inf" not in re.findall(r'points="([^"]*)"', html)[1]
