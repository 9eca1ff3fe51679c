"""Compares this library with a folder of golden tensors, file by file.

A case per method says how the official parameter names map to ours and what the official outputs
are called; everything else (building, loading, backward, reporting) is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.linear import restore
from anprompt.methods.base import Method
from anprompt.prompting.prompts import ENGINES

FEATURES, LOGITS, LOSS, GRADIENT = 1e-5, 1e-4, 1e-5, 1e-4


@dataclass
class Golden:
    """One golden file: tensors by name, with the metadata's class names and template."""

    path: Path
    tensors: dict[str, Tensor]
    classnames: list[str]
    template: str

    @classmethod
    def read(cls, path: Path) -> Golden:
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        return cls(path, tensors, meta["classnames"].split("|"), meta["template"])

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


@dataclass
class Result:
    """Errors of one file: per output its largest absolute error and tolerance, and of the gradients."""

    name: str
    outputs: dict[str, tuple[float, float]] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)

    @property
    def gradient_error(self) -> float:
        return max(self.gradients.values(), default=0.0)

    @property
    def passed(self) -> bool:
        good = all(error <= limit for error, limit in self.outputs.values())
        return good and bool(self.outputs) and self.gradient_error <= GRADIENT

    def line(self) -> str:
        worst = max(self.outputs.items(), key=lambda kv: kv[1][0] / kv[1][1])
        return (
            f"{'pass' if self.passed else 'FAIL'}  {self.name:28s} largest output error {worst[1][0]:.1e} "
            f"({worst[0]}, limit {worst[1][1]:.0e}), largest relative gradient error {self.gradient_error:.1e}"
        )


ParameterMap = dict[str, list[str]]
Outputs = dict[str, tuple[Tensor, float]]


@dataclass(frozen=True)
class Case:
    """How one kind of golden file is checked.

    Attributes:
        build: (backbone, golden) -> the method with default parameters.
        names: golden -> {our parameter: official names, stacked along a new first axis if several}.
        outputs: (method, golden) -> ({official output name: (ours, tolerance)}, total loss).
    """

    build: Callable[[Backbone, Golden], Method]
    names: Callable[[Golden], ParameterMap]
    outputs: Callable[[Method, Golden], tuple[Outputs, Tensor]]


def stacked(names: list[str], tensors: dict[str, Tensor]) -> Tensor:
    return tensors[names[0]] if len(names) == 1 else torch.stack([tensors[name] for name in names])


def numbered(pattern: str, golden: Golden) -> list[str]:
    """Official names `pattern.format(i)` for i = 0.. as far as the file has them."""
    found: list[str] = []
    while f"param.{pattern.format(len(found))}" in golden.tensors:
        found.append(pattern.format(len(found)))
    return found


def load_parameters(method: Method, case: Case, golden: Golden) -> ParameterMap:
    """Official values into our parameters; every tensor of either side must be used exactly once."""
    names, values = case.names(golden), golden.group("param.")
    ours = dict(method.named_parameters())
    assert set(names) == set(ours), f"unmapped: {set(ours) ^ set(names)}"
    used = [name for group in names.values() for name in group]
    assert sorted(used) == sorted(values), f"unused official tensors: {set(values) ^ set(used)}"
    with torch.no_grad():
        for key, parameter in ours.items():
            parameter.copy_(stacked(names[key], values).view_as(parameter))
    return names


def check_method(backbone: Backbone, golden: Golden, case: Case, engine: str = "shared") -> Result:
    """Outputs, loss and every gradient of one file, under one engine."""
    method = case.build(backbone, golden)
    method.engine = engine
    names = load_parameters(method, case, golden)
    outputs, loss = case.outputs(method, golden)
    outputs = {**outputs, "loss": (loss, LOSS)}
    loss.backward()
    result = Result(f"{golden.path.stem} {engine}")
    for key, (ours, limit) in outputs.items():
        reference = golden.tensors[key]
        error = (ours.detach().reshape(reference.shape) - reference).abs().max()
        result.outputs[key] = (float(error), limit)
    gradients = golden.group("grad.")
    for key, parameter in method.named_parameters():
        reference = stacked(names[key], gradients)
        assert parameter.grad is not None, f"no gradient reaches {key}"
        difference = (parameter.grad.view_as(reference) - reference).norm()
        result.gradients[key] = float(difference / reference.norm().clamp(min=1e-12))
    return result


def check_clip(backbone: Backbone, golden: Golden) -> Result:
    """Stock features, tokens and logits."""
    sentences = [golden.template.format(name.replace("_", " ")) for name in golden.classnames]
    tokens, reference = backbone.tokenize(sentences), golden.tensors
    with torch.no_grad():
        image, text = backbone.encode_image(reference["image"]), backbone.encode_text(sentences)
        logits = backbone.logit_scale * torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T
    length = [int(row.argmax()) for row in reference["tokens"]]
    same = all(
        tokens.eot[i] == n and torch.equal(tokens.ids[i, : n + 1], reference["tokens"][i, : n + 1].long())
        for i, n in enumerate(length)
    )
    pairs = {"image_features": (image, FEATURES), "text_features": (text, FEATURES), "logits": (logits, LOGITS)}
    errors = {k: (float((v - reference[k]).abs().max()), limit) for k, (v, limit) in pairs.items()}
    return Result(golden.path.stem, {**errors, "tokens": (0.0 if same else 1.0, 0.5)})


def check_folder(folder: Path) -> list[Result]:
    """Every golden file of a folder whose kind this library has.

    Raises:
        FileNotFoundError: the folder holds no golden files or no `tiny-clip`.
        KeyError: a file of a kind that no case covers.
    """
    from tests.golden.cases import CASES

    files = sorted(folder.glob("*_seed*.safetensors"))
    if not files:
        raise FileNotFoundError(f"No *_seed*.safetensors in {folder}.")
    backbone, stock = (load_backbone(str(folder / "tiny-clip")) for _ in range(2))
    restore(stock)  # the plain pass is plain to the last product
    results = []
    for path in files:
        kind, golden = path.stem.rsplit("_seed", 1)[0], Golden.read(path)
        if kind == "clip":
            results.append(check_clip(backbone, golden))
        elif kind not in CASES:
            raise KeyError(f"{path.name}: no case for {kind!r}; known: clip, {', '.join(sorted(CASES))}.")
        else:
            results += [
                check_method(stock if engine == "plain" else backbone, golden, CASES[kind], engine)
                for engine in ENGINES
            ]
    return results
