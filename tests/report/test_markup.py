"""Text of users in HTML: marks that can't be seen are shown by their code."""

import pytest

from anprompt.report import markup


@pytest.mark.parametrize(
    "mark",
    [
        "\x1b",
        "\x00",
        "\x85",
        "\u00ad",
        "\u061c",
        "\u200b",
        "\u200c",
        "\u200d",
        "\u200e",
        "\u202e",
        "\u2028",
        "\u2066",
        "\ufeff",
        "\U000e0041",
        "\udcff",
    ],
)
@pytest.mark.parametrize("form", ["{}apple", "ap{}ple", "apple{}"])
def test_unseen_marks_are_shown(mark: str, form: str) -> None:
    shown = markup.Cell(form.format(mark), title=form.format(mark)).html()
    assert mark not in shown
    assert shown.count(f"&lt;U+{ord(mark):04X}&gt;") == 2
    shown.encode()


@pytest.mark.parametrize("text", ["Größe", "می\u200cخواهم", "👩\u200d🌾", "क्\u200dष", "تفاحة", "a\tb\nc", "e\u0301"])
def test_letters_of_scripts_stay(text: str) -> None:
    assert markup.escape(text) == text


def test_signs_of_html() -> None:
    assert markup.escape('<b> & "x"') == "&lt;b&gt; &amp; &quot;x&quot;"
