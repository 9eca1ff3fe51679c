"""Official `model.pth.tar-N` files: which one is meant, and on how many classes and epochs it says it was trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from anprompt.errors import UserError

_FILE = re.compile(r"model(?:-best)?\.pth\.tar(?:-(\d+))?")
_MOST = 2000  # entries of a folder that are looked at
# Buffers with one row a class: sentences without their prompts (CoOp and all that came from it), and their numbers.
_ROWS = {"token_prefix": 3, "token_suffix": 3, "token_middle": 3, "tokenized_prompts": 2}


def check_file(path: Path) -> None:
    """That a file is there; else which ones are, beside it or in the folder that was given in its place.

    Raises:
        UserError: a folder, or nothing.
    """
    if path.is_dir():
        found = _files(path)
        if not found:
            raise UserError(f"{path} is a folder without any 'model.pth.tar-N' file; give such a file.")
        raise UserError(f"{path} is a folder; give one of its files: {_listed(found)}.")
    if path.exists() or path.is_symlink():
        return
    beside = _files(path.parent) if path.parent.is_dir() else []
    raise UserError(f"{path} does not exist." + (f" There are: {_listed(beside)}." if beside else ""))


def _files(folder: Path) -> list[Path]:
    """The official files in a folder and up to two levels below, in the order of their epochs."""
    found, level = [], [folder]
    for _ in range(3):
        entries = [entry for place in level for entry in _entries(place)][:_MOST]
        found += [entry for entry in entries if _FILE.fullmatch(entry.name) and entry.is_file()]
        level = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    return sorted(found, key=lambda file: (str(file.parent), _epoch(file) or 0, file.name))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())[:_MOST]
    except OSError:  # a folder that can't be read holds nothing for us
        return []


def _epoch(path: Path) -> int | None:
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match and match[1] and len(match[1]) < 10 else None


def _listed(files: list[Path]) -> str:
    return ", ".join(map(str, files[:5])) + (f", ... ({len(files) - 5} more)" if len(files) > 5 else "")


def epoch_line(path: Path, epoch: object) -> str | None:
    """What to say where a file's name tells another epoch than its content; else None."""
    named = _epoch(path)
    if named is None or not isinstance(epoch, int) or isinstance(epoch, bool) or epoch == named:
        return None
    return f"{path} says in its name that it is of epoch {named}, but holds epoch {epoch}"


def class_count(state: Mapping[str, Tensor], path: object) -> int | None:
    """On how many classes the tensors were trained; None where nothing in them tells.

    Raises:
        UserError: two tensors tell different numbers.
    """
    counts = {
        key: len(value)
        for key, value in state.items()
        if _ROWS.get(key.rpartition(".")[2]) == value.dim() or (key.endswith("prompt_learner.ctx") and value.dim() == 3)
    }
    if len(set(counts.values())) > 1:
        (first, ours), (second, theirs) = sorted(counts.items(), key=lambda entry: entry[1])[:: len(counts) - 1]
        raise UserError(f"{path}: {first!r} is for {ours} classes, but {second!r} for {theirs}; it is damaged.")
    return next(iter(counts.values()), None)


def check_class_count(state: Mapping[str, Tensor], names: int, path: object) -> None:
    """That a file was trained on as many classes as names are given.

    Raises:
        UserError: on another number.
    """
    count = class_count(state, path)
    if count is not None and count != names:
        raise UserError(
            f"{path} was trained on {count} classes, but {names} names are given; give all of them, in the order of their "
            "labels."
        )
