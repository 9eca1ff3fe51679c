"""The detector as scikit-learn's outlier detectors are, its folder, what it reads and what it never reads."""

from __future__ import annotations

import builtins
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.base import clone

import anprompt
from anprompt import AnomalyDetector
from anprompt.backbones import load_backbone
from anprompt.detection import DETECTION_METHODS
from anprompt.detection.detector import Answer, NotFitted
from anprompt.detection.layouts import open_category
from anprompt.errors import UserError

QUICK: dict[str, dict[str, Any]] = {
    "apt": {"anomalies": 4, "steps": 3},
    "promptad": {"steps": 2},
    "anomalyclip": {"images": 4, "steps": 2, "tiles": 1},
}


@pytest.fixture(scope="session")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few of the embedded boards, as a folder of one's own."""
    root, source = tmp_path_factory.mktemp("boards") / "pcb", Path(anprompt.__file__).parent / "assets/boards"
    for part, count in (("train/good", 10), ("test/good", 3), ("test/short", 3), ("ground_truth/short", 3)):
        (root / part).mkdir(parents=True)
        for path in sorted((source / part).iterdir())[:count]:
            shutil.copy(path, root / part)
    return root


@pytest.fixture(scope="session")
def fitted(boards: Path) -> AnomalyDetector:
    return AnomalyDetector(method="patchcore", shots=3, tiles=1, false_alarms=0.2).fit(str(boards))


def test_manners(fitted: AnomalyDetector, boards: Path) -> None:
    paths = [str(path) for path in sorted((boards / "test/short").iterdir())]
    scores, decisions = fitted.score_samples(paths), fitted.decision_function(paths)
    np.testing.assert_allclose(decisions, scores - fitted.offset_)
    assert set(fitted.predict(paths)) <= {1, -1}
    np.testing.assert_array_equal(fitted.predict(paths), np.where(decisions < 0, -1, 1))
    image = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert fitted.score_samples([image])[0] == pytest.approx(scores[0], rel=1e-6)
    assert clone(fitted).get_params()["method"] == "patchcore" and not hasattr(clone(fitted), "method_")
    with pytest.raises(NotFitted):
        AnomalyDetector().predict(paths)
    assert fitted.threshold_ is not None and fitted.threshold_.images == 7


def test_normal_images_with_something_on_them_score_higher(fitted: AnomalyDetector, boards: Path) -> None:
    found = []
    for path in sorted((boards / "test/good").iterdir()):
        image = np.asarray(Image.open(path).convert("RGB")).copy()
        noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3))
        spoiled = image.copy()
        spoiled[40:64, 40:64] = noise
        clean, bad = fitted.answer(image), fitted.answer(spoiled)
        found.append(bad.score > clean.score)
        assert bad.map.shape == image.shape[:2]
        assert bad.map[40:64, 40:64].mean() > bad.map.mean()
    assert sum(found) >= 2  # three images of other boards are few


@pytest.mark.parametrize("method", DETECTION_METHODS)
def test_every_method_is_the_same_again_and_from_its_folder(method: str, boards: Path, tmp_path: Path) -> None:
    backbone = load_backbone("embedded")
    made = [
        AnomalyDetector(backbone, method, 2, settings=QUICK.get(method), tiles=1).fit(_few(boards)) for _ in range(2)
    ]
    path = str(next((boards / "test/short").iterdir()))
    first, second = (one.answer(path) for one in made)
    assert first.score == second.score and np.array_equal(first.map, second.map) and np.isfinite(first.score)
    again = AnomalyDetector.load(made[0].save(tmp_path / "d"), backbone=backbone)
    assert again.answer(path).score == pytest.approx(first.score, rel=1e-5)
    assert again.threshold_ == made[0].threshold_ and again.floor_ == made[0].floor_
    files = sorted(p.name for p in (tmp_path / "d").iterdir())
    assert len(files) == 3 and files[:2] == ["README.md", "config.json"]


def _few(boards: Path):  # type: ignore[no-untyped-def]
    import dataclasses

    category = open_category(boards)
    return dataclasses.replace(category, train=category.train[:4])


def test_fit_never_opens_a_test_image(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No choice by test pictures: whoever opens a file below test/ or ground_truth/ while fitting fails here."""
    opened: list[str] = []
    real, real_io = builtins.open, io.open

    def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    for method in DETECTION_METHODS:
        AnomalyDetector("embedded", method, 2, settings=QUICK.get(method), tiles=1).fit(str(boards))
    assert real_io is not watched and any(str(boards / "train") in name for name in opened)
    assert not [name for name in opened if str(boards / "test") in name or str(boards / "ground_truth") in name]


def test_fit_works_where_test_images_can_not_be_read(boards: Path, tmp_path: Path) -> None:
    shutil.copytree(boards, tmp_path / "b")
    for path in (tmp_path / "b/test").rglob("*.png"):
        path.write_bytes(b"")
    detector = AnomalyDetector(method="patchcore", shots=2, tiles=1).fit(str(tmp_path / "b"))
    assert not detector.skipped_ and detector.images_ == 2


def test_more_images_change_no_draw_and_spoiled_ones_are_replaced(boards: Path, tmp_path: Path) -> None:
    few = AnomalyDetector(method="patchcore", shots=2, tiles=1).fit(str(boards)).learned_
    more = AnomalyDetector(method="patchcore", shots=5, tiles=1).fit(str(boards)).learned_
    assert set(few.values()) < set(more.values())
    shutil.copytree(boards, tmp_path / "b")
    (tmp_path / "b/train/good" / next(iter(few.values()))).write_bytes(b"broken")
    other = AnomalyDetector(method="patchcore", shots=2, tiles=1).fit(str(tmp_path / "b"))
    assert other.images_ == 2 and len(other.skipped_) == 1 and "is not a picture" in other.skipped_[0]


def test_one_spoiled_image_never_loses_the_other_answers(fitted: AnomalyDetector, boards: Path, tmp_path: Path) -> None:
    shutil.copytree(boards / "test/good", tmp_path / "p")
    (tmp_path / "p/a.png").write_bytes(b"broken")
    found = list(fitted.answers(str(tmp_path / "p")))
    assert sum(isinstance(one, Answer) for one in found) == 3
    assert [str(one) for one in found if isinstance(one, UserError)] == [f"{tmp_path}/p/a.png: {_reason()}"]


def _reason() -> str:
    return "is not a picture, or is damaged at its start; remove it or save it as JPEG or PNG"


def test_requests_that_can_not_be_met(boards: Path) -> None:
    for values, said in (
        ({"method": "patchcor"}, "Did you mean 'patchcore'"), ({"shots": 0}, "shots of at least 1"),
        ({"shots": -1}, "must be 0 or more"), ({"settings": {"step": 3}}, "Did you mean 'steps'"),
        ({"tiles": 99}, "from 1 to 8"), ({"settings": {"guidance": "pul"}}, "Did you mean 'pull'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            AnomalyDetector(**values).fit(str(boards))
    with pytest.raises(UserError, match=r"no image|No normal images"):
        AnomalyDetector(method="patchcore").fit([])
    single = AnomalyDetector(method="patchcore", tiles=1).fit([next((boards / "train/good").iterdir())])
    assert single.images_ == 1 and single.threshold_ is None


# --- folders ----------------------------------------------------------------------------------------
def test_folders_of_others_are_never_touched(fitted: AnomalyDetector, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \('notes.txt'\)"):
        fitted.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
    fitted.save(tmp_path / "d")
    fitted.save(tmp_path / "d")  # its own may be replaced
    assert len(list((tmp_path / "d").glob("*.safetensors"))) == 1


def test_damaged_and_foreign_detectors_are_refused_in_one_line(fitted: AnomalyDetector, tmp_path: Path) -> None:
    whole = fitted.save(tmp_path / "d")
    config = json.loads((whole / "config.json").read_text())

    def refused(said: str, **changes: Any) -> None:
        (whole / "config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError, match=said) as error:
            AnomalyDetector.load(whole)
        assert "\n" not in str(error.value)

    refused("is not a detector", kind="adapter")
    refused("has format 9", format=9)
    refused("'tiles' is missing", tiles="many")
    refused("no file of a detector", tensors="../elsewhere.safetensors")
    refused("is not the file", tensors_sha256="0" * 64)
    refused("fitted on other weights", backbone={**config["backbone"], "weight_hash": "0"})
    refused("threshold", threshold={"value": 1})
    refused("Did you mean 'patchcore'", method="patchcores")
    path = whole / config["tensors"]
    tensors = load_file(path)
    save_file({"bank": torch.full_like(tensors["bank"], float("nan"))}, path)
    refused("NaN or Inf")
    path.write_bytes(b"cut")
    refused("Can't read tensors")
    for folder, said in ((tmp_path / "none", "does not exist"), (path, "is a file")):
        with pytest.raises(UserError, match=said):
            AnomalyDetector.load(folder)


def test_tensors_of_another_shape_are_refused(fitted: AnomalyDetector, tmp_path: Path) -> None:
    from anprompt.utils.files import file_hash

    whole = fitted.save(tmp_path / "d")
    config = json.loads((whole / "config.json").read_text())
    save_file({"bank": torch.ones(3, 5)}, whole / config["tensors"])
    (whole / "config.json").write_text(json.dumps({**config, "tensors_sha256": file_hash(whole / config["tensors"])}))
    with pytest.raises(UserError, match="do not fit its method"):
        AnomalyDetector.load(whole)
