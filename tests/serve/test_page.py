"""The page in a real headless Chromium: pictures chosen, dropped and pasted; keyboard alone; phone width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

import anprompt
from anprompt.backbones import Backbone
from anprompt.serve.settings import Settings
from tests.browser import BROWSER, SHELL, Browser
from tests.serving import Running, picture, serving, shares

pytestmark = pytest.mark.skipif(not (BROWSER and SHELL), reason="needs Chromium and bash")

QUIET = "document.querySelector('#answers').getAttribute('aria-busy') === 'false'"
STATUS = "document.querySelector('#status').textContent"
ANSWERED = f"!document.querySelector('#result').hidden && {QUIET}"
FOCUS = "document.activeElement.id"


@pytest.fixture(scope="module")
def service(adapter_folder: Path, tiny_backbone: Backbone) -> Iterator[Running]:
    with serving(anprompt.load(adapter_folder, backbone=tiny_backbone).method_) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my picture.png"
    path.write_bytes(picture(7))
    return path


@pytest.fixture
def page(browser: Browser, service: Running) -> Browser:
    browser.events.clear()
    browser.open(f"http://127.0.0.1:{service.port}/")
    browser.wait("info !== null")
    return browser


def test_a_chosen_picture_is_answered_as_by_the_service(page: Browser, service: Running, file: Path) -> None:
    page.choose("#file", file)
    page.wait(ANSWERED)
    want = service.form([file.read_bytes()], zeroshot="true")[1]["predictions"][0]
    for place, key in (("adapter", "top"), ("zeroshot", "zeroshot")):
        rows = page.run(
            f"[...document.querySelectorAll('#{place} li')].map(r => [...r.children].map(c => c.textContent))"
        )
        assert [row[0] for row in rows] == [entry["class"] for entry in want[key]]
        assert rows[0][1] == f"{100 * max(shares(want[key]).values()):.1f}\u00a0%"
    assert want["top"][0]["class"] in page.run(STATUS)


def test_keyboard_alone_does_everything_but_the_file_dialogue(page: Browser, file: Path) -> None:
    order = []
    for _ in range(5):
        page.press("Tab")
        order.append(page.run(FOCUS))
        outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"the focus does not show on {order[-1]}"
    assert order == ["file", "classes", "family", "severity", "influence"]
    page.choose("#file", file)
    page.wait(ANSWERED)
    clean = page.run("document.querySelector('#view').src")
    page.press(" ")  # the check box has the focus
    page.wait(f"{ANSWERED} && !document.querySelector('#maps').hidden")
    label = page.run("document.querySelector('#adapter-map').getAttribute('aria-label')")
    assert label.startswith("The adapter: ") and page.run("document.querySelectorAll('#adapter-map span').length") == 36
    page.press("Tab", shift=True)
    for _ in range(4):
        page.press("ArrowRight")
    assert page.run("document.querySelector('#severity').getAttribute('aria-valuetext')") == "4 of 5"
    page.wait(f"{ANSWERED} && document.querySelector('#view-caption').textContent.includes('severity 4')")
    assert page.run("document.querySelector('#view').src") != clean
    page.press("Tab", shift=True)
    page.press("ArrowDown")
    page.wait(f"{ANSWERED} && document.querySelector('#view-caption').textContent.includes('shot noise')")
    page.press("Tab", shift=True)
    page.run("document.activeElement.select()")
    for key in ["x", "Enter", "y", "Enter"]:
        page.press(key)
    page.wait(f"{ANSWERED} && document.querySelectorAll('#adapter li').length === 2")
    assert " x" in page.run(STATUS) or " y" in page.run(STATUS)


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_pasted_and_dropped_pictures(page: Browser, way: str, file: Path) -> None:
    data = file.read_bytes().hex()
    page.run(f"""(() => {{
        const bytes = Uint8Array.from("{data}".match(/../g), (pair) => parseInt(pair, 16));
        const carried = new DataTransfer();
        carried.items.add(new File([bytes], "", {{type: "image/png"}}));
        const event = "{way}" === "paste"
            ? new ClipboardEvent("paste", {{clipboardData: carried, bubbles: true, cancelable: true}})
            : new DragEvent("drop", {{dataTransfer: carried, bubbles: true, cancelable: true}});
        document.querySelector("#drop").dispatchEvent(event);
    }})()""")
    page.wait(ANSWERED)
    assert "the pasted picture" in page.run("document.querySelector('#file-hint').textContent")


def test_what_is_wrong_is_said_and_can_be_mended(page: Browser, file: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("hello")
    error = "document.querySelector('#error')"
    page.choose("#file", text)
    page.wait(f"!{error}.hidden")
    assert (
        "is not a picture" in page.run(f"{error}.textContent") and page.run(f"{error}.getAttribute('role')") == "alert"
    )
    page.choose("#file", file)
    page.wait(f"{error}.hidden && {ANSWERED}")
    page.run("document.querySelector('#classes').focus(); document.activeElement.select()")
    page.call("Input.insertText", text="<img src=x onerror=alert(1)>")
    page.wait(f"!{error}.hidden")
    assert "at least two names" in page.run(f"{error}.textContent")
    page.call("Input.insertText", text="\n<b>bold</b>")
    page.wait(f"{error}.hidden && {ANSWERED}")
    assert page.run("document.querySelectorAll('#answers b, #adapter img').length") == 0  # names stay names
    assert "<" in page.run(STATUS)


def test_it_fits_a_phone_in_light_and_dark(page: Browser, file: Path) -> None:
    page.choose("#file", file)
    page.run("document.querySelector('#influence').click()")
    page.wait(f"{ANSWERED} && !document.querySelector('#maps').hidden")
    backgrounds = set()
    for width, dark in ((320, False), (390, True), (1200, False)):
        page.resize(width, 740, dark)
        assert page.run("document.documentElement.scrollWidth") <= width
        backgrounds.add(page.run("getComputedStyle(document.body).backgroundColor"))
        low = page.run(CONTRAST)
        assert not low, f"text too faint at {width} px, dark={dark}: {low}"
    assert len(backgrounds) == 2


def test_everything_has_a_name_and_nothing_goes_elsewhere(page: Browser, service: Running, file: Path) -> None:
    nameless = """[...document.querySelectorAll('input, select, textarea, button')]
        .filter((one) => !one.labels || !one.labels.length).map((one) => one.outerHTML)"""
    assert page.run(nameless) == [] and page.run("document.documentElement.lang") == "en"
    ids = page.run("[...document.querySelectorAll('[aria-labelledby], [aria-describedby]')]"
                   ".flatMap(e => (e.getAttribute('aria-labelledby') || e.getAttribute('aria-describedby')).split(' '))"
                   ".filter(id => !document.getElementById(id))")  # fmt: skip
    assert ids == []
    assert page.run("[...document.querySelectorAll('h1, h2, h3')].map(h => h.tagName[1]).join('')") == "12333"
    page.choose("#file", file)
    page.wait(ANSWERED)
    asked = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    home = f"http://127.0.0.1:{service.port}/"
    assert asked and all(url.startswith((home, "data:", "blob:")) for url in asked), asked
    complaints = [e["params"]["entry"]["text"] for e in page.events if e.get("method") == "Log.entryAdded"]
    assert complaints == []


def test_the_token_is_asked_for(browser: Browser, adapter_folder: Path, tiny_backbone: Backbone, file: Path) -> None:
    method = anprompt.load(adapter_folder, backbone=tiny_backbone).method_
    with serving(method, Settings(token="long-enough")) as service:
        browser.open(f"http://127.0.0.1:{service.port}/")
        browser.wait(f"{STATUS}.includes('token')")
        browser.press("Tab")
        assert browser.run(FOCUS) == "token"
        browser.call("Input.insertText", text="wrong-token")
        browser.press("Tab")
        browser.wait("document.querySelector('#error').textContent.includes('token is missing or wrong')")
        browser.press("Tab", shift=True)
        browser.run("document.activeElement.select()")
        browser.call("Input.insertText", text="long-enough")
        browser.press("Tab")
        browser.wait("info !== null")
        browser.choose("#file", file)
        browser.wait(ANSWERED)
        browser.open("about:blank#done")  # lets go of its connections


# Contrast of every visible text with what lies behind it, WCAG 2.2 level AA (4.5 to 1).
CONTRAST = """(() => {
    const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (one) => { for (; one; one = one.parentElement) {
        const colour = numbers(getComputedStyle(one).backgroundColor);
        if (colour.length < 4 || colour[3] > 0) return colour; } return [255, 255, 255]; };
    return [...document.querySelectorAll('h1, h2, h3, p, label, legend, li, figcaption, textarea, select, output')]
        .filter((one) => one.offsetParent && one.textContent.trim()).map((one) => {
            const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind(one))];
            return [one.id || one.tagName, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]; })
        .filter(([, ratio]) => ratio < 4.5);
})()"""
