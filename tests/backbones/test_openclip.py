"""open_clip's models behind the protocol; what is said without the library, and with it the contract."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import anprompt.backbones.open_clip as module
from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import load_backbone
from anprompt.backbones.open_clip import OpenClip, is_open_clip_folder
from anprompt.errors import UserError
from anprompt.methods import Classifier, Method, build_method, methods
from anprompt.prompting.prompts import ENGINES
from anprompt.training.loop import TrainConfig, make_optimizer

SPEC = "open-clip:ViT-B-32/laion2b_s34b_b79k"
SENTENCES = ["a photo of a cat.", "a photo of a very large red fire engine.", "dog"]
NAMES = ["cat", "golden_retriever", "aurora"]
TRAINED = [name for name in sorted(methods()) if methods()[name].trains and not methods()[name].from_features]
LIGHT: dict[str, dict] = {"promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2, "token_width": 16}}


def config(kind: str) -> dict[str, Any]:
    """A tiny model of the library: "plain" as OpenAI's, "custom" with a text module and layer scale."""
    size: dict[str, Any] = {"width": 32, "layers": 3}
    if kind == "custom":
        size["ls_init_value"] = 0.5
    return {
        "embed_dim": 24,
        "quick_gelu": kind == "plain",
        "custom_text": kind == "custom",
        "vision_cfg": {"image_size": 32, "patch_size": 8, "head_width": 16, **size},
        "text_cfg": {"context_length": 48, "vocab_size": 49408, "heads": 2, **size},
    }


def save_tiny(folder: Path, settings: dict[str, Any]) -> Path:
    """Random weights and configuration as the library's `local-dir:` reads them."""
    from open_clip.model import CLIP, CustomTextCLIP
    from safetensors.torch import save_file

    made = dict(settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (CustomTextCLIP if made.pop("custom_text") else CLIP)(**made)
        for parameter in model.parameters():  # biases and norms of their own, so that leaving one out shows
            parameter.data += 0.03 * torch.randn(parameter.shape)
    folder.mkdir(parents=True)
    save_file({k: v.detach().clone() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    picture = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": picture}))
    return folder


@pytest.fixture(scope="module", params=["plain", "custom"])
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    pytest.importorskip("open_clip", reason="needs the extra [open-clip]", exc_type=Exception)
    folder = save_tiny(tmp_path_factory.mktemp("open_clip") / request.param, config(request.param))
    loaded = load_backbone(str(folder))
    assert isinstance(loaded, OpenClip)
    return loaded


def pixels(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def build(name: str, backbone: OpenClip) -> Method:
    return build_method(name, backbone, NAMES, settings=LIGHT.get(name, {}))


def total_loss(method: Method) -> Tensor:
    bank, vision = method.prepare(method.trained_classnames), method.image_state(pixels())
    parts = method.loss(vision, torch.tensor([0, 1]), bank)
    return torch.stack([part.float() for part in parts.values()]).sum()


# --- without the library ------------------------------------------------------------------------------
def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'anprompt\[open-clip\]'"):
        load_backbone(SPEC)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('operator torchvision::nms does not exist')", r"nms does not exist.*torchvision"),
        ("import a_module_that_is_not_there", "'a_module_that_is_not_there' which it needs is not"),
    ],
)
def test_a_broken_library_is_one_line(source: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open_clip.py").write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        load_backbone(SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["open-clip:", "open-clip:ViT-B-32", "open-clip:ViT-B-32/", "open-clip:/x"])
def test_a_model_without_weights_is_refused_before_anything_is_imported(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="names no weights"):
        load_backbone(spec)


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        (SPEC, ("ViT-B-32", "laion2b_s34b_b79k")),
        ("open-clip:ViT-B-32//data/w.safetensors", ("ViT-B-32", "/data/w.safetensors")),
        ("open-clip:hf-hub:org/model", ("hf-hub:org/model", None)),
        ("/a/folder", ("local-dir:/a/folder", None)),
    ],
)
def test_what_the_library_is_asked_for(
    spec: str, asked: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def create_model(name: str, weights: str | None, **how: Any) -> Any:
        found.extend([(name, weights), how["require_pretrained"]])
        raise RuntimeError(f"unknown {name}\nsecond line")

    monkeypatch.setattr(module, "library", lambda: SimpleNamespace(create_model=create_model))
    with pytest.raises(UserError, match=r"unknown .*") as caught:
        OpenClip(spec)
    assert found == [asked, True] and "\n" not in str(caught.value)


def test_the_wrong_activation_is_refused_where_the_library_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, weights: str, **how: Any) -> Any:
        warnings.warn("QuickGELU mismatch between final model config and pretrained tag", stacklevel=1)

    monkeypatch.setattr(module, "library", lambda: SimpleNamespace(create_model=create_model))
    with pytest.raises(UserError, match="ViT-B-32-quickgelu"):
        OpenClip("open-clip:ViT-B-32/openai")


def test_a_folder_in_hub_format_is_not_the_librarys(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert is_open_clip_folder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")  # many repositories hold both
    assert not is_open_clip_folder(str(tmp_path)) and not is_open_clip_folder("openai/clip-vit-base-patch16")


# --- with it ------------------------------------------------------------------------------------------
def test_identity_hook_equals_the_stock_forward(backbone: OpenClip) -> None:
    """Bit for bit where the length is the library's, to rounding where sentences are cut to the longest."""
    tokens, x = backbone.tokenize(SENTENCES), pixels(3)
    whole = torch.nn.functional.pad(tokens.ids, (0, backbone.dims.context_length - tokens.ids.shape[1]))
    with torch.no_grad():
        text, image = backbone.stock_forward(tokens.ids, x)
        ours = backbone.read_text(backbone.run_text(backbone.embed_text(whole)), tokens.eot)
        assert torch.equal(ours, text)
        assert torch.equal(backbone.encode_image(x), image)
        torch.testing.assert_close(backbone.encode_text(SENTENCES), text, atol=1e-5, rtol=1e-5)


def test_ids_and_pixels_are_the_librarys(backbone: OpenClip) -> None:
    tokens = backbone.tokenize(SENTENCES)
    for row, end, stock in zip(tokens.ids, tokens.eot.tolist(), backbone._tokenizer(SENTENCES)):
        assert row[: end + 1].tolist() == stock[: end + 1].tolist() and not stock[end + 1 :].any()
    assert backbone.mean == (0.5, 0.4, 0.3) and backbone.activation in ("gelu", "quick_gelu")


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_trains_saves_and_opens(name: str, backbone: OpenClip, tmp_path: Path) -> None:
    method = build(name, backbone)
    frozen = {key: value.clone() for key, value in backbone.state_dict().items()}
    optimizer, losses = make_optimizer(method, TrainConfig(optimizer="adamw", lr=1e-3)), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = total_loss(method)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, frozen[key]) for key, value in backbone.state_dict().items())
    save_adapter(tmp_path / "adapter", method)
    opened = load_adapter(tmp_path / "adapter")  # by the recorded folder
    assert torch.equal(Classifier(opened, NAMES).logits(pixels()), Classifier(method, NAMES).logits(pixels()))


@pytest.mark.parametrize("name", TRAINED)
def test_shared_engine_equals_plain_path(name: str, backbone: OpenClip) -> None:
    found = []
    for engine in ENGINES:
        method = build(name, backbone)
        method.engine = engine
        loss = total_loss(method)
        loss.backward()
        found.append((loss.detach(), [p.grad for p in method.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for a, b in zip(found[0][1], found[1][1]):
        assert float((a - b).norm()) <= 1e-4 * max(1e-6, float(b.norm()))


def test_half_width_weights(backbone: OpenClip) -> None:
    half = load_backbone(backbone.id, dtype="bfloat16")
    assert half.weight_hash == backbone.weight_hash
    found, full = (Classifier(build("anprompt", b)).logits(pixels()) for b in (half, backbone))
    assert (found - full).abs().max() <= 0.25 * max(1.0, float(full.std()))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "resnet": ({"layers": [1, 1, 1, 1], "width": 16}, {}, "ModifiedResNet"),
    "mean of patches": ({"pool_type": "avg"}, {}, "class token"),
    "both ways": ({}, {"no_causal_mask": True}, "not plainly causal"),
    "last position": ({}, {"pool_type": "last"}, "end-of-text"),
    "custom blocks": ({}, {"qk_norm": True}, "custom kind"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_shapes_are_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra [open-clip]", exc_type=Exception)
    from open_clip.model import CLIP, CustomTextCLIP

    vision, text, said = REFUSED[case]
    settings = config("custom" if case == "both ways" else "plain")
    settings["vision_cfg"].update(vision)
    settings["text_cfg"].update(text)
    model = (CustomTextCLIP if settings.pop("custom_text") else CLIP)(**settings)
    with pytest.raises(UserError, match=said):
        OpenClip.from_model(model, open_clip.SimpleTokenizer(), name="model")


def test_a_folder_without_weights_is_refused(backbone: OpenClip, tmp_path: Path) -> None:
    settings = (Path(backbone.id) / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(settings)
    with pytest.raises(UserError, match="Can't load backbone"):
        load_backbone(str(tmp_path))
