"""What every method keeps, whatever it computes: training, saving, class lists, precision, chance, staleness."""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import math
import random
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, Method, create_method, get_method, get_preset
from anprompt.methods.frozen import Shots
from anprompt.prompting.compute import autocast
from anprompt.prompting.prompts import ENGINES
from anprompt.testing.outcomes import Outcome, require, run_checks
from anprompt.testing.toys import tiny_backbone
from anprompt.training.loop import TrainConfig, make_optimizer
from anprompt.utils.files import read_tensors, write_tensors

NAMES = ("cat", "golden_retriever", "Boeing 737-800", "aurora")  # lengths, underscores, digits, capitals
SMALL_EMBED = 32  # a thousand classes are trained on narrower models alone, for the time


@dataclass(frozen=True)
class MethodCase:
    """A method to check, on a backbone, with settings that make it quick."""

    method: str | type[Method[Any]]
    backbone: Backbone
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> type[Method[Any]]:
        """The method's class."""
        return get_method(get_preset(self.method).method) if isinstance(self.method, str) else self.method

    def build(
        self, classnames: Sequence[str] = NAMES, seed: int = 1, backbone: Backbone | None = None, **more: Any
    ) -> Method[Any]:
        """A fresh method; `more` are settings besides the case's own."""
        settings = {**self.settings, **more}
        return create_method(self.method, backbone or self.backbone, classnames, settings=settings, seed=seed)


# --- small pieces ---------------------------------------------------------------------------------
def pixels(backbone: Backbone, count: int = 2) -> Tensor:
    """Seeded noise in place of images, [count, 3, H, W]."""
    size = backbone.dims.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def optimiser(method: Method[Any]) -> torch.optim.Optimizer:
    """AdamW with steps large enough to see."""
    return make_optimizer(method, TrainConfig(optimizer="adamw", lr=1e-2))


def total_loss(method: Method[Any], step: int = 0, count: int = 2) -> Tensor:
    """The sum of the loss parts of one batch of `count` images, a scalar in fp32."""
    bank, state = (method.prepare(method.trained_classnames), method.image_state(pixels(method.backbone, count)))
    labels = torch.arange(count) % len(method.trained_classnames)
    return torch.stack([part.float() for part in method.loss(state, labels, bank, step).values()]).sum()


def train_step(method: Method[Any], optimizer: torch.optim.Optimizer, step: int = 0) -> None:
    """One optimiser step on `total_loss`."""
    optimizer.zero_grad()
    total_loss(method, step).backward()
    optimizer.step()


def answer(method: Method[Any], classnames: Sequence[str] | None = None, head: str = "auto") -> Tensor:
    """Logits [2, C] of `pixels`."""
    return Classifier(method, classnames, head).logits(pixels(method.backbone))


def copies(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state at this moment."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def by_steps(cls: type[Method[Any]]) -> bool:
    """Whether a method is trained by optimiser steps on its loss, and not from frozen features in one go."""
    return cls.trains and not cls.from_features


def learn(method: Method[Any], seed: int = 3, images: int = 2) -> dict[str, float]:
    """Train a method on frozen features, on seeded noise: `images` of every class, three views each."""
    classes, width = len(method.trained_classnames), method.backbone.dims.embed
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(classes * images, 3, width, generator=generator), dim=-1)
    text = method.prepare(method.trained_classnames).frozen.float()
    shots = Shots(features, torch.arange(classes * images) % classes, text, torch.full((classes,), 10.0))
    recipe = TrainConfig(epochs=3, batch_size=4, lr=1e-2, warmup_epochs=0, optimizer="sgd")
    return method.fit_features(shots, recipe)  # type: ignore[operator]


def in_half(backbone: Backbone) -> Backbone:
    """The same weights in bfloat16."""
    half = copy.deepcopy(backbone).to(torch.bfloat16)
    half.freeze()
    return half


# --- training -------------------------------------------------------------------------------------
def step_changes_own_tensors_alone(case: MethodCase) -> None:
    """Two steps move every parameter of the method and nothing of the backbone, nor fixed buffers."""
    if not by_steps(case.cls):
        return
    method, backbone = case.build(), case.backbone
    frozen, fixed = copies(backbone), {key: value.clone() for key, value in method.named_buffers()}
    before, optimizer = copies(method), optimiser(method)
    for step in (0, 1):  # a low-rank residual starts at zero and lets gradients through from step two on
        train_step(method, optimizer, step)
    for key, parameter in method.named_parameters():
        gradient = parameter.grad
        require(gradient is not None and bool(torch.isfinite(gradient).all()), f"{key} has no finite gradient")
        require(not torch.equal(parameter, before[key]), f"{key} never moved")
    for key, value in backbone.state_dict().items():
        require(torch.equal(value, frozen[key]), f"{key} of the backbone moved")
    for key, value in method.named_buffers():
        require(torch.equal(value, fixed[key]), f"the buffer {key} moved")
    for key, parameter in backbone.named_parameters():
        require(parameter.grad is None and not parameter.requires_grad, f"{key} of the backbone has a gradient")


def tensors_do_not_pile_up(*cases: MethodCase) -> None:
    """Steps and answers keep no tensors. Several methods at once: counting all live objects costs more than steps."""
    made = [case.build() for case in cases if by_steps(case.cls)]
    optimizers, counts = [optimiser(method) for method in made], []
    for step in range(5):
        for method, optimizer in zip(made, optimizers):
            train_step(method, optimizer, step)
            answer(method)
        if step in (1, 4):
            gc.collect()
            counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
    require(counts[1] <= counts[0], f"{counts[1] - counts[0]} tensors more are alive after three further steps")


def engines_agree(case: MethodCase) -> None:
    """The shared engine and whole sequences give the same loss (1e-5) and gradients (1e-4 of their norm)."""
    if not by_steps(case.cls):
        return
    results = []
    for engine in ENGINES:
        method = case.build()
        method.engine = engine
        loss = total_loss(method)
        loss.backward()
        results.append((loss.detach(), {key: p.grad for key, p in method.named_parameters()}))
    (shared_loss, shared), (plain_loss, plain) = results
    torch.testing.assert_close(shared_loss, plain_loss, atol=1e-5, rtol=1e-5)
    for key, gradient in plain.items():
        apart, norm = float((shared[key] - gradient).norm()), float(gradient.norm())  # type: ignore[operator,union-attr]
        require(apart <= 1e-4 * max(1e-6, norm), f"the gradients of {key} differ by {apart:.1e} (norm {norm:.1e})")


# --- saving ---------------------------------------------------------------------------------------
def save_and_load_give_equal_answers(case: MethodCase) -> None:
    """Tensors written after a step and read into a method of another seed give equal logits, bit for bit."""
    method = case.build()
    if by_steps(case.cls):
        train_step(method, optimiser(method))
    elif case.cls.from_features:
        learn(method)
    other = case.build(seed=5, **method.config.to_dict())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tensors.safetensors"
        write_tensors(file, method.state_dict(), {"format": "pt"})
        other.load_state_dict(read_tensors(file)[0])
    require(torch.equal(answer(method), answer(other)), "a loaded method answers differently from the saved one")


def state_holds_no_backbone(case: MethodCase) -> None:
    """Parameters and state are the method's own tensors, and no more than three times the trained numbers."""
    method = case.build()
    taken = {id(p) for p in case.backbone.parameters()}
    pointers = {p.data_ptr() for p in case.backbone.parameters()}
    for key, parameter in method.named_parameters():
        require(id(parameter) not in taken, f"{key} is a parameter of the backbone")
    for key, value in method.state_dict().items():
        require(value.data_ptr() not in pointers, f"{key} is a tensor of the backbone")
    held, trained = sum(value.numel() for value in method.state_dict().values()), method.trained_parameters()
    require(held <= 3 * trained, f"the state holds {held} numbers for {trained} trained ones")


def no_parameter_lives_in_a_list(case: MethodCase) -> None:
    """A ParameterList or ParameterDict is empty in the copies that DataParallel makes; stack the prompts instead."""
    kinds = {type(module).__name__ for module in case.build().modules()}
    require(not kinds & {"ParameterList", "ParameterDict"}, "parameters in a list are lost under DataParallel")


# --- class lists ----------------------------------------------------------------------------------
def other_class_lists_work(case: MethodCase) -> None:
    """New names work, and a class's logit depends neither on its neighbours nor on their lengths."""
    method = case.build()
    names = ["ox", "a very long name of a_thing", "lynx", "ox cart"]
    if not case.cls.opens:
        try:
            answer(method, names)
        except UserError as error:
            require("ox" in str(error), f"the refusal does not name the class: {error}")
            return
        require(False, "classes that it was not trained on are answered, though it says that it can't")
    together = answer(method, names)
    require(together.shape == (2, 4), f"logits of 2 images and 4 classes are {list(together.shape)}")
    require(bool(torch.isfinite(together).all()), "logits of new classes are not finite")
    alone = torch.cat([answer(method, [name]) for name in names], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)


def any_number_of_classes(case: MethodCase) -> None:
    """One class, two, and a thousand can be trained on and told apart."""
    small = case.backbone.dims.embed < SMALL_EMBED
    for count in (1, 2, 1000):
        names = [f"c {number}" for number in range(count)]
        trainable = count < 1000 or small or case.cls.from_features
        method = case.build(names) if trainable else case.build()
        if case.cls.from_features and count < 1000:
            require(all(map(math.isfinite, learn(method, images=1).values())), f"{count} classes: not finite")
        elif by_steps(case.cls) and trainable:
            loss = total_loss(method, count=1)
            loss.backward()
            require(bool(torch.isfinite(loss)), f"the loss over {count} classes is not finite")
        logits = Classifier(method, names).logits(pixels(case.backbone, 1))
        require(logits.shape == (1, count), f"logits of 1 image and {count} classes are {list(logits.shape)}")
        require(bool(torch.isfinite(logits).all()), f"logits of {count} classes are not finite")


def head_follows_the_class_list(case: MethodCase) -> None:
    """The head for trained classes answers exactly where every class of the list was trained on."""
    method = case.build()
    require(Classifier(method, NAMES[:2]).head == "trained", "trained classes do not get the trained head")
    if case.cls.opens:
        require(Classifier(method, [*NAMES, "lynx"]).head == "unseen", "a list with a new class gets the trained head")


# --- precision ------------------------------------------------------------------------------------
def autocast_agrees(case: MethodCase) -> None:
    """Under bf16 and fp16 autocast the loss is near that in fp32, logits and parameters stay fp32, all is finite."""
    if not by_steps(case.cls):
        return
    for precision in ("bf16", "fp16"):
        method = case.build()
        full = total_loss(method)
        with autocast(torch.device("cpu"), precision):
            loss, logits = total_loss(method), answer(method)
        loss.backward()
        require(logits.dtype == torch.float32, f"logits are {logits.dtype} under {precision}")
        require(bool(torch.isfinite(logits).all()), f"logits are not finite under {precision}")
        for key, parameter in method.named_parameters():
            require(parameter.dtype == torch.float32, f"{key} is {parameter.dtype} under {precision}")
            sound = parameter.grad is not None and bool(torch.isfinite(parameter.grad).all())
            require(sound, f"{key} has no finite gradient under {precision}")
        torch.testing.assert_close(loss, full, atol=0.1, rtol=0.1)


def half_width_backbone_agrees(case: MethodCase) -> None:
    """On a backbone in bfloat16 prompts and logits stay fp32, and the logits are near those of the fp32 backbone."""
    method = case.build(backbone=in_half(case.backbone))
    for key, parameter in method.named_parameters():
        require(parameter.dtype == torch.float32, f"{key} follows the backbone's precision")
    half = answer(method)
    require(half.dtype == torch.float32 and bool(torch.isfinite(half).all()), "logits are not finite fp32 numbers")
    # Eight bits of mantissa: near the fp32 answer, measured in the spread of the answers themselves.
    full = answer(case.build())
    apart, allowed = float((half - full).abs().max()), 0.25 * max(1.0, float(full.std()))
    require(apart <= allowed, f"logits differ by {apart:.2g} from those in fp32, more than {allowed:.2g}")


# --- chance ---------------------------------------------------------------------------------------
def seed_decides_the_start(case: MethodCase) -> None:
    """The seed alone decides the start, 0 is a seed, and no global generator is read or moved."""
    torch.manual_seed(123)
    first = copies(case.build(seed=0))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    second = copies(case.build(seed=0))
    for key, value in first.items():
        require(torch.equal(value, second[key]), f"{key} differs between two methods of seed 0")
    after = np.random.get_state()[1]  # type: ignore[index]
    still = torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    require(still and bool((states[2] == after).all()), "a global random generator was moved")


def seed_decides_the_training(case: MethodCase) -> None:
    """Two runs of one seed are equal bit by bit, whatever was drawn from the global generators between."""
    if not by_steps(case.cls):
        return
    results = []
    for _ in range(2):
        torch.rand(3), random.random(), np.random.rand()
        method = case.build(seed=2)
        optimizer = optimiser(method)
        for step in (0, 1):
            train_step(method, optimizer, step)
        results.append(copies(method))
    for key, value in results[0].items():
        require(torch.equal(value, results[1][key]), f"{key} differs between two trainings of one seed")


def features_decide_the_training(case: MethodCase) -> None:
    """Of a method on frozen features: training changes its answers, is decided by features, and leaves the backbone."""
    if not case.cls.from_features:
        return
    frozen, results = copies(case.backbone), []
    for seed in (3, 3, 4):
        method = case.build()
        before = answer(method)
        require(all(map(math.isfinite, learn(method, seed).values())), "what it writes down is not finite")
        require(not torch.equal(before, answer(method)), "training changes no answer")
        results.append(answer(method, list(reversed(NAMES))).flip(1))
        torch.testing.assert_close(results[-1], answer(method), atol=1e-5, rtol=1e-5)
    require(torch.equal(results[0], results[1]), "two trainings on the same features differ")
    require(not torch.equal(results[0], results[2]), "other features give the same answers")
    for key, value in case.backbone.state_dict().items():
        require(torch.equal(value, frozen[key]), f"{key} of the backbone moved")


# --- staleness ------------------------------------------------------------------------------------
def answers_are_never_stale(case: MethodCase) -> None:
    """Train, answer, train, answer: each answer is that of a fresh method with the same tensors."""
    if not by_steps(case.cls):
        return
    method = case.build()
    optimizer, answers = optimiser(method), []
    for step in range(3):
        method.train()
        train_step(method, optimizer, step)
        method.eval()
        answers.append(answer(method))
        fresh = case.build()
        fresh.load_state_dict(method.state_dict())
        require(torch.equal(answers[-1], answer(fresh.eval())), f"the answer after step {step + 1} is an old one")
    for before, after in itertools.pairwise(answers):
        require(not torch.equal(before, after), "a step changes no answer")


def training_mode_changes_no_answer(case: MethodCase) -> None:
    """`train()` and `eval()` give the same logits."""
    method = case.build()
    require(torch.equal(answer(method.train()), answer(method.eval())), "train() and eval() answer differently")


# --- what is written down -------------------------------------------------------------------------
# Also where a class is defined in a notebook, whose source can't be read: then there is nothing to look at.
FORBIDDEN = {
    r"\.cuda\(|\.half\(": "device and precision are the caller's choice",
    r"\bpickle\b|torch\.load\b": "no pickle",
    r"torch\.manual_seed|np\.random|^import random": "randomness comes from an explicit generator",
    r"dataset\.name|DATASET\.NAME": "no choice by a data set's name",
    r"\b(768|1024|77)\b": "no width or context length is written down",
    r"ParameterList": "lost under DataParallel",
}


def source_faults(text: str, forbidden: Mapping[str, str] = FORBIDDEN) -> list[str]:
    """What must not stand in the source of a method, each with the reason.

    Args:
        text: source code.
        forbidden: reasons by regular expression.

    Returns:
        One line per kind of fault; empty where all is well.
    """
    matches = {why: re.search(pattern, text, re.MULTILINE) for pattern, why in forbidden.items()}
    return [f"{match.group()!r}: {why}" for why, match in matches.items() if match]


def source_keeps_out_of_other_rooms(case: MethodCase) -> None:
    """No device, precision, width, global seed or pickle in the source of the method's class."""
    try:
        text = inspect.getsource(case.cls)
    except (OSError, TypeError):
        return
    faults = source_faults(text)
    require(not faults, "the source has " + "; ".join(faults))


def settings_are_documented(case: MethodCase) -> None:
    """The class says its name and paper ("" for none), and the docstring of its config describes every setting."""
    cls = case.cls
    require(
        bool(re.fullmatch(r"[a-z0-9][a-z0-9._+-]*", cls.name)), f"the name {cls.name!r} is not a plain lower-case word"
    )
    told = re.fullmatch(r"|arXiv \d{4}\.\d{5}|doi:\S+|https://\S+", cls.paper)
    require(told is not None, f"the paper {cls.paper!r} is neither 'arXiv 1234.56789', 'doi:...', a link, nor empty")
    documented = "".join(parent.__doc__ or "" for parent in cls.Config.__mro__)
    for key in cls.Config().to_dict():
        require(key in documented, f"setting {key!r} is not described in the docstring of {cls.Config.__name__}")


CHECKS = {
    check.__name__: check
    for check in (
        step_changes_own_tensors_alone, tensors_do_not_pile_up, engines_agree, save_and_load_give_equal_answers,
        state_holds_no_backbone, no_parameter_lives_in_a_list, other_class_lists_work, any_number_of_classes,
        head_follows_the_class_list, autocast_agrees, half_width_backbone_agrees, seed_decides_the_start,
        seed_decides_the_training, features_decide_the_training, answers_are_never_stale, training_mode_changes_no_answer,
        source_keeps_out_of_other_rooms, settings_are_documented,
    )
}  # fmt: skip


def method_checks() -> list[str]:
    """Names of the checks of `check_method`, in the order they run in."""
    return list(CHECKS)


def check_method(
    method: str | type[Method[Any]],
    backbone: str | Backbone | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    only: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Check that a method keeps the contract of `anprompt.methods.Method`, as scikit-learn's `check_estimator` does.

    Args:
        method: its class, or the name of a preset or plug-in.
        backbone: a loaded one, or what `load_backbone` takes; None for a tiny CLIP with random weights, a few seconds.
        settings: values that replace the method's, e.g. fewer sentences to be quick.
        only: names of checks (`method_checks`); None runs all.
        expected_failures: reasons by names of checks that are known to fail.

    Returns:
        One outcome per check, all "passed" or "expected".

    Raises:
        ContractBroken: a check failed; an `AssertionError` with one line for each that did.
        UserError: no method, backbone or check of a name.

    Examples:
        >>> check_method("coop", only=["no_parameter_lives_in_a_list"])[0].status
        'passed'
    """
    opened = tiny_backbone() if backbone is None else backbone
    case = MethodCase(method, opened if isinstance(opened, Backbone) else load_backbone(opened), settings or {})
    return run_checks(f"method {case.cls.name!r}", case, CHECKS, only, expected_failures)
