"""One page on an attacked adapter: what is left, which classes are fragile, images before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from anprompt.attacks.threat import ThreatModel
from anprompt.report import markup
from anprompt.report.markup import escape
from anprompt.utils.files import check_output, json_text, write_text

PAGE, FIGURES = "attack.html", "attack.json"
GENERATOR = '<meta name="generator" content="anprompt attack">'
SAYS = (
    "A threat model says what somebody may change and how hard they try. A figure holds for it alone: for changes of this "
    "size, measured in this norm. It is an upper bound: whoever tries harder, or differently, may find more errors.",
    "It does not say how likely an attack is, and nothing about changes of another kind: stickers, other cameras, rotated or "
    "invented images. A model that withstands 1/255 is not safe; it withstands 1/255.",
    "1/255 is one step of one colour of a pixel, which nobody sees. The attacker here knows the model, its prompts and its "
    "classes, unless the row says otherwise.",
)


def check_page(out: Path, overwrite: bool = False) -> None:
    """`UserError` where the page or the figures would replace somebody else's file."""
    check_output(out / PAGE, overwrite=overwrite, ours=lambda head: GENERATOR.encode() in head)
    check_output(out / FIGURES, overwrite=overwrite, ours=lambda head: b'"written_by": "anprompt attack"' in head)


def write_page(out: Path, result: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write page and figures into a folder, atomically; where the page is.

    Args:
        result: what `anprompt attack` measured, its gallery with pixels [H, W, 3].

    Raises:
        UserError: a file is another's or can't be written.
    """
    check_page(out, overwrite)
    figures = {key: value for key, value in result.items() if key != "gallery"}
    write_text(out / FIGURES, json_text({"written_by": "anprompt attack", **figures}))
    write_text(out / PAGE, render(result))
    return out / PAGE


def render(result: Mapping[str, Any]) -> str:
    """The page as HTML, with nothing that is loaded from elsewhere."""
    style = (resources.files("anprompt") / "assets" / "report.css").read_text(encoding="utf-8")
    about = (
        f"{result['method']} on {result['data']} ({result['split']}): {result['images']} images, {result['classes']} classes, "
        f"{result['head']} head; {result['accuracy']:.1f} % are answered rightly as they are."
    )
    doubts = "".join(f"<li>{escape(line)}</li>" for line in result["doubts"])
    body = (
        f"<h1>Under attack</h1><p>{escape(about)}</p>"
        f"<section><h2>What is left</h2>{_left(result)}"
        + (f"<p>Do not believe these figures as they are:</p><ul>{doubts}</ul>" if doubts else "")
        + f"</section><section><h2>Most fragile classes</h2>{_fragile(result)}</section>"
        f"<section><h2>Before and after</h2>{_gallery(result)}</section>"
        f"<section><h2>What this says, and what not</h2>{''.join(f'<p>{escape(line)}</p>' for line in SAYS)}</section>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"{GENERATOR}<title>anprompt: under attack</title><style>{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def _left(result: Mapping[str, Any]) -> str:
    rows = [
        (
            entry["threat"]["size"], ThreatModel.parse(name).title, f"{entry['accuracy']:.1f} %", entry["threat"]["norm"],
            entry["threat"]["knows"], f"{entry['zero_gradients']:.1f} %", name,
        )
        for name, entry in result["attacks"].items()
    ]  # fmt: skip
    heads = ("size", "attack", "accuracy left", "norm", "the attacker knows", "zero gradients", "threat model")
    return _table(heads, rows)


def _fragile(result: Mapping[str, Any]) -> str:
    rows = [(row["class"], str(row["images"]), f"{row['left']:.1f} %") for row in result["fragile"]]
    return markup.note("Under all attacks of the smallest size at once.") + _table(("class", "images", "left"), rows)


def _gallery(result: Mapping[str, Any]) -> str:
    if not result["gallery"]:
        return markup.note("No image was lost.")
    cards = ""
    for one in result["gallery"]:
        pictures = "".join(
            f'<div><img src="{markup.data_uri(Image.fromarray(one[key]))}" alt="{escape(words)}">'
            f'<span class="condition">{escape(words)}</span></div>'
            for key, words in (
                ("before", f"as it is: {one['truth']}"), ("after", f"attacked: {one['answer']}"),
                ("change", "the change, ten times as strong; grey is none"),
            )
        )  # fmt: skip
        cards += (
            f'<li class="case"><h3>{escape(one["truth"])}</h3><span class="note">{escape(one["attack"])}</span>'
            f'<div class="pair">{pictures}</div></li>'
        )
    return f'<ul class="cases">{cards}</ul>'
