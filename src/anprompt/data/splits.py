"""Parts: dividing unsplit data, few-shot draws, base and new classes."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Sequence
from dataclasses import replace

from anprompt.data.names import class_key
from anprompt.data.names import clean_classnames as clean_classnames  # its old place
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError, choices


def few_shot(dataset: Dataset, shots: int | None, seed: int) -> Dataset:
    """Draws a few-shot training set, and a validation set of min(shots, 4), exactly as CoOp's code does.

    One `random.Random(seed)`; train is drawn first, then val; classes in the order they are first seen;
    a class with fewer items gives all it has; the test part is untouched. Draw before `subset_classes`:
    the draw for base classes is part of the draw for all.

    Args:
        shots: items per class; None for all there are.
        seed: not negative. 0 is a seed like any other.

    Raises:
        UserError: shots or seed are not whole numbers in range.
    """
    seed = _whole("seed", seed, least=0)
    if shots is None:
        return dataset
    shots = _whole("shots", shots, least=1)
    rng = random.Random(seed)
    train = _draw(dataset.train, shots, rng)
    return replace(dataset, train=train, val=_draw(dataset.val, min(shots, 4), rng))


def _whole(what: str, value: object, *, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(f"{what} must be a whole number, not {value!r}.") from None
    if number < least:
        raise UserError(f"{what} must be at least {least}, not {number}.")
    return number


def _draw(items: Sequence[Item], shots: int, rng: random.Random) -> tuple[Item, ...]:
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.label, []).append(item)
    drawn: list[Item] = []
    for group in by_label.values():
        drawn += rng.sample(group, shots) if len(group) >= shots else group
    return tuple(drawn)


def subset_classes(dataset: Dataset, which: str) -> Dataset:
    """The data of all classes, of the first half ("base", rounded up) or of the rest ("new").

    Labels are numbered from 0 again.

    Raises:
        UserError: an unknown half, or one that would hold no class.
    """
    if which not in ("all", "base", "new"):
        raise choices("class subset", which, ("all", "base", "new"))
    if which == "all":
        return dataset
    half = math.ceil(len(dataset.classnames) / 2)
    first, last = (0, half) if which == "base" else (half, len(dataset.classnames))
    if first == last:
        raise UserError(f"{dataset.name} has {len(dataset.classnames)} class(es), so there are no {which} classes.")

    def keep(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(replace(item, label=item.label - first) for item in items if first <= item.label < last)

    return replace(
        dataset,
        classnames=dataset.classnames[first:last],
        labels=dataset.labels[first:last],
        train=keep(dataset.train),
        val=keep(dataset.val),
        test=keep(dataset.test),
    )


def with_classes(dataset: Dataset, classnames: Sequence[str]) -> Dataset:
    """The data set with this class list; images of other classes go, labels are numbered along the list.

    Names are compared by `names.class_key`, so "Apple" of the data is "apple" of the list.
    """
    labels = {class_key(name): label for label, name in enumerate(classnames)}
    called = dict(zip(map(class_key, dataset.classnames), dataset.labels))
    own = tuple(called.get(class_key(name), "") for name in classnames) if called else ()

    def keep(items: Sequence[Item]) -> tuple[Item, ...]:
        known = [(item, labels.get(class_key(item.classname))) for item in items]
        return tuple(
            replace(item, label=label, classname=classnames[label]) for item, label in known if label is not None
        )

    return replace(
        dataset,
        classnames=tuple(classnames),
        labels=own if all(own) else (),
        train=keep(dataset.train),
        val=keep(dataset.val),
        test=keep(dataset.test),
    )
