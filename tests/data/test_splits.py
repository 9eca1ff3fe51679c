"""Class names, divided data, and draws that equal the field's."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.data.division import complete_parts
from anprompt.data.splits import clean_classnames, few_shot, subset_classes
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from tests.golden_fewshot import draw_lines, fewshot_parity
from tests.shared import shared

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 40), min_size=2)


def dataset(train: list[int], val: list[int] = (), test: list[int] = ()) -> Dataset:
    """Labels of each part; the largest one says how many classes there are."""
    names = tuple(f"class {label}" for label in range(max([*train, *val, *test]) + 1))
    parts = [
        tuple(Item(f"{part}/{place}", label, names[label]) for place, label in enumerate(labels))
        for part, labels in (("train", train), ("val", val), ("test", test))
    ]
    return Dataset("made up", names, *parts, read=lambda item: None)


def test_official_draws_are_equal():
    results = fewshot_parity(shared("golden/fewshot_draws.json"), shared("reference/splits"))
    assert len(results) == 549
    assert [result for result in results if not result[2]] == []


def test_a_changed_draw_would_be_seen():
    drawn = few_shot(dataset([0] * 30 + [1] * 30), 4, 0)
    assert draw_lines(drawn.train) != draw_lines(few_shot(dataset([0] * 30 + [1] * 30), 4, 1).train)


def test_train_is_drawn_before_val_from_one_generator():
    data = dataset([0] * 20 + [1] * 20, val=[0] * 9 + [1] * 2)
    drawn = few_shot(data, 6, seed=3)
    rng = random.Random(3)
    train = rng.sample(data.train[:20], 6) + rng.sample(data.train[20:], 6)
    val = rng.sample(data.val[:9], 4) + list(data.val[9:])
    assert (list(drawn.train), list(drawn.val)) == (train, val)
    assert drawn.test == data.test


def test_classes_in_the_order_they_are_first_seen():
    drawn = few_shot(dataset([1, 1, 0, 0]), 2, seed=0)
    assert [item.label for item in drawn.train] == [1, 1, 0, 0]


def test_a_class_with_fewer_gives_all_in_order():
    data = dataset([0, 0, 0, 1], val=[0])
    drawn = few_shot(data, 16, seed=1)
    assert drawn.train == data.train and drawn.val == data.val


def test_none_means_all_and_seed_zero_is_a_seed():
    data = dataset([0] * 30 + [1] * 30)
    assert few_shot(data, None, 1) is data
    draws = {tuple(draw_lines(few_shot(data, 4, seed).train)) for seed in range(4)}
    assert len(draws) == 4
    state = random.getstate()
    assert few_shot(data, 4, 0) == few_shot(data, 4, 0)
    assert random.getstate() == state


@pytest.mark.parametrize("shots", [0, -1, 1.5, "4", True, float("nan"), [1]])
def test_impossible_shots(shots):
    with pytest.raises(UserError, match="shots must be"):
        few_shot(dataset([0, 1]), shots, 1)


@pytest.mark.parametrize("seed", [-1, 0.5, None, "x"])
def test_impossible_seeds(seed):
    with pytest.raises(UserError, match="seed must be"):
        few_shot(dataset([0, 1]), 1, seed)


@given(COUNTS, st.integers(1, 20), st.integers(0, 5))
def test_a_draw_is_a_selection(counts, shots, seed):
    labels = [label for label, count in enumerate(counts.values()) for _ in range(count)]
    data = dataset(labels, val=labels)
    drawn = few_shot(data, shots, seed)
    assert set(drawn.train) <= set(data.train) and len(set(drawn.train)) == len(drawn.train)
    wanted = {label: min(shots, count) for label, count in enumerate(counts.values())}
    assert Counter(item.label for item in drawn.train) == wanted
    assert max(Counter(item.label for item in drawn.val).values()) <= min(shots, 4)


@given(st.integers(2, 30), st.data())
def test_base_and_new_halve_the_classes(count, data):
    labels = [*range(count), *data.draw(st.lists(st.integers(0, count - 1)))]
    whole = dataset(labels, val=[0], test=labels)
    base, new = subset_classes(whole, "base"), subset_classes(whole, "new")
    assert base.classnames + new.classnames == whole.classnames
    assert 0 <= len(base.classnames) - len(new.classnames) <= 1
    assert len(base.test) + len(new.test) == len(whole.test) and not new.val
    for half in (base, new):
        assert all(half.classnames[item.label] == item.classname for item in half.train)
        assert {item.label for item in half.train} == set(range(len(half.classnames)))
    assert subset_classes(whole, "all") == whole


def test_class_subset_errors():
    with pytest.raises(UserError, match="Did you mean 'base'"):
        subset_classes(dataset([0, 1]), "bass")
    with pytest.raises(UserError, match="no new classes"):
        subset_classes(dataset([0]), "new")


def made(counts: dict[str, int]) -> list[Item]:
    return [
        Item(f"{name}/{number:03}", label, name)
        for label, (name, count) in enumerate(sorted(counts.items()))
        for number in range(count)
    ]


def test_parts_that_exist_are_kept():
    train, val, test = made({"a": 10, "b": 10}), [Item("v", 0, "a")], [Item("t", 1, "b")]
    assert complete_parts({"train": train, "test": test}) == {"train": train, "val": [], "test": test}
    assert complete_parts({"test": test}) == {"train": [], "val": [], "test": test}
    with_val = complete_parts({"train": train, "val": val})
    assert with_val["val"] == val and with_val["test"] and with_val["train"]
    assert sorted(item.path for part in ("train", "test") for item in with_val[part]) == [i.path for i in train]
    assert all(complete_parts({"train": train}).values())


def test_cleaned_names():
    raw = ["tiger_cat", "  two   spaces ", "cafe\u0301", "猫", "F-16A/B", "__x__", "no\u00a0break"]
    assert clean_classnames(raw) == ["tiger cat", "two spaces", "café", "猫", "F-16A/B", "x", "no break"]


@settings(max_examples=60)
@given(st.lists(st.text("ab_ é", min_size=1).filter(lambda name: name.strip("_ ")), max_size=6))
def test_cleaning_twice_changes_nothing(names):
    once = clean_classnames(names, allow_duplicates=True)
    assert clean_classnames(once, allow_duplicates=True) == once
    assert all(name == " ".join(name.split()) for name in once)


@pytest.mark.parametrize("name", ["", "  ", "_", "a\nb", "bell\x07", "nul\0", "\udcff", "x" * 301])
def test_unusable_names_are_quoted(name):
    with pytest.raises(UserError) as caught:
        clean_classnames(["fine", name])
    assert repr(name[:20])[1:-1] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", [("tiger_cat", "tiger cat"), ("Cat", "cat"), ("caf\u00e9", "cafe\u0301")])
def test_duplicates_are_refused_naming_both(pair):
    with pytest.raises(UserError) as caught:
        clean_classnames(["dog", *pair])
    assert all(repr(name) in str(caught.value) for name in pair)
    assert len(clean_classnames(pair, allow_duplicates=True)) == 2


def test_a_subset_keeps_everything_else():
    data = replace(dataset([0, 1]), template="{} texture.", licence="CC0", skipped=("x",))
    half = subset_classes(few_shot(data, 1, 0), "new")
    assert (half.template, half.licence, half.skipped) == (data.template, data.licence, data.skipped)
