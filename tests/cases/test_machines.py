"""Nothing hangs on the machine: where memory lies, which library multiplies, how many threads add up."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anprompt.adapters.adapter import load_adapter, save_adapter
from anprompt.backbones import Backbone, load_backbone
from anprompt.backbones.hf import HFClip
from anprompt.backbones.linear import FrozenLinear
from anprompt.classifier import PromptClassifier
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.methods import Classifier, build_method, methods
from anprompt.methods.weak_noise import noise_prompts
from anprompt.utils import machine
from anprompt.utils.machine import ALIGNMENT, align, aligned
from tests.backbones import test_openclip as test_backbone_openclip
from tests.backbones import test_siglip as test_backbone_siglip

NAMES = ["cat", "golden retriever", "aurora"]
LIGHT: dict[str, dict[str, Any]] = {"promptsrc": {"teacher_templates": 2}, "anprompt": {"draws": 2}}
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


def remainders(module: nn.Module) -> set[int]:
    """Where the tensors of a module begin, modulo `ALIGNMENT`."""
    return {t.data_ptr() % ALIGNMENT for t in itertools.chain(module.parameters(), module.buffers())}


def displaced(tensor: Tensor, offset: int) -> Tensor:
    """The same values, beginning `offset` elements behind an aligned address."""
    room = tensor.new_empty(tensor.numel() + offset)
    moved = room[offset:].view(tensor.shape)
    return moved.copy_(tensor)


def thawed(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved_and_loaded(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: list[Callable[[Any], Any]] = [copy.deepcopy, thawed, saved_and_loaded]


# --- one tensor -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8]
)
@pytest.mark.parametrize("offset", [1, 2, 3, 5, 7])
def test_a_displaced_tensor_is_moved_whole(dtype: torch.dtype, offset: int) -> None:
    values = (torch.arange(35) % 7).to(dtype).view(5, 7)
    for tensor in (displaced(values, offset), displaced(values, offset).t(), displaced(values[0, :1], offset)[0]):
        assert tensor.data_ptr() % ALIGNMENT != 0
        moved = aligned(tensor)
        assert moved.data_ptr() % ALIGNMENT == 0
        assert torch.equal(moved, tensor) and moved.dtype == dtype and moved.stride() == tensor.stride()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (4, 5), (64, 64)])
def test_a_tensor_that_lies_well_is_not_copied(shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape)
    assert aligned(tensor) is tensor


def test_align_keeps_what_a_module_is() -> None:
    module = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5))
    module[2].weight = module[0].weight  # tied
    module[0].weight.data = displaced(module[0].weight.data, 3)
    module[0].bias.requires_grad_(False).data = displaced(module[0].bias.data, 1)
    module[1].running_mean.data = displaced(module[1].running_mean, 2)
    untouched = module[2].bias.data_ptr()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    align(module)
    assert remainders(module) == {0} and module[2].bias.data_ptr() == untouched
    assert module[2].weight is module[0].weight and not module[0].bias.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    module(rows).square().sum().backward()
    optimizer.step()  # trains what the module holds, not what it held
    assert not torch.equal(module[2].weight, before["2.weight"])


# --- backbones ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folders(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("machines")
    return {"clip": tiny_folder, "siglip": test_backbone_siglip.save_tiny(root / "siglip")}


def with_header(folder: Path, out: Path, blanks: int) -> Path:
    """The model with a header that is `blanks` longer, so that all its weights lie elsewhere when mapped."""
    shutil.copytree(folder, out)
    path = next(out.glob("*.safetensors"))
    save_file(load_file(path), path, {"format": "pt", "blanks": " " * blanks})
    return out


@pytest.mark.parametrize("blanks", range(0, 64, 8))
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_lie_aligned_wherever_the_file_has_them(
    folders: dict[str, Path], kind: str, blanks: int, tmp_path: Path
) -> None:
    backbone = load_backbone(str(with_header(folders[kind], tmp_path / "model", blanks)))
    assert remainders(backbone) == {0}
    for copied in COPIES:
        assert remainders(copied(backbone)) == {0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_of_the_embedded_model(dtype: str) -> None:
    assert remainders(load_backbone("embedded", dtype=dtype)) == {0}


@pytest.mark.parametrize("kind", ["plain", "custom"])
def test_weights_of_open_clip(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra [open-clip]", exc_type=Exception)
    settings = test_backbone_openclip.config(kind)
    backbone = load_backbone(str(test_backbone_openclip.save_tiny(tmp_path / "model", settings)))
    assert remainders(backbone) == {0}


@pytest.mark.parametrize("products", ["on", "off"])
@pytest.mark.parametrize("offset", [1, 2, 3, 5, 8, 12, 15])
def test_answers_do_not_hang_on_where_the_weights_lay(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, offset: int, products: str
) -> None:
    monkeypatch.setenv(machine.ONEDNN, products if torch.backends.mkldnn.is_available() else "off")
    straight, moved = (HFClip(str(tiny_folder)) for _ in range(2))
    for parameter in moved.model.parameters():
        parameter.data = displaced(parameter.data, offset)
    moved = HFClip.from_model(moved.model, moved._tokenizer, name="moved")
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert moved.weight_hash == straight.weight_hash
    assert torch.equal(moved.encode_image(pixels), straight.encode_image(pixels))
    assert torch.equal(moved.encode_text(NAMES), straight.encode_text(NAMES))


# --- methods and classifiers ----------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(methods()))
def test_a_method_and_its_copies_lie_aligned_and_agree(tiny_backbone: Backbone, name: str, tmp_path: Path) -> None:
    method = build_method(name, tiny_backbone, NAMES, settings=LIGHT.get(name))
    reopened = load_adapter(save_adapter(tmp_path / "adapter", method), backbone=tiny_backbone)
    others = [copied(method) for copied in COPIES]
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = Classifier(method).logits(pixels)
    for one in (method, reopened, *others):
        assert remainders(one) <= {0} and remainders(one.backbone) == {0}
        assert torch.equal(Classifier(one).logits(pixels), expected)


@pytest.mark.parametrize("products", ["on", "off"])
@pytest.mark.parametrize("blanks", [0, 24, 56])
def test_copies_of_a_classifier_answer_alike(
    tiny_folder: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blanks: int, products: str
) -> None:
    """The weights' place in the file and the library of the products change nothing between a model and its copies."""
    monkeypatch.setenv(machine.ONEDNN, products if torch.backends.mkldnn.is_available() else "off")
    folder = with_header(tiny_folder, tmp_path / "model", blanks)
    paths = sorted(map(str, photo_folder.glob("[rb]*/[0-3].png")))
    clf = PromptClassifier(
        str(folder), method="coop", settings={"n_context": 2}, shots=2, train={"epochs": 1, "warmup_epochs": 0}
    ).fit(paths, [Path(path).parent.name for path in paths])
    expected = clf.predict_proba(paths)
    for copied in COPIES:
        assert (copied(clf).predict_proba(paths) == expected).all()


# --- which library multiplies ---------------------------------------------------------------------
@needs_onednn
@pytest.mark.parametrize(
    "value, expected", [("on", True), (" ON ", True), ("off", False), ("Off", False), ("auto", None), ("", None)]
)
def test_products_are_chosen_by_the_variable(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool | None
) -> None:
    if expected is None:
        monkeypatch.delenv(machine.ONEDNN, raising=False)
        expected = machine.onednn_products()
    monkeypatch.setenv(machine.ONEDNN, value)
    assert machine.onednn_products() is expected
    assert machine.hardware()["products"].startswith("oneDNN, " if expected else "MKL, ") or not expected
    linear = [m for m in load_backbone("embedded").modules() if isinstance(m, nn.Linear)]
    assert any(type(m) is FrozenLinear for m in linear) is expected


@pytest.mark.parametrize("amd", [True, False])
@pytest.mark.parametrize("width", ["AVX512", "AVX2", "DEFAULT"])
def test_by_itself_onednn_is_for_wide_units_that_mkl_leaves_unused(
    monkeypatch: pytest.MonkeyPatch, width: str, amd: bool
) -> None:
    monkeypatch.delenv(machine.ONEDNN, raising=False)
    monkeypatch.setattr(machine, "cpu_model", lambda: "AMD EPYC" if amd else "Intel Xeon")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert machine.onednn_products() is (amd and width == "AVX512")
    assert machine.products().endswith(f", {width}")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setenv(machine.ONEDNN, "on")
    assert not machine.onednn_products()


@pytest.mark.parametrize("value", ["yes", "onn", "1", "mkl"])
def test_another_value_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    monkeypatch.setenv(machine.ONEDNN, value)
    with pytest.raises(UserError, match=rf"ANPROMPT_ONEDNN.*'{value}'.*auto, on, off"):
        load_backbone("embedded")
    code = main(["eval", "zeroshot", "--data", "embedded:food"])
    said = capsys.readouterr().err.strip()
    assert code == 2 and "ANPROMPT_ONEDNN" in said and len(said.splitlines()) == 1


def test_a_machine_in_words() -> None:
    found = {"cpu": "AMD EPYC", "cores": 2, "threads": 1}
    assert machine.in_words(found) == "AMD EPYC, 2 cores, 1 torch threads"  # a record of before
    assert machine.in_words({**found, "products": "MKL, AVX2"}).endswith("products by MKL, AVX2")
    assert machine.in_words({**found, "gpu": "H100"}).startswith("H100; AMD EPYC")
    assert machine.in_words(machine.hardware()).endswith(f"products by {machine.products()}")


# --- threads --------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [300, 3000])
def test_noise_prompts_do_not_hang_on_threads(rows: int) -> None:
    from threadpoolctl import threadpool_limits

    bank = torch.randn(rows, 16, generator=torch.Generator().manual_seed(rows))
    found = []
    for threads in (1, 2, 4, 8, 8):
        with threadpool_limits(threads):
            found.append(noise_prompts(bank, 4, seed=1))
    assert all(torch.equal(one, found[0]) for one in found)
