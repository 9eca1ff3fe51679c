"""Measuring a trained method under attacks, batch by batch, so that an interrupted run goes on from there.

An image that is lost at one size is lost at every larger one: what was done to it lies within the larger bound too. It
is not attacked again, and accuracy can't grow with the size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anprompt.attacks.checks import doubts
from anprompt.attacks.run import AttackResult, Views, attack_images
from anprompt.attacks.threat import ThreatModel
from anprompt.data.identity import identities
from anprompt.experiments.records import data_hash
from anprompt.methods import Classifier

if TYPE_CHECKING:
    from anprompt.experiments.measurement import MeasurementLog

log = logging.getLogger("anprompt")

Entry = dict[str, Any]
Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class _Progress:
    """Tells how far a share of the whole is."""

    tell: Tell
    start: float
    share: float
    words: str

    def __call__(self, done: int, count: int) -> None:
        self.tell(self.start + self.share * done / count, self.words)


def in_order(attacks: Sequence[str]) -> list[ThreatModel]:
    """Each attack's smaller sizes first."""
    threats = list(dict.fromkeys(map(ThreatModel.parse, attacks)))
    return sorted(threats, key=lambda threat: (_series(threat), threat.eps))


def _series(threat: ThreatModel) -> tuple[Any, ...]:
    """What attacks of several sizes have in common."""
    return (threat.attack, threat.norm, threat.steps, threat.restarts, threat.seed)


def attacked_entries(
    attacks: Sequence[str], tests: Mapping[str, tuple[Classifier, Views]], notes: MeasurementLog, tell: Tell
) -> dict[str, dict[str, Entry]]:
    """Entries by attack and part.

    Args:
        attacks: as `ThreatModel.parse` reads them.
        tests: by part: what is deployed there, and its images.
        notes: what an interrupted run has measured.
        tell: how far it is, 0..1, and with what.
    """
    found: dict[str, dict[str, Entry]] = {str(ThreatModel.parse(attack)): {} for attack in attacks}
    ordered, done = in_order(attacks), 0
    whole = len(ordered) * len(tests)
    for name, (classifier, views) in tests.items():
        lost: dict[tuple[Any, ...], Tensor] = {}
        for threat in ordered:
            key, words = f"{threat}|{name}", f"{threat.title} at {threat.size}, {name}"
            progress = _Progress(tell, done / whole, 1 / whole, words)
            progress(0, 1)
            if key not in notes.entries:
                result = _run(threat, classifier, views, notes, key, lost.get(_series(threat)), progress)
                notes.put(key, entry(result, classifier, views))
            found[str(threat)][name] = notes.entries[key]
            lost[_series(threat)] = torch.tensor([int(word) for word in notes.entries[key]["predicted"].split()])
            done += 1
    for name, (classifier, _) in tests.items():
        for line in doubtful({attack: entries[name] for attack, entries in found.items()}):
            log.warning("%s, %s: %s", classifier.method.preset or classifier.method.name, name, line)
    return found


def _run(
    threat: ThreatModel, classifier: Classifier, views: Views, notes: MeasurementLog, key: str, lost: Tensor | None,
    on_batch: Callable[[int, int], None],
) -> AttackResult:  # fmt: skip
    """One attack on one part; its batches are noted as they are done."""
    marker = f"{key}|batch "
    known = {int(k.removeprefix(marker)): v for k, v in notes.entries.items() if k.startswith(marker)}

    def batch(number: int, done: int, count: int, rows: Mapping[str, Any]) -> None:
        notes.put(f"{marker}{number}", dict(rows))
        on_batch(done, count)

    result = attack_images(
        classifier, views, threat, keys=identities(views.items), lost=lost, known=known, on_batch=batch
    )
    for number in list(notes.entries):
        if number.startswith(marker):
            del notes.entries[number]
    return result


def entry(result: AttackResult, classifier: Classifier, views: Views) -> Entry:
    """What a record holds of an attack on a part: its threat model, what was left, and of which images."""
    right = result.attacked == result.labels
    per_class = {
        name: round(100 * float(right[result.labels == index].float().mean()), 4)
        for index, name in enumerate(classifier.classnames)
        if bool((result.labels == index).any())
    }
    return {
        "threat": result.threat.record(), "accuracy": 100 * result.attacked_accuracy, "clean": 100 * result.accuracy,
        "pictures": len(right), "head": classifier.head, "zero_gradients": round(100 * result.stuck, 4),
        "attacked_pictures": result.tried, "seconds": round(result.seconds, 3), "per_class": per_class,
        "labels": " ".join(map(str, result.labels.tolist())),
        "predicted": " ".join(map(str, result.attacked.tolist())), "items_hash": data_hash(views.items),
    }  # fmt: skip


def without_seconds(
    entries: Mapping[str, Mapping[str, Entry]],
) -> tuple[dict[str, dict[str, Entry]], dict[str, dict[str, float]]]:
    """The entries as two runs of one specification have them alike, and the seconds that each of them took."""
    kept = {
        name: {part: {k: v for k, v in one.items() if k != "seconds"} for part, one in parts.items()}
        for name, parts in entries.items()
    }
    return kept, {name: {part: one["seconds"] for part, one in parts.items()} for name, parts in entries.items()}


def doubtful(entries: Mapping[str, Entry]) -> list[str]:
    """What speaks against the entries of one part by attack."""
    threats = {ThreatModel.parse(attack): one for attack, one in entries.items()}
    clean = max((one["clean"] / 100 for one in entries.values()), default=0.0)
    return doubts(
        {threat: one["accuracy"] / 100 for threat, one in threats.items()},
        {threat: one["zero_gradients"] / 100 for threat, one in threats.items()}, clean,
    )  # fmt: skip
