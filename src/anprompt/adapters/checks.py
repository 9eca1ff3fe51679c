"""What is checked of an adapter from anywhere before it is believed: words, names, sizes, numbers.

Every function raises `UserError` with the file and the name of what is wrong; none reads or makes a tensor
whose size it has not checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from anprompt.backbones import prefixes
from anprompt.data.names import check_classnames
from anprompt.errors import UserError
from anprompt.utils.files import BAD_TENSORS, check_header, first_line

_LARGEST_SETTING = 100_000
_SPARE_ELEMENTS = 1 << 20  # what building a method may ask for beside the tensors it stores
LARGEST_VALUE = 1e8  # of a prompt's numbers; training starts near 0.02, and squares must stay far inside fp32
_LARGEST_FLOAT = 1e6  # of a setting
_SCALES = 0.01, 1e4  # of logits per unit of similarity; CLIP's is 100
_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
# What makes a tensor of a size: by (2, 3), [2, 3], size=... or 2, 3; also as a tensor's "new_..." method.
_MAKERS = {f"{before}{name}" for before in ("", "new_") for name in ("empty", "zeros", "ones", "full")} | {
    "rand", "randn", "randint", "normal", "eye", "empty_strided", "expand", "repeat",
}  # fmt: skip
_STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# A hub id, or a model of open_clip by its tag: nothing that could be a path into the adapter's own folder.
_PLAIN_ID = re.compile(r"(open-clip:hf-hub:)?[\w.-]+(/[\w.-]+)?|open-clip:[\w.-]+/[\w-]+")
_FIELDS: dict[str, type] = {
    "preset": str, "method": str, "settings": dict, "template": str, "seed": int, "classnames": list, "backbone": dict,
}  # fmt: skip
_MAY_BE: dict[str, type] = {
    "trained_parameters": int, "record": dict, "versions": dict, "descriptions": dict, "tensors_sha256": str,
    "visual_head": bool,
}  # fmt: skip

Shapes = Mapping[str, tuple[int, ...]]


# --- config.json ----------------------------------------------------------------------------------
def check_fields(path: Path, config: Mapping[str, Any]) -> None:
    """Types of everything that loading reads, usable class names, and a backbone's name that is only a name."""
    for key, kind in _FIELDS.items():
        if not isinstance(config.get(key), kind):
            raise UserError(f"{str(path)!r}: {key!r} is missing or not a {kind.__name__}.")
    for key, kind in _MAY_BE.items():
        if key in config and not isinstance(config[key], kind):
            raise UserError(f"{str(path)!r}: {key!r} is not a {kind.__name__}.")
    for key in ("id", "weight_hash", "activation"):
        if not isinstance(config["backbone"].get(key), str):
            raise UserError(f"{str(path)!r}: 'backbone.{key}' is missing or not a str.")
    _check_names(path, config["classnames"], config.get("descriptions", {}))
    if not 0 <= config["seed"] < 2**63:
        raise UserError(f"{str(path)!r}: 'seed' is not between 0 and 2^63.")
    name = config["backbone"]["id"]
    prefix, colon, rest = name.partition(":")
    given = rest if colon and prefix in prefixes() else name  # of an installed package
    plain = os.path.isabs(name) or (_PLAIN_ID.fullmatch(given) and ".." not in name)
    if not name.isprintable() or not plain:
        raise UserError(f"{str(path)!r}: the backbone name {name!r} is not a hub id or a full path.")
    if os.path.isabs(name) and _inside(Path(name), path.parent):
        raise UserError(
            f"{str(path)!r}: the backbone {name!r} lies in the adapter's own folder, which is not opened; give the "
            "backbone it was trained on with --backbone."
        )


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, links followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # loops of links, names that can't be
        return False


def _check_names(path: Path, classnames: list[Any], descriptions: dict[str, Any]) -> None:
    if not classnames or not all(isinstance(name, str) for name in classnames):
        raise UserError(f"{str(path)!r}: 'classnames' must be a list of names.")
    try:
        check_classnames(classnames, allow_duplicates=True)
    except UserError as error:
        raise UserError(f"{str(path)!r}: {error}") from None
    for lines in descriptions.values():
        if not isinstance(lines, list) or not all(isinstance(s, str) and s.isprintable() for s in lines):
            raise UserError(f"{str(path)!r}: 'descriptions' must be lists of sentences by class.")


def check_sizes(folder: Path, settings: Mapping[str, Any], elements: int) -> None:
    """No width in a sound config exceeds the number of stored values."""
    for key, value in settings.items():
        scale = key == "logit_scale" and value
        least, most = _SCALES if scale else (-_LARGEST_FLOAT, _LARGEST_FLOAT)
        if isinstance(value, (int, float) if scale else float) and not least <= value <= most:
            raise UserError(
                f"Adapter {str(folder)!r}: the setting {key!r} = {value!r} is not a number that can train anything."
            )
        if isinstance(value, int) and abs(value) > max(elements, _LARGEST_SETTING):
            raise UserError(f"Adapter {str(folder)!r}: the setting {key!r} = {value} does not fit its tensors.")


class Bounded(TorchFunctionMode):
    """Within: no operation may make a new tensor of more than `elements` values and some to spare.

    Two settings that are small by themselves can ask for a huge product of both; here that is refused
    before the memory is asked for.

    Raises (from within):
        MemoryError: the size that was asked for.
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.most = elements + _SPARE_ELEMENTS

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__name__", "") in _MAKERS:
            sizes = [value for value in (given.get("size"), *args) if isinstance(value, (list, tuple))]
            size = sizes[0] if sizes else args
            if all(isinstance(side, int) for side in size) and count(tuple(size)) > self.most:
                raise MemoryError(f"they ask for a tensor of shape {list(size)}")
        return func(*args, **given)


# --- adapter.safetensors --------------------------------------------------------------------------
def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes from the header; nothing is allocated."""
    if not path.is_file():
        raise UserError(f"{str(path)!r} is missing; the adapter is incomplete. Train or copy it again.")
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except BAD_TENSORS as error:
        reason = first_line(error)
        raise UserError(f"{str(path)!r} is damaged or cut off ({reason}). Copy the adapter again.") from error


def count(shape: tuple[int, ...]) -> int:
    """Values in a tensor of this shape."""
    product = 1
    for side in shape:
        product *= side
    return product


def check_shapes(path: Path, found: Shapes, expected: Shapes) -> None:
    """The very tensors that the method has, in its shapes."""
    for key, shape in expected.items():
        if key not in found:
            raise UserError(f"{str(path)!r} lacks the tensor {key!r}; the adapter is incomplete.")
        if found[key] != shape:
            raise UserError(f"{str(path)!r}: tensor {key!r} has shape {list(found[key])}, expected {list(shape)}.")
    extra = sorted(set(found) - set(expected))
    if extra:
        raise UserError(f"{str(path)!r} holds a tensor {extra[0][:80]!r} that its method does not have.")


def check_values(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in fp32, each finite there.

    Numbers that fp32 can't hold become Inf by the conversion, so it comes first.
    """
    found = {}
    for key, value in tensors.items():
        if value.dtype not in _STORED_TYPES:
            raise UserError(f"{str(path)!r}: tensor {key!r} is of type {value.dtype}, not floating point.")
        found[key] = check_numbers(path, key, value.float())
    return found


def check_numbers(path: Path, key: str, value: Tensor) -> Tensor:
    """The tensor itself, in fp32: finite, and of a size that trained prompts have.

    Raises:
        UserError: NaN, Inf, numbers so large that answers overflow, or nothing but numbers so small that
            processors may or may not take them for 0.
    """
    if not torch.isfinite(value).all():
        raise UserError(f"{str(path)!r}: tensor {key!r} holds NaN or Inf; use an earlier adapter or train again.")
    largest = float(value.abs().max()) if value.numel() else 0.0
    if largest > LARGEST_VALUE or 0 < largest < _SMALLEST_NORMAL:
        raise UserError(
            f"{str(path)!r}: tensor {key!r} holds numbers up to {largest:.1e}, which no prompt has; use an earlier "
            "adapter, or train again with a lower learning rate."
        )
    return value
