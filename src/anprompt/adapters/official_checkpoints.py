"""Prompts that were trained with the methods' official code: `model.pth.tar-N` files, opened here.

    method = read_field_checkpoint("output/.../MultiModalPromptLearner/model.pth.tar-5", backbone, classnames)
    save_adapter("adapter/", method)

CoOp, CoCoOp, MaPLe, PromptSRC, MMRL and MMRL++ write `{"state_dict", "epoch", "optimizer", "scheduler", ...}`
with torch.save. Which method it was, and its sizes, are read off names and shapes; what no tensor tells
(class position, loss weights, beta) comes from `settings`. Nothing in a file is ever executed.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.adapters.official_files import check_class_count, check_file, epoch_line
from anprompt.backbones.base import Backbone
from anprompt.errors import UserError
from anprompt.methods import create_method
from anprompt.methods.base import Method
from anprompt.utils.files import check_readable

log = logging.getLogger("anprompt")

NameMap = dict[str, list[str]]

_P, _R = "prompt_learner.", "representation_learner."
_BLOCK = "{}.transformer.resblocks.{{}}.VPT_shallow"


# --- names ----------------------------------------------------------------------------------------
def _numbered(pattern: str, keys: Collection[str], first: int = 0) -> list[str]:
    """Names `pattern.format(i)` for i = first.. as far as the file has them."""
    found: list[str] = []
    while pattern.format(first + len(found)) in keys:
        found.append(pattern.format(first + len(found)))
    return found


def _cocoop(keys: Collection[str]) -> NameMap:
    layers = {"meta_net.0": "meta_net.linear1", "meta_net.2": "meta_net.linear2"}
    parts = {f"{ours}.{x}": [f"{_P}{name}.{x}"] for ours, name in layers.items() for x in ("weight", "bias")}
    return {"context": [_P + "ctx"], **parts}


def _maple(keys: Collection[str]) -> NameMap:
    def projections(x: str) -> list[str]:
        return [f"{_P}proj.{x}", *_numbered(f"{_P}compound_prompt_projections.{{}}.{x}", keys)]

    return {
        "text_prompts": [_P + "ctx", *_numbered(_P + "compound_prompts_text.{}", keys)],
        "to_vision.weight": projections("weight"),
        "to_vision.bias": projections("bias"),
    }


def _promptsrc(keys: Collection[str]) -> NameMap:
    return {
        "text_prompts": [_P + "ctx", *_numbered(_BLOCK.format("text_encoder"), keys, 1)],
        "vision_prompts": ["image_encoder.VPT", *_numbered(_BLOCK.format("image_encoder"), keys, 1)],
    }


def _mmrl(keys: Collection[str]) -> NameMap:
    def tokens(side: str, x: str) -> list[str]:
        return _numbered(f"{_R}compound_rep_tokens_{side}.{{}}.{x}", keys)

    return {
        "tokens": [_R + "compound_rep_tokens"],
        **{f"text_tokens.{x}": tokens("r2tproj", x) for x in ("weight", "bias")},
        **{f"vision_tokens.{x}": tokens("r2vproj", x) for x in ("weight", "bias")},
        "projection": ["image_encoder.proj_rep"],
    }


def _mmrlpp(keys: Collection[str]) -> NameMap:
    def aligner(ours: str, side: str) -> NameMap:
        residual = {"up": "A", "down": "B", "bias": "bias"}
        lists = {f"{ours}.{k}": _numbered(f"{_R}srra_{side}.srra.{{}}.{v}", keys) for k, v in residual.items()}
        return {f"{ours}.weight": [f"{_R}srra_{side}.weight"], **lists}

    return {
        "tokens": [_R + "compound_rep_tokens"],
        **aligner("text_tokens", "r2tproj"),
        **aligner("vision_tokens", "r2vproj"),
        "projection_down": ["image_encoder.A"],
        "projection_up": ["image_encoder.B"],
    }


_NAMES = {
    "coop": lambda keys: {"context": [_P + "ctx"]},
    "cocoop": _cocoop,
    "maple": _maple,
    "promptsrc": _promptsrc,
    "mmrl": _mmrl,
    "mmrlpp": _mmrlpp,
}
# The official code starts from "a photo of a" up to this many vectors, and from placeholders beyond.
_WORDS = 4
# A name that one method's files have and the others' don't; the first that fits decides.
_MARKS = {
    "mmrlpp": _R + "srra_r2vproj.weight",
    "mmrl": "image_encoder.proj_rep",
    "promptsrc": "image_encoder.VPT",
    "maple": _P + "compound_prompts_text.0",
    "cocoop": _P + "meta_net.linear1.weight",
    "coop": _P + "ctx",
}


def official_names(method: str, keys: Collection[str]) -> NameMap:
    """{our parameter: official names}; several names are stacked along a new first axis.

    Args:
        keys: the official names there are; they tell how many blocks are prompted.
    """
    return _NAMES[method](keys)


def stack(names: Sequence[str], tensors: Mapping[str, Tensor]) -> Tensor:
    """The official tensors that make one of ours."""
    return tensors[names[0]] if len(names) == 1 else torch.stack([tensors[name] for name in names])


# --- files ----------------------------------------------------------------------------------------
def _inert(name: str) -> type:
    """An empty class under a name of torch's: where a file holds a scheduler, nothing of it is made."""
    module, _, short = name.rpartition(".")
    return type(short, (), {"__module__": module, "__setstate__": lambda self, state: None})


def _plain_dict(*factory: Any) -> dict[Any, Any]:
    """Stands where a file has an optimiser's `defaultdict(dict)`."""
    return {}


_plain_dict.__module__, _plain_dict.__name__, _plain_dict.__qualname__ = "collections", *["defaultdict"] * 2

# The official code saves its warm-up scheduler with the wrapped one and that one's optimiser inside.
_SCHEDULERS = ("CosineAnnealingLR", "MultiStepLR", "StepLR")
_OPTIMISERS = ("sgd.SGD", "adam.Adam", "adamw.AdamW")
_INERT: list[Any] = [
    *(_inert(f"torch.optim.lr_scheduler.{name}") for name in _SCHEDULERS),
    *(_inert(f"torch.optim.{name}") for name in _OPTIMISERS),
    _plain_dict,
    dict,  # the argument of that defaultdict
]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `model.pth.tar-N` file, under the names the whole model gives them.

    Raises:
        UserError: no such file, or one with anything in it but tensors and plain values.
    """
    path = Path(path)
    check_file(path)
    _refuse_endless(path)
    _refuse_packed(path)
    try:
        with torch.serialization.safe_globals(_INERT):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except Exception as error:  # a damaged stream can end in any error of the unpickler
        raise UserError(
            f"Can't read {path}: it is damaged, or holds more than tensors and plain values ({type(error).__name__}); "
            "files that would run code are not opened."
        ) from error
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} has no 'state_dict' of tensors; give a 'model.pth.tar-N' file.")
    if line := epoch_line(path, content.get("epoch")):
        log.warning("%s", line)
    for key, value in state.items():
        _refuse_hollow(path, str(key), value)
    plain = {str(key).removeprefix("module."): value for key, value in state.items()}
    # CoOp and CoCoOp save the prompt learner alone, the others the whole model.
    return {_P + key: value for key, value in plain.items()} if "ctx" in plain else plain


def _refuse_endless(path: Path) -> None:
    """A pipe would be waited for, a device read for ever."""
    try:
        check_readable(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"Can't read {path}: {getattr(error, 'strerror', None) or error}.") from None


def _refuse_packed(path: Path) -> None:
    """torch.save stores records as they are; compressed ones could unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # not a zip, or damaged: torch says so
        return
    if packed:
        raise UserError(f"{path} holds compressed records, which torch.save never writes; it is not opened.")


def _refuse_hollow(path: Path, key: str, value: Tensor) -> None:
    """A tensor must lie in the file with all its values: one value can claim to be a matrix of any size."""
    plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{path}: the tensor {key[:80]!r} is not stored whole; it is not opened.")


def method_of(state: Mapping[str, Tensor], path: str | Path = "The file") -> str:
    """Which method wrote these tensors; `UserError` if none known here did."""
    for method, mark in _MARKS.items():
        if mark in state:
            return method
    raise UserError(f"{path} holds no prompts of {', '.join(_NAMES)}; its tensors have other names.")


def _sizes(method: str, values: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Any]:
    """Settings that the shapes tell."""
    depth = min(backbone.dims.text_depth, backbone.dims.vision_depth)
    if method in ("mmrl", "mmrlpp"):
        blocks = len(values["text_tokens.bias"])
        sizes = {"n_tokens": len(values["tokens"]), "token_width": values["tokens"].shape[1],
                 "first_block": depth - blocks + 1, "last_block": depth}  # fmt: skip
        if method == "mmrl":
            return sizes
        rank, wide = values["text_tokens.up"].shape[-1], values["projection_down"].shape[1]
        return {**sizes, "rank": rank, "projection_rank": wide}
    if method in ("maple", "promptsrc"):
        depth, count = values["text_prompts"].shape[:2]
        words: dict[str, Any] = {} if count <= _WORDS else {"context_init": ""}
        if method == "maple":
            return {"n_context": count, "depth": depth, **words}
        return {"n_text": count, "n_vision": values["vision_prompts"].shape[1], "depth": depth, **words}
    # The words only name the start: with as many placeholders the sentence is the same.
    context = {"n_context": values["context"].shape[-2], "context_init": ""}
    if method == "cocoop":
        return {**context, "reduction": backbone.dims.embed // len(values["meta_net.0.bias"])}
    return {**context, "class_specific": values["context"].dim() == 3}


def _fill(method: Method, values: Mapping[str, Tensor], names: NameMap, path: str | Path) -> None:
    """Copy the values in; `UserError` naming the official tensor that does not fit or is broken."""
    for ours, parameter in method.named_parameters():
        value, theirs = values[ours], names[ours][0]
        if parameter.shape != value.shape:
            raise UserError(
                f"{path}: {theirs!r} has the shape {list(value.shape)}, but {method.backbone.id} with "
                f"{len(method.trained_classnames)} classes needs {list(parameter.shape)}; give the backbone and "
                "classes it was trained with."
            )
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {theirs!r} holds NaN or Inf; that training broke.")
        with torch.no_grad():
            parameter.copy_(value)


def read_field_checkpoint(
    path: str | Path,
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    settings: Mapping[str, Any] | None = None,
) -> Method:
    """A method with the tensors of an official checkpoint, ready to classify or to save as an adapter.

    Args:
        classnames: the class list it was trained on, in its order; it decides which head a list gets.
        settings: what the file can't tell, e.g. `class_position`, `head_weight`, `beta`.

    Raises:
        UserError: not such a file, or trained on a backbone of other sizes.
    """
    return from_state(read_state(path), backbone, classnames, template=template, settings=settings, path=path)


def official_methods() -> list[str]:
    """Methods whose official files can be read."""
    return list(_NAMES)


def from_state(
    state: Mapping[str, Tensor],
    backbone: Backbone,
    classnames: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    settings: Mapping[str, Any] | None = None,
    path: str | Path = "The file",
) -> Method:
    """`read_field_checkpoint` for tensors that `read_state` has read; `path` is for messages."""
    name = method_of(state, path)
    check_class_count(state, len(classnames), path)
    names = official_names(name, state)
    missing = [official for group in names.values() for official in group if official not in state]
    if missing or not all(names.values()):
        raise UserError(f"{path} lacks tensors of {name}, e.g. {missing[0] if missing else 'its blocks'!r}.")
    try:
        values = {ours: stack(group, state).float() for ours, group in names.items()}
        sizes = _sizes(name, values, backbone)
    except (RuntimeError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{path} holds tensors of {name} in shapes that do not go together.") from error
    method = create_method(
        name, backbone, classnames, template=template, settings={**sizes, **(settings or {})}, fresh=False
    )
    method.preset = name
    _fill(method, values, names, path)
    return method.eval()
