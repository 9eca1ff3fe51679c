"""Independent prompts, visual prompts, and NAP-Tuning's refiners: what they are, tower by tower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, create_method
from anprompt.prompting.shared_text import text_memory

NAMES = ["cat", "golden retriever", "aurora borealis"]


def pixels(backbone: Backbone) -> Tensor:
    size = backbone.dims.image_size
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


def answer(backbone: Backbone, name: str, engine: str = "shared", stir: float = 0.0, **settings: object) -> Tensor:
    """Logits of a method, its refiners' outputs away from 0 by `stir`."""
    method = create_method(name, backbone, NAMES, settings=settings)
    method.engine = engine
    generator = torch.Generator().manual_seed(9)
    for key, value in method.named_parameters():
        if key.endswith("refiners.up"):
            value.data += stir * torch.randn(value.shape, generator=generator)
    return Classifier(method).logits(pixels(backbone))


@pytest.mark.parametrize("refine", ["both", "vision", "text", "none"])
def test_untrained_refiners_change_nothing_and_stirred_ones_their_tower(tiny_backbone: Backbone, refine: str) -> None:
    plain = answer(tiny_backbone, "ivlp")
    assert torch.allclose(answer(tiny_backbone, "nap", refine=refine), plain, atol=1e-5)
    stirred = answer(tiny_backbone, "nap", stir=0.5, refine=refine)
    assert torch.allclose(stirred, plain, atol=1e-5) == (refine == "none")


@pytest.mark.parametrize("refine", ["vision", "text", "both"])
def test_both_engines_agree_on_refined_tokens(tiny_backbone: Backbone, refine: str) -> None:
    """Refiners touch every position: prefix, classes' own words, and where classes are computed in parts."""
    shared = answer(tiny_backbone, "nap", stir=0.5, refine=refine)
    assert torch.allclose(shared, answer(tiny_backbone, "nap", "plain", stir=0.5, refine=refine), atol=1e-4)


def test_gradients_of_text_refiners_agree_in_parts(tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from anprompt.prompting import shared_text

    found = {}
    for name, rows, limit in (("whole", 1024, 1 << 30), ("parts", 4, 1), ("plain", 1024, 1 << 30)):
        monkeypatch.setitem(shared_text.ROWS, "cpu", rows)
        method = create_method("nap", tiny_backbone, NAMES)
        method.engine = "plain" if name == "plain" else "shared"
        generator = torch.Generator().manual_seed(9)
        method.text_refiners.up.data += 0.5 * torch.randn(method.text_refiners.up.shape, generator=generator)
        with text_memory(limit):
            text = method.encode_classes(method.prepare(NAMES))["text"]
            (text * torch.linspace(0, 1, text.numel()).view_as(text)).sum().backward()
        found[name] = [value.grad.clone() for value in method.text_refiners.parameters()]
    for name in ("parts", "plain"):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found["whole"], found[name])), name


def test_visual_prompts_leave_the_sentences_alone(tiny_backbone: Backbone) -> None:
    method = create_method("vpt", tiny_backbone, NAMES)
    text = method.encode_classes(method.prepare(NAMES))["text"]
    frozen = torch.nn.functional.normalize(tiny_backbone.encode_text([f"a photo of a {n}." for n in NAMES]), dim=-1)
    assert torch.allclose(text, frozen, atol=1e-5)
    assert [name for name, _ in method.named_parameters()] == ["vision_prompts"]


def test_text_prompts_alone_leave_the_images_alone(tiny_backbone: Backbone) -> None:
    method = create_method("ivlp", tiny_backbone, NAMES, settings={"n_vision": 0})
    image = method.embedding(method.image_state(pixels(tiny_backbone)))
    assert torch.allclose(
        image, torch.nn.functional.normalize(tiny_backbone.encode_image(pixels(tiny_backbone))), atol=1e-5
    )
    assert [name for name, _ in method.named_parameters()] == ["text_prompts"]
    assert set(method.state_dict()) == {"text_prompts"}


@pytest.mark.parametrize(
    "name,settings,says",
    [
        ("ivlp", {"n_text": 0, "n_vision": 0}, "nothing would be trained"),
        ("ivlp", {"n_text": -1}, "at least 0"),
        ("nap", {"refine": "visoin"}, "Did you mean 'vision'"),
        ("nap", {"refiner_width": -1}, "at least 0"),
        ("nap", {"n_text": 0}, "set refine to 'vision'"),
    ],
)
def test_settings_that_can_not_be(tiny_backbone: Backbone, name: str, settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_method(name, tiny_backbone, NAMES, settings=settings)
