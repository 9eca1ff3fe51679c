"""Several runs on common looks: equal to separate runs, and cheaper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt.backbones import Backbone
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.training.feature_cache import DiskFeatureCache, MemoryFeatureCache
from anprompt.training.loop import NonFiniteLoss, Run, TrainConfig, fit, fit_many
from tests.training.test_bank import NAMES, SMALL, counted, equal, views

CONFIG = TrainConfig(epochs=2, batch_size=2, lr=1e-2, warmup_epochs=1)


def make(backbone: Backbone, config: TrainConfig, name: str = "anprompt", **changes: Any) -> Run:
    settings = {**SMALL, **changes} if name == "anprompt" else changes
    method = build_method(name, backbone, NAMES, settings=settings, seed=config.seed)
    return Run(method, views(config=config), config)


def alone(run: Run) -> dict[str, Tensor]:
    """What a fresh copy of this run gives by itself."""
    method = build_method(
        run.method.name, run.method.backbone, NAMES, settings=run.method.config.to_dict(), seed=run.config.seed
    )
    fit(method, run.views, run.config)
    return dict(method.state_dict())


def looks(runs: list[Run]) -> int:
    return sum(sum(run.seen) for run in runs)  # type: ignore[attr-defined]


def watched(runs: list[Run]) -> list[Run]:
    for run in runs:
        run.seen = counted(run.method)  # type: ignore[attr-defined]
    return runs


def change(config: TrainConfig, **values: Any) -> TrainConfig:
    return TrainConfig(**{**vars(config), **values})


def test_settings_of_one_seed_equal_separate_runs_bit_for_bit(tiny_backbone: Backbone) -> None:
    runs = watched([
        make(tiny_backbone, CONFIG),
        make(tiny_backbone, change(CONFIG, lr=1e-3)),
        make(tiny_backbone, change(CONFIG, optimizer="sgd", weight_decay=0.1), n_tokens=3, wa_weight=0.0),
        make(tiny_backbone, change(CONFIG, epochs=3)),
    ])  # fmt: skip
    logs = fit_many(runs)
    for run in runs:
        assert equal(dict(run.method.state_dict()), alone(run)) and not run.method.training
    # Three batches of two an epoch: two epochs for all, and a third one for the last.
    assert looks(runs) == 18
    assert [log.steps for log in logs] == [6, 6, 6, 9] and len(logs[3].epochs) == 3


def test_different_methods_share_where_they_look_alike(tiny_backbone: Backbone) -> None:
    runs = watched([make(tiny_backbone, CONFIG), make(tiny_backbone, CONFIG, "maple"), make(tiny_backbone, CONFIG)])
    fit_many(runs)
    assert looks(runs) == 2 * 12
    for run in runs:
        assert equal(dict(run.method.state_dict()), alone(run))


def test_seeds_share_views_where_asked_and_equal_separate_runs(tiny_backbone: Backbone) -> None:
    configs = [change(CONFIG, seed=seed, view_seed=9, batch_size=7, epochs=3) for seed in (1, 2, 3)]
    runs = watched([make(tiny_backbone, config) for config in configs])
    fit_many(runs)
    assert looks(runs) == 3 * 7  # one seed's worth
    for run in runs:
        found, expected = run.method.state_dict(), alone(run)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_orders_stay_those_of_the_seeds(tiny_backbone: Backbone) -> None:
    asked: dict[int, list[list[int]]] = {}
    runs = []
    for seed in (1, 2):
        run = make(tiny_backbone, change(CONFIG, seed=seed, view_seed=9))
        real = run.views.view_keys  # type: ignore[attr-defined]

        def noted(indices: Tensor, epoch: int, seed: int = seed, real: Any = real) -> list[bytes]:
            asked.setdefault(seed, []).append(indices.tolist())
            return real(indices, epoch)

        run.views.view_keys = noted  # type: ignore[attr-defined]
        runs.append(run)
    fit_many(runs)
    assert asked[1] != asked[2] and len(asked[1]) == 6


def test_seeds_without_common_views_share_nothing_and_stay_right(tiny_backbone: Backbone) -> None:
    runs = watched([make(tiny_backbone, change(CONFIG, seed=seed)) for seed in (1, 2)])
    fit_many(runs)
    assert looks(runs) == 24
    for run in runs:
        assert equal(dict(run.method.state_dict()), alone(run))


def test_a_bank_too_small_costs_looks_and_nothing_else(tiny_backbone: Backbone) -> None:
    runs = watched([make(tiny_backbone, CONFIG) for _ in range(2)])
    fit_many(runs, MemoryFeatureCache(0.001))
    assert looks(runs) == 24
    assert equal(dict(runs[0].method.state_dict()), alone(runs[0]))


def test_runs_share_a_bank_on_disk(tiny_backbone: Backbone, tmp_path: Path) -> None:
    for expected in (12, 0):
        runs = watched([make(tiny_backbone, CONFIG), make(tiny_backbone, change(CONFIG, lr=1e-3))])
        fit_many(runs, DiskFeatureCache(tmp_path))
        assert looks(runs) == expected
        assert equal(dict(runs[1].method.state_dict()), alone(runs[1]))


def test_runs_resume_each_from_its_own_epoch(tiny_backbone: Backbone, tmp_path: Path) -> None:
    configs = [change(CONFIG, epochs=3), change(CONFIG, epochs=3, lr=1e-3)]
    first = make(tiny_backbone, configs[0])

    def stop(epoch: int, means: dict[str, float]) -> None:
        raise KeyboardInterrupt

    first.state, first.on_epoch = tmp_path / "0", stop
    with pytest.raises(KeyboardInterrupt):
        fit_many([first])
    runs = [make(tiny_backbone, config) for config in configs]
    for number, run in enumerate(runs):
        run.state = tmp_path / str(number)
    logs = fit_many(runs)
    assert [log.resumed_from for log in logs] == [1, 0] and [len(log.epochs) for log in logs] == [3, 3]
    for run in runs:
        assert equal(dict(run.method.state_dict()), alone(run))


def test_one_that_breaks_does_not_stop_the_others(tiny_backbone: Backbone) -> None:
    good, bad = make(tiny_backbone, CONFIG), make(tiny_backbone, change(CONFIG, lr=1e-3))
    start = {name: value.clone() for name, value in bad.method.state_dict().items()}
    real = bad.method.loss

    def broken(*args: Any) -> dict[str, Tensor]:
        return {name: part * float("inf") for name, part in real(*args).items()}

    bad.method.loss = broken  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss, match="loss part 'ce'"):
        fit_many([bad, good])
    assert equal(dict(good.method.state_dict()), alone(good)) and len(good.log.epochs) == 2
    assert equal(dict(bad.method.state_dict()), start)


def test_nothing_to_do() -> None:
    assert fit_many([]) == []


def test_views_without_keys_are_looked_at_anew(tiny_backbone: Backbone) -> None:
    from tests.fake_views import FakeViews

    def build() -> Method:
        return build_method("anprompt", tiny_backbone, NAMES, settings=SMALL, seed=1)

    pictures = FakeViews(tiny_backbone.dims.image_size)
    single = build()
    fit(single, pictures, CONFIG)
    runs = [Run(build(), pictures, CONFIG) for _ in range(2)]
    fit_many(runs)
    assert equal(dict(single.state_dict()), dict(runs[1].method.state_dict()))
