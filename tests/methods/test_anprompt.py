"""ANPrompt part by part: what each equation promises, tested alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, build_method
from anprompt.methods.anprompt import ANPrompt
from anprompt.methods.losses import cosine_alignment, wa_loss
from anprompt.methods.weak_noise import noise_prompts, weak_noise_features
from anprompt.prompting.prompts import DeepTokens, blend_after_first, insert_after_first, unit

NAMES = ["cat", "red panda", "fire engine", "aurora"]
SMALL = {"n_tokens": 3, "token_width": 16, "projection_rank": 4, "rank": 2, "draws": 3}


def build(backbone: Backbone, preset: str = "anprompt", **settings: object) -> ANPrompt:
    method = build_method(preset, backbone, NAMES, settings={**SMALL, **settings}, seed=1)
    assert isinstance(method, ANPrompt)
    return method


def pixels(backbone: Backbone, count: int = 5) -> torch.Tensor:
    size = backbone.dims.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- weak-noise text features and noise prompts -----------------------------------------------------
@given(amount=st.floats(0, 2), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_weak_noise_features_are_unit_and_turn_towards_the_noise(amount: float, seed: int) -> None:
    clean, noisy = unit(random(4, 8, seed=seed)), unit(random(2, 4, 8, seed=seed + 1))
    weak = weak_noise_features(clean, noisy, amount)
    torch.testing.assert_close(weak.norm(dim=-1), torch.ones(2, 4))
    towards = (weak * noisy).sum(-1) - (clean * noisy).sum(-1)
    assert bool((towards >= -1e-5).all())


def test_no_noise_is_the_clean_feature() -> None:
    clean = unit(random(4, 8))
    torch.testing.assert_close(weak_noise_features(clean, unit(random(4, 8, seed=1)), 0.0), clean)


def test_noise_prompts_find_separate_clusters_and_repeat_by_seed() -> None:
    centres = unit(random(3, 8)) * 10
    rows = (centres[:, None] + 0.01 * random(3, 20, 8, seed=2)).reshape(-1, 8)
    found = noise_prompts(rows, 3, seed=0)
    distance = torch.cdist(found, centres).min(dim=1)
    assert bool((distance.values < 0.1).all()) and len(set(distance.indices.tolist())) == 3
    assert torch.equal(found, noise_prompts(rows, 3, seed=0))
    torch.testing.assert_close(found, noise_prompts(rows[torch.randperm(60)], 3, seed=5), atol=1e-4, rtol=0)


def test_noise_prompts_of_fewer_rows_than_clusters_repeat() -> None:
    assert noise_prompts(random(2, 8), 5, seed=0).shape == (5, 8)
    assert noise_prompts(torch.ones(6, 8), 5, seed=0).shape == (5, 8)


def test_broken_bank_is_refused() -> None:
    with pytest.raises(UserError, match="NaN"):
        noise_prompts(torch.full((3, 8), float("nan")), 2, seed=0)


# --- losses -----------------------------------------------------------------------------------------
def test_wa_loss_is_zero_for_agreement_and_matches_the_formula() -> None:
    z, weak = 10 * random(4, 6), 10 * random(4, 6, seed=1)
    assert float(wa_loss(z, z)) == pytest.approx(0, abs=1e-6)
    p, q = weak.double().softmax(-1).numpy(), z.double().softmax(-1).numpy()
    by_hand = (p * (np.log(p) - np.log(q))).sum() / ((z.double().std().item() + 1e-6) * z.numel())
    assert float(wa_loss(weak, z)) == pytest.approx(by_hand, rel=1e-5)


def test_cosine_alignment_bounds() -> None:
    x = random(5, 8)
    assert float(cosine_alignment(x, 3 * x)) == pytest.approx(0, abs=1e-6)
    assert float(cosine_alignment(x, -x)) == pytest.approx(2, abs=1e-6)


# --- insertion --------------------------------------------------------------------------------------
def test_insert_and_blend_touch_only_their_positions() -> None:
    x, tokens = random(2, 6, 4), random(3, 4, seed=1)
    inserted = insert_after_first(x, tokens)
    assert torch.equal(inserted[:, :1], x[:, :1]) and torch.equal(inserted[:, 4:], x[:, 1:])
    assert torch.equal(inserted[0, 1:4], tokens)
    blended = blend_after_first(inserted, 2 * tokens, beta=0.25)
    torch.testing.assert_close(blended[1, 1:4], 1.25 * tokens)
    assert torch.equal(blended[:, 4:], x[:, 1:])
    assert torch.equal(blend_after_first(inserted, tokens, 1.0), inserted)


def test_deep_tokens_insert_once_then_replace() -> None:
    hook = DeepTokens([random(2, 4), random(2, 4, seed=1)], first=3)
    x = random(1, 5, 4, seed=2)
    assert torch.equal(hook(2, x), x)
    entered = hook(3, x)
    assert entered.shape[1] == 7 and hook(4, entered).shape[1] == 7
    assert torch.equal(hook(5, entered), entered)


# --- the method -------------------------------------------------------------------------------------
def test_anti_noise_prompts_are_tokens_plus_scaled_noise(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone)
    blocks = tiny_backbone.dims.text_depth - method.first_block + 1
    assert method.text_prompts().shape == (blocks, 3, tiny_backbone.dims.text_width)
    assert method.vision_prompts().shape == (blocks, 3, tiny_backbone.dims.vision_width)
    noise = method.text_noise(method.noise_prompts)
    torch.testing.assert_close(method.text_prompts() - method.text_tokens(method.tokens), 0.2 * noise)
    silent = build(tiny_backbone, noise_scale=0.0)
    torch.testing.assert_close(silent.text_prompts(), silent.text_tokens(silent.tokens))


def test_nrvpp_is_the_mean_of_projected_prompt_outputs(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone)
    with torch.no_grad():
        method.projection_up.normal_(generator=torch.Generator().manual_seed(0))
        x = random(2, 9, tiny_backbone.dims.vision_width)
        projection = tiny_backbone.image_projection + method.projection_down @ method.projection_up
        by_hand = torch.stack([tiny_backbone.post_norm(x[:, k]) @ projection for k in (1, 2, 3)]).mean(0)
        torch.testing.assert_close(method.nrvpp(x), by_hand, atol=1e-5, rtol=1e-5)


def test_loss_parts_sum_to_the_specification(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone, similarity_weight=3.0, head_weight=0.6)
    bank, vision = method.prepare(NAMES), method.image_state(pixels(tiny_backbone))
    labels = torch.tensor([0, 1, 2, 3, 0])
    parts = method.loss(vision, labels, bank, step=4)
    text = method.encode_classes(bank)["text"]
    f, p = method.image_features(vision)
    z, z_rep = method.logit_scale * f @ text.T, method.logit_scale * p @ text.T
    z_weak = method.logit_scale * p @ method.weak_bank()[4 % 3].T
    expected = {
        "ce": 0.6 * F.cross_entropy(z, labels),
        "ce_rep": 0.4 * F.cross_entropy(z_rep, labels),
        "sim_image": 3 * (1 - (f * vision.frozen).sum(-1)).mean(),
        "sim_text": 3 * (1 - (text * bank.frozen).sum(-1)).mean(),
        "wa": wa_loss(z_weak, z),
    }
    assert parts.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(parts[key], value, msg=key)


def test_heads(tiny_backbone: Backbone) -> None:
    """Unseen classes read z alone; trained classes mix in the NRVPP, and the choice is recorded."""
    method = build(tiny_backbone, head_weight=0.5)
    vision, text = method.image_state(pixels(tiny_backbone)), method.encode_classes(method.prepare(NAMES))
    f, p = method.image_features(vision)
    torch.testing.assert_close(method.logits(vision, text, "unseen"), method.logit_scale * f @ text["text"].T)
    mixed = method.logit_scale * (0.5 * f + 0.5 * p) @ text["text"].T
    torch.testing.assert_close(method.logits(vision, text, "trained"), mixed)
    assert Classifier(method).head == "trained"
    assert Classifier(method, NAMES[:2]).head == "trained"
    assert Classifier(method, [*NAMES, "lynx"]).head == "unseen"


def test_every_parameter_gets_a_gradient(tiny_backbone: Backbone) -> None:
    for preset in ("anprompt", "anprompt-snapshot"):
        method = build(tiny_backbone, preset, **({"noisy": "perturbed"} if "snap" in preset else {}))
        with torch.no_grad():  # residuals start at zero, which would hide a missing path
            for parameter in method.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        parts = method.loss(
            method.image_state(pixels(tiny_backbone)), torch.tensor([0, 1, 2, 3, 1]), method.prepare(NAMES)
        )
        sum(parts.values()).backward()  # type: ignore[union-attr]
        silent = [n for n, p in method.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert not silent, silent


def test_the_bank_depends_on_seed_and_class_alone(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone)
    fewer = build_method("anprompt", tiny_backbone, NAMES[:2], settings=SMALL, seed=1)
    other = build_method("anprompt", tiny_backbone, NAMES, settings=SMALL, seed=2)
    assert method.noisy_sentences("cat") == fewer.noisy_sentences("cat")  # type: ignore[operator]
    assert method.noisy_sentences("cat") != other.noisy_sentences("cat")  # type: ignore[operator]
    assert method.weak_bank().shape == (3, 4, tiny_backbone.dims.embed)


def test_noise_that_makes_a_sentence_too_long_is_cut_but_a_long_name_is_refused(tiny_backbone: Backbone) -> None:
    limit = tiny_backbone.dims.context_length
    name = "a" * (limit - len("photo of a .") - 6)
    method = build_method("anprompt", tiny_backbone, [name, "cat"], template="photo of a {}.", settings=SMALL)
    noisy = [f"{name} and {'more ' * 30}"] * 3
    method.noisy_sentences = lambda name: noisy  # type: ignore[method-assign, assignment]
    method._weak = None  # type: ignore[assignment]
    assert method.weak_bank().shape == (3, 2, tiny_backbone.dims.embed)  # type: ignore[operator]
    with pytest.raises(UserError, match="reads at most"):
        build_method("anprompt", tiny_backbone, ["b" * 2 * limit, "cat"], settings=SMALL)


def test_snapshot_reads_descriptions_and_says_when_one_is_missing(tiny_backbone: Backbone) -> None:
    texts = {name: [f"a {name} seen from afar.", f"the {name}."] for name in NAMES}
    method = build_method("anprompt-snapshot", tiny_backbone, NAMES, descriptions=texts, settings={**SMALL, "draws": 2})
    assert method.noisy_sentences("red panda") == texts["red panda"]  # type: ignore[operator]
    assert "noise_prompts" not in method.state_dict()
    with pytest.raises(UserError, match="'aurora'"):
        texts.pop("aurora")
        build_method("anprompt-snapshot", tiny_backbone, NAMES, descriptions=texts, settings=SMALL).weak_bank()  # type: ignore[operator]


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_tokens": "clusterd"}, {"noisy": "x"}, {"n_tokens": 0}, {"beta": 1.5}, {"first_block": 99},
        {"last_block": 1, "first_block": 2}, {"n_tokns": 4}, {"n_tokens": "five"}, {"noise_ops": ["typoes"]},
    ],
)  # fmt: skip
def test_bad_settings_are_refused(tiny_backbone: Backbone, settings: dict) -> None:
    with pytest.raises(UserError):
        build(tiny_backbone, **settings)


def test_adapter_tensors_hold_no_backbone(tiny_backbone: Backbone) -> None:
    method = build(tiny_backbone)
    size = sum(t.numel() for t in method.state_dict().values())
    assert size == method.trained_parameters() + method.noise_prompts.numel()
    assert not any(key.startswith("backbone") for key in method.state_dict())
