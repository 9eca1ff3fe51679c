"""Parity with the official implementations, where the golden tensors lie beside the checkout."""

from __future__ import annotations

import pytest

from tests.golden.__main__ import main
from tests.golden.parity import check_folder
from tests.shared import shared


def test_every_file_agrees() -> None:
    results = check_folder(shared("golden"))
    assert {r.name for r in results} >= {"clip_seed0", "clip_seed1", "anprompt_seed0 shared", "anprompt_seed1 plain"}
    failed = [r.line() for r in results if not r.passed]
    assert not failed, "\n".join(failed)


def test_command_prints_a_line_per_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared("golden")
    monkeypatch.setattr("sys.argv", ["golden", str(folder)])
    assert main() == 0
    out = capsys.readouterr().out
    assert "pass  anprompt_seed0" in out and "few-shot draws" in out and ", 0 failed" in out


def test_a_wrong_tensor_is_noticed() -> None:
    """The check itself can fail: one changed weight must show in outputs and gradients."""
    from anprompt.backbones import load_backbone
    from tests.golden.cases import CASES
    from tests.golden.parity import Golden, check_method

    folder = shared("golden")
    golden = Golden.read(folder / "anprompt_seed0.safetensors")
    golden.tensors["param.image_encoder.A"] = golden.tensors["param.image_encoder.A"] * 1.01
    result = check_method(load_backbone(str(folder / "tiny-clip")), golden, CASES["anprompt"])
    assert not result.passed
