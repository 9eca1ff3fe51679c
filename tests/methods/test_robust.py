"""The levers against noise: off by default, alike for ANPrompt and MMRL, and doing what they say."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.data.embedded import embedded_dataset
from anprompt.errors import UserError
from anprompt.evaluation.loaders import make_views
from anprompt.methods import Classifier, create_method, get_method, get_preset
from anprompt.methods.robust import with_frozen
from anprompt.methods.words import EVERYDAY_WORDS
from anprompt.noise.weak_image import WEAK_FAMILIES, weak_image_noise
from anprompt.training.config import TrainConfig
from anprompt.training.feature_cache import MemoryFeatureCache
from anprompt.training.frozen_features import FrozenFeatures
from anprompt.training.loop import fit

NAMES = ["red panda", "cat", "fire engine"]
SMALL = {"n_tokens": 2, "token_width": 8}
METHODS = ("anprompt", "mmrl", "mmrlpp")


def made(backbone, name, **settings):
    return create_method(name, backbone, NAMES, settings={**SMALL, **settings}, seed=3)


def losses(method, backbone, step=0):
    pixels = torch.randn(4, 3, *[backbone.dims.image_size] * 2, generator=torch.Generator().manual_seed(0))
    return method.loss(method.image_state(pixels), torch.tensor([0, 1, 2, 0]), method.prepare(NAMES), step)


@pytest.mark.parametrize("name", METHODS)
def test_levers_add_their_parts_and_nothing_else(tiny_backbone, name):
    plain = losses(made(tiny_backbone, name), tiny_backbone)
    levers = losses(made(tiny_backbone, name, live_noise=1.0, anchor_words=4), tiny_backbone)
    assert set(levers) - set(plain) == {"live_ce", "live_kl", "live_sim", "anchors"}
    assert all(torch.equal(levers[part], value) for part, value in plain.items())


@pytest.mark.parametrize("name", METHODS)
def test_live_noise_reaches_the_text_prompts(tiny_backbone, name):
    method = made(tiny_backbone, name, live_noise=1.0)
    parts = losses(method, tiny_backbone)
    for part in ("live_ce", "live_kl", "live_sim"):
        method.zero_grad()
        parts[part].backward(retain_graph=True)
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.text_tokens.parameters()), part


def test_live_weight_scales_its_parts(tiny_backbone):
    one, four = (losses(made(tiny_backbone, "anprompt", live_noise=w), tiny_backbone) for w in (1.0, 4.0))
    for part in ("live_ce", "live_kl", "live_sim"):
        assert four[part].item() == pytest.approx(4 * one[part].item(), rel=1e-5)


def test_noisy_sentences_take_turns_and_depend_on_the_step_alone(tiny_backbone):
    method = made(tiny_backbone, "anprompt", live_noise=1.0, live_draws=5, live_target="classname")
    first, again = losses(method, tiny_backbone, step=2), losses(method, tiny_backbone, step=7)
    assert all(torch.equal(first[part], again[part]) for part in first if part.startswith("live"))
    assert len({losses(method, tiny_backbone, step=s)["live_sim"].item() for s in range(5)}) > 1


@pytest.mark.parametrize("remake", [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method))])
def test_a_copy_goes_on_as_the_original(tiny_backbone, remake):
    method = made(tiny_backbone, "mmrl", live_noise=1.0, anchor_words=3)
    expected = losses(method, tiny_backbone)
    found = losses(remake(method), tiny_backbone)
    assert {k: v.item() for k, v in found.items()} == {k: v.item() for k, v in expected.items()}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("names", [NAMES, ["zebra", "cat"]])
def test_frozen_share_goes_from_the_prompted_answers_to_plain_clip(tiny_backbone, name, names):
    size = tiny_backbone.dims.image_size
    pixels = torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(1))
    answers = {q: Classifier(made(tiny_backbone, name, frozen_share=q), names).logits(pixels) for q in (0.0, 0.25, 1.0)}
    clip = Classifier(create_method("zeroshot", tiny_backbone, NAMES), names).logits(pixels)
    torch.testing.assert_close(answers[1.0], clip, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers[0.25], 0.75 * answers[0.0] + 0.25 * clip, atol=1e-4, rtol=1e-4)


def test_a_share_of_logits_is_the_geometric_mean_of_predictions():
    z, image, text = torch.randn(2, 3), torch.eye(3)[:2], torch.eye(3)
    mixed = with_frozen(z, 10.0, 0.25, image, text).softmax(-1)
    product = z.softmax(-1) ** 0.75 * (10 * image @ text.T).softmax(-1) ** 0.25
    torch.testing.assert_close(mixed, product / product.sum(-1, keepdim=True))


def test_the_fused_head_is_the_trained_one_for_unseen_classes(tiny_backbone):
    size = tiny_backbone.dims.image_size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    fused = Classifier(made(tiny_backbone, "anprompt", fused_unseen=True), ["zebra", "cat"])
    trained = Classifier(made(tiny_backbone, "anprompt"), ["zebra", "cat"], head="trained")
    assert fused.head == "unseen"
    torch.testing.assert_close(fused.logits(pixels), trained.logits(pixels))


def test_jitter_is_a_matter_of_training_and_of_its_step(tiny_backbone):
    plain, jittered = made(tiny_backbone, "anprompt"), made(tiny_backbone, "anprompt", noise_jitter=0.5)
    one, same, other = (losses(jittered, tiny_backbone, step)["ce"].item() for step in (1, 1, 2))
    assert one == same != other
    torch.testing.assert_close(jittered.vision_prompts(), plain.vision_prompts())


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_came_later_leave_what_is_recorded_as_it_was(name):
    config = get_method(name).Config
    later = {"live_noise", "live_draws", "frozen_share", "fused_unseen", "anchor_words"}
    assert not later & set(config().to_dict())
    changed = config.from_dict({"frozen_share": 0.25, "live_noise": 1.0})
    assert changed.to_dict()["frozen_share"] == 0.25
    assert config.from_dict(changed.to_dict()) == changed
    assert not {"image_noise", "image_noise_target"} & set(TrainConfig().to_dict())
    assert TrainConfig.from_dict({"image_noise": 0.5}).to_dict()["image_noise"] == 0.5


@pytest.mark.parametrize("setting", [
    {"live_noise": -1.0}, {"frozen_share": 1.5}, {"live_draws": 0}, {"anchor_words": len(EVERYDAY_WORDS) + 1},
    {"live_target": "image"}, {"live_strength": 9}, {"live_ops": ["tipo"]},
])  # fmt: skip
@pytest.mark.parametrize("name", METHODS)
def test_values_out_of_range_are_refused(tiny_backbone, name, setting):
    with pytest.raises(UserError, match=r"(?i)must|available"):
        made(tiny_backbone, name, **setting)


@pytest.mark.parametrize("setting", [
    {"image_noise": 1.5}, {"image_noise": 0.5, "image_noise_severity": 6}, {"image_noise_families": ["fogg"]},
    {"image_noise_target": "blurred"},
])  # fmt: skip
def test_recipes_out_of_range_are_refused(setting):
    with pytest.raises(UserError, match=r"(?i)must|available"):
        TrainConfig.from_dict(setting)


def test_weak_image_noise_disturbs_its_share_of_views():
    noise = weak_image_noise(0.5)
    assert noise is not None and noise.families == WEAK_FAMILIES and weak_image_noise(0.0) is None
    view = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    changed = [not np.array_equal(noise(view, np.random.default_rng(n)), view) for n in range(200)]
    assert 0.4 < np.mean(changed) < 0.6
    assert np.array_equal(noise(view, np.random.default_rng(5)), noise(view, np.random.default_rng(5)))


def noisy_views(backbone, share):
    config = TrainConfig.from_dict({"image_noise": share})
    data = embedded_dataset("food")
    return make_views(backbone, data, data.train[:12], config=config)


def test_noisy_views_are_compared_with_their_clean_ones(tiny_backbone):
    method, rows = made(tiny_backbone, "mmrl"), torch.arange(12)
    noisy, clean = noisy_views(tiny_backbone, 1.0), noisy_views(tiny_backbone, 0.0)
    assert torch.equal(noisy.train_batch(rows, 0, undisturbed=True), clean.train_batch(rows, 0))
    assert noisy.view_keys(rows, 0) != clean.view_keys(rows, 0)
    bank = MemoryFeatureCache()
    plain = FrozenFeatures(method, clean).batch(rows, 0)
    for _ in range(2):  # computed, and from the bank
        apart = FrozenFeatures(method, noisy, bank=bank, target="clean").batch(rows, 0)
        own = FrozenFeatures(method, noisy, bank=bank, target="noisy").batch(rows, 0)
        assert torch.equal(apart.trunk, own.trunk) and not torch.equal(apart.trunk, plain.trunk)
        torch.testing.assert_close(apart.frozen, plain.frozen)
        assert not torch.equal(own.frozen, plain.frozen)


def test_training_with_all_levers_is_repeatable(tiny_backbone):
    train = TrainConfig.from_dict({"image_noise": 0.5, "epochs": 1, "warmup_epochs": 0, "lr": 1e-2})
    data = embedded_dataset("food")
    found = []
    for _ in range(2):
        method = create_method(
            "anprompt", tiny_backbone, data.classnames, seed=1,
            settings={**SMALL, "live_noise": 1.0, "anchor_words": 4, "noise_jitter": 0.1, "frozen_share": 0.25},
        )  # fmt: skip
        before = method.tokens.detach().clone()
        fit(method, make_views(tiny_backbone, data, data.train[:8], config=train), train)
        assert not torch.equal(method.tokens, before)
        found.append(method.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_an_adapter_opens_with_the_settings_it_was_trained_with(tiny_backbone, tmp_path, monkeypatch):
    """Settings that an adapter leaves out are at their defaults, whatever its preset says today."""
    save_adapter(tmp_path / "old", made(tiny_backbone, "anprompt"))
    changed = dataclasses.replace(get_preset("anprompt"), settings={"frozen_share": 0.5, "live_noise": 1.0})
    monkeypatch.setattr("anprompt.methods.create.get_preset", lambda *args, **kwargs: changed)
    assert made(tiny_backbone, "anprompt").config.frozen_share == 0.5
    assert load_adapter(tmp_path / "old", backbone=tiny_backbone).config.frozen_share == 0.0
