"""The validation reads no test image and no new class, and counts what is right of every image."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import validation

from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset
from anprompt.data.splits import subset_classes


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["food", "clothing"])
def test_halves_touch_neither_test_nor_new_classes(name, seed):
    whole, parts = embedded_dataset(name), validation.halves(name, seed, 3)
    base = subset_classes(whole, "base")
    images = [item for half in parts.values() for item in (*half.train, *half.test)]
    assert {item.classname for item in images} <= set(base.classnames)
    assert not {item.path for item in images} & {item.path for item in whole.test}
    assert {item.domain for item in images} == {item.domain for item in whole.train}
    judged = {item.path for half in parts.values() for item in half.test}
    assert not judged & {item.path for item in (*whole.train, *whole.val)}
    assert len(judged) == 3 * 2 * len(base.classnames)
    assert not set(parts["base"].classnames) & set(parts["new"].classnames)
    assert len({item.domain for item in parts["base"].train}) == 1


def test_trained_styles_are_crossed_by_the_seed():
    styles = {seed: validation.halves("food", seed, 1)["base"].train[0].domain for seed in (1, 2, 3)}
    assert styles[1] == styles[3] != styles[2]


def test_cells_are_resumed_and_counted(tmp_path, capsys):
    variants = tmp_path / "variants.txt"
    variants.write_text("zeroshot zeroshot\n", encoding="utf-8")
    command = ["--out", str(tmp_path / "out"), "--sets", EMBEDDED_SETS[0]]
    validation.main(["run", *command, "--variants", str(variants), "--images", "1"])
    [cell] = (tmp_path / "out").glob("*.json")
    written = cell.stat().st_mtime_ns
    validation.main(["run", *command, "--variants", str(variants), "--images", "1"])
    assert cell.stat().st_mtime_ns == written
    rows = validation.load(tmp_path / "out")
    right = rows["zeroshot", "q0"][EMBEDDED_SETS[0], 1]
    assert right["base"]["clean"].shape == (16,) and set(np.unique(right["base"]["clean"])) <= {0.0, 100.0}
    capsys.readouterr()
    validation.main(["table", *command[:2], "--against", "zeroshot"])
    assert "(+0.00 ± 0.00)" in capsys.readouterr().out


def test_an_interval_is_about_paired_images():
    rng = np.random.default_rng(0)
    cells = {("a", 1): {"new": {"clean": 100.0 * (rng.random(400) < 0.5)}}}
    better = {
        ("a", 1): {"new": {"clean": np.minimum(100.0, cells["a", 1]["new"]["clean"] + 100 * (rng.random(400) < 0.1))}}
    }
    mean, half = validation.interval(better, cells, "new", "clean")
    assert 2 < mean < 9 and 0 < half < mean
    assert validation.interval(cells, cells, "new", "clean") == (0.0, 0.0)
