"""The parameters of a classifier in its adapter's record, so that a reopened one equals the one saved.

    "parameters": {"shots": 4, "train": {"lr": 0.01}, "subset": "base", "names": [[0, "cat"], [1, "dog"]], ...}

Left out are those that are recorded elsewhere (method, seed) or that belong to the machine (a device that is
not the CPU). What is read comes from a file of anybody's and is checked like the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anprompt.errors import UserError

KEY = "parameters"
SUBSETS = ("all", "base", "new")
_TUPLE = "tuple"  # {"tuple": [...]}: JSON has lists alone
_PLAIN = ("shots", "settings", "train", "template", "subset", "calibrate", "accept", "max_megapixels", "dtype")
_ANYWHERE = ("cpu", "auto")


def to_record(parameters: Mapping[str, Any], descriptions: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON values of what `get_params` gives.

    Args:
        descriptions: those that the adapter records anyway, by class; equal ones are not written twice.
    """
    kept = {key: _plain(parameters.get(key)) for key in _PLAIN}
    kept["subset"] = parameters.get("classes") or kept["subset"]  # its name before
    kept["by_name"] = isinstance(parameters["backbone"], str)
    kept["device"] = parameters.get("device") if str(parameters.get("device")) in _ANYWHERE else None
    names, given = parameters.get("names"), parameters.get("descriptions")
    kept["names"] = None if names is None else [[_plain(label), str(name)] for label, name in names.items()]
    same = given is not None and {k: list(v) for k, v in given.items()} == {k: list(v) for k, v in descriptions.items()}
    kept["descriptions"] = same or (None if given is None else {str(k): list(v) for k, v in given.items()})
    return kept


def from_record(value: Any, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parameters of a classifier from an adapter.

    Args:
        value: what `to_record` wrote; None for an adapter without, whose settings and recipe are taken whole.
        config: the adapter's config.json.
        where: the adapter, for messages.

    Returns:
        Keyword arguments of `PromptClassifier`, and "by_name": whether the backbone was given by its name.

    Raises:
        UserError: something else stands there.
    """
    if value is None:
        train = config.get("train")
        recipe = {k: v for k, v in train.items() if k != "seed"} if isinstance(train, Mapping) else None
        return {
            "settings": dict(config["settings"]), "train": recipe or None, "template": config["template"],
            "descriptions": config.get("descriptions") or None, "by_name": False,
        }  # fmt: skip
    if not isinstance(value, Mapping):
        raise _wrong(where, KEY, value)
    value = {**value, "subset": value.get("subset") or value.get("classes")}  # its name before
    for key, sound in _SOUND.items():
        if not sound(value.get(key)):
            raise _wrong(where, key, value.get(key))
    found = {key: _restored(value.get(key)) for key in _SOUND}
    found["subset"] = value["subset"] or "all"
    found["device"], found["dtype"] = value.get("device") or "cpu", value.get("dtype") or "float32"
    found["by_name"] = bool(value.get("by_name"))
    if found["names"] is not None:
        found["names"] = dict(value["names"])
    if isinstance(found["descriptions"], bool):
        found["descriptions"] = config.get("descriptions") if found["descriptions"] else None
    return found


def _plain(value: Any) -> Any:
    """A value as JSON has it; numpy's numbers are numbers."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(entry) for entry in value]}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {_TUPLE} and isinstance(value[_TUPLE], list):
            return tuple(_restored(entry) for entry in value[_TUPLE])
        return {key: _restored(entry) for key, entry in value.items()}
    return [_restored(entry) for entry in value] if isinstance(value, list) else value


# --- what may stand there -------------------------------------------------------------------------
def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _settings(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(key, str) for key in value))


def _share(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and 0 < value <= 1)


def _megapixels(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or (number and 0 < value <= 10_000)


def _names(value: Any) -> bool:
    if value is None:
        return True
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    return pairs and all(
        isinstance(label, (str, int, float)) and isinstance(name, str) and name.isprintable() for label, name in value
    )


def _descriptions(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    return isinstance(value, Mapping) and all(
        isinstance(lines, list) and all(isinstance(line, str) and line.isprintable() for line in lines)
        for lines in value.values()
    )


def _line(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


_SOUND: dict[str, Callable[[Any], bool]] = {
    "shots": lambda value: value in (None, "all") or (_whole(value) and 0 < value < 2**31),
    "settings": _settings,
    "train": _settings,
    "template": _line,
    "subset": lambda value: value in (None, *SUBSETS),
    "calibrate": lambda value: value in (None, "temperature"),
    "accept": _share,
    "max_megapixels": _megapixels,
    "names": _names,
    "descriptions": _descriptions,
    "device": lambda value: value in (None, *_ANYWHERE),
    "dtype": lambda value: value in (None, "float32", "bfloat16", "float16"),
}


def _wrong(where: str, key: str, value: Any) -> UserError:
    shown = repr(value)[:60]
    return UserError(
        f"{where}: its recorded {key} {shown} are not those of a classifier; train again, or copy it again."
    )
