"""Presets: a TOML file names a method, its settings, the training recipe, and what a protocol changes of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from anprompt.errors import UserError, choices
from anprompt.methods.registry import list_methods
from anprompt.utils.files import first_line

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10 only
    import tomli as tomllib

LONGEST_PRESET = 50_000  # characters; the longest here has some thousand
_TABLES = ("settings", "train")


@dataclass(frozen=True)
class Preset:
    """A named recipe: method, its settings, and training settings, as plain values."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


def list_presets() -> list[str]:
    """Names of the presets: those that ship with the package, and plug-in methods, which are their own.

    Returns:
        Names in alphabetical order, as `create_method` and `--method` take them.

    Examples:
        >>> "anprompt" in list_presets()
        True
    """
    files = resources.files("anprompt") / "presets"
    shipped = {entry.name[:-5] for entry in files.iterdir() if entry.name.endswith(".toml")}
    return sorted(shipped | set(list_methods()))


def get_preset(name: str, protocol: str = "base-to-new", *, dataset: str = "", shots: int = 0) -> Preset:
    """A preset with what the protocol changes already applied.

    Args:
        name: a preset's, or a plug-in method's own.
        protocol: as `anprompt bench` has it ("base-to-new", "few-shot", ...).
        dataset: name of the target data set; only the `*-per-dataset` presets know any.
        shots: images per class; some few-shot recipes train less on fewer.

    Returns:
        The values that hold here; the caller may override them.

    Examples:
        >>> get_preset("anprompt").method
        'anprompt'

    Raises:
        UserError: no such preset (the nearest is named).
    """
    if name not in list_presets():
        raise choices("method", name, list_presets())
    file = resources.files("anprompt") / "presets" / f"{name}.toml"
    if not file.is_file():
        return Preset(name, name)
    values = parse_preset(name, file.read_text(encoding="utf-8"))
    base = get_preset(values["extends"], protocol, shots=shots) if "extends" in values else Preset("", "")
    settings, train = dict(base.settings), dict(base.train)
    for layer in _layers(values, protocol, dataset, shots):
        settings.update(layer.get("settings", {}))
        train.update(layer.get("train", {}))
    return Preset(name, values["method"], settings, train)


def parse_preset(name: str, text: str) -> dict[str, Any]:
    """The tables of a preset's file.

    Raises:
        UserError: not TOML, no method, or a part of another kind.
    """
    if len(text) > LONGEST_PRESET:  # before it is parsed: names in names take more than their share of time
        raise UserError(f"Preset {name!r} has more than {LONGEST_PRESET:,} characters.")
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"Preset {name!r} is not TOML ({first_line(error)}).") from None
    if not isinstance(values.get("method"), str) or not isinstance(values.get("extends", ""), str):
        raise UserError(f"Preset {name!r} must name its method, and what it extends, as a string.")
    protocols = values.get("protocol", {})
    changes = list(protocols.values()) if isinstance(protocols, dict) else [protocols]
    for layer in [values, *changes]:
        special = [layer.get(key, {}) for key in ("shots", "dataset")] if isinstance(layer, dict) else [layer]
        inner = [table for group in special if isinstance(group, dict) for table in group.values()]
        tables = [layer, *special, *inner]
        if not all(isinstance(table, dict) for table in tables):
            raise UserError(f"Preset {name!r}: 'protocol' and what it holds must be tables.")
        if not all(isinstance(table.get(key, {}), dict) for table in (layer, *inner) for key in _TABLES):
            raise UserError(f"Preset {name!r}: 'settings' and 'train' must be tables.")
    return values


def _layers(values: Mapping[str, Any], protocol: str, dataset: str, shots: int) -> list[Mapping[str, Any]]:
    """A preset file's tables that hold here, the later ones overriding the earlier ones."""
    tables = values.get("protocol", {})
    change = tables.get(protocol, {})
    special = change.get("shots", {}).get(str(shots), {}), change.get("dataset", {}).get(dataset, {})
    return [values, change, *special]
