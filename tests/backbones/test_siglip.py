"""SigLIP on a tiny random model: the stock forward, every method, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.siglip import HFSiglip
from anprompt.errors import UserError
from anprompt.methods import Classifier, Method, build_method, create_method, methods
from anprompt.methods.zeroshot import ZeroShot
from anprompt.prompting.prompts import ENGINES
from anprompt.training.loop import TrainConfig, make_optimizer

SENTENCES = ["a photo of a cat.", "a photo of a very large red fire engine.", "dog"]
NAMES = ["cat", "golden_retriever", "aurora"]
ALL = [name for name in sorted(methods()) if methods()[name].opens]
TRAINED = [name for name in ALL if methods()[name].trains and not methods()[name].from_features]
LIGHT: dict[str, dict] = {"promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2, "token_width": 16}}


def save_tiny(folder: Path, projection: int = 32, head: bool = True) -> Path:
    """A random SigLIP of 3 blocks per tower, width 32, and a tokenizer of single letters that ends with </s>."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    for letter in "abcdefghijklmnopqrstuvwxyz0123456789 .,-'()":
        vocab[letter] = len(vocab)
    letters = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    letters.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    size = {
        "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_hidden_layers": 3,
    }  # fmt: skip
    config = SiglipConfig(
        text_config={
            "vocab_size": len(vocab), "max_position_embeddings": 64, "projection_size": projection,
            "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, **size,
        },
        vision_config={"image_size": 32, "patch_size": 8, "vision_use_head": head, **size},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(config)
        for parameter in model.parameters():  # biases and norms of their own, so that leaving one out shows
            parameter.data += 0.05 * torch.randn(parameter.shape)
        model.logit_scale.data.fill_(2.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("siglip") / "tiny")


@pytest.fixture(scope="module")
def siglip(folder: Path) -> HFSiglip:
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, HFSiglip)
    return backbone


def pixels(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(7))


def build(name: str, backbone: Backbone, classnames: list[str] = NAMES, seed: int = 1) -> Method:
    return build_method(name, backbone, classnames, settings=LIGHT.get(name, {}), seed=seed)


def total_loss(method: Method) -> Tensor:
    bank, vision = method.prepare(method.trained_classnames), method.image_state(pixels())
    return torch.stack([part.float() for part in method.loss(vision, torch.tensor([0, 1]), bank).values()]).sum()


# --- the backbone -----------------------------------------------------------------------------------
def test_identity_hook_equals_the_stock_forward(siglip: HFSiglip) -> None:
    tokens, x = siglip.complete(siglip.tokenize(SENTENCES)), pixels(3)
    with torch.no_grad():
        text, image = siglip.stock_forward(tokens.ids, x)
        assert torch.equal(siglip.encode_text(SENTENCES), text)
        assert torch.equal(siglip.encode_image(x), image)


def test_ids_are_those_of_the_librarys_padding(siglip: HFSiglip) -> None:
    """The model card's call: padding="max_length"."""
    stock = siglip._tokenizer(SENTENCES, padding="max_length", max_length=64, return_tensors="pt")
    assert torch.equal(siglip.complete(siglip.tokenize(SENTENCES)).ids[:, 1:], stock["input_ids"])
    assert torch.equal(siglip.tokenize(["A Cat"]).ids, siglip.tokenize(["a cat"]).ids)


def test_scale_and_bias_give_the_models_own_logits(siglip: HFSiglip) -> None:
    """Sigmoid logits are scale * cos + b, so zero-shot order and cross-entropy are those of scale * cos."""
    x, ids = pixels(), siglip.complete(siglip.tokenize([f"a photo of a {n}." for n in ("cat", "dog")])).ids
    with torch.no_grad():
        stock = siglip.model(input_ids=ids[:, 1:], pixel_values=x).logits_per_image
        ours = Classifier(build_method("zeroshot", siglip, ["cat", "dog"])).logits(x)
    torch.testing.assert_close(ours + siglip.logit_bias, stock, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.argmax(1), stock.argmax(1))


@pytest.mark.parametrize("split", [1, 2, 3, 4])
def test_trunk_then_tail_is_the_whole(siglip: HFSiglip, split: int) -> None:
    with torch.no_grad():
        x = siglip.embed_image(pixels())
        assert torch.equal(siglip.run_image(siglip.run_image(x, 1, split - 1), split), siglip.run_image(x))
        t = siglip.embed_text(siglip.complete(siglip.tokenize(SENTENCES)).ids)
        assert torch.equal(siglip.run_text(siglip.run_text(t, 1, split - 1), split), siglip.run_text(t))


def test_nothing_attends_to_the_place_in_front(siglip: HFSiglip) -> None:
    with torch.no_grad():
        t = siglip.embed_text(siglip.complete(siglip.tokenize(SENTENCES)).ids)
        x = siglip.embed_image(pixels())
        other_t, other_x = t.clone(), x.clone()
        other_t[:, 0], other_x[:, 0] = 100.0, 100.0
        assert torch.equal(siglip.run_text(other_t)[:, 1:], siglip.run_text(t)[:, 1:])
        assert torch.equal(siglip.read_image(siglip.run_image(other_x)), siglip.read_image(siglip.run_image(x)))


def test_every_position_hears_of_every_other(siglip: HFSiglip) -> None:
    """What makes the causal sharing wrong here: a later word changes an earlier position."""
    with torch.no_grad():
        a, b = (siglip.embed_text(siglip.complete(siglip.tokenize([s])).ids) for s in ("a cat", "a cab"))
        assert not torch.allclose(siglip.run_text(a)[:, 1], siglip.run_text(b)[:, 1], atol=1e-4)


def test_prompts_reach_the_pooled_feature(siglip: HFSiglip) -> None:
    """The head pools all tokens: a token inserted at the last block's entry changes the feature."""
    token = torch.full((2, 1, 32), 3.0)

    def hook(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], token, x[:, 1:]], dim=1) if block == 3 else x

    with torch.no_grad():
        x = siglip.embed_image(pixels())
        out = siglip.run_image(x, hook=hook)
        assert out.shape[1] == x.shape[1] + 1
        assert not torch.allclose(siglip.read_image(out), siglip.read_image(siglip.run_image(x)), atol=1e-4)


def test_projection_is_the_heads_linear_part(siglip: HFSiglip) -> None:
    """For a head whose MLP adds nothing, a token's share of the pooled feature is `token @ P` and biases."""
    head = siglip.model.vision_model.head
    token = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, zero = (head.attention(head.probe, t, t)[0][0, 0] for t in (token, torch.zeros_like(token)))
        torch.testing.assert_close(one - zero, (token @ siglip.image_projection)[0, 0], atol=1e-5, rtol=1e-4)


def test_too_long_a_sentence_is_refused_or_cut(siglip: HFSiglip) -> None:
    with pytest.raises(UserError, match="reads at most 64"):
        siglip.tokenize(["ok", "word " * 20])
    assert siglip.tokenize(["word " * 20], cut=True).ids[0, -1] == 1


# --- methods ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TRAINED)
def test_a_step_trains_saves_and_opens(name: str, siglip: HFSiglip, tmp_path: Path) -> None:
    method = build(name, siglip)
    frozen = {key: value.clone() for key, value in siglip.state_dict().items()}
    before = {key: p.detach().clone() for key, p in method.named_parameters()}
    optimizer = make_optimizer(method, TrainConfig(optimizer="adamw", lr=1e-2))
    losses = []
    for _ in range(3):  # a low-rank residual starts at zero and lets gradients through from step two on
        optimizer.zero_grad()
        loss = total_loss(method)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    for key, parameter in method.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        assert not torch.equal(parameter, before[key]), f"{key} never moved"
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, frozen[key]) for key, value in siglip.state_dict().items())
    save_adapter(tmp_path / "adapter", method)
    opened = load_adapter(tmp_path / "adapter")
    for names in (NAMES, ["ox", "lynx"]):
        assert torch.equal(Classifier(opened, names).logits(pixels()), Classifier(method, names).logits(pixels()))


@pytest.mark.parametrize("name", ALL)
def test_a_logit_does_not_depend_on_the_other_classes(name: str, siglip: HFSiglip) -> None:
    """Padding counts here, and it is always to the trained length."""
    method, names = build(name, siglip), ["ox", "a very long name of a_thing", "lynx"]
    together = Classifier(method, names).logits(pixels())
    alone = torch.cat([Classifier(method, [n]).logits(pixels()) for n in names], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_both_engines_run_whole_sequences(name: str, siglip: HFSiglip) -> None:
    found = []
    for engine in ENGINES:
        method = build(name, siglip)
        method.engine = engine
        found.append(Classifier(method).logits(pixels()))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_half_width_weights(name: str, siglip: HFSiglip, folder: Path) -> None:
    half = load_backbone(str(folder), dtype="bfloat16")
    assert half.weight_hash == siglip.weight_hash
    found, full = (Classifier(build(name, b)).logits(pixels()) for b in (half, siglip))
    assert found.dtype == torch.float32
    assert (found - full).abs().max() <= 0.25 * max(1.0, float(full.std()))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_context_takes_the_places_of_words(position: str, siglip: HFSiglip) -> None:
    """Vectors that equal the words' embeddings give the feature of the sentence, class-specific or not."""
    for specific in (False, True):
        settings = {"context_init": "ab", "n_context": 2, "class_position": position, "class_specific": specific}
        method = build_method("coop", siglip, ["cat", "dog"], settings=settings)
        with torch.no_grad():
            found = method.encode_classes(method.prepare(["cat", "dog"]))["text"]
            written = {"end": "ab{}.", "middle": "a{}b.", "front": "{}ab."}[position]
            wanted = siglip.encode_text([written.format(n) for n in ("cat", "dog")])
        torch.testing.assert_close(found, torch.nn.functional.normalize(wanted, dim=-1), atol=1e-5, rtol=1e-4)


# --- refusals ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("need", "words"), [("causal_text", "causal attention"), ("class_token", "class token")])
def test_a_method_says_what_it_needs(need: str, words: str, siglip: HFSiglip, tiny_backbone: Backbone) -> None:
    needy = type("Needy", (ZeroShot,), {"name": "needy", "needs": (need,)})
    assert create_method(needy, tiny_backbone, NAMES).trained_classnames == tuple(NAMES)
    with pytest.raises(UserError, match=f"'needy' needs .*{words}.* does not have"):
        create_method(needy, siglip, NAMES)


def test_an_adapter_of_other_weights_is_refused(siglip: HFSiglip, tiny_backbone: Backbone, tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter", build("coop", tiny_backbone))
    with pytest.raises(UserError, match="other weights"):
        load_adapter(tmp_path / "adapter", backbone=siglip)


def edited(folder: Path, tmp_path: Path, change: dict) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **change}))
    return copy


def test_naflex_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NaFlex.*google/siglip2-base-patch16-224"):
        load_backbone(str(edited(folder, tmp_path, {"model_type": "siglip2"})))


def test_other_types_are_refused_with_the_supported_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of type 'bert'; supported here: 'clip', 'siglip'"):
        load_backbone(str(edited(folder, tmp_path, {"model_type": "bert"})))


def test_a_model_without_pooling_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pooling head"):
        load_backbone(str(save_tiny(tmp_path / "m", head=False)))


def test_features_of_two_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text features have 24 channels"):
        load_backbone(str(save_tiny(tmp_path / "m", projection=24)))


def test_a_tokenizer_without_end_token_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = edited(folder, tmp_path, {})
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="no end token"):
        load_backbone(str(copy))
