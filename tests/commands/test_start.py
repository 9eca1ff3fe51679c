"""What a command imports before its first answer: the modules, not the time, which depends on the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Each costs from a tenth of a second of processor time to two seconds, and one answer needs none of them.
HEAVY = (
    "transformers", "sklearn", "scipy", "filelock", "huggingface_hub", "sympy", "torch._dynamo", "torch._inductor",
    "torch.distributed.tensor", "torch.distributed.fsdp",
)  # fmt: skip


def imported(words: list[str], folder: Path) -> list[str]:
    """Which of `HEAVY` a process of its own has imported when the command is done."""
    told = folder / "imported.json"
    code = (
        "import json, sys\nfrom anprompt.commands.main import main\n"
        f"code = main({words!r})\n"
        f"open({str(told)!r}, 'w').write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(told.read_text())


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("start") / "x.png"
    Image.new("RGB", (60, 50), "red").save(path)
    return path


def test_predict_with_an_adapter(picture: Path) -> None:
    from anprompt.adapters.adapter import save_adapter
    from anprompt.backbones import load_backbone
    from anprompt.methods import build_method

    save_adapter(picture.parent / "adapter", build_method("anprompt", load_backbone(), ["cat", "dog"]))
    assert imported(["predict", "adapter", picture.name], picture.parent) == []


def test_predict_zeroshot(picture: Path) -> None:
    assert imported(["predict", "zeroshot", picture.name, "--classes", "red,blue"], picture.parent) == []
