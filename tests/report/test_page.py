"""The report's sections, command and behaviour in a browser, on made-up records."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from anprompt import report, tables
from anprompt.commands import main as cli
from anprompt.errors import UserError
from anprompt.experiments.records import save_record
from anprompt.report import charts, collect, grid, overview, plots
from tests import report_runs as runs
from tests.report.test_report import Page

EVIL = "<script>alert('1')</script>\"'&\u202eevil"
SECTIONS = {
    "result",
    "sets",
    "noise",
    "shots",
    "targets",
    "pictures",
    "compared",
    "confused",
    "training",
    "cost",
    "facts",
}


@pytest.fixture(scope="module")
def everything() -> list[dict]:
    halves = runs.halves(severities=(1, 3, 5), texts=("text:typo:1", "text:typo:2"))
    return [*halves, *runs.few_shot(shots=(1, 4, 16)), *runs.transfer(), *runs.transfer(("photo",), protocol="domains")]


@pytest.fixture(scope="module")
def html(everything: list[dict]) -> str:
    return report.render(everything)


def ids(html: str) -> set[str | None]:
    return {attributes.get("id") for _, attributes in Page(html).tags} & SECTIONS


def folder(records: list[dict], path: Path) -> Path:
    for record in records:
        save_record(path, record)
    return path


# --- structure ------------------------------------------------------------------------------------
def test_sections_are_those_the_records_have(html: str) -> None:
    assert ids(html) == SECTIONS - {"pictures"}
    alone = ids(report.render(runs.few_shot(("cats",))))
    assert alone == {"shots", "compared", "training", "cost", "facts"}
    assert ids(report.render(runs.transfer())) == {"targets", "compared", "training", "cost", "facts"}
    clean = ids(report.render(runs.halves(("cats",), ("zeroshot",), (1,))))
    assert clean & {"noise", "sets", "compared", "training"} == set() and "result" in clean


def test_nothing_is_loaded_and_headings_are_in_order(html: str) -> None:
    page = Page(html)
    assert "http://" not in html and "https://" not in html and "url(" not in html
    assert not page.named("script") and not page.named("link")
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    targets = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(targets) == len(set(targets))


def test_charts_tell_their_figures_in_words(html: str) -> None:
    text = Page(html).text
    assert html.count("<desc>") == html.count('<figure class="chart">') > 10
    assert re.search(r"ANPrompt: clean: [\d.]+ %, 1: [\d.]+ %", text)


def test_hostile_names_are_only_text(everything: list[dict]) -> None:
    def renamed(record: dict) -> dict:
        entries = record["metrics"]
        changed = {
            half: {**entries[half], "per_class": {f"{EVIL} {n}": v for n, v in entries[half]["per_class"].items()}}
            for half in ("base", "new")
        }
        spec = {**record["spec"], "dataset": EVIL + record["spec"]["dataset"]}
        return {**record, "spec": spec, "metrics": {**entries, **changed}}

    html = report.render([renamed(r) for r in runs.halves()], missing=[f"No pictures of {EVIL}."])
    page = Page(html)
    assert not page.named("script") and "<script" not in html
    assert {key for _, attributes in page.tags for key in attributes} <= {
        "aria-hidden", "aria-label", "aria-labelledby", "charset", "class", "colspan", "content", "cx", "cy", "height", "href",
        "http-equiv", "id", "lang", "name", "open", "points", "preserveaspectratio", "r", "role", "rowspan", "scope", "style",
        "tabindex", "text-anchor", "title", "viewbox", "width", "x", "x1", "x2", "y", "y1", "y2",
    }  # fmt: skip
    shown = EVIL.replace("\u202e", "<U+202E>")
    assert f"{shown} tabby" in page.text and "\u202e" not in html


# --- figures --------------------------------------------------------------------------------------
def test_averages_are_those_of_the_tables(html: str) -> None:
    records = runs.halves()
    main = next(sheet for sheet in tables.sheets(records) if sheet.title == "Base to new")
    found = grid.Grid(records)
    for line in main.lines:
        if line.group == tables.MEAN:
            own = [found.spread(line.name, what) for what in ("base", "new", "h")]
            assert [s.mean for s in own if s] == pytest.approx([cell.mean for cell in line.cells[:3]])
            assert [s.half for s in own if s] == [cell.half for cell in line.cells[:3]]
        if line.group == tables.MEAN_H:
            assert overview._mean_of_h(found, line.name) == pytest.approx(line.cells[2].mean)
    shown = Page(report.render(records)).text
    assert all(cell.text in shown for line in main.lines for cell in line.cells)


def test_noise_means_are_those_of_the_tables(everything: list[dict]) -> None:
    rows = tables.condition_rows([r for r in everything if "base" in r["metrics"]])
    found = grid.Grid([r for r in everything if "base" in r["metrics"]])
    fog = {row.method: row for row in rows if row.condition == "image:fog:3"}
    for method, row in fog.items():
        assert found.mean(method, "new", ["image:fog:3"]) == pytest.approx(row.new.mean)


def test_interval_over_pictures_by_hand() -> None:
    record = runs.halves(("cats",), ("zeroshot",), (1,))[0]
    for half, accuracy in (("base", 80.0), ("new", 50.0)):
        record["metrics"][half] |= {"accuracy": accuracy, "pictures": 400}
    halves = overview.over_pictures(grid.Grid([record]), "zeroshot")
    assert halves[:2] == pytest.approx([1.959964 * 2.0, 1.959964 * 2.5])
    slopes = 2 * (50 / 130) ** 2, 2 * (80 / 130) ** 2
    assert halves[2] == pytest.approx(1.959964 * ((slopes[0] * 2) ** 2 + (slopes[1] * 2.5) ** 2) ** 0.5)


def test_noise_runs_and_clean_runs_of_one_training_count_once() -> None:
    both = [*runs.halves(), *runs.halves(severities=(1,))]
    kinds = grid.Kinds.of(both)
    assert len(kinds.halves) == len(both) // 2
    assert all(record["metrics"]["conditions"] for record in kinds.halves)


def test_confusions_have_names_and_counts() -> None:
    record = runs.halves(("cats",), ("coop",), (1,))[0]
    right = " ".join(record["metrics"]["base"]["labels"].split())
    for half in ("base", "new"):
        record["metrics"][half]["predicted"] = right
    assert "Not one wrong answer" in report.render([record])
    told = right.split()
    told[0] = told[1] = "2"  # two tabbies taken for a lynx
    record["metrics"]["base"]["predicted"] = " ".join(told)
    html = report.render([record])
    assert re.search(r"tabby</th><td>lynx</td><td>base</td><td class=\"n\">2</td>", html)
    assert 'title="tabby answered as lynx: 2"' in html


def test_several_backbones_need_several_pages() -> None:
    records = runs.halves()
    records[0]["backbone"]["weight_hash"] = "f" * 64
    with pytest.raises(UserError, match="several backbones"):
        report.render(records)


def test_every_method_has_a_mark_of_its_own() -> None:
    names = ("zeroshot", "coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp", "anprompt")
    found = grid.styles(runs.halves(methods=names))
    assert len(set(found.values())) == 8 and (found["zeroshot"], found["anprompt"]) == (0, 1)
    assert len({charts.mark(style, 10, 10) for style in found.values()}) == 8


def test_lines_of_equal_h_pass_where_h_is_equal() -> None:
    html = plots.scatter("t", [plots.Point("a", 0, 60, 60), plots.Point("b", 1, 80, 80)])
    assert "H 70" in html and html.count('class="equal"') >= 2
    frame = plots._Frame((55.0, 85.0), (55.0, 85.0))
    line = re.search(r'points="([^"]+)"/><text class="faint"[^>]*>H 70<', html)
    assert line
    places = [tuple(map(float, pair.split(","))) for pair in line.group(1).split()]
    middle = frame.x(70.0), frame.y(70.0)
    assert min(abs(x - middle[0]) + abs(y - middle[1]) for x, y in places) < 4


# --- command --------------------------------------------------------------------------------------
def test_command_writes_a_page_beside_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = folder(runs.halves(("embedded:animals",)), tmp_path / "a")
    two = folder(runs.halves(("nowhere/photos",)), tmp_path / "b")
    assert cli.main(["report", str(one), str(two)]) == 0
    told = capsys.readouterr().out
    page = (one / "report.html").read_text(encoding="utf-8")
    assert str(one / "report.html") in told and "animals" in page and "photos" in page
    # neither is what was measured: one has other pictures, the other isn't there
    assert told.count("No pictures of") == 2 and page.count("No pictures of") == 2
    assert cli.main(["report", str(one), "--html", str(tmp_path / "deep" / "x.html"), "--no-pictures"]) == 0
    assert "No pictures of" not in (tmp_path / "deep" / "x.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words, expected", [(["nowhere"], "There is no folder nowhere"), (["."], "holds no run record"), ([], "RUNS")]
)
def test_wrong_input_is_one_line(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and expected in lines[0]


def test_a_folder_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = folder(runs.halves(("cats",)), tmp_path / "runs")
    assert cli.main(["report", str(made), "--html", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_records_come_in_one_order_and_each_once(tmp_path: Path) -> None:
    records = runs.halves(("cats",), seeds=(2, 1))
    one, two = folder(records[:3], tmp_path / "a"), folder(records, tmp_path / "b")
    found = collect.read([one, two])
    assert found == collect.read([two, one]) and len(found) == len(records)
    assert (tables.label(found[0]), tables.label(found[-1])) == ("zeroshot", "anprompt")


# --- in a browser ---------------------------------------------------------------------------------
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; Debian: apt-get install chromium")


def chromium(page: Path, profile: Path, *words: str) -> str:
    """Output of a headless Chromium on a page."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run(
        [str(BROWSER), *options, *words, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


MEASURE = """<script>addEventListener('load', () => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  const root = document.documentElement, wide = root.scrollWidth - root.clientWidth;
  const small = [...document.querySelectorAll('.chart text')].filter(t => t.getBoundingClientRect().height < 8).length;
  root.setAttribute('data-measured', [wide, small, innerWidth].join(' '));
})</script></body>"""


@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(width: int, html: str, tmp_path: Path) -> None:
    """With every fold open; in a frame, because a window has a least width. The script is the test's own."""
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html).replace("</body>", MEASURE)
    (tmp_path / "page.html").write_text(open_page, encoding="utf-8")
    frame = tmp_path / "frame.html"
    copy = "const f = document.querySelector('iframe'); document.title = f.contentDocument.documentElement.dataset.measured"
    frame.write_text(
        f'<iframe src="page.html" style="width:{width}px;height:800px;border:0"></iframe>'
        f"<script>addEventListener('load', () => {{ {copy} }})</script>"
    )
    dom = chromium(frame, tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom")
    title = re.search(r"<title>(-?\d+) (\d+) (\d+)</title>", dom)
    assert title, dom[-500:]
    assert title.groups() == ("0", "0", str(width))


@browser
def test_page_is_drawn(html: str, tmp_path: Path) -> None:
    page, picture = tmp_path / "page.html", tmp_path / "shot.png"
    page.write_text(html, encoding="utf-8")
    chromium(page, tmp_path / "profile", f"--screenshot={picture}", "--window-size=1280,900")
    with Image.open(picture) as shot:
        assert shot.size == (1280, 900)
        assert len(shot.convert("RGB").getcolors(1 << 24) or []) > 100
