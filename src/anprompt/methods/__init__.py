"""The methods and the presets that run them.

A *preset* is a TOML file: a method's name, its settings, the training recipe, and what a protocol
changes of it. Names given by users are preset names; most presets are called as their method.
Other packages add methods through the entry-point group `anprompt.methods` (name -> Method class).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from importlib.metadata import entry_points
from typing import Any

from anprompt.backbones.base import CAPABILITIES, Backbone
from anprompt.errors import UserError, choices
from anprompt.methods.anprompt import ANPrompt
from anprompt.methods.base import Head, Method, MethodConfig
from anprompt.methods.classifier import Classifier
from anprompt.methods.cocoop import CoCoOp
from anprompt.methods.coop import CoOp
from anprompt.methods.maple import MaPLe
from anprompt.methods.mmrl import MMRL
from anprompt.methods.mmrlpp import MMRLpp
from anprompt.methods.promptsrc import PromptSRC
from anprompt.methods.zeroshot import ZeroShot
from anprompt.utils.machine import align

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - Python 3.10 only
    import tomli as tomllib

__all__ = [
    "Classifier",
    "Head",
    "Method",
    "MethodConfig",
    "Preset",
    "build_method",
    "method_class",
    "methods",
    "preset",
]

LONGEST_TEMPLATE = 1000
_BUILT_IN: tuple[type[Method], ...] = (ZeroShot, CoOp, CoCoOp, MaPLe, PromptSRC, MMRL, MMRLpp, ANPrompt)


@lru_cache(maxsize=1)
def methods() -> dict[str, type[Method]]:
    """All known methods by name; the built-in ones can't be replaced by a plug-in."""
    found = {point.name: point.load() for point in entry_points(group="anprompt.methods")}
    return {**found, **{cls.name: cls for cls in _BUILT_IN}}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        UserError: there is none; the nearest name is in the line.
    """
    if name not in methods():
        raise choices("method", name, sorted(methods()))
    return methods()[name]


@dataclass(frozen=True)
class Preset:
    """A named recipe: method, its settings, and training settings, as plain values."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


def preset_names() -> list[str]:
    """Presets that ship with the package, and plug-in methods (which are their own preset)."""
    files = resources.files("anprompt") / "presets"
    shipped = {entry.name[:-5] for entry in files.iterdir() if entry.name.endswith(".toml")}
    return sorted(shipped | set(methods()))


def preset(name: str, protocol: str = "base-to-new", *, dataset: str = "", shots: int = 0) -> Preset:
    """A preset with what the protocol changes already applied.

    Args:
        name: a preset's, or a plug-in method's own.
        protocol: as `anprompt bench` has it ("base-to-new", "few-shot", ...).
        dataset: name of the target data set; only the `*-per-dataset` presets know any.
        shots: pictures per class; some few-shot recipes train less on fewer.

    Returns:
        The values that hold here; the caller may override them.

    Examples:
        >>> preset("anprompt").method
        'anprompt'

    Raises:
        UserError: no such preset (the nearest is named).
    """
    if name not in preset_names():
        raise choices("method", name, preset_names())
    file = resources.files("anprompt") / "presets" / f"{name}.toml"
    if not file.is_file():
        return Preset(name, name)
    values = parse_preset(name, file.read_text(encoding="utf-8"))
    base = preset(values["extends"], protocol, shots=shots) if "extends" in values else Preset("", "")
    settings, train = dict(base.settings), dict(base.train)
    for layer in _layers(values, protocol, dataset, shots):
        settings.update(layer.get("settings", {}))
        train.update(layer.get("train", {}))
    return Preset(name, values["method"], settings, train)


_TABLES = ("settings", "train")


LONGEST_PRESET = 50_000  # characters; the longest here has some thousand


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
        reason = (str(error) or "nested too deeply").splitlines()[0]
        raise UserError(f"Preset {name!r} is not TOML ({reason}).") from None
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


def build_method(
    name: str,
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    descriptions: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 1,
    fresh: bool = True,
    protocol: str = "base-to-new",
    dataset: str = "",
    shots: int = 0,
) -> Method:
    """A method on a backbone, ready to train.

    Args:
        name: preset name ("anprompt", "anprompt-snapshot", "zeroshot", ...).
        classnames: what is trained on, in label order.
        template: a sentence with one "{}" for the class name.
        descriptions: sentences by class name, for methods that read them.
        settings: values that replace the preset's.
        seed: of the trained tensors' start, and of noise; 0 is a seed.
        protocol, dataset, shots: what the preset's settings may depend on, see `preset`.
        fresh: compute the method's fixed tensors (noise prompts); False when tensors are loaded next.

    Returns:
        The method on the backbone's device, untrained.

    Raises:
        UserError: unknown preset or setting, bad value, empty class list, template without "{}", or a
            backbone that lacks what the method needs.
    """
    if not classnames:
        raise UserError("The class list is empty; give at least one class name.")
    check_template(template)
    recipe = preset(name, protocol, dataset=dataset, shots=shots)
    cls = method_class(recipe.method)
    _check_needs(cls, backbone)
    config = cls.Config.from_dict({**recipe.settings, **(settings or {})})
    method = cls(backbone, classnames, config, template=template, descriptions=descriptions, seed=seed)
    method.preset = name
    method.to(backbone.device)
    if fresh:
        method.start()
    align(method)  # prompts that start as words are slices of the words' embeddings
    return method


def _check_needs(cls: type[Method], backbone: Backbone) -> None:
    """`UserError` where the backbone lacks something the method is built on."""
    for need in cls.needs:
        if not getattr(backbone, need):
            raise UserError(
                f"Method {cls.name!r} needs {CAPABILITIES[need]}, which backbone {backbone.id!r} does not have; "
                "use another method or a CLIP backbone."
            )


def check_template(template: str) -> None:
    """`UserError` unless the template is a printable line with exactly one place for the class name."""
    if not template.isprintable() or len(template) > LONGEST_TEMPLATE:
        shown = template[:40] + ("..." if len(template) > 40 else "")
        raise UserError(f"Template {shown!r} must be one printable line of at most {LONGEST_TEMPLATE} characters.")
    if (
        template.count("{}") != 1
        or template.replace("{}", "").count("{")
        or template.replace("{}", "").count("}")
    ):
        raise UserError(
            f"Template {template!r} needs exactly one '{{}}' for the class name, like 'a photo of a {{}}.'."
        )
