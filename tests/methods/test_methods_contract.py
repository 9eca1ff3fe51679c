"""What every method of the registry must keep, whatever it computes.

The tests run over all registered methods, so a new one is covered by being registered.
"""

from __future__ import annotations

import gc
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import anprompt.methods
from anprompt.backbones import Backbone, load_backbone
from anprompt.methods import Classifier, Method, build_method, method_class, methods
from anprompt.prompting.compute import autocast
from anprompt.prompting.prompts import ENGINES
from anprompt.training.loop import TrainConfig, make_optimizer
from anprompt.utils.files import read_tensors, write_tensors
from tests.shared import shared

NAMES = ["cat", "golden_retriever", "Boeing 737-800", "aurora"]
ALL = sorted(methods())
TRAINED = [name for name in ALL if name != "zeroshot"]
SOURCES = sorted(Path(anprompt.methods.__file__).parent.glob("*.py"))
# Fewer sentences where a method would read hundreds per class: nothing else changes.
LIGHT: dict[str, dict[str, Any]] = {"promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2}}


def build(name: str, backbone: Backbone, classnames: list[str] = NAMES, seed: int = 1, **more: Any) -> Method:
    return build_method(name, backbone, classnames, settings={**LIGHT.get(name, {}), **more}, seed=seed)


def pixels(backbone: Backbone, count: int = 2) -> Tensor:
    size = backbone.dims.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def optimiser(method: Method) -> torch.optim.Optimizer:
    return make_optimizer(method, TrainConfig(optimizer="adamw", lr=1e-2))


def total_loss(method: Method, step: int = 0, count: int = 2) -> Tensor:
    bank, vision = method.prepare(method.trained_classnames), method.image_state(pixels(method.backbone, count))
    labels = torch.arange(count) % len(method.trained_classnames)
    return torch.stack([part.float() for part in method.loss(vision, labels, bank, step).values()]).sum()


def train_step(method: Method, optimizer: torch.optim.Optimizer, step: int = 0) -> None:
    optimizer.zero_grad()
    total_loss(method, step).backward()
    optimizer.step()


def answer(method: Method, classnames: list[str] | None = None, head: str = "auto") -> Tensor:
    return Classifier(method, classnames, head).logits(pixels(method.backbone))


def copies(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module", params=["tiny", "golden", "embedded"])
def backbone(request: pytest.FixtureRequest, tiny_backbone: Backbone) -> Backbone:
    """Three widths, depths and tokenizers; what works on all has nothing hard-coded."""
    if request.param == "tiny":
        return tiny_backbone
    if request.param == "golden":
        return load_backbone(str(shared("golden/tiny-clip")))
    if not (Path(anprompt.methods.__file__).parents[1] / "assets/model/config.json").is_file():
        pytest.skip("the embedded model is not in this checkout")
    return load_backbone("embedded")


@pytest.fixture(scope="module")
def half_backbone(backbone: Backbone) -> Backbone:
    return load_backbone(backbone.id, dtype="bfloat16")


# --- training ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_changes_only_the_methods_own_tensors(name: str, backbone: Backbone) -> None:
    method = build(name, backbone)
    frozen, fixed = copies(backbone), {k: v.clone() for k, v in method.named_buffers()}
    before, optimizer = copies(method), optimiser(method)
    for step in (0, 1):  # a low-rank residual starts at zero and lets gradients through from step two on
        train_step(method, optimizer, step)
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert not torch.equal(parameter, before[key]), f"{key} never moved"
    assert all(torch.equal(value, frozen[key]) for key, value in backbone.state_dict().items())
    assert all(torch.equal(value, fixed[key]) for key, value in method.named_buffers())
    assert all(p.grad is None and not p.requires_grad for p in backbone.parameters())


def test_tensors_do_not_pile_up_over_steps(backbone: Backbone) -> None:
    """All methods at once: counting every live object costs more than the steps, and what one keeps shows."""
    made = [build(name, backbone) for name in TRAINED]
    optimizers, counts = [optimiser(method) for method in made], []
    for step in range(5):
        for method, optimizer in zip(made, optimizers):
            train_step(method, optimizer, step)
            answer(method)
        if step in (1, 4):
            gc.collect()
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    assert counts[1] <= counts[0]


@pytest.mark.parametrize("name", TRAINED)
def test_shared_engine_equals_plain_path(name: str, tiny_backbone: Backbone) -> None:
    found = []
    for engine in ENGINES:
        method = build(name, tiny_backbone)
        method.engine = engine
        loss = total_loss(method)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in method.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for a, b in zip(found[0][1], found[1][1]):
        assert float((a - b).norm()) <= 1e-4 * max(1e-6, float(b.norm()))


# --- saving -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_save_and_load_give_equal_answers(name: str, backbone: Backbone, tmp_path: Path) -> None:
    method = build(name, backbone)
    if name in TRAINED:
        train_step(method, optimiser(method))
    write_tensors(tmp_path / "t.safetensors", method.state_dict(), {"format": "pt"})
    other = build(name, backbone, seed=5)
    other.load_state_dict(read_tensors(tmp_path / "t.safetensors")[0])
    assert torch.equal(answer(method), answer(other))


@pytest.mark.parametrize("name", ALL)
def test_nothing_of_the_backbone_is_in_the_state(name: str, tiny_backbone: Backbone) -> None:
    """Failure mode: whole models in checkpoints."""
    method = build(name, tiny_backbone)
    taken = {id(p) for p in tiny_backbone.parameters()}
    pointers = {p.data_ptr() for p in tiny_backbone.parameters()}
    assert not any(id(p) in taken for p in method.parameters())
    assert not any(value.data_ptr() in pointers for value in method.state_dict().values())
    assert sum(v.numel() for v in method.state_dict().values()) <= 3 * method.trained_parameters()


def test_no_parameter_lives_in_a_list(tiny_backbone: Backbone) -> None:
    """Failure mode: prompts in a ParameterList, which is empty in the copies DataParallel makes."""
    for name in ALL:
        found = [type(m).__name__ for m in build(name, tiny_backbone).modules()]
        assert "ParameterList" not in found and "ParameterDict" not in found, name


# --- class lists ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_another_class_list_of_different_lengths(name: str, backbone: Backbone) -> None:
    """New names work, and a class's logit does not depend on its neighbours or their lengths."""
    method = build(name, backbone)
    names = ["ox", "a very long name of a_thing", "lynx", "ox cart"]
    together = answer(method, names)
    assert together.shape == (2, 4) and torch.isfinite(together).all()
    alone = torch.cat([answer(method, [n]) for n in names], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 1000])
@pytest.mark.parametrize("name", ALL)
def test_number_of_classes(name: str, count: int, backbone: Backbone) -> None:
    """One class, two, a thousand; training with a thousand on the smallest backbone alone, for the time."""
    names = [f"c {i}" for i in range(count)]
    more = {"teacher_templates": 1} if name == "promptsrc" else {}
    small = backbone.dims.embed < 32
    method = build(name, backbone, names, **more) if count < 1000 or small else build(name, backbone)
    if name in TRAINED and (count < 1000 or small):
        loss = total_loss(method, count=1)
        loss.backward()
        assert torch.isfinite(loss)
    logits = Classifier(method, names).logits(pixels(backbone, 1))
    assert logits.shape == (1, count) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ALL)
def test_the_head_follows_the_class_list(name: str, tiny_backbone: Backbone) -> None:
    """Failure mode: a test-time head chosen by a data set's name."""
    method = build(name, tiny_backbone)
    assert Classifier(method, NAMES[:2]).head == "trained"
    assert Classifier(method, [*NAMES, "lynx"]).head == "unseen"


# --- precision --------------------------------------------------------------------------------------
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", TRAINED)
def test_autocast_paths_run_and_agree(name: str, precision: str, backbone: Backbone) -> None:
    """Failure mode: an AMP path that never ran."""
    device = torch.device("cpu")
    method = build(name, backbone)
    full = total_loss(method)
    with autocast(device, precision):
        loss, logits = total_loss(method), answer(method)
    loss.backward()
    assert torch.isfinite(logits).all() and logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in method.parameters())
    torch.testing.assert_close(loss, full, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", ALL)
def test_half_width_backbone(name: str, backbone: Backbone, half_backbone: Backbone) -> None:
    """Failure mode: `.half()` inside a method. The backbone's precision is the caller's choice."""
    method = build(name, half_backbone)
    assert all(p.dtype == torch.float32 for p in method.parameters())
    found = answer(method)
    assert found.dtype == torch.float32 and torch.isfinite(found).all()
    # Eight bits of mantissa: near the fp32 answer, measured in the spread of the answers themselves.
    full = answer(build(name, backbone))
    assert (found - full).abs().max() <= 0.25 * max(1.0, float(full.std()))


# --- randomness -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_the_seed_decides_and_zero_is_a_seed(name: str, tiny_backbone: Backbone) -> None:
    """Failure mode: `--seed 0` that means unseeded. Nothing global is read or moved either."""
    torch.manual_seed(123)
    first = copies(build(name, tiny_backbone, seed=0))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    second, other = copies(build(name, tiny_backbone, seed=0)), copies(build(name, tiny_backbone, seed=3))
    assert all(torch.equal(first[key], second[key]) for key in first)
    starts_from_words = name == "coop"  # its preset: nothing is random
    assert starts_from_words or any(not torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("name", TRAINED)
def test_training_is_decided_by_the_seed(name: str, backbone: Backbone) -> None:
    """Two runs of one seed are equal bit by bit, whatever was drawn from the global generators between."""
    found = []
    for _ in range(2):
        torch.rand(3), random.random(), np.random.rand()
        method = build(name, backbone, seed=2)
        optimizer = optimiser(method)
        for step in (0, 1):
            train_step(method, optimizer, step)
        found.append(copies(method))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


# --- staleness --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_train_eval_train_eval_is_never_stale(name: str, backbone: Backbone) -> None:
    """Failure mode: text features cached across train and eval, and gone stale."""
    method = build(name, backbone)
    optimizer, seen = optimiser(method), []
    for step in range(3):
        method.train()
        train_step(method, optimizer, step)
        method.eval()
        seen.append(answer(method))
        fresh = build(name, backbone)
        fresh.load_state_dict(method.state_dict())
        assert torch.equal(seen[-1], answer(fresh.eval()))
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("name", ALL)
def test_training_mode_does_not_change_answers(name: str, tiny_backbone: Backbone) -> None:
    method = build(name, tiny_backbone)
    assert torch.equal(answer(method.train()), answer(method.eval()))


# --- sources ----------------------------------------------------------------------------------------
FORBIDDEN = {
    r"HFClip|CLIPModel|transformers|open_clip": "a method knows the backbone's protocol, not its class",
    r"\.cuda\(|\.half\(": "device and precision are the caller's choice",
    r"\bpickle\b|torch\.load\b": "no pickle",
    r"torch\.manual_seed|np\.random|^import random": "randomness comes from an explicit generator",
    r"dataset\.name|DATASET\.NAME": "no choice by a data set's name",
    r"\b(768|1024|77)\b": "no width or context length is written down",
    r"ParameterList": "lost under DataParallel",
    r"torch\.(triu|tril)|-inf": "masks are the engine's business",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_sources_keep_out_of_other_rooms(path: Path) -> None:
    """Failure modes: CLIP forked per method, `.half()` and widths hard-coded, masks rebuilt at every layer."""
    text = path.read_text(encoding="utf-8")
    for pattern, why in FORBIDDEN.items():
        found = re.search(pattern, text, re.MULTILINE)
        assert not found, f"{path.name} has {found.group()!r}: {why}"


def test_backbones_know_no_method() -> None:
    """Failure mode: `if self.model == ...` inside a shared forward."""
    folder = Path(anprompt.methods.__file__).parents[1] / "backbones"
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"\b(coop|cocoop|maple|promptsrc|mmrl|mmrlpp)\b", text), path.name


@pytest.mark.parametrize("name", ALL)
def test_a_method_names_its_paper_and_documents_its_settings(name: str) -> None:
    cls = method_class(name)
    assert re.fullmatch(r"arXiv \d{4}\.\d{5}", cls.paper)
    for key in cls.Config().to_dict():
        documented = "".join(c.__doc__ or "" for c in cls.Config.__mro__)
        assert key in documented, f"{name}: setting {key!r} is not described"
