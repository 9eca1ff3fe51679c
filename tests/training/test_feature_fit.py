"""Training on frozen features: through `fit`, the cache, the command line, and a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from anprompt.commands.main import main
from anprompt.data.sources import open_dataset
from anprompt.experiments import ExperimentContext, RunSpec, run_protocol
from anprompt.tables import sheets, to_markdown
from anprompt.testing.toys import tiny_image_folder
from anprompt.training.feature_cache import MemoryFeatureCache
from anprompt.training.job import plan, run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_folder(tmp_path_factory.mktemp("probes") / "photos", images=12)


def test_the_cache_changes_nothing(photos: Path, tiny_backbone) -> None:
    bank, found = MemoryFeatureCache(), []
    for kept in (None, bank, bank):
        job = plan(open_dataset(str(photos)), tiny_backbone, method="linear-probe", shots=4, seed=1)
        found.append(run(job, bank=kept).method.state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[key]) for key, value in found[0].items())


def test_fit_saves_what_it_chose_and_eval_opens_it(
    photos: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapter"
    command = [
        "fit",
        "--data",
        str(photos),
        "--backbone",
        str(tiny_folder),
        "--method",
        "linear-probe",
        "--out",
        str(out),
    ]
    assert main([*command, "--shots", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"C", "cv_accuracy", "views"} <= set(told["epochs"][0]) and told["trained_parameters"] > 0
    assert main(["eval", str(out), "--data", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(told["accuracy (test)"])
    image = next(photos.glob("*/*.png"))
    assert main(["predict", str(out), str(image), "--classes", "red_square,lynx"]) == 2
    assert "say nothing of 'lynx'" in capsys.readouterr().err
    assert main([*command, "--shots", "4", "--dry-run"]) == 0
    assert "steps" in capsys.readouterr().out


def test_new_classes_of_base_to_new_are_zero_shot_s(photos: Path, tiny_folder: Path) -> None:
    context, new, records = ExperimentContext(), {}, []
    for method in ("linear-probe", "tip-adapter", "zeroshot"):
        spec = RunSpec(
            str(photos), method, shots=2, backbone=str(tiny_folder),
            conditions=("text:typo:2",) if method == "linear-probe" else (),
        )  # fmt: skip
        record = run_protocol(spec, context)
        new[method] = record["metrics"]["new"]["predicted"]
        if method == "linear-probe":
            disturbed = record["metrics"]["conditions"]["text:typo:2"]["base"]
            assert disturbed["predicted"] == record["metrics"]["base"]["predicted"], "a probe reads no words"
            assert record["method"]["new_classes"] == "zero-shot"
        records.append(record)
    assert new["linear-probe"] == new["zeroshot"] == new["tip-adapter"]
    page = to_markdown(sheets(records))
    assert "New classes of linear probe, Tip-Adapter: zero-shot CLIP's" in page
