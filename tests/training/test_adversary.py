"""Adversarial training: who is attacked, what is learnt from it, and that it stays a pure function of the run."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import create_method, get_preset, list_presets
from anprompt.training.adversary import Adversary, adversarial_loss, divergence, in_place
from anprompt.training.config import TrainConfig
from anprompt.training.loop import fit, trial_steps
from anprompt.training.settings import split_settings
from tests import fake_views

NAMES = ["cat", "dog", "boat"]
PRESETS = [name for name in list_presets() if get_preset(name).train.get("adversary", "none") != "none"]


class FakeViews(fake_views.FakeViews):
    """Images whose pixels lie in [0, 1], as those of files do."""

    def __init__(self, backbone: Backbone, count: int, classes: int) -> None:
        super().__init__(backbone.dims.image_size, count, classes)

    def train_batch(self, indices: torch.Tensor, epoch: int) -> torch.Tensor:
        return super().train_batch(indices, epoch).clamp(-1.5, 1.5)


def config(**values: Any) -> TrainConfig:
    usual = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "adversary": "pgd", "adversary_eps": 0.1}
    return TrainConfig.from_dict({**usual, "adversary_step": 0.05, "adversary_steps": 2, **values})  # type: ignore[return-value]


def trained(backbone: Backbone, name: str = "ivlp", **values: Any) -> dict[str, torch.Tensor]:
    method = create_method(name, backbone, NAMES)
    fit(method, FakeViews(backbone, 8, len(NAMES)), config(**values))
    return method.state_dict()


def test_attacked_images_are_harder_and_only_the_share_is_attacked(tiny_backbone: Backbone) -> None:
    method, views = create_method("ivlp", tiny_backbone, NAMES), FakeViews(tiny_backbone, 8, len(NAMES))
    classes, batch = method.prepare(NAMES), torch.arange(8)
    clean = method.image_state(views.train_batch(batch, 0))
    for share, count in ((0.5, 4), (1.0, 8), (0.01, 1)):
        opponent = Adversary(method, views, config(adversary_share=share))
        attacked = opponent.attacked(batch, clean, views.labels, classes, 0)
        assert len(attacked.trunk) == count
        both = [
            method.logits(state, method.encode_classes(classes)) for state in (clean, in_place(method, clean, attacked))
        ]
        before, after = (F.cross_entropy(logits, views.labels, reduction="none") for logits in both)
        assert bool((after[:count] > before[:count]).all()) and torch.allclose(after[count:], before[count:], atol=1e-5)


def test_it_is_a_function_of_the_run_alone(tiny_backbone: Backbone) -> None:
    first, again, other = (trained(tiny_backbone), trained(tiny_backbone), trained(tiny_backbone, adversary="none"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_only_what_logits_read_is_the_attacked_images(tiny_backbone: Backbone) -> None:
    """A feature to stay near to remains the clean image's: an attacked anchor would teach the error."""
    views, batch = FakeViews(tiny_backbone, 4, len(NAMES)), torch.arange(4)
    for name, changed in (("mmrl", "trunk"), ("coop", "frozen")):
        method = create_method(name, tiny_backbone, NAMES)
        clean = method.image_state(views.train_batch(batch, 0))
        attacked = Adversary(method, views, config()).attacked(batch, clean, views.labels, method.prepare(NAMES), 0)
        mixed = in_place(method, clean, attacked)
        for entry in dataclasses.fields(mixed):
            same = torch.equal(getattr(mixed, entry.name), getattr(clean, entry.name))
            assert same == (entry.name != changed), (name, entry.name)


def test_divergences_are_the_formulas() -> None:
    clean, attacked = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    p, q = clean.softmax(-1), attacked.softmax(-1)
    assert torch.allclose(divergence("kl", clean, attacked), (p * (p / q).log()).sum(-1))
    assert torch.allclose(divergence("fap", clean, attacked), (q * (q / p).log()).sum(-1))


@pytest.mark.parametrize("form,weight", [("kl", 6.0), ("fap", 1.5)])
def test_loss_forms(tiny_backbone: Backbone, form: str, weight: float) -> None:
    method, views = create_method("ivlp", tiny_backbone, NAMES), FakeViews(tiny_backbone, 4, len(NAMES))
    classes, batch, recipe = (method.prepare(NAMES), torch.arange(4), config(adversary_loss=form, adversary_share=1.0))
    clean = method.image_state(views.train_batch(batch, 0))
    attacked = Adversary(method, views, recipe).attacked(batch, clean, views.labels, classes, 0)
    parts = adversarial_loss(method, clean, attacked, views.labels, classes, 0, recipe)
    text = method.encode_classes(classes)
    apart = divergence(form, method.logits(clean, text), method.logits(attacked, text))
    near = F.cosine_similarity(method.embedding(clean), method.embedding(attacked)) + 1 if form == "fap" else 1.0
    assert torch.allclose(parts["adversary"], weight * (apart * near).mean()) and float(parts["adversary"].detach()) > 0
    assert torch.allclose(parts["ce"], method.loss(clean, views.labels, classes)["ce"])
    doubled = adversarial_loss(
        method, clean, attacked, views.labels, classes, 0, dataclasses.replace(recipe, adversary_weight=2 * weight)
    )
    assert torch.allclose(doubled["adversary"], 2 * parts["adversary"])


def test_a_frozen_opponent_attacks_an_image_once(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    climb = Adversary._climb
    monkeypatch.setattr(
        Adversary, "_climb", lambda self, batch, *a, **k: calls.append(len(batch)) or climb(self, batch, *a, **k)
    )
    views = FakeViews(tiny_backbone, 8, len(NAMES))
    views.views, views.view_index = 1, lambda epoch: 0  # type: ignore[attr-defined]
    recipe = config(adversary="frozen", adversary_share=1.0, epochs=3, views=1)
    fit(create_method("coop", tiny_backbone, NAMES), views, recipe)
    assert sum(calls) == 8  # of 24 looks


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_with_an_opponent_learns(tiny_backbone: Backbone, name: str) -> None:
    method = create_method(name, tiny_backbone, NAMES)
    before = {key: value.clone() for key, value in method.named_parameters()}
    recipe = TrainConfig.from_dict({**get_preset(name).train, "epochs": 1, "warmup_epochs": 0, "adversary_steps": 1})
    for step in trial_steps(method, FakeViews(tiny_backbone, 4, len(NAMES)), recipe):  # type: ignore[arg-type]
        assert bool(torch.isfinite(step.parts["loss"]))
    assert any(not torch.equal(before[key], value) for key, value in method.named_parameters())
    assert not any(parameter.requires_grad for parameter in tiny_backbone.parameters())


def test_a_method_without_steps_refuses_an_opponent(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="no step to attack; leave out the adversary"):
        trained(tiny_backbone, "linear-probe")


def test_settings() -> None:
    _, train = split_settings("ivlp", {"adversary": "pgd", "adversary_eps": "2/255"})
    assert TrainConfig.from_dict(train).adversary_eps == 2 / 255  # type: ignore[attr-defined]
    assert not any(key.startswith("adversary") for key in TrainConfig().to_dict())  # keys of before stay what they were
    for values, says in (
        ({"adversary": "pdg"}, "Did you mean 'pgd'"),
        ({"adversary_loss": "trades"}, "Available: ce, kl, fap"),
        ({"adversary_eps": 0.0}, "above 0"),
        ({"adversary_eps": 1.5}, "at most at 1"),
        ({"adversary_eps": "2/0"}, "divides by zero"),
        ({"adversary_steps": 0}, "at least 1"),
        ({"adversary_share": 0.0}, "above 0"),
    ):
        with pytest.raises(UserError, match=says):
            TrainConfig.from_dict(values)
