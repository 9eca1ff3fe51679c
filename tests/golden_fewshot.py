"""Parity of the few-shot draws and class halves with the field's official ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from anprompt.data.classic.coop import read_split
from anprompt.data.splits import few_shot, subset_classes
from anprompt.data.types import Dataset, Item


def draw_lines(items: Iterable[Item]) -> list[str]:
    """A draw as text, one "path label classname" per item; paths relative, class names uncleaned."""
    return [f"{item.path} {item.label} {item.classname}" for item in items]


def fewshot_parity(draws_json: str | Path, splits_dir: str | Path) -> list[tuple[str, str, bool]]:
    """Compares every recorded draw with ours.

    Args:
        draws_json: {data set: {"shots4_seed1": {"all"|"base"|"new": {part: {"n", "sha256", "head"}}}}}.
        splits_dir: holds `split_zhou_<data set>.json`.

    Returns:
        (data set, "shots4_seed1/base/train", whether it is equal) for each.
    """
    results = []
    for name, draws in json.loads(Path(draws_json).read_text()).items():
        dataset = _raw(name, Path(splits_dir) / f"split_zhou_{name}.json")
        for part, count in draws["n"].items():
            results.append((name, f"n/{part}", len(getattr(dataset, part)) == count))
        for key, subsets in draws.items():
            if key == "n":
                continue
            shots, seed = (int("".join(filter(str.isdigit, word))) for word in key.split("_"))
            drawn = few_shot(dataset, shots, seed)
            for which, parts in subsets.items():
                subset = subset_classes(drawn, which)
                for part, expected in parts.items():
                    same = _same(getattr(subset, part), expected)
                    results.append((name, f"{key}/{which}/{part}", same))
    return results


def _same(items: tuple[Item, ...], expected: dict) -> bool:
    lines = draw_lines(items)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return (len(lines), digest, lines[:3]) == (expected["n"], expected["sha256"], expected["head"])


def _raw(name: str, split: Path) -> Dataset:
    """The split as it stands; the recorded draws have relative paths and uncleaned class names."""
    parts, names = read_split(split)
    train, val, test = (tuple(parts[part]) for part in ("train", "val", "test"))

    def read(item: Item):
        raise AssertionError("no pictures here")

    return Dataset(name, tuple(names), train, val, test, read)
