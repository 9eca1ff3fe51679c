"""What each method does beyond the contract, against words, hand-made sums and plain CLIP."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import anprompt
from anprompt.backbones import Backbone
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.experiments import protocols
from anprompt.methods import (
    Classifier,
    Method,
    build_method,
    create_method,
    list_methods,
    method_class,
    preset,
    preset_names,
)
from anprompt.methods.cocoop import CoCoOp
from anprompt.methods.context import DeepContext, context_state, context_words
from anprompt.methods.coop import CoOp
from anprompt.methods.maple import MaPLe
from anprompt.methods.mmrl import MMRL
from anprompt.methods.promptsrc import PromptSRC
from anprompt.methods.templates import IMAGENET_TEMPLATES
from anprompt.prompting.prompts import unit
from anprompt.training.loop import TrainConfig, fit

NAMES = ["cat", "golden_retriever", "Boeing 737-800"]
PHOTO = "a photo of a {}."


def build(name: str, backbone: Backbone, seed: int = 1, **settings: Any) -> Any:
    return build_method(name, backbone, NAMES, settings=settings, seed=seed)


def pixels(backbone: Backbone, count: int = 3) -> Tensor:
    size = backbone.dims.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def logits(method: Method, names: list[str] | None = None, head: str = "auto") -> Tensor:
    return Classifier(method, names, head).logits(pixels(method.backbone))


# --- zero-shot --------------------------------------------------------------------------------------
def test_zeroshot_is_plain_clip(tiny_backbone: Backbone) -> None:
    with torch.no_grad():
        text = unit(tiny_backbone.encode_text([PHOTO.format(n.replace("_", " ")) for n in NAMES]))
        image = unit(tiny_backbone.encode_image(pixels(tiny_backbone)))
    expected = tiny_backbone.logit_scale * image @ text.T
    torch.testing.assert_close(logits(build("zeroshot", tiny_backbone)), expected, atol=1e-5, rtol=1e-5)


def test_template_ensemble_is_the_unit_mean_of_unit_features(tiny_backbone: Backbone) -> None:
    templates = ("a photo of a {}.", "art of the {}.", "{} in a video game.")
    method = build("zeroshot-ensemble", tiny_backbone, templates=templates)
    with torch.no_grad():
        by_hand = torch.stack([
            unit(unit(tiny_backbone.encode_text([t.format(n.replace("_", " ")) for t in templates])).mean(0))
            for n in NAMES
        ])  # fmt: skip
    text = method.encode_classes(method.prepare(NAMES))["text"]
    torch.testing.assert_close(text, by_hand, atol=1e-6, rtol=1e-5)
    assert len(build("zeroshot-ensemble", tiny_backbone).in_templates("cat")) == 60


def test_descriptions_may_differ_in_number(tiny_backbone: Backbone) -> None:
    known = {"cat": ["A small pet.", "It purrs."], "golden retriever": ["A dog."], "Boeing 737-800": ["x"] * 5}
    method = build_method("zeroshot-descriptions", tiny_backbone, NAMES, descriptions=known)
    text = method.encode_classes(method.prepare(NAMES))["text"]
    with torch.no_grad():
        dog = unit(tiny_backbone.encode_text(["A dog."]))
    torch.testing.assert_close(text[1:2], dog, atol=1e-6, rtol=1e-5)
    with pytest.raises(UserError, match="No description for class 'lynx'"):
        Classifier(method, ["lynx"])


def test_the_shipped_templates_have_one_place_each() -> None:
    assert len(set(IMAGENET_TEMPLATES)) == 60
    assert all(t.count("{}") == 1 for t in IMAGENET_TEMPLATES)


# --- context ----------------------------------------------------------------------------------------
def test_coop_from_words_starts_as_zero_shot(tiny_backbone: Backbone) -> None:
    """Vectors that equal the words' embeddings change nothing yet."""
    start = logits(build("coop", tiny_backbone, context_init="a photo of a", n_context=0))
    torch.testing.assert_close(start, logits(build("zeroshot", tiny_backbone)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_class_position(tiny_backbone: Backbone, position: str) -> None:
    words = context_words(tiny_backbone, "ab", 0)
    bank = context_state(tiny_backbone, ["ox", "lynx"], words, len(words), position)
    sentence = {"end": "ab {}.", "middle": "a {} b.", "front": "{} ab."}[position]
    for row, name in zip(range(2), ["ox", "lynx"]):
        length = int(bank.tokens.eot[row]) + 1
        slots = bank.slots[row].tolist()
        ids = bank.tokens.ids[row, :length].tolist()
        assert [ids[i] for i in slots] == words
        if position != "middle":  # "a" and "b" alone are other tokens than in "ab"
            assert ids == tiny_backbone.tokenize([sentence.format(name)]).ids[0].tolist()
        rest = [t for i, t in enumerate(ids) if i not in slots]
        assert rest == tiny_backbone.tokenize([f"{name}."]).ids[0].tolist()
    assert torch.equal(bank.tokens.eot, tiny_backbone.tokenize(["ab ox.", "ab lynx."]).eot)


def test_class_specific_context(tiny_backbone: Backbone) -> None:
    method = build("coop", tiny_backbone, class_specific=True, context_init="", n_context=3)
    assert method.context.shape == (3, 3, tiny_backbone.dims.text_width)
    turned = logits(method, [NAMES[2], NAMES[0]])
    torch.testing.assert_close(turned, logits(method)[:, [2, 0]], atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="Class 'lynx' has no context"):
        Classifier(method, ["cat", "lynx"])


def test_context_refusals(tiny_backbone: Backbone) -> None:
    with pytest.raises(UserError, match="Unknown class_position 'centre'"):
        build("coop", tiny_backbone, class_position="centre")
    with pytest.raises(UserError, match="has 9 tokens, but n_context is 12"):
        build("maple", tiny_backbone, n_context=12)
    with pytest.raises(UserError, match="at least 1"):
        build("coop", tiny_backbone, n_context=0, context_init="")
    with pytest.raises(UserError, match="with 9 context tokens exceeds 64"):
        build("cocoop", tiny_backbone).prepare(["x" * 60])
    with pytest.raises(UserError, match="Prompt depth 9 does not fit"):
        build("promptsrc", tiny_backbone, depth=9)
    with pytest.raises(UserError, match="Did you mean 'n_context'"):
        build("coop", tiny_backbone, n_contxt=4)


def test_deep_context_replaces_at_its_blocks_only() -> None:
    x, tokens = torch.zeros(1, 6, 4), torch.arange(1.0, 3.0)[:, None, None].expand(2, 2, 4)
    front, back = DeepContext(tokens), DeepContext(tokens, last=True)
    assert torch.equal(front(1, x), x) and torch.equal(back(4, x), x)
    assert front(2, x)[0, :, 0].tolist() == [0, 1, 1, 0, 0, 0]
    assert back(3, x)[0, :, 0].tolist() == [0, 0, 0, 0, 2, 2]


# --- CoCoOp -----------------------------------------------------------------------------------------
def test_cocoop_answers_do_not_depend_on_the_batch(tiny_backbone: Backbone) -> None:
    method: CoCoOp = build("cocoop", tiny_backbone)
    classifier, x = Classifier(method), pixels(tiny_backbone)
    alone = torch.cat([classifier.logits(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(classifier.logits(x), alone, atol=1e-4, rtol=1e-4)


def test_cocoop_without_a_shift_is_coop(tiny_backbone: Backbone) -> None:
    method: CoCoOp = build("cocoop", tiny_backbone)
    with torch.no_grad():
        method.meta_net[2].weight.zero_(), method.meta_net[2].bias.zero_()
    coop: CoOp = build("coop", tiny_backbone)
    torch.testing.assert_close(logits(method), logits(coop), atol=1e-4, rtol=1e-4)


# --- MaPLe ------------------------------------------------------------------------------------------
def test_maple_couples_vision_to_text(tiny_backbone: Backbone) -> None:
    method: MaPLe = build("maple", tiny_backbone)
    assert len(method.text_prompts) == 3  # three quarters of four blocks
    vision = method.image_state(pixels(tiny_backbone))
    before = method.image_features(vision)
    with torch.no_grad():
        method.text_prompts[2] += 1.0
    assert not torch.allclose(before, method.image_features(vision))


# --- PromptSRC --------------------------------------------------------------------------------------
def test_promptsrc_teacher_averages_raw_features(tiny_backbone: Backbone) -> None:
    method: PromptSRC = build("promptsrc", tiny_backbone, teacher_templates=3)
    with torch.no_grad():
        raw = tiny_backbone.encode_text([t.format("golden retriever") for t in IMAGENET_TEMPLATES[:3]])
    torch.testing.assert_close(method.teacher(tuple(NAMES))[1], unit(raw.mean(0)), atol=1e-6, rtol=1e-5)
    assert method.teacher(("cat",)).shape[0] == 1  # another list is never answered with the old one


def test_epoch_weights_are_the_normalised_gaussian(tiny_backbone: Backbone) -> None:
    method: PromptSRC = build("promptsrc", tiny_backbone, average_mean=3.0, average_std=2.0)
    epoch = torch.arange(1, 6, dtype=torch.float64)
    gauss = torch.exp(-0.5 * ((epoch - 3) / 2) ** 2)
    torch.testing.assert_close(method.epoch_weights(5), gauss / gauss.sum())
    far: PromptSRC = build("promptsrc", tiny_backbone, average_mean=500.0, average_std=0.1)
    assert far.epoch_weights(2).tolist() == [0.0, 1.0]


def test_prompts_are_the_weighted_mean_after_the_last_epoch(tiny_backbone: Backbone) -> None:
    method: PromptSRC = build("promptsrc", tiny_backbone, average_mean=2.0, average_std=1.0)
    weights, expected = method.epoch_weights(3).float(), torch.zeros_like(method.text_prompts)
    for epoch in range(3):
        with torch.no_grad():
            method.text_prompts += 1.0 + epoch
        expected += weights[epoch] * method.text_prompts.detach()
        method.after_epoch(epoch, 3)
    torch.testing.assert_close(method.text_prompts.detach(), expected)
    method.after_epoch(0, 3)  # a second training starts its own average
    torch.testing.assert_close(method.text_average, weights[0] * method.text_prompts.detach())


class DecodedImages:
    """Eight random pictures of three classes, enough for the training loop."""

    fingerprint = "pictures"

    def __init__(self, backbone: Backbone) -> None:
        self.pixels, self.labels = pixels(backbone, 8), torch.arange(8) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        return self.pixels[indices]


class Killed(Exception):
    pass


def test_an_interrupted_average_goes_on(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The sums so far are part of the state, or a resumed run would average half of its epochs."""
    views = DecodedImages(tiny_backbone)
    config = TrainConfig(optimizer="sgd", lr=0.1, epochs=4, batch_size=4, warmup_epochs=0)

    def kill(epoch: int, means: Any) -> None:
        if epoch == 1:
            raise Killed

    settings: dict[str, Any] = {"teacher_templates": 1, "average_mean": 2.0}
    whole, broken, resumed = (build("promptsrc", tiny_backbone, **settings) for _ in range(3))
    fit(whole, views, config)
    with pytest.raises(Killed):
        fit(broken, views, config, state=tmp_path, on_epoch=kill)
    assert fit(resumed, views, config, state=tmp_path).resumed_from == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))


# --- MMRL -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mmrl", "mmrlpp"])
def test_token_projection_starts_as_the_frozen_one(tiny_backbone: Backbone, name: str) -> None:
    assert torch.equal(build(name, tiny_backbone).token_projection(), tiny_backbone.image_projection)


@pytest.mark.parametrize("name", ["mmrl", "mmrlpp"])
def test_unseen_classes_never_meet_the_token_head(tiny_backbone: Backbone, name: str) -> None:
    method: MMRL = build(name, tiny_backbone)
    before = {head: logits(method, head=head) for head in ("trained", "unseen")}
    trained = dict(method.named_parameters())["projection" if name == "mmrl" else "projection_up"]
    with torch.no_grad():
        trained.add_(torch.randn(trained.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(before["unseen"], logits(method, head="unseen"))
    assert not torch.allclose(before["trained"], logits(method, head="trained"))


def test_mmrlpp_with_full_new_tokens_differs_from_blended_ones(tiny_backbone: Backbone) -> None:
    full, blended = build("mmrlpp", tiny_backbone, beta=1.0), build("mmrlpp", tiny_backbone, beta=0.5)
    assert not torch.allclose(logits(full), logits(blended))
    with pytest.raises(UserError, match=r"beta must lie in 0\.\.1"):
        build("mmrlpp", tiny_backbone, beta=1.5)


def test_projections_start_as_in_the_official_code(tiny_backbone: Backbone) -> None:
    """MMRL copies one linear layer for all blocks, MaPLe all but the first; their biases are not zero."""
    mmrl, maple, pp = (build("mmrl", tiny_backbone), build("maple", tiny_backbone), build("mmrlpp", tiny_backbone))
    for linear in (mmrl.text_tokens, mmrl.vision_tokens):
        assert all(torch.equal(linear.weight[0], w) for w in linear.weight)
        assert all(torch.equal(linear.bias[0], b) for b in linear.bias) and linear.bias.abs().min() > 0
    first, second, third = maple.to_vision.weight
    assert torch.equal(second, third) and not torch.equal(first, second)
    assert all(torch.equal(pp.text_tokens.bias[0], b) for b in pp.text_tokens.bias)
    assert not pp.text_tokens.down.any() and pp.text_tokens.up.any()


# --- presets ----------------------------------------------------------------------------------------
PROBES = ("linear-probe", "ncm", "tip-adapter", "tip-adapter-f", "clip-adapter", "lp++", "clap")
PROTOCOLS = sorted({one.recipe or one.name for one in protocols.PROTOCOLS.values()})


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_under_every_protocol(name: str) -> None:
    for protocol in PROTOCOLS:
        recipe = preset(name, protocol)
        method_class(recipe.method).Config.from_dict(recipe.settings)
        TrainConfig.from_dict(recipe.train)


@pytest.mark.parametrize("name", preset_names())
def test_only_named_presets_depend_on_the_target(name: str) -> None:
    """Failure mode: hyper-parameters per target data set, where nobody sees them."""
    targets = ["imagenet", "eurosat", "dtd", "stanford_cars", "food101"]
    differs = any(preset(name, p, dataset=t) != preset(name, p) for p in PROTOCOLS for t in targets)
    assert differs == name.endswith("-per-dataset")


def test_published_recipes() -> None:
    """Spot checks against the papers' tables, so that an edit of a preset is noticed."""
    assert preset("coop", "few-shot").train["epochs"] == 200
    assert [preset("coop", "few-shot", shots=n).train["epochs"] for n in (16, 8, 4, 2, 1)] == [200, 200, 100, 100, 50]
    assert preset("cocoop").train["batch_size"] == 1
    assert preset("maple", "cross-dataset").settings["depth"] == 3
    assert preset("maple", protocols.PROTOCOLS["domains"].recipe).train["lr"] == 2.6e-3
    assert preset("promptsrc").settings["average_mean"] == 15 and preset("promptsrc").train["epochs"] == 20
    assert preset("promptsrc-per-dataset", "few-shot", dataset="eurosat").settings["average_mean"] == 45
    assert preset("promptsrc-per-dataset", "few-shot").settings["average_mean"] == 30
    assert preset("mmrl-per-dataset", dataset="eurosat").settings["token_width"] == 2048
    assert preset("mmrl-per-dataset", dataset="imagenet").train["epochs"] == 5
    assert preset("mmrlpp", "few-shot").train["lr"] == 2e-3
    assert preset("mmrlpp-per-dataset", dataset="food101").settings["beta"] == 0.1


def test_every_value_of_a_peer_preset_names_its_source() -> None:
    import anprompt.methods

    folder = Path(anprompt.methods.__file__).parents[1] / "presets"
    for name in ("coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp", *PROBES):
        for line in (folder / f"{name}.toml").read_text().splitlines():
            if " = " in line and not line.startswith(("#", "method", "extends")):
                assert "#" in line or "epochs = 100" in line, f"{name}: {line!r} has no source"


# --- the command that lists them --------------------------------------------------------------------
def test_the_list_counts_on_the_chosen_backbone(
    tiny_backbone: Backbone, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["methods", "--backbone", str(tiny_folder), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == preset_names()
    dims = tiny_backbone.dims
    words = len(context_words(tiny_backbone, "a photo of a", 0))
    assert rows["coop"]["trained_parameters"] == words * dims.text_width
    assert rows["zeroshot"]["trained_parameters"] == 0 and rows["zeroshot"]["train"] == {}
    for name, row in rows.items():
        classes = NAMES[: row["counted_for_classes"]] if row["counted_for_classes"] else NAMES
        built = build_method(name, tiny_backbone, classes, fresh=False)
        assert row["trained_parameters"] == built.trained_parameters(), name
        assert row["settings"] == built.config.to_dict() and row["paper"] == built.paper
    assert rows["coop"]["train"]["epochs"] == 50 and rows["coop"]["train"]["batch_size"] == 32


def test_one_preset_is_shown_with_its_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "maple"]) == 0
    out = capsys.readouterr().out
    assert "[code] PROMPT_DEPTH 9 of 12" in out and "[protocol.cross-dataset.train]" in out
    assert "arXiv 2210.03117" in out and "lr=0.0035" in out
    assert main(["methods", "mapel"]) == 2
    assert "Did you mean 'maple'?" in capsys.readouterr().err


def test_the_list_names_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "sgd lr 0.0035, 5 epochs, batch 4" in out and "nothing to train" in out
    assert "depth=0" in out and "embedded" in out


def test_the_page_of_methods_names_every_file_and_paper() -> None:
    folder = Path(__file__).parents[2]
    page = (folder / "docs/methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| (arXiv [\d.]+) \| `(\w+)\.py` \|", page, re.MULTILINE)
    files = {method_class(name).__module__.rpartition(".")[2]: method_class(name) for name in list_methods()}
    assert {name for _, name in rows} == set(files)
    for paper, name in rows:
        assert (folder / f"src/anprompt/methods/{name}.py").is_file()
        assert paper == files[name].paper


def test_names_of_before_forward_with_a_warning(tiny_backbone: Backbone) -> None:
    import anprompt.methods as room

    for old, new in {"method_class": "get_method", "preset": "get_preset", "preset_names": "list_presets"}.items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
            assert getattr(room, old) is getattr(room, new)
    with pytest.warns(DeprecationWarning):
        assert sorted(room.methods()) == room.list_methods()
    with pytest.warns(DeprecationWarning, match="create_method"):
        made = anprompt.build_method("coop", tiny_backbone, ["cat", "dog"])
    with pytest.raises(AttributeError, match="no attribute 'metods'"):
        room.metods  # noqa: B018
    again = create_method(type(made), tiny_backbone, ["cat", "dog"], settings=made.config)
    assert again.preset == "coop" and again.config == made.config
