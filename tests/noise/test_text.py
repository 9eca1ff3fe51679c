"""Sentence noise: what every operator promises, over arbitrary templates and names."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.noise.seeds import stable_seed
from anprompt.noise.text import (
    DEFAULT_OPS,
    KEYBOARD,
    PHRASINGS,
    TARGETS,
    TEXT_FAMILIES,
    TEXT_NOISE,
    Sentence,
    noisy_sentences,
    perturb,
)

CHARACTER_OPS = (*TEXT_FAMILIES["characters"], *TEXT_FAMILIES["punctuation"])
free_text = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), max_size=20)
names = st.one_of(
    st.sampled_from(["x", "?", "é", "ß", "Ἀχιλλεύς", "面包", "crème brûlée", "🍕", "10-inch pizza", "a a"]), free_text
).filter(lambda name: name.strip())
templates = st.one_of(
    st.sampled_from(["", "{}", "a photo of a {}.", "a photo of a {}, a type of pet.", "{}s", "¿{}?"]),
    st.tuples(free_text, free_text).map("{}".join),
)
ops = st.sampled_from(sorted(TEXT_NOISE))
strengths = st.integers(1, 3)
targets = st.sampled_from(sorted(TARGETS))
seeds = st.integers(0, 2**32)
quick = settings(max_examples=150, deadline=None)


def damerau_levenshtein(a: str, b: str) -> int:
    """Unrestricted distance (Lowrance and Wagner 1975): insert, delete, substitute, exchange neighbours."""
    last_row: dict[str, int] = {}
    far = len(a) + len(b)
    table = [[far] * (len(b) + 2) for _ in range(len(a) + 2)]
    for i in range(len(a) + 1):
        table[i + 1][1] = i
    for j in range(len(b) + 1):
        table[1][j + 1] = j
    for i in range(1, len(a) + 1):
        last_column = 0
        for j in range(1, len(b) + 1):
            row, column = last_row.get(b[j - 1], 0), last_column
            same = a[i - 1] == b[j - 1]
            if same:
                last_column = j
            table[i + 1][j + 1] = min(
                table[i][j] + (not same),
                table[i + 1][j] + 1,
                table[i][j + 1] + 1,
                table[row][column] + (i - row - 1) + 1 + (j - column - 1),
            )
        last_row[a[i - 1]] = i
    return table[-1][-1]


def noise(op: str, template: str, name: str, strength: int, target: str, seed: int) -> Sentence:
    sentence = Sentence.of(template, name)
    return TEXT_NOISE[op](sentence, strength=strength, target=target, rng=random.Random(seed))


def test_the_distance_used_here_is_right():
    assert damerau_levenshtein("photo", "photo") == 0
    assert damerau_levenshtein("photo", "phtoo") == 1
    assert damerau_levenshtein("ca", "abc") == 2  # 3 for the restricted distance
    assert damerau_levenshtein("", "abc") == 3


@quick
@given(ops, templates, names, targets, seeds)
def test_strength_zero_is_the_clean_sentence(op, template, name, target, seed):
    clean = (template if template.strip() else "{}").replace("{}", name)
    assert perturb(template, name, ops=[op], strength=0, target=target, rng=random.Random(seed)) == clean


@quick
@given(ops, templates, names, strengths, targets, seeds)
def test_same_seed_same_sentence_and_never_empty(op, template, name, strength, target, seed):
    first = noise(op, template, name, strength, target, seed)
    assert first == noise(op, template, name, strength, target, seed)
    assert first.classname.strip()
    assert first.text == first.template.replace("{}", first.classname)


@quick
@given(ops, templates, names, strengths, seeds)
def test_noise_stays_on_its_target(op, template, name, strength, seed):
    clean = Sentence.of(template, name)
    assert noise(op, template, name, strength, "template", seed).classname == name
    assert noise(op, template, name, strength, "classname", seed).template == clean.template


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CHARACTER_OPS), templates, names, strengths, targets, seeds)
@example("typo", "", "x", 3, "classname", 0)
def test_typos_of_strength_s_are_at_most_s_edits_and_at_least_one(op, template, name, strength, target, seed):
    clean, noisy = Sentence.of(template, name), noise(op, template, name, strength, target, seed)
    distance = damerau_levenshtein(clean.text, noisy.text)
    assert distance <= strength
    hit = "".join(getattr(clean, part) for part in TARGETS[target])
    if op in ("typo", "keyboard", "insert_char", "double_char"):
        assert (distance > 0) == bool(hit.strip())


@quick
@given(templates, names, strengths, targets, seeds)
def test_case_noise_changes_case_only(template, name, strength, target, seed):
    clean, noisy = Sentence.of(template, name), noise("case", template, name, strength, target, seed)
    assert len(noisy.text) == len(clean.text)
    changed = [(a, b) for a, b in zip(clean.text, noisy.text) if a != b]
    assert all(a == b.swapcase() and b == a.swapcase() for a, b in changed)
    hit = "".join(getattr(clean, part) for part in TARGETS[target])
    if any(c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for c in hit):
        assert changed


@quick
@given(templates, names, strengths, targets, seeds)
def test_word_noise_invents_nothing(template, name, strength, target, seed):
    clean = Sentence.of(template, name)
    swapped = noise("swap_words", template, name, strength, target, seed)
    assert sorted(swapped.text) == sorted(clean.text)
    dropped = iter(clean.text)
    assert all(c in dropped for c in noise("drop_word", template, name, strength, target, seed).text)


@quick
@given(templates, names, strengths, targets, seeds)
def test_punctuation_noise_leaves_letters_alone(template, name, strength, target, seed):
    clean, noisy = Sentence.of(template, name), noise("punctuation", template, name, strength, target, seed)
    assert [c for c in noisy.text if c.isalnum()] == [c for c in clean.text if c.isalnum()]


def test_word_noise_by_hand():
    drawn = {noise("drop_word", "one {}, two.", "red panda", 1, "both", seed).text for seed in range(60)}
    assert drawn == {"red panda, two.", "one panda, two.", "one red, two.", "one red panda,."}
    assert noise("drop_word", "", "red panda", 3, "both", 0).classname in ("red", "panda")
    swapped = {noise("swap_words", "one two {}.", "red panda", 1, "both", seed).text for seed in range(30)}
    assert swapped == {"two one red panda.", "one two panda red."}
    assert noise("swap_words", "{}", "panda", 3, "both", 0).text == "panda"


def test_each_kind_of_typo_by_hand():
    def drawn(op: str, name: str) -> set[str]:
        return {noise(op, "", name, 1, "both", seed).text for seed in range(200)}

    assert drawn("swap_char", "cat") == {"act", "cta"}
    assert drawn("drop_char", "cat") == {"at", "ct", "ca"}
    assert drawn("double_char", "cat") == {"ccat", "caat", "catt"}
    assert drawn("keyboard", "G") == set("FHVBTY")
    assert drawn("insert_char", "a") == {k + "a" for k in "qwsz"} | {"a" + k for k in "qwsz"}
    assert drawn("drop_char", "x") == drawn("swap_char", "x") == {"x"}
    assert drawn("keyboard", "包面") == {"面面", "包包"}  # stays in its script


def test_keyboard_neighbours_are_mutual():
    assert set(KEYBOARD["g"]) == set("fhtyvb")
    assert all(key in KEYBOARD[near] for key, near_keys in KEYBOARD.items() for near in near_keys)


def test_paraphrase_keeps_name_and_hint_and_changes_the_wording():
    for strength, phrasings in PHRASINGS.items():
        texts = set(noisy_sentences("a photo of a {}.", "emu", draws=60, strength=strength, ops=["paraphrase"], seed=1))
        assert texts == {phrasing.replace("{}", "emu") for phrasing in phrasings}
    pet = noise("paraphrase", "a photo of a {}, a type of pet.", "emu", 3, "template", 4)
    assert ", a type of pet" in pet.text and not pet.text.startswith("a photo of")
    own = PHRASINGS[1][0]
    assert all(noise("paraphrase", own, "emu", 1, "both", seed).template != own for seed in range(40))


def test_operators_combine_in_registry_order():
    both = [
        perturb("a photo of a {}.", "emu", ops=order, strength=1, rng=random.Random(5))
        for order in (["drop_char", "paraphrase"], ["paraphrase", "drop_char"], ["paraphrase", "drop_char"] * 2)
    ]
    assert len(set(both)) == 1
    assert both[0] not in {phrasing.replace("{}", "emu") for phrasing in PHRASINGS[1]}


@quick
@given(st.lists(names, min_size=2, max_size=5, unique=True), st.integers(1, 5), seeds)
def test_draws_depend_on_seed_name_and_number_alone(classnames, draws, seed):
    def draw(name: str, count: int) -> list[str]:
        return noisy_sentences("a photo of a {}.", name, draws=count, strength=2, ops=["typo", "case"], seed=seed)

    together = {name: draw(name, draws) for name in reversed(classnames)}
    assert together == {name: draw(name, draws + 3)[:draws] for name in classnames}
    assert all(len(sentences) == draws for sentences in together.values())


def test_draws_differ_by_draw_seed_and_name_and_share_the_operators():
    def draw(name="emu", seed=1, **more):
        return noisy_sentences("a photo of a {}.", name, draws=20, strength=2, seed=seed, **more)

    typos = draw(ops=["typo"])
    assert len(set(typos)) > 15
    assert typos != draw(ops=["typo"], seed=2)
    assert [t.replace("emu", "") for t in draw(ops=["typo"], target="template")] != [
        t.replace("gnu", "") for t in draw("gnu", ops=["typo"], target="template")
    ]
    # in turn: half the draws paraphrase, the others only change case
    mixed = draw(ops=["paraphrase", "case"])
    assert sum(text.lower() == "a photo of a emu." for text in mixed) == 10
    assert draw() == draw(ops=DEFAULT_OPS) and draw(ops=[]) == ["a photo of a emu."] * 20
    combined = draw(ops=["paraphrase", "case"], combine=True)
    assert all(text.lower() != "a photo of a emu." and text != text.lower() for text in combined)


def test_draws_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from anprompt.noise.text import noisy_sentences as n;"
        "print(n('a photo of a {}.', 'crème', draws=4, strength=2, ops=['typo', 'case'], seed=3))"
    )
    env = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONIOENCODING": "utf-8"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=env)
    here = noisy_sentences("a photo of a {}.", "crème", draws=4, strength=2, ops=["typo", "case"], seed=3)
    assert other.stdout.decode().strip() == str(here)
    assert stable_seed(3, "crème", 0) == 15871842679472178103


def test_stable_seed_keeps_keys_apart():
    keys = [(1, "a"), ("1", "a"), ("1a",), (1, "a", 0), ("a", 1), ("a", "b"), ("a\x1fb",), ("a','b",)]
    assert len({stable_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ops": ["typoo"]}, "Unknown text noise 'typoo'. Did you mean 'typo'?"),
        ({"target": "class"}, "Unknown noise target 'class'"),
        ({"strength": 4}, "Unknown noise strength '4'. Available: 0, 1, 2, 3."),
        ({"strength": -1}, "Unknown noise strength '-1'"),
        ({"strength": True}, "Unknown noise strength 'True'"),
        ({"template": "a photo."}, "'a photo.' needs exactly one {}"),
        ({"template": "{} and {}"}, "needs exactly one {}"),
        ({"classname": "  "}, "is empty"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"template": "a photo of a {}.", "classname": "emu", "ops": ["typo"], "strength": 1, "target": "both"}
    with pytest.raises(UserError) as caught:
        perturb(**(arguments | change), rng=random.Random(0))
    assert message in str(caught.value)
    with pytest.raises(UserError):
        noisy_sentences(**(arguments | change), draws=1, seed=0)


def test_every_operator_has_a_family_and_a_line_of_documentation():
    assert [name for family in TEXT_FAMILIES.values() for name in family] == list(TEXT_NOISE)
    assert all("strength" in noise.doc for noise in TEXT_NOISE.values())
