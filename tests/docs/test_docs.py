"""The documents must stay true: quoted code exists, linked files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUOTE = re.compile(r"^- `(src/[^`]+\.py)`: `(.+)`$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")


def test_every_equation_quotes_a_line_that_exists() -> None:
    quotes = QUOTE.findall((ROOT / "docs/method.md").read_text())
    assert len(quotes) >= 15
    for file, line in quotes:
        lines = {text.strip() for text in (ROOT / file).read_text().splitlines()}
        assert line in lines, f"{file} no longer has: {line}"


PAGES = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/tutorials/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
