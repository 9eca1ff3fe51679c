"""Classifiers that are given other names and sentences than a method's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anprompt.backbones import Backbone
from anprompt.data.names import spoken
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition, Descriptions
from anprompt.methods import Classifier, Method


@dataclass(frozen=True)
class Wording:
    """What stands for the classes: a name and a sentence each, and what is known about the names."""

    names: tuple[str, ...]
    sentences: tuple[str, ...]
    descriptions: Descriptions

    @classmethod
    def clean(cls, classnames: Sequence[str], template: str, descriptions: Descriptions) -> Wording:
        """As they are without a condition."""
        names = tuple(spoken(name) for name in classnames)
        about = {spoken(name): lines for name, lines in descriptions.items()}
        return cls(names, tuple(template.format(name) for name in names), about)


def with_sentences(
    method: Method, rows: Sequence[Wording], head: str = "auto", meant: Sequence[str] | None = None
) -> tuple[Classifier, bool]:
    """A classifier of the rows' names, one row after the other, given their sentences instead of the
    method's template.

    Args:
        meant: the true names of the classes of one row, where the rows' are disturbed.

    Returns:
        The classifier, and whether the method reads sentences: one whose learned vectors stand in place
        of the template reads the names alone.
    """
    names = [name for row in rows for name in row.names]
    sentences = [sentence for row in rows for sentence in row.sentences]
    about = {**method.descriptions, **{k: list(v) for row in rows for k, v in row.descriptions.items()}}
    true = [name for _ in rows for name in meant] if meant is not None else None
    return Classifier(method, names, head, names, sentences, about, true), method.reads_template


def shortened(backbone: Backbone, sentence: str, name: str) -> str:
    """The sentence without words that exceed the context length: first those in front of the name."""
    while " " in sentence and _too_long(backbone, sentence):
        at = max(sentence.find(name), 0)
        before = sentence[:at].split()
        sentence = " ".join([*before[1:], sentence[at:]]) if before else sentence.rsplit(" ", 1)[0]
    return sentence


def _too_long(backbone: Backbone, sentence: str) -> bool:
    try:
        backbone.tokenize([sentence])
    except UserError:
        return True
    return False


def disturbed_words(
    condition: Condition, method: Method, classnames: Sequence[str], template: str, descriptions: Descriptions
) -> Wording:
    """Names and sentences as the text encoder gets them under a condition, short enough for it."""
    names = condition.names(classnames)
    sentences = condition.sentences(classnames, template, descriptions)
    short = [shortened(method.backbone, s, name) for s, name in zip(sentences, names)]
    about = {
        noisy: [line.replace(spoken(name), noisy) for line in descriptions[name]]
        for name, noisy in zip(classnames, names)
        if name in descriptions
    }
    return Wording(tuple(names), tuple(short), about)


def disturbed_classifier(
    condition: Condition, method: Method, classnames: Sequence[str], *, template: str | None = None,
    descriptions: Descriptions | None = None,
) -> Classifier:  # fmt: skip
    """A classifier that was given the disturbed words; the head is that of the true names."""
    words = disturbed_words(condition, method, classnames, template or method.template, descriptions or {})
    disturbed, _ = with_sentences(method, [words], Classifier(method, classnames).head, classnames)
    disturbed.classnames = tuple(classnames)  # results are counted under the true names
    return disturbed
