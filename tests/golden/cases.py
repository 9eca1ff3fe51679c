"""One case per kind of golden file: how the official names map to ours."""

from __future__ import annotations

from torch import Tensor

from anprompt.backbones import Backbone
from anprompt.methods.anprompt import ANPrompt, ANPromptConfig
from anprompt.methods.base import Method
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


def _anprompt_outputs(method: Method, golden: Golden) -> tuple[Outputs, Tensor]:
    assert isinstance(method, ANPrompt)
    reference = golden.tensors
    bank, vision = method.prepare(golden.classnames), method.see(reference["image"])
    state = method.encode_classes(bank)
    image, prototype = method.image_features(vision)
    parts = method.loss(vision, reference["label"], bank)
    outputs: Outputs = {
        "image_features": (image, FEATURES),
        "text_features": (state["text"], FEATURES),
        "image_features_frozen": (vision.frozen, FEATURES),
        "text_features_frozen": (bank.frozen, FEATURES),
        "logits": (method.logits(vision, state, "unseen"), LOGITS),
        "logits_rep": (method.logit_scale * prototype @ state["text"].T, LOGITS),
        "logits_fusion": (method.logits(vision, state, "trained"), LOGITS),
        "wa_loss": (parts["wa"], LOSS),
    }
    return outputs, sum(parts.values())  # type: ignore[return-value]


CASES = {"anprompt": Case(_anprompt, _anprompt_names, _anprompt_outputs)}
