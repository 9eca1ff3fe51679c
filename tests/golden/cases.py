"""One case per kind of golden file: how the official names map to ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from anprompt.adapters.official_checkpoints import official_names
from anprompt.backbones import Backbone
from anprompt.methods import method_class
from anprompt.methods.anprompt import ANPrompt, ANPromptConfig
from anprompt.methods.base import Method
from anprompt.methods.mmrl import MMRL
from anprompt.methods.promptsrc import PromptSRC
from tests.golden.parity import FEATURES, LOGITS, LOSS, Case, Golden, Outputs, ParameterMap, numbered

_R = "representation_learner."


def _anprompt(backbone: Backbone, golden: Golden) -> Method:
    config = ANPromptConfig(
        n_tokens=3, first_block=3, token_width=48, rank=2, projection_rank=8, beta=0.9, head_weight=0.7,
        similarity_weight=2.0, noise_tokens="learned", noise_scale=0.2, logit_scale=100.0,
    )  # fmt: skip
    method = ANPrompt(backbone, golden.classnames, config, template=golden.template)
    method.use_weak_bank(golden.tensors["weak_noise_text_features"][None])
    return method


def _anprompt_names(golden: Golden) -> ParameterMap:
    def per_block(pattern: str) -> list[str]:
        return numbered(_R + pattern, golden)

    return {
        "tokens": [_R + "compound_rep_tokens"],
        "second_tokens": [_R + "compound_rep_tokens_1"],
        "text_tokens.weight": per_block("compound_rep_tokens_r2tproj.{}.weight"),
        "text_tokens.bias": per_block("compound_rep_tokens_r2tproj.{}.bias"),
        "vision_noise.weight": per_block("compound_rep_tokens_r2vproj.{}.weight"),
        "vision_noise.bias": per_block("compound_rep_tokens_r2vproj.{}.bias"),
        "vision_tokens.weight": [_R + "srra_r2vproj.weight"],
        "vision_tokens.up": per_block("srra_r2vproj.srra.{}.A"),
        "vision_tokens.down": per_block("srra_r2vproj.srra.{}.B"),
        "vision_tokens.bias": per_block("srra_r2vproj.srra.{}.bias"),
        "projection_down": ["image_encoder.A"],
        "projection_up": ["image_encoder.B"],
    }


def _representation_outputs(method: Method, golden: Golden) -> tuple[Outputs, dict[str, Tensor]]:
    """What MMRL, MMRL++ and ANPrompt all give, and the loss parts."""
    assert isinstance(method, (MMRL, ANPrompt))
    bank, vision = method.prepare(golden.classnames), method.image_state(golden.tensors["image"])
    state = method.encode_classes(bank)
    image, prototype = method.image_features(vision)
    outputs: Outputs = {
        "image_features": (image, FEATURES),
        "text_features": (state["text"], FEATURES),
        "image_features_frozen": (vision.frozen, FEATURES),
        "text_features_frozen": (bank.frozen, FEATURES),
        "logits": (method.logits(vision, state, "unseen"), LOGITS),
        "logits_rep": (method.logit_scale * prototype @ state["text"].T, LOGITS),
        "logits_fusion": (method.logits(vision, state, "trained"), LOGITS),
    }
    return outputs, method.loss(vision, golden.tensors["label"], bank)


def _anprompt_outputs(method: Method, golden: Golden) -> tuple[Outputs, Tensor]:
    outputs, parts = _representation_outputs(method, golden)
    return {**outputs, "wa_loss": (parts["wa"], LOSS)}, sum(parts.values())  # type: ignore[return-value]


# --- the peers: names from the reader of official checkpoints, which is checked by this too ---------
def _logits(method: Method, golden: Golden) -> tuple[Outputs, Tensor]:
    bank, vision = method.prepare(golden.classnames), method.image_state(golden.tensors["image"])
    parts = method.loss(vision, golden.tensors["label"], bank)
    logits = method.logits(vision, method.encode_classes(bank))
    return {"logits": (logits, LOGITS)}, sum(parts.values())  # type: ignore[return-value]


def _promptsrc_outputs(method: Method, golden: Golden) -> tuple[Outputs, Tensor]:
    assert isinstance(method, PromptSRC)
    outputs, loss = _logits(method, golden)
    bank, vision = method.prepare(golden.classnames), method.image_state(golden.tensors["image"])
    zero_shot = method.logit_scale * vision.frozen @ method.teacher(bank.classnames).T
    parts = method.loss(vision, golden.tensors["label"], bank)
    official = {"ce": "ce", "agree_text": "scl_text", "agree_image": "scl_image", "agree_logits": "scl_logits"}
    named: Outputs = {f"loss_{theirs}": (parts[ours], LOSS) for ours, theirs in official.items()}
    return {**outputs, **named, "zero_shot_logits": (zero_shot, LOGITS)}, loss


def _mmrl_outputs(method: Method, golden: Golden) -> tuple[Outputs, Tensor]:
    outputs, parts = _representation_outputs(method, golden)
    return outputs, sum(parts.values())  # type: ignore[return-value]


def _case(name: str, outputs: Callable[[Method, Golden], tuple[Outputs, Tensor]] = _logits, **settings: Any) -> Case:
    def build(backbone: Backbone, golden: Golden) -> Method:
        cls = method_class(name)
        return cls(backbone, golden.classnames, cls.Config.from_dict(settings), template=golden.template)

    return Case(build, lambda golden: official_names(name, golden.group("param.")), outputs)


_MMRL = {
    "n_tokens": 3, "first_block": 3, "token_width": 48, "head_weight": 0.7, "similarity_weight": 2.0,
    "logit_scale": 100.0,
}  # fmt: skip

CASES = {
    "anprompt": Case(_anprompt, _anprompt_names, _anprompt_outputs),
    "coop": _case("coop", n_context=4),
    "coop_csc_middle": _case("coop", n_context=4, class_specific=True, class_position="middle"),
    "coop_front": _case("coop", n_context=4, class_position="front"),
    "cocoop": _case("cocoop", n_context=4, context_init=""),
    "maple": _case("maple", n_context=2, depth=4),
    "promptsrc": _case("promptsrc", _promptsrc_outputs, n_text=4, n_vision=3, depth=4),
    "mmrl": _case("mmrl", _mmrl_outputs, **_MMRL),
    "mmrlpp": _case("mmrlpp", _mmrl_outputs, **_MMRL, rank=2, projection_rank=8, beta=0.9),
}
