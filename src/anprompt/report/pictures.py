"""Test pictures with the answers to them, as cards."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.report import markup
from anprompt.report.gallery import Answer, Case, Gallery, Showing
from anprompt.report.markup import escape
from anprompt.tables import nice

HALF = {"base": "base: trained on", "new": "new: never trained on"}
FEW = 3  # methods whose answers are shown one by one


def pictures(galleries: Sequence[Gallery], missing: Sequence[str] = ()) -> str:
    """The section; empty where there are neither pictures nor a reason for their absence.

    Args:
        missing: sentences on data sets whose pictures can't be shown.
    """
    full = [gallery for gallery in galleries if gallery.cases]
    left = "".join(markup.note(sentence) for sentence in missing)
    if not full:
        return left
    how = "".join(f"<li>{escape(gallery.how)}</li>" for gallery in full)
    first, *more = [f'<ul class="cases">{"".join(map(card, gallery.cases))}</ul>' for gallery in full]
    rest = first + "".join(more) if len(full) <= 3 else first + "".join(
        markup.fold(gallery.cases[0].dataset, cards) for gallery, cards in zip(full[1:], more)
    )  # fmt: skip
    return f'{rest}{left}<details><summary>How these were chosen</summary><ul class="note">{how}</ul></details>'


def card(case: Case) -> str:
    """One picture, clean and disturbed."""
    showings = "".join(_showing(showing, case.truth) for showing in case.showings)
    where = f"{case.dataset}, {HALF.get(case.half, case.half)}"
    kind = "pair" if len(case.showings) > 1 else "single"
    return (
        f'<li class="case"><h3>{escape(case.truth)}</h3><span class="note">{escape(where)}</span>'
        f'<div class="{kind}">{showings}</div></li>'
    )


def _showing(showing: Showing, truth: str) -> str:
    alt = f"{truth}, {showing.condition}"
    return (
        f'<div><div><img src="{markup.data_uri(showing.picture)}" alt="{escape(alt)}">'
        f'<span class="condition">{escape(showing.condition)}</span></div><div>{_answers(showing.answers)}</div></div>'
    )


def _answers(answers: Sequence[Answer]) -> str:
    """One by one; of many methods, those with the same answer together."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for answer in answers:
        groups.setdefault((answer.name, answer.right), []).append(nice(answer.method))
    if len(answers) <= FEW:
        return "".join(_answer(a.name, a.right, [nice(a.method)]) for a in answers)
    ordered = sorted(groups.items(), key=lambda group: (not group[0][1], -len(group[1])))
    return "".join(_answer(name, right, methods) for (name, right), methods in ordered)


def _answer(name: str, right: bool, methods: Sequence[str]) -> str:
    kind, mark = ("right", "✓") if right else ("wrong", "✗")
    return (
        f'<span class="answer {kind}"><small>{escape(", ".join(methods))}: {kind}</small>'
        f'<span aria-hidden="true">{mark} </span>{escape(name)}</span>'
    )
