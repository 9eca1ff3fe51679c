"""The field's `model.pth.tar-N` files, made here in the form its trainers write them."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anprompt.adapters.official_checkpoints import method_of, official_names, read_field_checkpoint, read_state
from anprompt.backbones import Backbone
from anprompt.errors import UserError
from anprompt.methods import Classifier, Method, build_method

NAMES = ["cat", "golden_retriever", "Boeing 737-800"]
SETTINGS: dict[str, dict[str, Any]] = {
    "coop": {"n_context": 3, "context_init": ""},
    "cocoop": {"n_context": 3, "context_init": "", "reduction": 8},
    "maple": {"n_context": 2, "depth": 3},
    "promptsrc": {"n_text": 4, "n_vision": 2, "depth": 3},
    "mmrl": {"n_tokens": 3, "token_width": 20, "first_block": 2},
    "mmrlpp": {"n_tokens": 3, "token_width": 20, "first_block": 3, "rank": 2, "projection_rank": 4},
}


def randomised(name: str, backbone: Backbone, **more: Any) -> Method:
    method = build_method(name, backbone, NAMES, settings={**SETTINGS[name], **more})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return method.eval()


def official_state(name: str, method: Method) -> dict[str, Tensor]:
    """Our tensors under the official names, with what the trainers save besides: buffers and CLIP itself."""
    blocks = {"maple": 3, "promptsrc": 3, "mmrl": 3, "mmrlpp": 2}.get(name, 1)
    every = _Everything(blocks)
    state: dict[str, Tensor] = OrderedDict()
    for ours, group in official_names(name, every).items():
        value = dict(method.named_parameters())[ours].detach()
        rows = [value] if len(group) == 1 else list(value)
        assert len(rows) == len(group)
        state.update({key: row.clone() for key, row in zip(group, rows)})
    width = method.backbone.dims.text_width
    state["prompt_learner.token_prefix"] = torch.zeros(3, 1, width)
    state["prompt_learner.token_suffix"] = torch.zeros(3, 60, width)
    if name in ("coop", "cocoop"):  # these save the prompt learner alone
        return OrderedDict((key.removeprefix("prompt_learner."), v) for key, v in state.items())
    state["image_encoder.ln_post.weight"] = torch.ones(method.backbone.dims.vision_width).half()
    state["logit_scale"] = torch.tensor(4.6)
    return state


class _Everything:
    """Holds every name whose number is below the number of prompted blocks."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def __contains__(self, key: object) -> bool:
        numbers = [int(part) for part in str(key).split(".") if part.isdigit()]
        deeper = "compound_prompt" in str(key)  # MaPLe counts these from block 2 on
        return all(number < self.blocks - deeper for number in numbers)

    def __iter__(self):
        return iter(())

    def __len__(self) -> int:
        return 0


class WarmUp(torch.optim.lr_scheduler.LRScheduler):
    """Like the engine's warm-up: its state holds the wrapped scheduler, which holds the optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: Any) -> None:
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [1e-5 for _ in self.base_lrs]


def save(folder: Path, state: dict[str, Tensor], **more: Any) -> Path:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], 2e-3, momentum=0.9, weight_decay=5e-4)
    weight.sum().backward()
    optimizer.step()
    scheduler = WarmUp(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5.0))
    scheduler.__dict__.pop("_initial_step", None)
    content = {
        "state_dict": state, "epoch": 5, "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(), "val_result": None, **more,
    }  # fmt: skip
    torch.save(content, folder / "model.pth.tar-5")
    return folder / "model.pth.tar-5"


@pytest.mark.parametrize("name", SETTINGS)
def test_official_file_gives_the_same_answers(name: str, tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = randomised(name, tiny_backbone)
    path = save(tmp_path, official_state(name, method))
    opened = read_field_checkpoint(path, tiny_backbone, NAMES)
    assert opened.name == name and not opened.training
    size = tiny_backbone.dims.image_size
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for names in (NAMES, ["lynx", "ox"]):
        expected, found = Classifier(method, names), Classifier(opened, names)
        assert expected.head == found.head
        torch.testing.assert_close(found.logits(x), expected.logits(x), atol=1e-4, rtol=1e-5)


def test_class_specific_and_half_precision_context(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = randomised("coop", tiny_backbone, class_specific=True, class_position="middle")
    state = {key: value.half() for key, value in official_state("coop", method).items()}
    path = save(tmp_path, state)
    opened = read_field_checkpoint(path, tiny_backbone, NAMES, settings={"class_position": "middle"})
    assert opened.config.class_specific and opened.context.dtype == torch.float32
    torch.testing.assert_close(opened.context, method.context, atol=1e-3, rtol=1e-3)


def test_opened_checkpoint_can_be_saved_as_an_adapter(tiny_backbone: Backbone, tmp_path: Path) -> None:
    checkpoint = pytest.importorskip("anprompt.adapters.adapter")
    method = randomised("maple", tiny_backbone)
    opened = read_field_checkpoint(save(tmp_path, official_state("maple", method)), tiny_backbone, NAMES)
    folder = checkpoint.save_adapter(tmp_path / "adapter", opened)
    again = checkpoint.load_adapter(folder, backbone=tiny_backbone)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), opened.parameters()))


def test_data_parallel_prefix(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = randomised("promptsrc", tiny_backbone)
    state = {f"module.{key}": value for key, value in official_state("promptsrc", method).items()}
    opened = read_field_checkpoint(save(tmp_path, state), tiny_backbone, NAMES)
    torch.testing.assert_close(opened.vision_prompts, method.vision_prompts)


# --- refusals ---------------------------------------------------------------------------------------
class Evil:
    """Pickles as a call of os.system, which must never happen."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def one_line(path: Path, backbone: Backbone, names: list[str] = NAMES) -> str:
    with pytest.raises(UserError) as caught:
        read_field_checkpoint(path, backbone, names)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_code_in_a_file_is_not_run(tiny_backbone: Backbone, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = save(tmp_path, {"ctx": torch.zeros(2, 32)}, val_result=Evil(marker))
    assert "would run code" in one_line(path, tiny_backbone)
    assert not marker.exists()


def test_a_scheduler_in_the_file_stays_inert(tmp_path: Path) -> None:
    """The wrapped scheduler and its optimiser are read as nothing: no object of torch's is made from the file."""
    from anprompt.adapters.official_checkpoints import _INERT

    path = save(tmp_path, {"ctx": torch.zeros(2, 32)})
    with torch.serialization.safe_globals(_INERT):
        content = torch.load(path, weights_only=True)
    inert = content["scheduler"]["successor"]
    assert not isinstance(inert, torch.optim.lr_scheduler.LRScheduler) and vars(inert) == {}
    assert list(read_state(path)) == ["prompt_learner.ctx"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04 no archive", b"{}"])
def test_files_that_are_no_checkpoints(content: bytes, tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "model.pth.tar-5").write_bytes(content)
    assert "model.pth.tar-5" in one_line(tmp_path / "model.pth.tar-5", tiny_backbone)


def test_cut_file(tiny_backbone: Backbone, tmp_path: Path) -> None:
    path = save(tmp_path, {"ctx": torch.zeros(2, 32)})
    path.write_bytes(path.read_bytes()[:-200])
    assert "damaged" in one_line(path, tiny_backbone)


def test_other_content(tiny_backbone: Backbone, tmp_path: Path) -> None:
    assert "does not exist" in one_line(tmp_path / "none", tiny_backbone)
    torch.save({"a": torch.zeros(2)}, tmp_path / "plain")
    assert "no 'state_dict'" in one_line(tmp_path / "plain", tiny_backbone)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2)}}, tmp_path / "resnet")
    assert "holds no prompts of coop, cocoop, maple" in one_line(tmp_path / "resnet", tiny_backbone)
    torch.save({"state_dict": {"ctx": 3}}, tmp_path / "number")
    assert "no 'state_dict' of tensors" in one_line(tmp_path / "number", tiny_backbone)


def test_incomplete_or_foreign_tensors(tiny_backbone: Backbone, tmp_path: Path) -> None:
    method = randomised("maple", tiny_backbone)
    state = official_state("maple", method)
    less = {key: value for key, value in state.items() if key != "prompt_learner.proj.bias"}
    assert "lacks tensors of maple, e.g. 'prompt_learner.proj.bias'" in one_line(save(tmp_path, less), tiny_backbone)
    ragged = {**state, "prompt_learner.ctx": torch.zeros(5, 32)}
    assert "do not go together" in one_line(save(tmp_path, ragged), tiny_backbone)
    large = {key: torch.zeros(2, 512) for key in ("prompt_learner.ctx",)}
    assert "has the shape [2, 512]" in one_line(save(tmp_path, large), tiny_backbone)
    specific = official_state("coop", randomised("coop", tiny_backbone, class_specific=True))
    assert "trained on 3 classes, but 2 names are given" in one_line(save(tmp_path, specific), tiny_backbone, NAMES[:2])


def test_broken_training_is_noticed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    state = official_state("maple", randomised("maple", tiny_backbone))
    state["prompt_learner.ctx"][0, 0] = float("nan")
    assert "NaN or Inf" in one_line(save(tmp_path, state), tiny_backbone)


@pytest.mark.filterwarnings("ignore")
def test_any_flipped_byte_is_read_or_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"ctx": torch.zeros(2, 32)})
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read_state(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_marks_tell_the_methods_apart(tiny_backbone: Backbone, tmp_path: Path) -> None:
    for name in SETTINGS:
        assert method_of(read_state(save(tmp_path, official_state(name, randomised(name, tiny_backbone))))) == name
