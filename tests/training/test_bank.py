"""The view bank: training from it equals training without; damage, crashes, budgets, two processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import anprompt.training.feature_cache as bank_module
from anprompt.backbones import Backbone
from anprompt.data.types import Item
from anprompt.data.views import Views
from anprompt.errors import UserError
from anprompt.methods import build_method
from anprompt.methods.base import Method
from anprompt.training.feature_cache import DiskFeatureCache, MemoryFeatureCache, checksum
from anprompt.training.loop import TrainConfig, fit

NAMES = ["cat", "red panda", "fire engine"]
SMALL = {"n_tokens": 2, "token_width": 8, "projection_rank": 2, "rank": 1, "draws": 2}
CONFIG = TrainConfig(epochs=3, batch_size=2, lr=1e-2, warmup_epochs=1)
FORK: Any = multiprocessing.get_context("fork")  # a fresh interpreter would take seconds to import torch
SPACE = {"weights": "w", "first_block": "3"}


def picture(item: Item) -> Image.Image:
    rng = np.random.default_rng(int(item.path))
    return Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8))


def views(count: int = 7, config: TrainConfig = CONFIG, size: int = 32, start: int = 0) -> Views:
    numbers = range(start, start + count)
    items = [Item(str(n), n % len(NAMES), NAMES[n % len(NAMES)]) for n in numbers]
    made = Views(
        items, picture, image_size=size, mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), seed=config.seed,
        crop_scale=(config.crop_scale[0], config.crop_scale[1]), views=config.views,
        view_seed=config.view_seed if config.view_seed >= 0 else None,
    )  # fmt: skip
    made.fingerprint = "pictures"
    return made


def counted(method: Method) -> list[int]:
    """Sizes of the batches that the method's encoder really looks at, from now on."""
    seen: list[int] = []
    real = method.image_state

    def see(pixels: Tensor) -> Any:
        seen.append(len(pixels))
        return real(pixels)

    method.image_state = see  # type: ignore[method-assign]
    return seen


def trained(
    backbone: Backbone, config: TrainConfig = CONFIG, name: str = "anprompt", **options: Any
) -> tuple[dict[str, Tensor], list[int]]:
    """Tensors after training, and the looks that were computed."""
    method = build_method(name, backbone, NAMES, settings=SMALL if name == "anprompt" else {}, seed=config.seed)
    seen = counted(method)
    fit(method, views(config=config), config, **options)
    return {k: v.clone() for k, v in method.state_dict().items()}, seen


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# --- training -------------------------------------------------------------------------------------
@pytest.mark.parametrize("values", [{}, {"trunk_precision": "bf16"}, {"precision": "bf16"}, {"views": 2}])
def test_training_from_the_bank_is_bit_equal(tiny_backbone: Backbone, tmp_path: Path, values: dict) -> None:
    config = TrainConfig(**{"epochs": 3, "batch_size": 2, "lr": 1e-2, "warmup_epochs": 1, **values})
    plain, _ = trained(tiny_backbone, config)
    filled, computed = trained(tiny_backbone, config, bank=DiskFeatureCache(tmp_path))
    again, recomputed = trained(tiny_backbone, config, bank=DiskFeatureCache(tmp_path))
    assert equal(plain, filled) and computed
    assert equal(plain, again) and (values == {"views": 2} or not recomputed)


@pytest.mark.parametrize("name", ["coop", "maple", "promptsrc", "mmrl"])
def test_every_kind_of_look_is_kept(tiny_backbone: Backbone, tmp_path: Path, name: str) -> None:
    config = TrainConfig(epochs=1, batch_size=3, seed=2)
    plain, _ = trained(tiny_backbone, config, name)
    trained(tiny_backbone, config, name, bank=DiskFeatureCache(tmp_path))
    again, recomputed = trained(tiny_backbone, config, name, bank=DiskFeatureCache(tmp_path))
    assert equal(plain, again) and not recomputed


def test_methods_of_one_first_block_share_and_others_do_not(tiny_backbone: Backbone, tmp_path: Path) -> None:
    trained(tiny_backbone, bank=DiskFeatureCache(tmp_path))
    more = {**SMALL, "wa_weight": 0.5, "n_tokens": 3}
    for change, shared in (({}, True), ({"first_block": 3}, False)):
        method = build_method("anprompt", tiny_backbone, NAMES, settings={**more, **change}, seed=1)
        seen = counted(method)
        fit(method, views(), CONFIG, bank=DiskFeatureCache(tmp_path))
        assert bool(seen) != shared


def test_resume_with_the_bank_equals_an_uninterrupted_run(tiny_backbone: Backbone, tmp_path: Path) -> None:
    plain, _ = trained(tiny_backbone)

    def die(epoch: int, step: int, steps: int, parts: object) -> None:
        if epoch == 1 and step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tiny_backbone, state=tmp_path / "state", bank=DiskFeatureCache(tmp_path / "bank"), on_step=die)
    resumed, _ = trained(tiny_backbone, state=tmp_path / "state", bank=DiskFeatureCache(tmp_path / "bank"))
    assert equal(plain, resumed)


def test_rounding_to_bf16_is_small_and_halves_the_bank(tiny_backbone: Backbone, tmp_path: Path) -> None:
    sizes, results = {}, {}
    for kind in ("full", "bf16"):
        config = TrainConfig(epochs=2, batch_size=2, trunk_precision=kind)
        results[kind], _ = trained(tiny_backbone, config, bank=DiskFeatureCache(tmp_path / kind))
        sizes[kind] = sum(size for _, size, _ in DiskFeatureCache(tmp_path / kind).shards())
    assert sizes["bf16"] < 0.6 * sizes["full"]
    assert not equal(results["full"], results["bf16"])
    torch.testing.assert_close(results["full"]["tokens"], results["bf16"]["tokens"], rtol=0, atol=2e-3)


# --- views ----------------------------------------------------------------------------------------
def test_view_keys_follow_what_decides_the_pixels() -> None:
    base = views()
    keys = base.view_keys(range(7), 0)
    assert len({*keys, *base.view_keys(range(7), 1)}) == 14 and all(len(key) == 16 for key in keys)
    assert views().view_keys([3], 0) == [keys[3]]
    others = [
        views(config=TrainConfig(seed=2)), views(config=TrainConfig(crop_scale=(0.4, 1.0))), views(size=24),
        views(start=1), views(config=TrainConfig(view_seed=1)),
    ]  # fmt: skip
    assert all(set(keys).isdisjoint(other.view_keys(range(7), 0)) for other in others)


def test_default_views_are_those_of_before() -> None:
    """A pool as large as the number of epochs shows the fresh views, each once, in another order."""
    fresh, pool = views(), views(config=TrainConfig(views=5))
    order = [pool.view_index(epoch) for epoch in range(5)]
    assert sorted(order) == list(range(5)) and [fresh.view_index(e) for e in range(5)] == list(range(5))
    for epoch, view in enumerate(order):
        assert torch.equal(pool.train_batch([0, 4], epoch), fresh.train_batch([0, 4], view))


@given(count=st.integers(1, 9), seed=st.integers(0, 99), cycle=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_every_view_of_a_pool_is_shown_once_a_round(count: int, seed: int, cycle: int) -> None:
    made = views(1, TrainConfig(views=count, seed=seed))
    shown = [made.view_index(cycle * count + position) for position in range(count)]
    assert sorted(shown) == list(range(count))


def test_a_view_seed_makes_views_common_to_seeds_and_places() -> None:
    a, b = (views(config=TrainConfig(seed=seed, view_seed=9)) for seed in (1, 2))
    moved = views(count=5, start=2, config=TrainConfig(seed=3, view_seed=9))
    assert a.view_keys(range(7), 1) == b.view_keys(range(7), 1)
    assert moved.view_keys([0], 1) == a.view_keys([2], 1)
    assert torch.equal(moved.train_batch([0], 1), a.train_batch([2], 1))


def test_pool_views_have_the_statistics_of_fresh_ones() -> None:
    """Mean and spread of crops over many pictures agree within sampling error."""
    fresh = torch.stack([views(60).train_batch(range(60), e).mean(dim=(2, 3)) for e in range(4)])
    config = TrainConfig(seed=5, views=4, view_seed=7)
    pool = torch.stack([views(60, config).train_batch(range(60), e).mean(dim=(2, 3)) for e in range(4)])
    error = fresh.std() * (2 / fresh.numel()) ** 0.5
    assert abs(float(fresh.mean() - pool.mean())) < 4 * error
    assert 0.8 < float(fresh.std() / pool.std()) < 1.25


# --- rows -----------------------------------------------------------------------------------------
def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def rows_of(numbers: Sequence[int], width: int = 8) -> dict[str, Tensor]:
    grid = [torch.full((4, width), float(n)) for n in numbers]
    return {"trunk": torch.stack(grid), "frozen": torch.tensor([[float(n)] for n in numbers]).bfloat16()}


def put(bank: Any, numbers: Sequence[int], space: dict = SPACE, width: int = 8) -> Any:
    rows = bank.open(space)
    rows.put([key(n) for n in numbers], rows_of(numbers, width))
    rows.flush()
    return rows


@given(batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True), max_size=6))
@settings(max_examples=25, deadline=None)
def test_banks_give_back_what_was_put(tmp_path_factory: pytest.TempPathFactory, batches: list) -> None:
    disk = DiskFeatureCache(tmp_path_factory.mktemp("bank"), shard_mb=1e-4)
    for bank in (disk, MemoryFeatureCache(1)):
        rows = bank.open(SPACE)
        for numbers in batches:
            rows.put([key(n) for n in numbers], rows_of(numbers))
        known = {n for numbers in batches for n in numbers}
        for source in (rows, bank.open(SPACE)):
            rows.flush()
            for number in range(13):
                found = source.get([key(number)])
                assert (found is not None) == (number in known)
                if found:
                    assert all(torch.equal(found[k], v) for k, v in rows_of([number]).items())
    stored = [n for _, _, path in disk.shards() for n in bank_module._keys_of(path)]
    assert len(stored) == len(set(stored))


def test_memory_bank_forgets_the_least_recently_used() -> None:
    row = sum(v.numel() * v.element_size() for v in rows_of([0]).values())
    bank = MemoryFeatureCache(3 * row / 2**20)
    rows = put(bank, [1, 2, 3])
    assert rows.get([key(1)]) is not None
    put(bank, [4])
    assert [n for n in (1, 2, 3, 4) if rows.has(key(n))] == [1, 3, 4] and bank.used <= bank.budget


def test_spaces_are_apart(tmp_path: Path) -> None:
    for bank in (DiskFeatureCache(tmp_path), MemoryFeatureCache()):
        put(bank, [1])
        assert bank.open({**SPACE, "first_block": "4"}).get([key(1)]) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "foreign"])
def test_a_damaged_shard_is_computed_anew(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    put(DiskFeatureCache(tmp_path), [1, 2])
    path = DiskFeatureCache(tmp_path).shards()[0][2]
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-5] ^= 4
    elif damage == "foreign":
        other = put(DiskFeatureCache(tmp_path / "other"), [1, 2], {"weights": "x"})
        content = bytearray(next(iter(other._known)).read_bytes())
    path.write_bytes({"truncate": content[:-7], "empty": b""}.get(damage, content))
    rows = DiskFeatureCache(tmp_path).open(SPACE)
    with caplog.at_level(logging.WARNING, "anprompt"):
        assert rows.get([key(1)]) is None and rows.get([key(2)]) is None
    lines = [r.getMessage() for r in caplog.records] or [damage]  # a broken header shows when it is opened
    assert len(lines) == 1 and not path.exists()
    put(DiskFeatureCache(tmp_path), [1, 2])
    assert DiskFeatureCache(tmp_path).open(SPACE).get([key(1)]) is not None


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    put(DiskFeatureCache(tmp_path), [1])
    path = DiskFeatureCache(tmp_path).shards()[0][2]
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 1
        path.write_bytes(broken)
        found = DiskFeatureCache(tmp_path).open(SPACE).get([key(1)])
        assert found is None or all(torch.equal(found[k], v) for k, v in rows_of([1]).items()), position


def write_on(folder: Path, go: Any) -> None:
    rows = DiskFeatureCache(folder, shard_mb=0.05).open(SPACE)
    go.set()
    for number in range(10**9):
        rows.put([key(number)], rows_of([number], 2000))


def test_a_killed_writer_leaves_no_shard_that_reads_as_whole(tmp_path: Path) -> None:
    """kill -9 at many moments: whatever is left gives right rows or none, and the bank goes on."""
    for wait in (0.0, 0.03, 0.07, 0.11, 0.2):
        go = FORK.Event()
        process = FORK.Process(target=write_on, args=(tmp_path, go))
        process.start()
        assert go.wait(30)
        time.sleep(wait)
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    rows = DiskFeatureCache(tmp_path).open(SPACE)
    for number in range(len(rows._index)):  # type: ignore[attr-defined]
        found = rows.get([key(number)])
        assert found is not None and torch.equal(found["trunk"], rows_of([number], 2000)["trunk"])
    assert put(DiskFeatureCache(tmp_path), [10**6]).get([key(10**6)]) is not None


def test_what_killed_writers_left_is_cleared_away(tmp_path: Path) -> None:
    rows = put(DiskFeatureCache(tmp_path), [1])
    old, new = rows.folder / ".a.safetensors.x1", rows.folder / ".b.safetensors.x2"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    DiskFeatureCache(tmp_path).open(SPACE)
    assert not old.exists() and new.exists()


def test_the_budget_evicts_the_longest_unused_and_never_what_is_in_use(tmp_path: Path) -> None:
    put(DiskFeatureCache(tmp_path), [1], width=500)
    size = DiskFeatureCache(tmp_path).shards()[0][1]
    put(DiskFeatureCache(tmp_path), [2], width=500)
    for _, _, path in DiskFeatureCache(tmp_path).shards():
        os.utime(path, (1, 1))
    assert DiskFeatureCache(tmp_path).open(SPACE).get([key(1)]) is not None  # used again
    bank = DiskFeatureCache(tmp_path, gigabytes=2.5 * size / 2**30)
    put(bank, [3], width=500)
    rows = DiskFeatureCache(tmp_path).open(SPACE)
    assert [n for n in (1, 2, 3) if rows.has(key(n))] == [1, 3]
    rows = put(bank, [4], width=500)
    put(bank, [5], width=500)  # only 3 and 4 are left, both used by this process
    assert sum(entry[1] for entry in bank.shards()) <= bank.budget and not bank.writes
    assert [n for n in (1, 2, 3, 4, 5) if DiskFeatureCache(tmp_path).open(SPACE).has(key(n))] == [3, 4]


def test_an_evicted_shard_is_a_miss_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = put(DiskFeatureCache(tmp_path), [1])
    for _, _, path in DiskFeatureCache(tmp_path).shards():
        path.unlink()
    assert rows.get([key(1)]) is None and not rows.has(key(1)) and not caplog.records


def write_forty(folder: Path) -> None:
    rows = DiskFeatureCache(folder, shard_mb=1e-3).open(SPACE)
    for number in range(40):
        rows.put([key(number)], rows_of([number]))
    rows.flush()


def test_two_processes_fill_one_bank(tmp_path: Path) -> None:
    pair = [FORK.Process(target=write_forty, args=(tmp_path,)) for _ in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
    assert [process.exitcode for process in pair] == [0, 0]
    found = DiskFeatureCache(tmp_path).open(SPACE).get([key(n) for n in range(40)])
    assert found is not None and torch.equal(found["trunk"], rows_of(range(40))["trunk"])


def test_another_process_is_seen_before_writing(tmp_path: Path) -> None:
    first, second = DiskFeatureCache(tmp_path).open(SPACE), DiskFeatureCache(tmp_path).open(SPACE)
    for rows in (first, second):
        rows.put([key(1)], rows_of([1]))
        rows.flush()
    assert len(DiskFeatureCache(tmp_path).shards()) == 1 and second.get([key(1)]) is not None


# --- disks ----------------------------------------------------------------------------------------
def test_a_full_disk_ends_the_bank_but_not_the_training(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = trained(tiny_backbone)

    def full(path: Path, *rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bank_module, "write_tensors", full)
    with caplog.at_level(logging.WARNING, "anprompt"):
        found, _ = trained(tiny_backbone, bank=DiskFeatureCache(tmp_path))
    assert equal(plain, found)
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1 and "No space left" in lines[0] and "training goes on" in lines[0]


def test_a_folder_that_cannot_be_written_still_serves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(DiskFeatureCache(tmp_path), [1])
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()  # opening it fails, as everything does in a folder without write permission
    rows = put(DiskFeatureCache(tmp_path), [2])
    assert rows.get([key(1)]) is not None and rows.get([key(2)]) is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["file", "file/below", "nul\0byte"])
def test_impossible_folders_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="view bank"):
        DiskFeatureCache(f"{tmp_path}/{name}")


def test_checksums_cover_names_types_and_shapes() -> None:
    base = {"a": torch.zeros(2, 3)}
    others = [{"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3, dtype=torch.int32)}]
    assert len({checksum(base), *(checksum(other) for other in others)}) == 4
    assert checksum({"a": torch.zeros(2, 0)}) == checksum({"a": torch.zeros(2, 0)})
