"""What the field's own code gets wrong, where no other test looks; `docs/failure-modes.md` lists them all."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import anprompt
from anprompt.adapters.adapter import holds_adapter
from anprompt.backbones import Backbone
from anprompt.data.classic.catalog import CATALOG
from anprompt.data.sources import open_dataset
from anprompt.data.splits import few_shot
from anprompt.experiments import records as results
from anprompt.methods import build_method
from anprompt.prompting.packing import _layout
from anprompt.training.job import plan
from anprompt.training.loop import TrainConfig, fit
from tests.methods.test_methods_contract import NAMES, TRAINED, build

ROOT = Path(__file__).parents[2]
PACKAGE = Path(anprompt.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))


class Masks(TorchDispatchMode):
    """Counts how often a triangle is cut out of a matrix, which is how causal masks are made."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.made += "tril" in str(func) or "triu" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TRAINED)
def test_no_causal_mask_per_layer(name: str, tiny_backbone: Backbone) -> None:
    """Failure mode: a causal mask rebuilt (on the CPU) at every layer of every step."""
    deepest = {"first_block": 1} if name in ("mmrl", "mmrlpp", "anprompt") else {}
    method = build(name, tiny_backbone, **deepest)
    bank, vision = method.prepare(NAMES), method.image_state(torch.zeros(1, 3, 32, 32))
    with Masks() as masks:
        method.loss(vision, torch.tensor([0]), bank, 0)
    assert masks.made <= 1, f"{masks.made} masks in one step of {tiny_backbone.dims.text_depth} blocks"


def test_a_data_set_is_a_row_and_no_class() -> None:
    """Failure mode: data-set classes copied between repositories."""
    words = {name.replace("_", "") for name in CATALOG}
    for path in (PACKAGE / "data").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node.name.lower() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        found = [name for name in classes if any(word in name for word in words)]
        assert not found, f"{path.name}: {found}"
    assert len({type(row) for row in CATALOG.values()}) == 1


# --- files that run code ----------------------------------------------------------------------------
UNSAFE = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_pickled(path: Path) -> None:
    """Failure mode: few-shot caches (and anything else) as pickles."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not UNSAFE & {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in UNSAFE
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
            safe = {key.arg: ast.unparse(key.value) for key in node.keywords}
            assert safe.get("weights_only") == "True" or safe.get("allow_pickle") == "False", ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.save", "np.save")


def test_a_draw_leaves_no_file(photo_folder: Path) -> None:
    """Failure mode: few-shot caches with absolute paths. A draw is computed, never kept."""
    before = sorted(photo_folder.rglob("*"))
    first, again = (few_shot(open_dataset(str(photo_folder)), 2, seed=1) for _ in range(2))
    assert first.train == again.train and len(first.train) == 8
    assert sorted(photo_folder.rglob("*")) == before


# --- runs -------------------------------------------------------------------------------------------
def test_seed_zero_reaches_the_training(photo_folder: Path, tiny_backbone: Backbone) -> None:
    """Failure mode: `--seed 0` that means unseeded, or the default."""
    dataset = open_dataset(str(photo_folder))
    jobs = [plan(dataset, tiny_backbone, method="coop", shots=2, seed=seed) for seed in (0, 0, 1)]
    assert [job.train.seed for job in jobs] == [0, 0, 1]
    assert jobs[0].key == jobs[1].key != jobs[2].key


def test_a_folder_is_no_result(tmp_path: Path) -> None:
    """Failure mode: a run counted as done because its folder exists."""
    spec = {"protocol": "base-to-new", "dataset": "food", "method": "coop", "seed": 1}
    results.record_path(tmp_path, spec).mkdir()
    assert results.finished(tmp_path, spec) is None
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "config.json").write_text("{}")
    assert not holds_adapter(tmp_path / "adapter")


def test_logs_beside_records_are_not_read(tmp_path: Path) -> None:
    """Failure mode: results scraped from logs with a regular expression."""
    spec = {"protocol": "base-to-new", "dataset": "food", "method": "coop", "seed": 1}
    record = {"format": results.FORMAT, "spec": spec, "metrics": {}}
    results.save_record(tmp_path, record)
    (tmp_path / "log.txt").write_text("* accuracy: 99.9%\n")
    (tmp_path / "food").mkdir()
    (tmp_path / "food" / "log.txt").write_text("=> result\n* accuracy: 99.9%\n")
    assert results.read_records(tmp_path) == [record]


class _Pictures:
    """Two pictures of two classes, in the form the training loop reads."""

    fingerprint, labels = "two", torch.tensor([0, 1])

    def __len__(self) -> int:
        return 2

    def train_batch(self, indices: Tensor, epoch: int) -> Tensor:
        return torch.zeros(len(indices), 3, 32, 32)


def test_training_state_holds_no_backbone(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Failure mode: whole models in checkpoints; what a run resumes from is one too."""
    method = build_method("coop", tiny_backbone, NAMES[:2])
    fit(method, _Pictures(), TrainConfig(optimizer="adamw", epochs=1, batch_size=2), state=tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    trained = 4 * method.trained_parameters()
    assert trained < size < 3 * trained + 8192  # value and two moments, and the log
    assert 4 * sum(p.numel() for p in tiny_backbone.parameters()) > 2 * size


# --- the list ---------------------------------------------------------------------------------------
def test_every_failure_mode_names_tests_that_exist() -> None:
    text = (ROOT / "docs/failure-modes.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) >= 14
    for row in rows:
        named = re.findall(r"`([\w/]*test_\w+)\.py::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"), test


def test_the_mask_count_sees_masks(tiny_backbone: Backbone) -> None:
    """The count above would be zero too if nothing were counted: preparing a class list cuts its masks."""
    _layout.cache_clear()  # an equal layout of another test would be used again
    with Masks() as masks:
        build("mmrl", tiny_backbone).prepare(("a list", "of its own", "for this test"))
    assert masks.made >= 1
