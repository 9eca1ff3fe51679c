"""Under attack: base to new, as it is and attacked, each attack in each size."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from anprompt.attacks.threat import ThreatModel
from anprompt.data.identity import identities
from anprompt.data.types import Dataset
from anprompt.experiments.protocols.base import Part
from anprompt.experiments.protocols.base_to_new import HALVES, BaseToNew
from anprompt.noise.seeds import stable_seed

if TYPE_CHECKING:
    from anprompt.experiments.spec import RunSpec

SIZES = ("1/255", "2/255", "4/255")
USUAL = ("pgd-ce", "pgd-margin")
STEPS = 100
ATTACKED = {half: f"{half} attacked" for half in HALVES}


class Adversarial(BaseToNew):
    """Base to new under attacks: base images among base classes, new ones among new classes.

    The training is that of base to new to the last detail. With a budget of images, clean and attacked accuracy are of
    the same ones, drawn by what is in them.
    """

    name = "adversarial"
    title = "Under attack"
    doc = "base to new, as it is and under attacks of several sizes"
    figures: ClassVar[tuple[str, ...]] = ("base", "new", *ATTACKED.values(), "H of four")
    recipe = "base-to-new"
    layout = "attacks"

    def attacks(self) -> tuple[str, ...]:
        return tuple(f"{attack}:linf:{size}:{STEPS}x1" for size in SIZES for attack in USUAL)

    def parts(self, spec: RunSpec, dataset: Dataset, targets: Mapping[str, Dataset]) -> dict[str, Part]:
        whole = super().parts(spec, dataset, targets)
        return {name: drawn(part, spec.images) if spec.images else part for name, part in whole.items()}

    def headline(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Clean accuracy, and what is left at the smallest size of which any attack was run, under all of them."""
        metrics = record["metrics"]
        found = {half: metrics[half]["accuracy"] for half in HALVES}
        sizes = by_size(metrics.get("attacks", {}))
        if sizes:
            worst = {half: left(metrics, half, next(iter(sizes.values()))) for half in HALVES}
            found |= {ATTACKED[half]: worst[half] for half in HALVES}
            found["H of four"] = statistics.harmonic_mean(found.values())
        return found


def drawn(part: Part, count: int) -> Part:
    """A part with at most `count` of its test images, drawn by what is in them: the same for every method and seed."""
    items = part.data.test
    if len(items) <= count:
        return part
    rank = [random.Random(stable_seed("images", key)).random() for key in identities(items)]
    kept = set(sorted(range(len(items)), key=rank.__getitem__)[:count])
    test = tuple(item for place, item in enumerate(items) if place in kept)
    return dataclasses.replace(
        part, which=f"{part.which}, {count} images", data=dataclasses.replace(part.data, test=test)
    )


def by_size(attacks: Mapping[str, Any]) -> dict[str, list[str]]:
    """Attacks of a record by norm and size, the smallest first: `{"linf 1/255": ["pgd-ce:linf:1/255:100x1", ...]}`."""
    threats = sorted(map(ThreatModel.parse, attacks), key=lambda threat: (threat.norm, threat.eps))
    found: dict[str, list[str]] = {}
    for threat in threats:
        found.setdefault(f"{threat.norm} {threat.size}", []).append(str(threat))
    return found


def left(metrics: Mapping[str, Any], part: str, attacks: list[str]) -> float:
    """Accuracy in percent of the images that are right as they are and under every one of these attacks."""
    entries = [metrics[part], *(metrics["attacks"][attack][part] for attack in attacks)]
    truth = entries[0]["labels"].split()
    answers = [entry["predicted"].split() for entry in entries]
    return 100 * sum(all(row[at] == label for row in answers) for at, label in enumerate(truth)) / len(truth)
