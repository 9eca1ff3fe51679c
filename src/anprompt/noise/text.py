"""Seeded noise on sentences, on the template and on the class name apart.

A sentence is `before + classname + after`. An operator changes only the parts its target names, so
"template" leaves the class name as it was, letter by letter, and the other way round. Where an
operator finds nothing to change (no second word to swap, a one-letter name to drop from), it
returns the sentence as it was; it never empties a class name.
"""

from __future__ import annotations

import itertools
import random
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from anprompt.errors import UserError, choices
from anprompt.noise.seeds import stable_seed

STRENGTHS = (0, 1, 2, 3)
TARGETS: dict[str, tuple[str, ...]] = {
    "template": ("before", "after"),
    "classname": ("classname",),
    "both": ("before", "classname", "after"),
}

# Wordings for the paraphrase operator, by distance from "a photo of a {}.": a plain rewording, a
# caption, a sentence of its own. None of them is in the template lists of CLIP or CoOp.
PHRASINGS: dict[int, tuple[str, ...]] = {
    1: (
        "a snapshot of a {}.",
        "an image with a {} in it.",
        "one picture of some {}.",
        "photograph: {}.",
        "a camera shot showing a {}.",
        "the photo shows a {}.",
    ),
    2: (
        "here you see a {} up front.",
        "this frame was taken to show a {}.",
        "what we have here is a {}.",
        "look, a {}!",
        "the main thing visible is a {}.",
        "my holiday album has this {}.",
    ),
    3: (
        "if you asked me what this is, I would say a {} without a second thought.",
        "somebody stopped on the way home and took out a phone because of this {}.",
        "among everything there is to notice here, the {} is what stays in mind.",
        "the caption under the print, half faded, still reads {}.",
        "we were told to label whatever we saw, and we wrote down {}.",
        "it took a moment to focus, but that is clearly a {}.",
    ),
}

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_MARKS = ",.;:!?'-"


def _keyboard() -> dict[str, str]:
    """Neighbours of each key of a QWERTY keyboard: left, right, and the keys touching above and below."""
    where = {key: (row, column) for row, keys in enumerate(_ROWS) for column, key in enumerate(keys)}
    # each row is shifted right by about half a key, so (r, c) touches c and c+1 of the row above
    steps = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))
    at = {place: key for key, place in where.items()}
    return {key: "".join(at.get((r + dr, c + dc), "") for dr, dc in steps) for key, (r, c) in where.items()}


KEYBOARD = _keyboard()


@dataclass(frozen=True)
class Sentence:
    """A template with its class name in place, kept in three parts."""

    before: str
    classname: str
    after: str

    @classmethod
    def of(cls, template: str, classname: str) -> Sentence:
        """Split a template at its one `{}`; an empty template is the class name alone."""
        template = template if template.strip() else "{}"
        if template.count("{}") != 1:
            raise UserError(f"Template {template!r} needs exactly one {{}} for the class name.")
        if not classname.strip():
            raise UserError(f"Class name {classname!r} is empty.")
        before, after = template.split("{}")
        return cls(before, classname, after)

    @property
    def template(self) -> str:
        return self.before + "{}" + self.after

    @property
    def text(self) -> str:
        return self.before + self.classname + self.after

    def part(self, name: str) -> str:
        return {"before": self.before, "classname": self.classname, "after": self.after}[name]

    def with_part(self, name: str, text: str) -> Sentence | None:
        """The sentence with one part replaced; None if that changes nothing or empties the class name."""
        if text == self.part(name) or (name == "classname" and not text.strip()):
            return None
        return replace(self, **{name: text})


Parts = tuple[str, ...]
Change = Callable[[Sentence, int, Parts, random.Random], Sentence]
# one edit at character i of a text, or None where it is impossible
Edit = Callable[[str, int, random.Random], "str | None"]


@dataclass(frozen=True)
class TextNoise:
    """A registered operator; its doc says what it does and what its strength counts."""

    name: str
    family: str
    doc: str
    change: Change

    def __call__(self, sentence: Sentence, *, strength: int, target: str = "both", rng: random.Random) -> Sentence:
        """The sentence with noise of a strength 0 (none) to 3 on the target's parts."""
        check(strength=strength, target=target)
        return self.change(sentence, strength, TARGETS[target], rng) if strength else sentence


TEXT_NOISE: dict[str, TextNoise] = {}


def _register(name: str, family: str, doc: str, change: Change) -> None:
    TEXT_NOISE[name] = TextNoise(name, family, doc, change)


def check(*, strength: int = 0, target: str = "both", ops: Iterable[str] = ()) -> None:
    """Raise a `UserError` for a strength, target or operator that does not exist."""
    if isinstance(strength, bool) or strength not in STRENGTHS:
        raise choices("noise strength", strength, STRENGTHS)
    if target not in TARGETS:
        raise choices("noise target", target, TARGETS)
    for name in ops:
        if name not in TEXT_NOISE:
            raise choices("text noise", name, TEXT_NOISE)


def _paraphrase(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
    if "before" not in parts:
        return sentence
    phrasing = rng.choice([p for p in PHRASINGS[strength] if p != sentence.template])
    before, after = phrasing.split("{}")
    # ", a type of pet" says what the data is about; without it the sentence would mean less, not
    # the same in other words
    if sentence.after.startswith(","):
        hint = sentence.after.rstrip().rstrip(".").rstrip()
        after = hint + ("," if after[:1] == " " else "") + after
    return Sentence(before, sentence.classname, after)


def _words(text: str) -> list[tuple[int, int]]:
    """Start and end of every word; marks at its ends do not belong to it, those inside do."""
    return [match.span() for match in re.finditer(r"[^\W_](?:\S*[^\W_])?", text)]


def _without_word(text: str, span: tuple[int, int], name_follows: bool) -> str:
    """The text without a word and without one of the spaces around it."""
    start, end = span
    after_space = start == 0 or text[start - 1].isspace()
    if end < len(text) and text[end].isspace() and after_space:
        end += 1
    elif start and after_space and not (name_follows and end == len(text)):
        start -= 1
    return text[:start] + text[end:]


def _first_possible(candidates: list[tuple[str, str]], sentence: Sentence, rng: random.Random) -> Sentence:
    """A random one of the (part, new text) candidates that changes something; else the sentence itself."""
    for name, text in rng.sample(candidates, len(candidates)):
        changed = sentence.with_part(name, text)
        if changed is not None:
            return changed
    return sentence


def _repeat(step: Callable[[Sentence], Sentence], sentence: Sentence, times: int) -> Sentence:
    previous = original = sentence
    for _ in range(times):
        previous, sentence = sentence, step(sentence)
    # the last step can undo the ones before; then one step fewer is the noisier sentence
    return previous if sentence == original else sentence


def _drop_words(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
    def step(now: Sentence) -> Sentence:
        candidates = [
            (name, _without_word(now.part(name), span, name == "before"))
            for name in parts
            for span in _words(now.part(name))
            if name != "classname" or len(_words(now.classname)) > 1
        ]
        return _first_possible(candidates, now, rng)

    return _repeat(step, sentence, strength)


def _swap_words(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
    def step(now: Sentence) -> Sentence:
        candidates = []
        for name in parts:
            text = now.part(name)
            for (a, b), (c, d) in itertools.pairwise(_words(text)):
                candidates.append((name, text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]))
        return _first_possible(candidates, now, rng)

    return _repeat(step, sentence, strength)


def _flips(char: str) -> bool:
    """Whether changing the case of a character can be undone: not so for `ß` or a final sigma."""
    other = char.swapcase()
    return other != char and len(other) == 1 and other.swapcase() == char


def _random_case(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
    places = [(name, i) for name in parts for i, char in enumerate(sentence.part(name)) if _flips(char)]
    if not places:
        return sentence
    chosen = [place for place in places if rng.random() < strength / 6] or [rng.choice(places)]
    texts = {name: list(sentence.part(name)) for name in parts}
    for name, i in chosen:
        texts[name][i] = texts[name][i].swapcase()
    return replace(sentence, **{name: "".join(chars) for name, chars in texts.items()})


def _near(text: str, i: int, rng: random.Random) -> str:
    """A character one could hit instead of text[i]: a neighbouring key, else another one of the text."""
    char = text[i]
    keys = KEYBOARD.get(char.lower(), "")
    if not keys:
        # no known keyboard: stay in the text's own script if it has a second character
        others = sorted({c for c in text if c.isalnum() and c != char})
        return rng.choice(others or [k for k in KEYBOARD if k != char])
    near = rng.choice(keys)
    return near.upper() if char.isupper() else near


def _swap(text: str, i: int, rng: random.Random) -> str | None:
    if i + 1 >= len(text) or text[i + 1].isspace():
        return None
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def _drop(text: str, i: int, rng: random.Random) -> str | None:
    return text[:i] + text[i + 1 :]


def _double(text: str, i: int, rng: random.Random) -> str | None:
    return text[: i + 1] + text[i:]


def _substitute(text: str, i: int, rng: random.Random) -> str | None:
    return text[:i] + _near(text, i, rng) + text[i + 1 :]


def _insert(text: str, i: int, rng: random.Random) -> str | None:
    at = i + rng.randrange(2)
    return text[:at] + _near(text, i, rng) + text[at:]


_TYPOS: tuple[Edit, ...] = (_swap, _drop, _double, _substitute, _insert)


def _one_typo(sentence: Sentence, parts: Parts, kinds: tuple[Edit, ...], rng: random.Random) -> Sentence:
    visible = [(name, i) for name in parts for i, c in enumerate(sentence.part(name)) if not c.isspace()]
    letters = [(name, i) for name, i in visible if sentence.part(name)[i].isalnum()]
    places = letters or visible
    for name, i in rng.sample(places, len(places)):
        for edit in rng.sample(kinds, len(kinds)):
            text = edit(sentence.part(name), i, rng)
            changed = None if text is None else sentence.with_part(name, text)
            if changed is not None:
                return changed
    return sentence


def _typos(*kinds: Edit) -> Change:
    """An operator that makes `strength` typos, each a random one of the kinds."""

    def change(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
        return _repeat(lambda now: _one_typo(now, parts, kinds, rng), sentence, strength)

    return change


def _punctuate(text: str, i: int, rng: random.Random) -> str | None:
    """Remove text[i] if it is a punctuation mark, else put one behind it where a word ends."""
    if unicodedata.category(text[i]).startswith("P"):
        return text[:i] + text[i + 1 :]
    if i + 1 < len(text) and text[i + 1].isalnum():
        return None
    return text[: i + 1] + rng.choice(_MARKS) + text[i + 1 :]


def _punctuation(sentence: Sentence, strength: int, parts: Parts, rng: random.Random) -> Sentence:
    def step(now: Sentence) -> Sentence:
        places = [(n, i) for n in parts for i, c in enumerate(now.part(n)) if not c.isspace()]
        texts = [(name, _punctuate(now.part(name), i, rng)) for name, i in places]
        return _first_possible([(name, text) for name, text in texts if text is not None], now, rng)

    return _repeat(step, sentence, strength)


# In this order they are applied: a paraphrase replaces the template, so whatever is to hit the new
# wording has to come after it.
_register("paraphrase", "paraphrase", "another wording; strength = distance from a caption", _paraphrase)
_register("drop_word", "words", "leaves out words; strength = how many", _drop_words)
_register("swap_words", "words", "exchanges neighbouring words; strength = how often", _swap_words)
_register("case", "case", "changes the case of each letter with probability strength / 6", _random_case)
_register("typo", "characters", "typos of the five kinds below; strength = how many", _typos(*_TYPOS))
_register("swap_char", "characters", "exchanges neighbouring characters; strength = how often", _typos(_swap))
_register("drop_char", "characters", "leaves out characters; strength = how many", _typos(_drop))
_register("double_char", "characters", "types characters twice; strength = how many", _typos(_double))
_register("keyboard", "characters", "hits the key beside; strength = how often", _typos(_substitute))
_register("insert_char", "characters", "hits the key beside as well; strength = how often", _typos(_insert))
_register("punctuation", "punctuation", "adds or removes marks; strength = how many", _punctuation)

TEXT_FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(noise.name for noise in TEXT_NOISE.values() if noise.family == family)
    for family in dict.fromkeys(noise.family for noise in TEXT_NOISE.values())
}

# what the noisy sentences are made with unless told otherwise: one operator of each kind
DEFAULT_OPS = ("paraphrase", "drop_word", "swap_words", "case", "typo")


def perturb(
    template: str, classname: str, *, ops: Iterable[str], strength: int, target: str = "both", rng: random.Random
) -> str:
    """The sentence after every one of the operators, each at this strength.

    Args:
        template: a sentence with one `{}`; empty for the class name alone.
        classname: what stands in its place.
        ops: names in `TEXT_NOISE`; they are applied in the registry's order, each once.
        strength: 0 (none) to 3.
        target: "template", "classname" or "both".
        rng: where chance comes from.

    Returns:
        The sentence, with the class name in place.

    Raises:
        UserError: a strength, target or operator that does not exist.
    """
    wanted = list(ops)
    check(strength=strength, target=target, ops=wanted)
    sentence = Sentence.of(template, classname)
    for name, noise in TEXT_NOISE.items():
        if name in wanted:
            sentence = noise(sentence, strength=strength, target=target, rng=rng)
    return sentence.text


def noisy_sentences(
    template: str,
    classname: str,
    *,
    draws: int,
    strength: int,
    ops: Iterable[str] | None = None,
    target: str = "both",
    seed: int,
    combine: bool = False,
) -> list[str]:
    """Noisy sentences of one class.

    Draw i is a function of (seed, class name, i): it changes neither with the other classes nor
    with the number of draws.

    Args:
        template: a sentence with one "{}"; empty for the class name alone.
        classname: what stands in its place.
        draws: how many sentences.
        strength: 0 (none) to 3.
        ops: names in `TEXT_NOISE`; `DEFAULT_OPS` if None.
        target: which part changes: "template", "classname" or "both".
        seed: of the draws.
        combine: apply all operators in each draw; otherwise the draws take them in turn, starting
            with a random one.

    Returns:
        `draws` sentences; some may be equal.

    Examples:
        >>> noisy_sentences("a photo of a {}.", "cat", draws=2, strength=0, seed=1)
        ['a photo of a cat.', 'a photo of a cat.']

    Raises:
        UserError: a strength, target or operator that does not exist.
    """
    wanted = list(DEFAULT_OPS if ops is None else ops)
    check(strength=strength, target=target, ops=wanted)
    start = stable_seed(seed, classname) % max(len(wanted), 1)
    sentences = []
    for draw in range(draws):
        chosen = wanted if combine or not wanted else [wanted[(start + draw) % len(wanted)]]
        rng = random.Random(stable_seed(seed, classname, draw))
        sentences.append(perturb(template, classname, ops=chosen, strength=strength, target=target, rng=rng))
    return sentences
