"""The command line from outside: what it prints, what it writes, and what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from anprompt import __version__
from anprompt.commands import main as cli
from anprompt.commands._shared import terminal
from anprompt.commands.main import COMMANDS, Command, main

SMALL = ["--set", "token_width=16", "--set", "draws=2", "--set", "warmup_epochs=0"]


def fit_words(photos: Path, model: Path, out: Path, *extra: str) -> list[str]:
    return ["fit", "--data", str(photos), "--backbone", str(model), "--out", str(out), "--shots", "4",
            "--epochs", "3", *SMALL, *extra]  # fmt: skip


@pytest.fixture(scope="module")
def adapter(photo_folder: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of base classes, trained without interruption."""
    out = tmp_path_factory.mktemp("fit") / "whole"
    assert main(fit_words(photo_folder, tiny_folder, out, "--subset", "base", "--quiet")) == 0
    return out


def run_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- help -----------------------------------------------------------------------------------------
def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(name in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["anprompt", __version__]


@pytest.mark.parametrize("name", ["fit", "eval", "predict", "methods", "data"])
def test_help_of_a_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"anprompt {name}" in capsys.readouterr().out


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from anprompt.commands.main import main; main(['--help']); main(['fit', '--help']); "
        "main(['ftt']); sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'sklearn', 'PIL')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_command_is_one_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "later", Command("anprompt.commands.methods", "a later command"))
    monkeypatch.setitem(COMMANDS, "absent", Command("anprompt.no_such_module", "not installed"))
    assert main(["later", "--json"]) == 0
    assert main(["absent"]) == 2
    assert "not part of this installation" in capsys.readouterr().err


# --- fit ------------------------------------------------------------------------------------------
def test_fit_writes_an_adapter_and_says_what_next(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my adapter"
    words = fit_words(photo_folder, tiny_folder, out, "--subset", "base")
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "2 classes, 8 pictures" in text and "epoch 3/3" in text and "val " in text
    assert "test accuracy" in text and "KB" in text and "trained parameters" in text
    assert "--subset new" in text and "'" in text.splitlines()[-1]  # the folder's space is quoted
    assert sorted(os.listdir(out)) == ["README.md", "adapter.safetensors", "config.json"]
    before = (out / "adapter.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (out / "adapter.safetensors").stat().st_mtime_ns == before
    assert main([*words, "--seed", "2"]) == 2
    assert "another run" in capsys.readouterr().err
    assert main([*words, "--seed", "2", "--overwrite"]) == 0
    assert json.loads((out / "config.json").read_text())["seed"] == 2


def test_same_seed_gives_equal_adapters(
    adapter: Path, photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "whole"
    result = run_json(capsys, *fit_words(photo_folder, tiny_folder, out, "--subset", "base"))
    for name in ("adapter.safetensors", "config.json", "README.md"):
        assert (out / name).read_bytes() == (adapter / name).read_bytes()
    assert result["steps"] == 6 and len(result["epochs"]) == 3 and result["resumed_from"] == 0
    assert 0 <= result["test_accuracy_percent"] <= 100 and result["images_left_out"] == 0
    assert result["accuracy (test)"] == result["test_accuracy_percent"] / 100  # the former name, for one version


def test_resume_after_a_kill_gives_the_same_adapter(
    adapter: Path, photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process dies without a chance to clean up, in the second epoch; the same command goes on."""
    words = fit_words(photo_folder, tiny_folder, tmp_path / "whole", "--subset", "base")
    killed = f"""
import os, sys
from anprompt.commands._shared.training_progress import TrainingProgress
real = TrainingProgress.on_step_end
def on_step_end(self, run, step):
    if step.epoch == 1:
        os._exit(9)
    real(self, run, step)
TrainingProgress.on_step_end = on_step_end
from anprompt.commands.main import main
main({words!r})
"""
    done = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert sorted(os.listdir(tmp_path / "whole")) == [".lock", ".lock.owner", ".state"]
    assert main([*words, "--seed", "5"]) == 2  # the state of one run is not continued by another
    assert "unfinished state of another run" in capsys.readouterr().err
    assert run_json(capsys, *words)["resumed_from"] == 1
    for name in ("adapter.safetensors", "config.json", "README.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (adapter / name).read_bytes()
    assert not (tmp_path / "whole" / ".state").exists()


def test_interrupt_is_one_line_and_keeps_the_epoch(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from anprompt.commands._shared.training_progress import TrainingProgress

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "on_epoch_end", stop)
    assert main(fit_words(photo_folder, tiny_folder, tmp_path / "o")) == 130
    assert capsys.readouterr().err == "anprompt: interrupted; run the same command again to resume\n"
    assert (tmp_path / "o" / ".state" / "state.safetensors").is_file()


def test_settings_reach_the_run(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {name.replace("_", " "): [f"A {name} thing."] for name in os.listdir(photo_folder)}
    (tmp_path / "d.json").write_text(json.dumps(texts))
    words = fit_words(
        photo_folder, tiny_folder, tmp_path / "o", "--epochs", "1", "--batch-size", "3", "--lr", "2e-3", "--set",
        "noisy=descriptions", "--set", "crop_scale=0.6,0.9", "--set", "flip=false", "--set", "noise_ops=case",
        "--autocast", "bf16", "--descriptions", str(tmp_path / "d.json"), "--template", "a drawing of {}",
        "--shots", "all",
    )  # fmt: skip
    assert run_json(capsys, *words)["training pictures"] == 20
    config = json.loads((tmp_path / "o" / "config.json").read_text())
    train, settings = config["train"], config["settings"]
    assert (train["batch_size"], train["lr"], train["precision"], train["flip"]) == (3, 2e-3, "bf16", False)
    assert train["crop_scale"] == [0.6, 0.9] and settings["noise_ops"] == ["case"]
    assert config["template"] == "a drawing of {}" and len(config["descriptions"]) == 4


def test_damaged_pictures_are_counted_not_fatal(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    (photos / "red_square" / "0.png").write_bytes(b"")
    (photos / "blue_square" / "bad[red].jpg").write_bytes(b"\xff\xd8\xff" + bytes(40))
    result = run_json(capsys, *fit_words(photos, tiny_folder, tmp_path / "o", "--epochs", "1"))
    assert result["pictures left out"] == 2


# --- eval -----------------------------------------------------------------------------------------
def test_eval(adapter: Path, photo_folder: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run_json(capsys, "eval", adapter, "--data", photo_folder, "--per-class")
    assert whole["head"] == "unseen" and whole["pictures"] == 12 and len(whole["per_class"]) == 4
    base = run_json(capsys, "eval", adapter, "--data", photo_folder, "--subset", "base")
    assert base["head"] == "trained" and base["class_count"] == 2
    told = json.loads((adapter / "config.json").read_text())["record"]["test_accuracy_percent"]
    assert base["accuracy_percent"] == told == 100 * base["accuracy"]
    forced = run_json(
        capsys, "eval", adapter, "--data", photo_folder, "--subset", "base", "--head", "unseen", "--split", "val",
        "--dtype", "bf16", "--template", "{}",
    )  # fmt: skip
    assert (forced["head"], forced["split"], forced["template"]) == ("unseen", "val", "{}")
    zero = run_json(capsys, "eval", "zeroshot", "--backbone", tiny_folder, "--data", photo_folder)
    assert zero["method"] == "zeroshot"
    assert main(["eval", str(adapter), "--data", str(photo_folder), "--per-class"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("accuracy ") and "yellow square" in out and "4 classes (all), unseen head" in out


# --- predict --------------------------------------------------------------------------------------
def test_predict_a_folder_and_other_classes(
    adapter: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("[red]x[/]\nlynx\n\nsnow_leopard\n", encoding="utf-8-sig")
    result = run_json(capsys, "predict", adapter, photo_folder / "red_square", "--classes", f"@{names}", "--top", "9")
    assert result["classes"] == ["[red]x[/]", "lynx", "snow_leopard"] and result["head"] == "unseen"
    assert len(result["predictions"]) == 10
    for row in result["predictions"]:
        shares = [answer["probability"] for answer in row["top"]]
        assert len(shares) == 3 and abs(sum(shares) - 1) < 1e-4 and shares == sorted(shares, reverse=True)


def test_predict_skips_what_it_cannot_read(
    adapter: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.png").touch()
    good = photo_folder / "red_square" / "0.png"
    capsys.readouterr()
    assert main(["predict", str(adapter), str(tmp_path / "empty.png"), "--top", "1", str(good), "gone.png"]) == 0
    out, err = capsys.readouterr()
    assert "empty.png" in err and "gone.png" in err and "2 of 3 pictures skipped" in err
    assert len(err.splitlines()) == 3 and "0.png" in out and "1 pictures, 2 classes, trained head" in out


def test_user_text_is_never_markup(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = tmp_path / "[bold]a\x1b[31m\n[red].png"
    Image.new("RGB", (8, 8)).save(name)
    capsys.readouterr()
    assert main(["predict", str(adapter), str(name), "--classes", "[red]x[/],[/],y"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "[red]x[/]" in out and r"\x1b[31m\n" in out.replace("\n ", "")


# --- lists ----------------------------------------------------------------------------------------
def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert "anprompt-snapshot" in capsys.readouterr().out
    assert main(["methods", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["anprompt"]["settings"]["n_tokens"] == 5 and rows["zeroshot"]["train"] == {}


def test_data_list_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "coop:oxford_pets" in out and "embedded:" in out
    assert main(["data", "check", "--root", str(tmp_path), "oxford_pets", "dtd"]) == 1
    out, err = capsys.readouterr()
    assert "missing" in out and err == "anprompt: 2 of 2 data sets incomplete: oxford_pets, dtd\n"
    assert main(["data", "check", "dtd", "--root", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["dtd"]["complete"] is False


# --- failures -------------------------------------------------------------------------------------
def test_unexpected_failures_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(args: object) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("anprompt.commands.methods.run", broken)
    assert main(["methods"]) == 1
    err = capsys.readouterr().err
    assert err == "anprompt: error: unexpected RuntimeError: two (see the traceback with --debug)\n"
    with pytest.raises(RuntimeError):
        main(["methods", "--debug"])


def test_a_reader_that_leaves_is_no_failure() -> None:
    script = f"{sys.executable} -m anprompt.commands.main methods --json | head -c 10"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_main_without_arguments_takes_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["anprompt", "--version"])
    assert cli.main() == 0


def test_repeated_warnings_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    terminal.quiet_libraries(verbose=False, quiet=False)
    log = logging.getLogger("anprompt")
    for number in range(20):
        log.warning("left out: %s", number)
    log.info("not shown")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[0] == "anprompt: left out: 0" and "--verbose" in lines[-1]
    terminal.quiet_libraries(verbose=False, quiet=True)
    log.warning("left out: %s", 1)
    assert capsys.readouterr().err == ""


def test_the_recipe_is_chosen_and_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["fit", "--data", "embedded:sky", "--method", "coop", "--shots", "1", "--epochs", "1", "--device", "cpu"]
    assert main([*command, "--recipe", "few-shot", "--out", str(tmp_path / "a")]) == 0
    assert "1 epochs (few-shot recipe)" in capsys.readouterr().out
    assert json.loads((tmp_path / "a/config.json").read_text())["settings"]["n_context"] == 16
    assert main([*command, "--recipe", "few-shots"]) == 2
    assert "Did you mean 'few-shot'?" in capsys.readouterr().err
