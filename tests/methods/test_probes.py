"""Methods on frozen features against hand-made cases, scikit-learn, and their papers' equations."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, create_method, list_methods
from anprompt.methods.clap import penalty
from anprompt.methods.clip_adapter import adapted
from anprompt.methods.frozen import Shots, folds
from anprompt.methods.lp_plus_plus import logits as lp_logits
from anprompt.methods.registry import registered
from anprompt.methods.tip_adapter import cache_logits
from anprompt.prompting.prompts import ImageState
from anprompt.training.loop import TrainConfig

NAMES = ["cat", "dog", "owl"]
PROBES = [name for name in list_methods() if registered()[name].from_features]


def clustered(backbone: Backbone, images: int = 8, views: int = 1, seed: int = 0, noise: float = 0.5) -> Shots:
    """Unit features around one random direction per class; the text is unrelated to them."""
    draw = torch.Generator().manual_seed(seed)
    width, classes = backbone.dims.embed, len(NAMES)
    centres = F.normalize(torch.randn(classes, width, generator=draw), dim=-1)
    labels = torch.arange(images * classes) % classes
    noisy = centres[labels][:, None] + noise * torch.randn(len(labels), views, width, generator=draw) / width**0.5
    text = F.normalize(torch.randn(classes, width, generator=draw), dim=-1)
    return Shots(F.normalize(noisy, dim=-1), labels, text, torch.full((classes,), 9.0))


def state(features: Tensor) -> ImageState:
    return ImageState(features.new_zeros(len(features), 0), features)


def recipe(**values: object) -> TrainConfig:
    return TrainConfig(**{"epochs": 5, "batch_size": 8, "warmup_epochs": 0, **values})  # type: ignore[arg-type]


# --- each against its definition --------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3])
def test_linear_probe_equals_scikit_learn(tiny_backbone: Backbone, count: int) -> None:
    shots = clustered(tiny_backbone)
    keep = shots.labels < count
    shots = dataclasses.replace(shots.take(keep.nonzero()[:, 0]), text=shots.text[:count])
    method = create_method("linear-probe", tiny_backbone, NAMES[:count], settings={"C": 3.0})
    method.fit_features(shots, recipe())
    rows, labels = (value.numpy() for value in shots.rows)
    theirs = LogisticRegression(C=3.0, max_iter=1000).fit(rows, labels)
    ours = method.logits(state(shots.rows[0]), {"text": shots.text}, "trained").softmax(-1)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.predict_proba(rows), atol=1e-5)


def test_views_of_an_image_weigh_as_one_row(tiny_backbone: Backbone) -> None:
    """C means the same whatever the number of views: copies of a view change nothing."""
    shots = clustered(tiny_backbone)
    copied = dataclasses.replace(shots, features=shots.features.repeat(1, 4, 1))
    found = []
    for one in (shots, copied):
        method = create_method("linear-probe", tiny_backbone, NAMES)
        found.append(method.solve(one, 10.0)[0])
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=2e-3)


def test_class_means_by_hand(tiny_backbone: Backbone) -> None:
    shots = clustered(tiny_backbone)
    method = create_method("ncm", tiny_backbone, NAMES, settings={"centred": False})
    method.fit_features(shots, recipe())
    query = F.normalize(torch.randn(4, tiny_backbone.dims.embed, generator=torch.Generator().manual_seed(3)), dim=-1)
    means = torch.stack([shots.features[shots.labels == c, 0].mean(0) for c in range(3)])
    expected = tiny_backbone.logit_scale * F.cosine_similarity(query[:, None], means[None], dim=-1)
    torch.testing.assert_close(method.logits(state(query), {"text": shots.text}, "trained").detach(), expected)


def test_tip_adapter_by_hand_on_three_vectors() -> None:
    """Two keys of class 0 and one of class 1, along and across the query."""
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    values = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = cache_logits(torch.tensor([[1.0, 0.0]]), keys, values, beta=2.0)
    expected = [math.exp(-2 * (1 - 1)) + math.exp(-2 * (1 - 0)), math.exp(-2 * (1 - 0.6))]
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_tip_adapter_adds_the_cache_to_zero_shot(tiny_backbone: Backbone) -> None:
    shots = clustered(tiny_backbone, views=3)
    method = create_method("tip-adapter", tiny_backbone, NAMES, settings={"search": False, "alpha": 2.0, "beta": 3.0})
    method.fit_features(shots, recipe())
    torch.testing.assert_close(method.keys.detach(), F.normalize(shots.features.mean(1), dim=-1))
    rows = shots.rows[0]
    expected = tiny_backbone.logit_scale * rows @ shots.text.T + 2.0 * cache_logits(
        rows, method.keys.detach(), shots.one_hot, 3.0
    )
    torch.testing.assert_close(method.logits(state(rows), {"text": shots.text}, "trained").detach(), expected)
    assert method.config.cache_size == len(shots.labels)  # type: ignore[attr-defined]


def test_tip_adapter_f_starts_at_the_cache_and_lowers_its_loss(tiny_backbone: Backbone) -> None:
    shots = clustered(tiny_backbone)
    losses = []
    for epochs, lr in ((1, 1e-9), (40, 1e-2)):
        method = create_method("tip-adapter-f", tiny_backbone, NAMES, settings={"search": False})
        losses.append(method.fit_features(shots, recipe(epochs=epochs, lr=lr))["loss"])
        if lr < 1e-8:
            torch.testing.assert_close(method.keys.detach(), shots.features[:, 0], atol=1e-6, rtol=0)
    assert losses[1] < 0.5 * losses[0]


def test_clip_adapter_is_its_equation_and_without_share_zero_shot(tiny_backbone: Backbone) -> None:
    f = F.normalize(torch.tensor([[1.0, -2.0]]), dim=-1)
    down, up = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0, -1.0]])
    by_hand = 0.5 * torch.tensor([[2 * float(f[0, 0]), 0.0]]) + 0.5 * f
    torch.testing.assert_close(adapted(f, (down, up), 0.5), F.normalize(by_hand, dim=-1))
    assert torch.equal(adapted(f, (down, up), 0.0), F.normalize(f, dim=-1))


def test_lp_plus_plus_descends_its_equation(tiny_backbone: Backbone) -> None:
    """`f . (w_k + alpha_k t_k)`; its first step is the gradient's, with the step the data gives."""
    shots = clustered(tiny_backbone)
    method = create_method("lp++", tiny_backbone, NAMES, settings={"stop_every": 0})
    kept = method.course(shots, recipe(), {1, 10})
    rows, labels = shots.rows
    w = (shots.one_hot.T @ rows).requires_grad_()
    alpha = 250 * torch.stack([(rows[labels == c] @ shots.text[c]).mean() for c in range(3)]).mean() * torch.ones(3)
    F.cross_entropy(rows @ (w + alpha[:, None] * shots.text).T, labels).backward()
    step = 4 * len(rows) / torch.linalg.eigvalsh(rows.T @ rows)[-1]
    torch.testing.assert_close(kept[1][0], (w - step * w.grad).detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept[1][1], alpha)
    assert not torch.equal(kept[10][1], alpha), "alpha moves at the tenth epoch"
    torch.testing.assert_close(lp_logits(rows, shots.text, (w, alpha)), rows @ (w + alpha[:, None] * shots.text).T)


def test_clap_starts_at_the_text_and_is_held_by_its_multipliers(tiny_backbone: Backbone) -> None:
    shots = clustered(tiny_backbone)
    by_hand = penalty(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2), torch.tensor([0.5, 9.0]))
    assert float(by_hand) == pytest.approx(0.25)
    still = create_method("clap", tiny_backbone, NAMES)
    still.fit_features(shots, recipe(epochs=1, lr=1e-12))
    z = still.logits(state(shots.rows[0]), {"text": shots.text}, "trained")
    torch.testing.assert_close(
        z.detach(), tiny_backbone.logit_scale * shots.rows[0] @ shots.text.T, atol=1e-3, rtol=1e-4
    )
    shares = (tiny_backbone.logit_scale * shots.rows[0] @ shots.text.T).softmax(-1)
    expected = torch.stack([shares[shots.labels == c, c].mean() for c in range(3)])
    torch.testing.assert_close(still.multipliers(*shots.rows, shots.text), expected)
    moved = []
    for constraint in (0.0, 100.0):
        method = create_method("clap", tiny_backbone, NAMES, settings={"constraint": constraint})
        method.fit_features(shots, recipe(epochs=20, lr=0.01))
        moved.append(float((method.prototypes.detach() - shots.text * 9.0).norm()))
    assert moved[1] < moved[0]


# --- all of them ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", PROBES)
def test_each_learns_what_can_be_learned_from_features(name: str, tiny_backbone: Backbone) -> None:
    """The names say nothing about these features; held-out ones are told apart all the same."""
    shots = clustered(tiny_backbone, images=12, views=2)
    kept, held = torch.arange(24), torch.arange(24, 36)
    method = create_method(name, tiny_backbone, NAMES)
    config = recipe(epochs=60, lr=0.5 if name == "clip-adapter" else 0.1 if name == "clap" else 1e-2, momentum=0.9)
    method.fit_features(shots.take(kept), config)
    z = method.logits(state(shots.features[held, 0]), {"text": shots.text}, "trained")
    assert float((z.argmax(1) == shots.labels[held]).float().mean()) >= 0.9


@pytest.mark.parametrize("name", PROBES)
def test_a_saved_one_answers_alike_for_lists_of_trained_classes(
    name: str, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    shots = clustered(tiny_backbone)
    method = create_method(name, tiny_backbone, NAMES)
    method.fit_features(shots, recipe(lr=1e-2))
    opened = load_adapter(save_adapter(tmp_path / "adapter", method), backbone=tiny_backbone)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = Classifier(method).logits(pixels)
    assert torch.equal(Classifier(opened).logits(pixels), whole)
    part = Classifier(opened, ["Owl", "cat"]).logits(pixels)
    torch.testing.assert_close(part, whole[:, [2, 0]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PROBES)
def test_other_classes_are_zero_shot_s_or_refused_with_the_reason(name: str, tiny_backbone: Backbone) -> None:
    method = create_method(name, tiny_backbone, NAMES)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if not method.opens:
        with pytest.raises(UserError, match="trained classes, which say nothing of 'lynx': it has no text side"):
            Classifier(method, ["cat", "lynx"])
        return
    found = Classifier(method, ["cat", "lynx"]).logits(pixels)
    zero_shot = Classifier(create_method("zeroshot", tiny_backbone, NAMES), ["cat", "lynx"]).logits(pixels)
    assert torch.allclose(found, zero_shot, atol=1e-4) == (name != "clip-adapter")
    if method.by_class:
        with pytest.raises(UserError, match="say nothing of 'lynx'"):
            Classifier(method, ["cat", "lynx"], head="trained")


def test_folds_keep_classes_apart_and_need_two_images(tiny_backbone: Backbone) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    parts = folds(labels, seed=1)
    assert len(parts) == 3
    for kept, held in parts:
        assert not set(kept.tolist()) & set(held.tolist()) and set(labels[held].tolist()) == {0, 1}
    assert folds(torch.tensor([0, 1, 1]), seed=1) == []
    one_each = dataclasses.replace(clustered(tiny_backbone).take(torch.arange(3)))
    for name in PROBES:  # nothing can be held out: the published values stay
        method = create_method(name, tiny_backbone, NAMES)
        assert "cv_accuracy" not in method.fit_features(one_each, recipe())


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("linear-probe", {"C": -1.0}, "C must be positive"),
        ("tip-adapter", {"beta": -1.0}, "numbers from 0"),
        ("clip-adapter", {"ratio": 2.0}, "ratio must lie in 0..1"),
        ("lp++", {"alpha_every": 0}, "alpha_every must be at least 1"),
        ("clap", {"constraint": -1.0}, "constraint must be a number from 0"),
    ],
)
def test_bad_settings_in_one_line(tiny_backbone: Backbone, name: str, settings: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        create_method(name, tiny_backbone, NAMES, settings=settings)
