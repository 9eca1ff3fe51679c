"""ONNX files: the method's answers without the method, for every method, and nothing left where that fails."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.adapters import onnx as export
from anprompt.adapters.adapter import save_adapter
from anprompt.backbones import Backbone
from anprompt.classifier import load
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.methods import Classifier, Method, build_method, methods

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parents[2]
NAMES = ["cat", "golden_retriever", "aurora"]
LIGHT: dict[str, dict[str, Any]] = {
    "promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2, "token_width": 16}
}  # fmt: skip


def build(name: str, backbone: Backbone) -> Method:
    """A method whose trained tensors are not where they start, so that every part counts."""
    method = build_method(name, backbone, NAMES, settings=LIGHT.get(name, {}))
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=g))
    return method


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def random_pixels(backbone: Backbone, count: int) -> torch.Tensor:
    size = backbone.dims.image_size
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def normalised(pixels: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    return (pixels - mean) / std


# --- equality -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(set(methods()) - {"cocoop"}))
def test_the_file_answers_as_the_method_does(name: str, tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = build(name, tiny_backbone)
    done = export.export_onnx(method, tmp_path / "model.onnx", check=name == "maple")
    model, classifier = session(done.path), Classifier(method)
    for count in (1, 2, 5):
        pixels = random_pixels(tiny_backbone, count)
        logits, shares, features = model.run(None, {"pixels": pixels.numpy()})
        expected = classifier.logits(normalised(pixels, tiny_backbone))
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)
        np.testing.assert_allclose(shares, expected.softmax(-1).numpy(), rtol=0, atol=1e-4)
        if not method.by_class:  # else the logits hold what it learned of each class besides
            scaled = done.facts["logit_scale"] * features @ export.text_matrix(method, NAMES).T
            np.testing.assert_allclose(scaled, expected.numpy(), rtol=0, atol=1e-4)
    assert np.ptp(expected.numpy(), axis=0).max() > 1e-2  # pictures are told apart, so equality says something


def test_features_serve_another_class_list(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method, others = build("anprompt", tiny_backbone), ["fog", "lighthouse"]
    done = export.export_onnx(method, tmp_path / "m.onnx", head="unseen", check=False)
    pixels = random_pixels(tiny_backbone, 2)
    (features,) = session(done.path).run(["features"], {"pixels": pixels.numpy()})
    logits = done.facts["logit_scale"] * features @ export.text_matrix(method, others).T
    expected = Classifier(method, others).logits(normalised(pixels, tiny_backbone))
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)


# --- the embedded model, end to end -----------------------------------------------------------------
@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter on the embedded model, and the ONNX file that the command makes of it."""
    from anprompt.backbones import load_backbone

    root = tmp_path_factory.mktemp("export")
    adapter = save_adapter(root / "adapter", build("anprompt", load_backbone("embedded")))
    assert main(["export", str(adapter), "--out", str(root / "model.onnx"), "--quiet"]) == 0
    return adapter, root / "model.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Wide, tall, transparent, grey, turned by EXIF, and a strip."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)

    def noise(*shape: int) -> Image.Image:
        small = Image.fromarray(rng.integers(0, 256, (5, 7, *shape[2:]), np.uint8))
        return small.resize((shape[1], shape[0]))

    made = {"wide.png": noise(90, 161, 3), "tall.png": noise(133, 77, 3), "clear.png": noise(50, 60, 4),
            "grey.png": noise(81, 80), "strip.png": noise(10, 300, 3), "turned.png": noise(60, 100, 3)}  # fmt: skip
    for name, picture in made.items():
        exif = Image.Exif()
        if name == "turned.png":
            exif[0x0112] = 6
        picture.save(folder / name, exif=exif)
    return [str(folder / name) for name in made]


ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "anprompt", "transformers", "safetensors", "onnx"):
            raise ImportError("not to be imported here: " + name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_example(*words: object) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "examples/onnx_predict.py")
    return subprocess.run([sys.executable, "-I", "-c", ALONE, script, *map(str, words)],
                          capture_output=True, text=True, timeout=300)  # fmt: skip


def test_the_example_answers_as_the_classifier_without_torch(embedded: tuple[Path, Path], pictures: list[str]) -> None:
    adapter, model = embedded
    ran = run_example(model, "--json", *pictures)
    assert ran.returncode == 0, ran.stderr
    answers, classifier = json.loads(ran.stdout), load(adapter)
    expected = classifier.predict_proba(pictures)
    assert [answer["top"][0]["class"] for answer in answers] == classifier.predict(pictures).tolist()
    for answer, row in zip(answers, expected):
        found = {top["class"]: top["probability"] for top in answer["top"]}
        np.testing.assert_allclose([found[name] for name in classifier.classes_], row, rtol=0, atol=1e-4)


def test_the_facts_describe_the_file(embedded: tuple[Path, Path]) -> None:
    adapter, model = embedded
    facts, data = json.loads(model.with_suffix(".json").read_text()), model.read_bytes()
    config = json.loads((adapter / "config.json").read_text())
    assert facts["classes"] == NAMES and facts["head"] == "trained" and facts["method"] == "anprompt"
    assert facts["backbone"]["weight_hash"] == config["backbone"]["weight_hash"]
    assert facts["sha256"] == hashlib.sha256(data).hexdigest() and facts["bytes"] == len(data)
    assert 0 < max(facts["largest_difference"].values()) <= export.TOLERANCE
    inside = onnx.load(model)
    held = json.loads(inside.metadata_props[0].value)
    assert held == {key: facts[key] for key in held} and held["opset"] == inside.opset_import[0].version
    assert [d.dim_param or d.dim_value for d in inside.graph.input[0].type.tensor_type.shape.dim][1:] == [
        3, facts["picture"]["size"], facts["picture"]["size"]
    ]  # fmt: skip
    for trace in (b"site-packages", str(ROOT).encode(), b"stack_trace"):  # nothing of the machine that made it
        assert trace not in data


def test_the_text_tower_stays_out(embedded: tuple[Path, Path]) -> None:
    from anprompt.backbones import load_backbone

    weights = sum(p.numel() for p in load_backbone("embedded").parameters())
    assert embedded[1].stat().st_size < 0.8 * 4 * weights


def test_the_example_refuses_a_file_of_other_facts(
    embedded: tuple[Path, Path], pictures: list[str], tmp_path: Path
) -> None:
    _, model = embedded
    (tmp_path / "model.onnx").write_bytes(model.read_bytes() + b"\0")
    (tmp_path / "model.json").write_bytes(model.with_suffix(".json").read_bytes())
    ran = run_example(tmp_path / "model.onnx", pictures[0])
    assert ran.returncode == 1 and "copy both again" in ran.stderr


# --- refusals ---------------------------------------------------------------------------------------
def test_cocoop_is_refused_with_the_reason(tiny_backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="depend on the picture"):
        export.export_onnx(build("cocoop", tiny_backbone), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_file_that_differs_is_not_kept(
    difference: float, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_traced", lambda *_: onnx.ModelProto())
    monkeypatch.setattr(export, "differences", lambda path, _: {"logits": difference})
    with pytest.raises(UserError, match="not kept"):
        export.export_onnx(build("zeroshot", tiny_backbone), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_beyond_one_file_is_refused(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = SimpleNamespace(const_value=SimpleNamespace(nbytes=2**30))
    graph = SimpleNamespace(initializers={"a": weight, "b": weight, "c": SimpleNamespace(const_value=None)})
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: None)
    program = SimpleNamespace(model=SimpleNamespace(graph=graph))
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: program)
    with pytest.raises(UserError, match=r"2\.0 GiB; a single ONNX file holds"):
        export.export_onnx(build("zeroshot", tiny_backbone), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_method_that_can_not_be_traced_is_one_line(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = build("zeroshot", tiny_backbone)
    state = method.image_state
    method.image_state = lambda pixels, parts: state(pixels * float(pixels.sum()))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="can't be traced") as caught:
        export.export_onnx(method, tmp_path / "m.onnx")
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--out", "model.pt"], "ends in '.onnx'"),
        (["--opset", "7"], "one of 18 to 23"),
        (["--out", "there.onnx"], "--overwrite"),
        (["--classes", "one"], "at least two names"),
        (["--head", "trainde"], "'trained'"),
    ],
)
def test_slips_are_one_line(
    words: list[str], reason: str, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("{}")
    assert main(["export", str(adapter_folder), *words]) == 2
    message = capsys.readouterr().err
    assert reason in message and message.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


def test_a_missing_package_says_what_to_install(
    adapter_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else real(name, *rest)
    )
    assert main(["export", str(adapter_folder)]) == 2
    assert "pip install 'anprompt[export]'" in capsys.readouterr().err


def test_half_precision_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    from anprompt.backbones import load_backbone

    method = build_method("zeroshot", load_backbone(str(tiny_folder), dtype="bfloat16"), NAMES)
    with pytest.raises(UserError, match="fp32 on the CPU"):
        export.export_onnx(method, tmp_path / "m.onnx")
