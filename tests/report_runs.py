"""Made-up run records in the layout of real ones, for tests of the report."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from anprompt.evaluation.statistics import harmonic_mean
from anprompt.experiments.records import FORMAT, spec_hash

METHODS = ("zeroshot", "coop", "maple", "anprompt")
FAMILIES = ("gaussian_noise", "motion_blur", "fog")
NAMES = ("tabby", "siamese", "lynx", "puma", "ocelot", "serval")


def entry(share: float, rng: random.Random, names: Sequence[str] = NAMES, each: int = 10) -> dict[str, Any]:
    """What `metrics_entry` gives, with about this share of right answers."""
    true = [label for label in range(len(names)) for _ in range(each)]
    told = [t if rng.random() < share else (t + rng.choice((1, 1, 2))) % len(names) for t in true]
    right = [a == b for a, b in zip(true, told)]
    per_class = {n: 100 * sum(right[i * each : (i + 1) * each]) / each for i, n in enumerate(names)}
    return {
        "accuracy": 100 * sum(right) / len(right), "pictures": len(right), "head": "trained", "confidence": 60.0,
        "ece": 5.0 + rng.random(), "per_class": per_class, "labels": " ".join(map(str, true)),
        "predicted": " ".join(map(str, told)), "items_hash": "ab" * 32,
    }  # fmt: skip


def run(dataset: str, method: str, seed: int, protocol: str, shots: int | None = 16) -> dict[str, Any]:
    """A record without metrics."""
    tuned = method != "zeroshot"
    spec = {
        "dataset": dataset, "method": method, "protocol": protocol, "shots": shots, "seed": seed,
        "backbone": "embedded", "precision": "fp32", "settings": {}, "train": {}, "conditions": [],
    }  # fmt: skip
    epochs = [{"lr": 0.01 / (n + 1), "loss": 2.0 / (n + 1), "ce": 1.0 / (n + 1)} for n in range(5)]
    return {
        "format": FORMAT, "spec": spec, "spec_hash": spec_hash(spec), "finished": "2026-01-01T00:00:00+00:00",
        "method": {"preset": method, "name": method, "trained_parameters": 1000 + len(method) if tuned else 0},
        "train": {"optimizer": "sgd", "lr": 0.01, "epochs": 5, "batch_size": 4} if tuned else None,
        "backbone": {"id": "embedded", "weight_hash": "0" * 64, "image_size": 48},
        "data": {
            "name": dataset, "hash": "1" * 64, "template": "a photo of a {}.", "skipped": [], "skipped_count": 0,
            "classes": {"base": 6, "new": 6},
        },
        "log": {"epochs": epochs if tuned else [], "steps": 50 if tuned else 0, "seconds": 5.0},
        "timings": {"train_s": 5.0 + seed if tuned else 0.0, "step_s": 0.1 if tuned else None, "eval_s": 1.0},
        "memory": {"peak_mb": 600.0}, "versions": {"python": "3.11"},
        "hardware": {"cpu": "some processor", "cores": 2, "threads": 1}, "metrics": {},
    }  # fmt: skip


def both(share: float, rng: random.Random) -> dict[str, Any]:
    """Base, new and H."""
    found: dict[str, Any] = {"base": entry(share, rng), "new": entry(share - 0.1, rng)}
    found["H"] = harmonic_mean(found["base"]["accuracy"], found["new"]["accuracy"])
    return found


def seeds_of(method: str, seeds: Sequence[int]) -> Sequence[int]:
    """What has nothing to train is run once."""
    return seeds[:1] if method == "zeroshot" else seeds


def halves(
    datasets: Sequence[str] = ("cats", "dogs"), methods: Sequence[str] = METHODS, seeds: Sequence[int] = (1, 2),
    severities: Sequence[int] = (), texts: Sequence[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Base-to-new records, with three picture noises at these severities and these text conditions."""
    found = []
    names = [f"image:{family}:{s}" for family in FAMILIES for s in severities] + list(texts)
    for dataset in datasets:
        for at, method in enumerate(methods):
            for seed in seeds_of(method, seeds):
                rng = random.Random(f"{dataset} {method} {seed}")
                record = run(dataset, method, seed, "noise" if names else "base-to-new")
                share = 0.6 + 0.06 * at
                conditions = {}
                for name in names:
                    strength = int(name[-1])
                    conditions[name] = {
                        **both(share - (0.08 - 0.01 * at) * strength, rng), "seen_in_training": name.startswith("text:typo"),
                    }  # fmt: skip
                record["metrics"] = {**both(share, rng), "conditions": conditions}
                found.append(record)
    return found


def few_shot(
    datasets: Sequence[str] = ("cats", "dogs"), methods: Sequence[str] = METHODS,
    shots: Sequence[int] = (1, 2, 4, 8, 16), seeds: Sequence[int] = (1, 2),
) -> list[dict[str, Any]]:  # fmt: skip
    """Records of all classes; zero-shot has one."""
    found = []
    for dataset in datasets:
        for at, method in enumerate(methods):
            for shot in shots[-1:] if method == "zeroshot" else shots:
                for seed in seeds_of(method, seeds):
                    rng = random.Random(f"{dataset} {method} {seed} {shot}")
                    record = run(dataset, method, seed, "few-shot", shot)
                    record["data"]["classes"] = {"all": 6}
                    share = 0.55 + 0.05 * at + (0.015 * shot if method != "zeroshot" else 0.0)
                    record["metrics"] = {"all": entry(min(share, 0.97), rng)}
                    found.append(record)
    return found


def transfer(
    targets: Sequence[str] = ("cats", "dogs", "birds"), methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (1, 2), protocol: str = "cross-dataset",
) -> list[dict[str, Any]]:  # fmt: skip
    """Records of one source and these targets."""
    found = []
    for at, method in enumerate(methods):
        for seed in seeds_of(method, seeds):
            rng = random.Random(f"{method} {seed}")
            record = run("everything", method, seed, protocol)
            record["data"]["classes"] = {"source": 6}
            record["metrics"] = {
                "source": entry(0.8 + 0.02 * at, rng), "targets": {t: entry(0.5 + 0.03 * at, rng) for t in targets},
            }  # fmt: skip
            found.append(record)
    return found
