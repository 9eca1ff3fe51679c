"""What every backbone keeps: frozen, the same in pieces as at once, true about its sizes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.prompting.prompts import DeepTokens, class_state, prompted_image, prompted_text, see
from anprompt.testing.methods import pixels
from anprompt.testing.outcomes import Outcome, require, run_checks

SENTENCES = ("a photo of a cat.", "a photo of a very large red fire engine.", "dog")


def _image_start(backbone: Backbone) -> Tensor:
    """What enters image block 1, [2, N, D_v]."""
    return backbone.pre_norm(backbone.embed_image(pixels(backbone).to(backbone.dtype)))


def dims_are_true(backbone: Backbone) -> None:
    """`dims`, `mean`, `std`, `logit_scale` and the fingerprint are those of the model, by the shapes that come out."""
    dims, tokens = backbone.dims, backbone.complete(backbone.tokenize(SENTENCES))
    shapes = {
        "embed_text": (backbone.embed_text(tokens.ids), (len(SENTENCES), tokens.ids.shape[1], dims.text_width)),
        "embed_image": (_image_start(backbone)[:, :1], (2, 1, dims.vision_width)),
        "encode_text": (backbone.encode_text(SENTENCES), (len(SENTENCES), dims.embed)),
        "encode_image": (backbone.encode_image(pixels(backbone).to(backbone.dtype)), (2, dims.embed)),
        "image_projection": (backbone.image_projection, (dims.vision_width, dims.embed)),
    }
    for name, (value, expected) in shapes.items():
        require(tuple(value.shape) == expected, f"{name} gives {list(value.shape)}, not {list(expected)}")
        require(bool(torch.isfinite(value).all()), f"{name} is not finite")
    require(len(backbone.mean) == len(backbone.std) == 3, "mean and std are not of three channels")
    require(math.isfinite(backbone.logit_scale) and backbone.logit_scale > 0, "logit_scale is not above 0")
    require(bool(backbone.id) and backbone.id.isprintable(), "id is not one printable line")
    require(len(backbone.weight_hash) == 64, "weight_hash is not a sha256")


def frozen_even_when_asked_to_train(backbone: Backbone) -> None:
    """`train()` changes nothing, and no weight asks for gradients."""
    backbone.train()
    require(not backbone.training, "train() puts it into training mode")
    for name, parameter in backbone.named_parameters():
        require(not parameter.requires_grad, f"{name} asks for gradients; call freeze() when it is loaded")


def pieces_are_the_whole(backbone: Backbone) -> None:
    """Blocks 1 to k and then k + 1 to the end give what all blocks give at once, bit for bit, on both sides."""
    tokens = backbone.complete(backbone.tokenize(SENTENCES))
    towers = {
        "run_image": (backbone.run_image, _image_start(backbone), backbone.dims.vision_depth),
        "run_text": (backbone.run_text, backbone.embed_text(tokens.ids), backbone.dims.text_depth),
    }
    for name, (run, x, depth) in towers.items():
        whole = run(x)
        for split in sorted({1, 2, depth}):
            pieces = run(run(x, 1, split - 1), split)
            require(torch.equal(pieces, whole), f"{name} cut before block {split} of {depth} gives another result")


def hook_sees_every_block_once(backbone: Backbone) -> None:
    """A hook is called once a block, in order from 1; one that changes nothing changes nothing."""
    tokens = backbone.complete(backbone.tokenize(SENTENCES))
    towers = {
        "run_image": (backbone.run_image, _image_start(backbone), backbone.dims.vision_depth),
        "run_text": (backbone.run_text, backbone.embed_text(tokens.ids), backbone.dims.text_depth),
    }
    for name, (run, x, depth) in towers.items():
        seen: list[int] = []

        def note(block: int, x: Tensor, seen: list[int] = seen) -> Tensor:
            seen.append(block)
            return x

        require(
            torch.equal(run(x, hook=note), run(x)), f"{name} under a hook that changes nothing gives another result"
        )
        require(seen == list(range(1, depth + 1)), f"{name} calls its hook at blocks {seen}, not at 1 to {depth}")


def stock_forward_is_met(backbone: Backbone) -> None:
    """Where it has a `stock_forward` (the wrapped library's own), the features equal it bit for bit."""
    stock = getattr(backbone, "stock_forward", None)
    if stock is None:
        return
    x = pixels(backbone).to(backbone.dtype)
    text, image = stock(backbone.tokenize(SENTENCES).ids, x)
    require(torch.equal(backbone.encode_text(SENTENCES), text), "text features differ from the stock forward")
    require(torch.equal(backbone.encode_image(x), image), "image features differ from the stock forward")


def sentences_do_not_know_each_other(backbone: Backbone) -> None:
    """A sentence's feature does not depend on the sentences beside it, nor on padding (1e-5)."""
    together = backbone.encode_text(SENTENCES)
    alone = torch.cat([backbone.encode_text([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def long_sentences_are_refused(backbone: Backbone) -> None:
    """A sentence that is too long is a `UserError`, and is cut to what fits where that is asked for."""
    long = ["word " * backbone.dims.context_length]
    try:
        backbone.tokenize(long)
    except UserError:
        pass
    else:
        raise AssertionError(f"tokenize takes {backbone.dims.context_length} words without a word")
    cut = backbone.tokenize(long, cut=True)
    length = cut.ids.shape[1]
    require(length <= backbone.dims.context_length, f"cut=True leaves {length} tokens")
    require(int(cut.eot[0]) < length, "cut=True loses the end token")


def half_precision_encodes(backbone: Backbone) -> None:
    """In bfloat16 both sides give finite features of that type, under the same fingerprint."""
    half = copy.deepcopy(backbone).to(torch.bfloat16)
    half.freeze()
    image, text = half.encode_image(pixels(half).to(half.dtype)), half.encode_text(SENTENCES)
    for name, value in (("image", image), ("text", text)):
        require(bool(torch.isfinite(value).all()), f"{name} features are not finite in bfloat16")
    require(half.weight_hash == backbone.weight_hash, "weight_hash depends on the precision")


def engines_agree(backbone: Backbone) -> None:
    """Exact sharing by `text_parts` and `vision_parts` equals whole sequences with prompts in (1e-5)."""
    generator, dims = torch.Generator().manual_seed(1), backbone.dims
    first, count = max(1, min(dims.text_depth, dims.vision_depth) // 2), 2
    bank, state = class_state(backbone, SENTENCES, SENTENCES, first), see(backbone, pixels(backbone), first)

    def hook(width: int, depth: int) -> DeepTokens:
        return DeepTokens(list(0.02 * torch.randn(depth - first + 1, count, width, generator=generator)), first)

    text, image = hook(dims.text_width, dims.text_depth), hook(dims.vision_width, dims.vision_depth)
    shared, plain = (
        (
            prompted_text(backbone, bank, text, count, engine),
            prompted_image(backbone, state, first, 1 + count, image, engine),
        )
        for engine in ("shared", "plain")
    )
    for one, other in zip(shared, plain):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


CHECKS = {
    check.__name__: check
    for check in (
        dims_are_true, frozen_even_when_asked_to_train, pieces_are_the_whole, hook_sees_every_block_once,
        stock_forward_is_met, sentences_do_not_know_each_other, long_sentences_are_refused, half_precision_encodes,
        engines_agree,
    )
}  # fmt: skip


def backbone_checks() -> list[str]:
    """Names of the checks of `check_backbone`, in the order they run in."""
    return list(CHECKS)


@torch.no_grad()
def check_backbone(
    backbone: str | Backbone, *, only: Iterable[str] | None = None, expected_failures: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Check that a backbone keeps the contract of `anprompt.backbones.base.Backbone`.

    Args:
        backbone: a loaded one in fp32, or what `load_backbone` takes ("PREFIX:NAME" of a package).
        only: names of checks (`backbone_checks`); None runs all.
        expected_failures: reasons by names of checks that are known to fail.

    Returns:
        One outcome per check, all "passed" or "expected".

    Raises:
        ContractBroken: a check failed; an `AssertionError` with one line for each that did.
        UserError: no backbone or check of a name.

    Examples:
        >>> check_backbone("embedded", only=["frozen_even_when_asked_to_train"])[0].status
        'passed'
    """
    opened = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    return run_checks(f"backbone {opened.id!r}", opened, CHECKS, only, expected_failures)
