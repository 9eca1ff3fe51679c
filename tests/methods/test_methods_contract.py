"""Every method of the registry keeps the contract (`anprompt.testing`), on three widths, depths and tokenizers.

A new method is covered by being registered. What only this repository asks of its own methods stands below.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import anprompt.methods
from anprompt.backbones import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.methods import Method, MethodConfig, get_method, list_methods
from anprompt.testing import ContractBroken, check_method, method_checks
from anprompt.testing.methods import (
    FORBIDDEN,
    NAMES,
    MethodCase,
    by_steps,
    copies,
    source_faults,
    tensors_do_not_pile_up,
)
from tests.shared import shared

ALL = list_methods()
TRAINED = [name for name in ALL if by_steps(get_method(name))]
SOURCES = sorted(Path(anprompt.methods.__file__).parent.glob("*.py"))
# Fewer sentences where a method would read hundreds per class: nothing else changes.
LIGHT: dict[str, dict[str, Any]] = {"promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2}}
# Where sizes, precision or a tokenizer could matter; the others are the same on any backbone.
ON_ALL_BACKBONES = (
    "step_changes_own_tensors_alone", "save_and_load_give_equal_answers", "other_class_lists_work", "any_number_of_classes",
    "autocast_agrees", "half_width_backbone_agrees", "seed_decides_the_training", "answers_are_never_stale",
)  # fmt: skip
AT_ONCE = "tensors_do_not_pile_up"


def build(name: str, backbone: Backbone, classnames: list[str] | None = None, seed: int = 1, **more: Any) -> Method:
    return MethodCase(name, backbone, LIGHT.get(name, {})).build(classnames or NAMES, seed, **more)


@pytest.fixture(scope="module", params=["tiny", "golden", "embedded"])
def backbone(request: pytest.FixtureRequest, tiny_backbone: Backbone) -> Backbone:
    """Three widths, depths and tokenizers; what works on all has nothing hard-coded."""
    if request.param == "tiny":
        return tiny_backbone
    if request.param == "golden":
        return load_backbone(str(shared("golden/tiny-clip")))
    if not (Path(anprompt.methods.__file__).parents[1] / "assets/model/config.json").is_file():
        pytest.skip("the embedded model is not in this checkout")
    return load_backbone("embedded")


def light(name: str, check: str) -> dict[str, Any]:
    """A thousand classes want even fewer sentences."""
    more = {"teacher_templates": 1} if name == "promptsrc" and check == "any_number_of_classes" else {}
    return {**LIGHT.get(name, {}), **more}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("check", ON_ALL_BACKBONES)
def test_contract_on_all_backbones(name: str, check: str, backbone: Backbone) -> None:
    assert check_method(name, backbone, settings=light(name, check), only=[check])[0].status == "passed"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("check", [c for c in method_checks() if c not in (*ON_ALL_BACKBONES, AT_ONCE)])
def test_contract(name: str, check: str, tiny_backbone: Backbone) -> None:
    assert check_method(name, tiny_backbone, settings=light(name, check), only=[check])[0].status == "passed"


def test_tensors_do_not_pile_up_over_steps(backbone: Backbone) -> None:
    """All methods at once: counting every live object costs more than the steps, and what one keeps shows."""
    tensors_do_not_pile_up(*(MethodCase(name, backbone, LIGHT.get(name, {})) for name in TRAINED))


# --- this repository's own -------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "coop"])  # its preset starts from words
def test_another_seed_is_another_start(name: str, tiny_backbone: Backbone) -> None:
    first, other = copies(build(name, tiny_backbone, seed=0)), copies(build(name, tiny_backbone, seed=3))
    assert any(not torch.equal(first[key], other[key]) for key in first)


OURS = {
    **FORBIDDEN,
    r"HFClip|CLIPModel|transformers|open_clip": "a method knows the backbone's protocol, not its class",
    r"torch\.(triu|tril)|-inf": "masks are the engine's business",
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_sources_keep_out_of_other_rooms(path: Path) -> None:
    """Failure modes: CLIP forked per method, `.half()` and widths hard-coded, masks rebuilt at every layer."""
    assert source_faults(path.read_text(encoding="utf-8"), OURS) == []


def test_backbones_know_no_method() -> None:
    """Failure mode: `if self.model == ...` inside a shared forward."""
    folder = Path(anprompt.methods.__file__).parents[1] / "backbones"
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"\b(coop|cocoop|maple|promptsrc|mmrl|mmrlpp)\b", text), path.name


@pytest.mark.parametrize("name", ALL)
def test_a_method_names_its_paper(name: str) -> None:
    assert re.fullmatch(r"arXiv \d{4}\.\d{5}", get_method(name).paper)


# --- the checks find what they are for -------------------------------------------------------------
class Faulty(get_method("mmrl")):  # type: ignore[misc]
    """MMRL with a fault of each kind."""

    name = "faulty"

    def build(self, generator: torch.Generator) -> None:
        super().build(torch.Generator().manual_seed(int(torch.rand(1) * 1e6)))  # chance of its own
        self.kept = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(2))])  # in a list, and never used
        self.answers: dict[str, Any] = {}

    def encode_classes(self, bank: Any) -> Any:  # stale: what was computed first is given for ever
        return self.answers.setdefault(str(bank.classnames), super().encode_classes(bank))


def test_faults_are_found_each_by_its_check(tiny_backbone: Backbone) -> None:
    faulty = ["step_changes_own_tensors_alone", "no_parameter_lives_in_a_list", "seed_decides_the_start",
              "seed_decides_the_training", "answers_are_never_stale"]  # fmt: skip
    with pytest.raises(ContractBroken, match="method 'faulty' fails 5 of 6 checks") as told:
        check_method(Faulty, tiny_backbone, only=[*faulty, "other_class_lists_work"])
    assert [line.strip().partition(":")[0] for line in str(told.value).splitlines()[1:]] == faulty
    assert "parameters in a list are lost under DataParallel" in str(told.value)


def test_an_expected_failure_is_no_fault(tiny_backbone: Backbone) -> None:
    name = "no_parameter_lives_in_a_list"
    [outcome] = check_method(Faulty, tiny_backbone, only=[name], expected_failures={name: "kept for old files"})
    assert (outcome.status, outcome.reason) == ("expected", "kept for old files")
    with pytest.raises(UserError, match="Did you mean 'engines_agree'"):
        check_method("coop", tiny_backbone, only=["engine_agree"])


def test_settings_without_words_are_told(tiny_backbone: Backbone) -> None:
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Config(MethodConfig):
        """Says nothing."""

        width: int = 3

    class Silent(get_method("zeroshot")):  # type: ignore[misc]
        name = "silent"

    Silent.Config = Config
    with pytest.raises(ContractBroken, match="setting 'width' is not described"):
        check_method(Silent, tiny_backbone, only=["settings_are_documented"])
