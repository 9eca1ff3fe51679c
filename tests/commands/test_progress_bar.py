"""The bar of long steps keeps bar, count and time left on narrow terminals."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from anprompt.commands._shared import terminal


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "text", ["", "epoch 3 of 50, loss 1.234 (ce 0.8, rep 0.3, reg 0.1), lr 0.00198, 12 images a second " * 2]
)
def test_bar_count_and_time_stay(monkeypatch: pytest.MonkeyPatch, width: int, text: str) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, width=width, color_system=None, markup=False)
    monkeypatch.setattr(terminal, "console", lambda **_: screen)
    with terminal.progress("training") as update:
        update(30, 100, text)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]", shown.getvalue())]
    last = next(line for line in reversed(lines) if line.strip())
    assert len(last.rstrip()) <= width
    assert "training" in last and "━" in last and re.search(r" 30/100 .*:(\d\d|--)", last), last
