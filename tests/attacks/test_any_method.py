"""What is attacked is what is deployed: every method, its trained head, its temperature, on any backbone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anprompt.attacks import ThreatModel
from anprompt.attacks.losses import margin
from anprompt.attacks.pixel_model import PixelModel
from anprompt.attacks.run import attack
from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, create_method, list_methods
from tests.plugins import blocks

NAMES = ["cat", "dog", "boat"]


def pixels(backbone: Backbone, count: int = 3) -> Tensor:
    size = backbone.dims.image_size
    return 0.2 + 0.6 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("name", list_methods())
def test_gradients_reach_the_pixels_through_what_answers(name: str, tiny_backbone: Backbone) -> None:
    method = create_method(name, tiny_backbone, NAMES)
    method.temperature = 2.0
    for value in (*method.parameters(), *method.buffers()):
        if value.is_floating_point() and not bool(value.any()):  # probes start at 0 and answer nothing yet
            value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(4)))
    classifier = Classifier(method)
    model, images = PixelModel(classifier), pixels(tiny_backbone)
    normalised = (images - model.mean) / model.std
    assert torch.allclose(model(images), classifier.logits(normalised), atol=1e-4)
    assert torch.allclose(model.pixels(normalised), images, atol=1e-6)
    labels = classifier.logits(normalised).argmax(1)
    wanted = images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(margin(model(wanted), labels).sum(), wanted)
    assert bool(torch.isfinite(gradient).all()) and bool((gradient.flatten(1).abs().amax(1) > 0).all())
    found = attack(model, images, labels, ThreatModel("pgd-margin", eps=8 / 255, steps=2))
    before = margin(classifier.logits(normalised), labels)
    assert bool((found.nearness > before).all()) and not any(p.requires_grad for p in tiny_backbone.parameters())


@pytest.mark.parametrize("name", ["anprompt", "coop"])
def test_the_visual_head_of_trained_classes_is_attacked_too(name: str, tiny_backbone: Backbone) -> None:
    method = create_method(name, tiny_backbone, NAMES)
    for value in method.add_visual_head().parameters():
        value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(4)))
    for value in method.visual_head.buffers():
        value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(5)))
    classifier, images = Classifier(method), pixels(tiny_backbone)
    model = PixelModel(classifier)
    answers = classifier.logits((images - model.mean) / model.std)
    assert torch.allclose(model(images), answers, atol=1e-3)
    method.visual_head = None
    assert not torch.allclose(Classifier(method).logits((images - model.mean) / model.std), answers, atol=1e-3)


def test_states_stay_constants_where_pixels_ask_for_no_gradient(tiny_backbone: Backbone) -> None:
    for name in ("anprompt", "ivlp"):
        method = create_method(name, tiny_backbone, NAMES)
        state = method.image_state(pixels(tiny_backbone))
        assert not state.trunk.requires_grad and not state.frozen.requires_grad
        wanted = pixels(tiny_backbone).requires_grad_(True)
        assert method.image_state(wanted).trunk.requires_grad
        with torch.no_grad():
            assert not method.image_state(wanted).trunk.requires_grad


def test_the_page_is_true_of_its_own_use(capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("adversarial.md", "python")[0].replace("[:16]", "[:4]").replace("steps=10", "steps=2")
    exec(compile(code, "docs/adversarial.md", "exec"), {})
    before, after, stuck = map(float, capsys.readouterr().out.split())
    assert 0 <= after <= before <= 1 and stuck == 0.0


def test_half_precision_is_refused_in_one_line(tiny_backbone: Backbone) -> None:
    import copy

    half = copy.deepcopy(tiny_backbone).to(torch.bfloat16)
    with pytest.raises(UserError, match="Attacks run in fp32, not in bfloat16"):
        PixelModel(Classifier(create_method("zeroshot", half, NAMES)))
