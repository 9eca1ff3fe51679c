"""Exact sharing against the plain pass: outputs and gradients, over prompts, blocks and class lists."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anprompt.backbones import Backbone, Tokens, load_backbone
from anprompt.experiments.measurement import state_key
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.methods.classifier import Classifier
from anprompt.prompting import shared_text as sharing
from anprompt.prompting.packing import Packing, pack, shared_length
from anprompt.prompting.prompts import ClassState, DeepTokens, class_state, frozen_features
from anprompt.prompting.shared_text import read_text_shared, run_image_read, text_memory

LISTS = {
    "one": ["cat"],
    "two equal beginnings": ["red cat", "red dog"],
    "no shared words": ["cat", "red panda", "a very large fire engine", "dog"],
    "one is the beginning of another": ["red", "red panda", "red panda bear"],
}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-12))


def deep(backbone: Backbone, first: int, width: int, count: int, beta: float, seed: int) -> tuple[Tensor, DeepTokens]:
    blocks = backbone.dims.text_depth - first + 1
    tokens = torch.randn(blocks, count, width, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    return tokens, DeepTokens(list(tokens), first, beta)


def read_shared(backbone: Backbone, bank: ClassState, first: int, hook: DeepTokens) -> Tensor:
    return read_text_shared(backbone, bank.prefix, bank.rows, bank.packing, first, hook)[0]


@pytest.mark.parametrize("template", ["a photo of a {}.", "{} texture."])
@pytest.mark.parametrize("names", LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("first", [1, 3])
def test_text_equals_the_plain_pass(tiny_backbone: Backbone, names: list[str], first: int, template: str) -> None:
    bank = class_state(tiny_backbone, names, [template.format(n) for n in names], first)
    tokens, hook = deep(tiny_backbone, first, tiny_backbone.dims.text_width, 3, 0.8, seed=first)
    plain = tiny_backbone.read_text(tiny_backbone.run_text(bank.trunk, first, hook=hook), bank.tokens.eot + 3)
    shared = read_shared(tiny_backbone, bank, first, hook)
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-5)
    weights = torch.arange(1.0, plain.numel() + 1).view_as(plain)
    expected = torch.autograd.grad((plain * weights).sum(), tokens)[0]
    assert relative(torch.autograd.grad((shared * weights).sum(), tokens)[0], expected) < 1e-5


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("rows", [8, 40])
def test_parts_of_a_class_list_equal_the_plain_pass(
    tiny_backbone: Backbone, rows: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{a} {b}" for a in ("red", "very large", "a") for b in ("cat", "fire engine", "dog", "panda bear")]
    monkeypatch.setitem(sharing.ROWS, "cpu", rows)
    monkeypatch.setattr("anprompt.prompting.packing.TILE", 8)
    with torch.no_grad():
        tokens = tiny_backbone.tokenize(names)
        frozen = torch.nn.functional.normalize(tiny_backbone.encode_text(names), dim=-1)
    bank = class_state(tiny_backbone, names, names, 2)
    assert len(bank.packing.parts(rows)) > 1 and len(bank.tokens) == len(tokens)
    torch.testing.assert_close(bank.frozen, frozen, rtol=1e-4, atol=1e-5)
    given, hook = deep(tiny_backbone, 2, tiny_backbone.dims.text_width, 3, 0.8, seed=5)
    plain = tiny_backbone.read_text(tiny_backbone.run_text(bank.trunk, 2, hook=hook), bank.tokens.eot + 3)
    with text_memory(0 if again else 1 << 40):
        shared = read_shared(tiny_backbone, bank, 2, hook)
    torch.testing.assert_close(shared, plain, rtol=1e-4, atol=1e-5)
    weights = torch.arange(1.0, plain.numel() + 1).view_as(plain)
    expected = torch.autograd.grad((plain * weights).sum(), given)[0]
    assert relative(torch.autograd.grad((shared * weights).sum(), given)[0], expected) < 1e-5


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60), tile=st.integers(1, 20), rows=st.integers(1, 80))
@settings(max_examples=40, deadline=None)
def test_packing_holds_every_row_once_and_whole(lengths: list[int], tile: int, rows: int) -> None:
    eot = torch.tensor(lengths) + 1  # two shared positions
    ids = torch.arange(len(lengths) * 11).view(len(lengths), 11)
    packing = pack(Tokens(ids, eot), shared=2, tile=tile)
    x = ids[..., None].float() * torch.ones(3)
    x[:, :2] = x[:1, :2]
    back = packing.unpack(*packing.pack(x), length=11)
    for c, end in enumerate(eot.tolist()):
        assert torch.equal(back[c, : end + 1], x[c, : end + 1])
    assert torch.equal(packing.pack(x)[1][0, packing.ends, 0], ids[torch.arange(len(ids)), eot].float())
    check_parts(packing, rows)


@given(
    suffixes=st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=40),
    tile=st.integers(1, 20),
    rows=st.integers(1, 80),
)
@settings(max_examples=60, deadline=None)
def test_merged_packing_holds_common_beginnings_once(suffixes: list[list[int]], tile: int, rows: int) -> None:
    end = 9
    whole = [[7, 8, *suffix, end] for suffix in suffixes]  # two shared positions
    ids = torch.tensor([row + [end] * (9 - len(row)) for row in whole])
    eot = torch.tensor([len(row) - 1 for row in whole])
    packing = pack(Tokens(ids, eot), shared=2, tile=tile, merge=True)
    # what a row computes depends on all ids up to it
    x = torch.stack([ids, torch.tensor([[hash(tuple(r[: i + 1])) % 9973 for i in range(9)] for r in ids.tolist()])], 2)
    back = packing.unpack(*packing.pack(x.float()), length=9)
    for c, last in enumerate(eot.tolist()):
        assert torch.equal(back[c, : last + 1], x[c, : last + 1].float())
    check_parts(packing, rows)
    tree = {tuple(row[: i + 1]) for row in whole for i in range(2, len(row))}
    used = set(packing.where[packing.where >= 0].tolist())
    assert len(used) <= sum(len(row) - 2 for row in whole)
    if tile == 20 and len(tree) <= 20:
        assert len(used) == len(tree)


def check_parts(packing: Packing, rows: int) -> None:
    """Parts cover all rows in order, and a read sees exactly the rows of its own class."""
    parts, reads = packing.parts(rows), []
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]] and parts[-1].stop == packing.rows
    for part in parts:
        seen = part.queries.flatten(0, 1)[part.slots]
        for row, mask in zip(part.reads.tolist(), seen):
            reads.append(part.start + row)
            path = packing.where[(packing.ends == part.start + row).nonzero()[0, 0]]
            first = (part.start + row) // packing.height * packing.height
            assert (mask.nonzero()[:, 0] + first).tolist() == path[path >= 0].tolist()
    assert torch.equal(torch.tensor(reads)[packing.rank], packing.ends)


def test_features_of_many_sentences_equal_those_of_each(tiny_backbone: Backbone) -> None:
    """In any order, with repetitions, more of them than one chunk holds, and too long ones cut."""
    words = ["red", "red panda", "red panda bear", "fire", "a", "b"]
    sentences = [f"{a} of {b}" for a in words for b in words] + ["red", "x" * 200, "red", "y"]
    found = frozen_features(tiny_backbone, sentences, cut=True, chunk=7)
    each = torch.cat([tiny_backbone.encode_text([sentence], True) for sentence in sentences])
    torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[-4], found[-2])


def test_kept_features_go_with_the_weights_they_came_from(tiny_folder: Path) -> None:
    backbone = load_backbone(tiny_folder)
    first = frozen_features(backbone, ["red", "blue"])
    assert frozen_features(backbone, ["red", "blue"]) is first
    assert torch.equal(frozen_features(backbone, ["blue", "red"]), first[[1, 0]])
    with torch.no_grad():
        backbone.model.text_projection.weight.mul_(2)
    torch.testing.assert_close(frozen_features(backbone, ["red", "blue"]), 2 * first)


@given(first=st.integers(1, 4), count=st.integers(1, 4), beta=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_image_equals_the_plain_pass(tiny_backbone: Backbone, first: int, count: int, beta: float, seed: int) -> None:
    width = tiny_backbone.dims.vision_width
    x = torch.randn(2, 17, width, generator=torch.Generator().manual_seed(seed))
    tokens, hook = deep(tiny_backbone, first, width, count, beta, seed)
    plain = tiny_backbone.run_image(x, first, hook=hook)[:, : 1 + count]
    read = run_image_read(tiny_backbone, x, first, 1 + count, hook)
    torch.testing.assert_close(read, plain, rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(plain.square().sum(), tokens)[0]
    assert relative(torch.autograd.grad(read.square().sum(), tokens)[0], expected) < 1e-5


def test_shared_length_stops_at_the_first_difference_and_before_any_end() -> None:
    ids = torch.tensor([[9, 1, 2, 3, 8, 8], [9, 1, 2, 4, 5, 8]])
    assert shared_length(Tokens(ids, torch.tensor([4, 5]))) == 3
    assert shared_length(Tokens(ids[:1], torch.tensor([4]))) == 4
    assert shared_length(Tokens(torch.tensor([[9, 1, 8, 8], [9, 1, 8, 8]]), torch.tensor([2, 2]))) == 2


def test_both_engines_train_anprompt_alike(tiny_backbone: Backbone) -> None:
    names = ["cat", "red panda", "fire engine"]
    size = tiny_backbone.dims.image_size
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    gradients = {}
    for engine in ("shared", "plain"):
        method = build_method("anprompt", tiny_backbone, names, settings={"token_width": 16, "draws": 2}, seed=1)
        method.engine = engine
        parts = method.loss(method.image_state(pixels), torch.tensor([0, 1, 2, 0]), method.prepare(names))
        sum(parts.values()).backward()  # type: ignore[union-attr]
        gradients[engine] = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    assert relative(gradients["shared"], gradients["plain"]) < 1e-5


def looking(backbone: Backbone, name: str) -> tuple[Method, Tensor]:
    """A method of two classes, and two pictures for it."""
    size = backbone.dims.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return build_method(name, backbone, ["cat", "red panda"], settings={}, seed=1), pixels


@pytest.mark.parametrize("name", ["zeroshot", "coop", "cocoop"])
def test_use_keeps_the_frozen_features_alone_where_logits_read_nothing_else(tiny_backbone: Backbone, name: str) -> None:
    method, pixels = looking(tiny_backbone, name)
    seen, looked = method.image_state(pixels), method.image_state(pixels, method.reads)
    assert looked.trunk.shape == (2, 0) and torch.equal(looked.frozen, seen.frozen)
    classifier = Classifier(method)
    assert torch.equal(classifier.logits(pixels), method.logits(seen, classifier.text, classifier.head))
    others = [looking(tiny_backbone, other)[0] for other in ("zeroshot", "coop", "cocoop")]
    assert {state_key(other) for other in others} == {state_key(method)}  # so what one sees is kept for the others


@pytest.mark.parametrize("name", ["anprompt", "mmrl", "mmrlpp", "promptsrc"])
def test_use_leaves_out_the_frozen_features_and_nothing_else(tiny_backbone: Backbone, name: str) -> None:
    method, pixels = looking(tiny_backbone, name)
    seen, looked = method.image_state(pixels), method.image_state(pixels, method.reads)
    assert looked.frozen.shape == (2, 0) and torch.equal(looked.trunk, seen.trunk)
    classifier = Classifier(method)
    expected = method.logits(seen, classifier.text, classifier.head)
    torch.testing.assert_close(classifier.logits(pixels), expected.detach())
