"""Attacks on models whose right answer is known, and the checks that an honest evaluation needs."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch
from torch import Tensor

from anprompt.attacks import ATTACKS, NORMS, ThreatModel
from anprompt.attacks.checks import doubts
from anprompt.attacks.library import stages
from anprompt.attacks.losses import cross_entropy, difference_of_logits_ratio, margin
from anprompt.attacks.run import attack
from anprompt.errors import NotFinite, UserError
from anprompt.utils.fractions import fraction
from tests.attacks.toys import Curved, Linear, Masked, answers, images

LIBRARY = importlib.util.find_spec("pyautoattack") is not None
needs_library = pytest.mark.skipif(not LIBRARY, reason="the extra 'attack' (pyautoattack) is not installed")
OWN = [name for name, (runner, _, _) in ATTACKS.items() if runner == "own"]


def left(model: torch.nn.Module, pixels: Tensor, labels: Tensor, threat: ThreatModel) -> float:
    """Share that is still answered as before."""
    found = attack(model, pixels, labels, threat, surrogate=model)
    return float((found.predictions == labels).float().mean())


# --- the threat model -----------------------------------------------------------------------------
@pytest.mark.parametrize("attack_name,norm", itertools.product(ATTACKS, NORMS))
def test_a_threat_model_reads_back_as_it_was_written(attack_name: str, norm: str) -> None:
    for eps, more in ((1 / 255, {}), (0.03, {"restarts": 2}), (0.5, {"step_size": 0.01, "seed": 3})):
        threat = ThreatModel(attack_name, norm, eps, steps=7, **more)
        assert ThreatModel.parse(str(threat)) == threat
        assert threat.record()["knows"] and threat.record()["eps"] == eps


@pytest.mark.parametrize(
    "text,says",
    [
        ("pgd-ce:linf:0:10x1", "above 0"),
        ("pgd-ce:linf:1.5:10x1", "at most 1"),
        ("pgd-ce:linf:1/255:0x1", "1 to 10,000 steps"),
        ("pgd-ce:linf:1/255:10x0", "restarts"),
        ("pgd-cd:linf:1/255:10x1", "Did you mean 'pgd-ce'"),
        ("pgd-ce:l1:1/255:10x1", "Unknown norm 'l1'"),
        ("pgd-ce:linf:1/0:10x1", "divides by zero"),
        ("pgd-ce:linf:much:10x1", "not a number"),
        ("pgd-ce", "not ATTACK:NORM:SIZE"),
        ("pgd-ce:linf:1/255:10x1:eps=3", "not ATTACK:NORM:SIZE"),
        ("", "not ATTACK:NORM:SIZE"),
    ],
)
def test_wrong_threat_models_are_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        ThreatModel.parse(text)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_fractions() -> None:
    assert fraction("2/255") == 2 / 255 and fraction(" 0.03 ") == 0.03 and fraction("1e-3") == 0.001


# --- against what is known ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["pgd-ce", "pgd-margin", "transfer"])
def test_pgd_finds_the_best_attack_on_a_linear_model(name: str) -> None:
    """On two linear classes the margin grows by exactly `eps |w_0 - w_1|_1` (linf) or `eps |w_0 - w_1|_2` (l2)."""
    model, pixels = Linear(2), images(40, 4)
    labels, difference = answers(model, pixels), model.weight[1] - model.weight[0]
    with torch.no_grad():
        before = margin(model(pixels), labels)
    for norm, length in (("linf", difference.abs().sum()), ("l2", difference.norm())):
        eps = float(before.abs().median() / length)  # half of the images can be turned
        found = attack(model, pixels, labels, ThreatModel(name, norm, eps, steps=40), surrogate=model)
        best = before + eps * length
        fails = best <= -1e-4  # the others lie on the edge or can be turned
        assert bool((found.predictions[fails] == labels[fails]).all())
        assert bool((found.predictions[best > 1e-3] != labels[best > 1e-3]).all()), norm
        assert torch.allclose(found.nearness[fails], best[fails], atol=2e-3)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "name", [*OWN, *(pytest.param(n, marks=needs_library) for n in ("apgd-ce", "apgd-t", "square"))]
)
def test_what_is_given_back_lies_in_the_ball_and_is_an_image(name: str, norm: str) -> None:
    model, pixels = Curved(10), images(8, 8)
    pixels[0], pixels[1] = 0.0, 1.0
    labels, eps = answers(model, pixels), 0.05 if norm == "linf" else 0.7
    found = attack(model, pixels, labels, ThreatModel(name, norm, eps, steps=6), surrogate=Curved(10, seed=3))
    change = (found.pixels - pixels).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert float(size.max()) <= eps * (1 + 1e-5) and 0 <= float(found.pixels.min()) <= float(found.pixels.max()) <= 1
    assert torch.equal(answers(model, found.pixels), found.predictions)
    assert torch.equal(found.clean, labels)


def test_an_image_meets_the_same_attack_in_whatever_company() -> None:
    model, pixels, threat = Curved(5), images(6, 8), ThreatModel("pgd-ce", eps=0.02, steps=5)
    labels, keys = answers(model, pixels), [f"image {i}" for i in range(6)]
    together = attack(model, pixels, labels, threat, keys=keys)
    alone = attack(model, pixels[4:5], labels[4:5], threat, keys=keys[4:5])
    assert torch.allclose(together.pixels[4:5], alone.pixels, atol=1e-5)
    other = attack(model, pixels, labels, ThreatModel("pgd-ce", eps=0.02, steps=5, seed=1), keys=keys)
    assert not torch.equal(other.pixels, together.pixels)


def test_losses_are_the_formulas() -> None:
    logits, labels = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 3.5]]), torch.tensor([0, 2])
    assert margin(logits, labels).tolist() == [-1.0, 0.5]
    assert torch.allclose(difference_of_logits_ratio(logits, labels), torch.tensor([-1.0 / 2, 0.5 / 4]))
    assert torch.allclose(cross_entropy(logits, labels), -logits.log_softmax(1)[[0, 1], [0, 2]])


# --- the checks of an honest evaluation -----------------------------------------------------------
@pytest.mark.parametrize("classes", [2, 3, 9, 10, 100])
def test_accuracy_falls_with_size_and_steps_to_nothing(classes: int) -> None:
    model, pixels = Curved(classes), images(24, 8)
    labels = answers(model, pixels)
    for name in ("pgd-ce", "pgd-margin"):
        sizes = [left(model, pixels, labels, ThreatModel(name, eps=e, steps=10)) for e in (0.005, 0.02, 0.08, 0.5)]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1] == 0.0
        steps = [left(model, pixels, labels, ThreatModel(name, eps=0.02, steps=n, step_size=0.005)) for n in (1, 4, 16)]
        assert steps == sorted(steps, reverse=True)
        tries = [left(model, pixels, labels, ThreatModel(name, eps=0.02, steps=3, restarts=n)) for n in (1, 3)]
        assert tries[1] <= tries[0]


@needs_library
@pytest.mark.parametrize("classes", [2, 3, 9, 10, 100])
def test_autoattack_leaves_no_more_than_pgd_and_square(classes: int) -> None:
    model, pixels = Curved(classes), images(24, 8)
    labels = answers(model, pixels)
    at = {"eps": 0.015, "steps": 10}
    under = {
        name: left(model, pixels, labels, ThreatModel(name, **at)) for name in ("autoattack", "pgd-margin", "square")
    }
    assert under["autoattack"] <= min(under["pgd-margin"], under["square"])
    assert 0 < under["pgd-margin"] < 1


@needs_library
def test_autoattack_equals_the_library_run_by_itself() -> None:
    from pyautoattack import AutoAttack

    model, pixels = Curved(10), images(12, 8)
    labels = answers(model, pixels)
    threat = ThreatModel("autoattack", eps=0.012, steps=100)
    ours = left(model, pixels, labels, threat)
    library = AutoAttack(model, norm="Linf", eps=0.012, seed=0, version="standard")
    library.square.n_queries = 5000
    with torch.random.fork_rng():
        made, _ = library.run_standard_evaluation(pixels, labels, batch_size=12)
    assert abs(ours - float((answers(model, made) == labels).float().mean())) <= 0.005
    assert 0 < ours < 1


@needs_library
def test_the_library_leaves_random_state_and_tracing_alone() -> None:
    import sys

    model, pixels = Curved(4), images(3, 8)
    torch.manual_seed(5)
    before, trace = torch.get_rng_state(), sys.gettrace()
    attack(model, pixels, answers(model, pixels), ThreatModel("autoattack", eps=0.01, steps=3))
    assert torch.equal(before, torch.get_rng_state()) and sys.gettrace() is trace


def test_few_classes() -> None:
    assert stages(ThreatModel("autoattack"), 2) == ("apgd-ce", "fab-t", "square")
    assert stages(ThreatModel("autoattack"), 3) == ("apgd-ce", "apgd-dlr", "fab-t", "square")
    assert stages(ThreatModel("autoattack"), 4) == ("apgd-ce", "apgd-t", "fab-t", "square")
    pixels = images(2, 4)
    for name, classes, says in (
        ("pgd-ce", 1, "one class"),
        ("pgd-dlr", 2, "three classes"),
        ("apgd-t", 3, "four classes"),
    ):
        with pytest.raises(UserError, match=says):
            attack(Linear(classes), pixels, torch.zeros(2, dtype=torch.long), ThreatModel(name))


def test_masked_gradients_are_caught() -> None:
    """Rounded pixels have no gradient: CE-PGD is blind, a transfer attack is not, and the checks say both."""
    model, pixels = Curved(10), images(40, 8)
    labels = answers(Masked(model), pixels)
    with_gradients, blind = (ThreatModel("pgd-ce", eps=0.04, steps=10), ThreatModel("transfer", eps=0.04, steps=10))
    seen = attack(Masked(model), pixels, labels, with_gradients)
    other = attack(Masked(model), pixels, labels, blind, surrogate=model)
    shares = {t: float((f.predictions == labels).float().mean()) for t, f in ((with_gradients, seen), (blind, other))}
    stuck = {with_gradients: float(seen.stuck.float().mean())}
    told = " ".join(doubts(shares, stuck, 1.0))
    assert stuck[with_gradients] == 1.0 and "exactly zero for 100.0 %" in told and "gradients are masked" in told
    honest = attack(model, pixels, answers(model, pixels), with_gradients)
    left_over = float((honest.predictions == answers(model, pixels)).float().mean())
    assert not doubts({with_gradients: left_over}, {with_gradients: float(honest.stuck.float().mean())}, 1.0)


def test_cross_entropy_saturates_at_large_scales_and_the_margin_does_not() -> None:
    """At logit scale 1,000 and more CE has exact zeros in fp32; what it leaves is not robustness."""
    model, pixels = Linear(10, scale=1000.0), images(40, 4)
    labels = answers(model, pixels)
    threat = {name: ThreatModel(name, eps=0.05, steps=10) for name in ("pgd-ce", "pgd-margin")}
    found = {name: attack(model, pixels, labels, one) for name, one in threat.items()}
    shares = {name: float((one.predictions == labels).float().mean()) for name, one in found.items()}
    assert float(found["pgd-ce"].stuck.float().mean()) > 0.3 and not bool(found["pgd-margin"].stuck.any())
    assert shares["pgd-margin"] < shares["pgd-ce"]
    assert doubts({}, {threat["pgd-ce"]: float(found["pgd-ce"].stuck.float().mean())}, 1.0)


def test_growing_figures_and_half_grey_images_are_told() -> None:
    small, large, grey = (ThreatModel("pgd-ce", eps=e) for e in (1 / 255, 2 / 255, 0.5))
    assert "leaves more at 2/255 than at 1/255" in " ".join(doubts({small: 0.2, large: 0.4}, {}, 0.8))
    assert "every image can be made grey" in " ".join(doubts({grey: 0.3}, {}, 0.8))
    assert "without an attack" in " ".join(doubts({small: 0.9}, {}, 0.8))


def test_answers_that_are_not_numbers_are_refused() -> None:
    broken = lambda pixels: Linear(3)(pixels) * torch.nan  # noqa: E731
    with pytest.raises(NotFinite):
        attack(broken, images(2, 4), torch.zeros(2, dtype=torch.long), ThreatModel())


def test_a_transfer_attack_needs_a_surrogate() -> None:
    with pytest.raises(UserError, match="surrogate"):
        attack(Linear(3), images(2, 4), torch.zeros(2, dtype=torch.long), ThreatModel("transfer"))
