"""Outputs: regular files of our own making or with --overwrite; never devices, pipes, folders, links (docs/security.md)."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from anprompt.adapters.adapter import CARD, CONFIG, load_adapter, save_adapter, write_record
from anprompt.commands import demo
from anprompt.commands.main import main
from anprompt.errors import UserError
from anprompt.experiments.records import save_record
from anprompt.report.gallery import MADE_BY, check_gallery
from anprompt.tables import MARK
from anprompt.utils.files import atomic_write, check_folder, check_output, read_json, read_text, write_json, write_text
from tests.report.test_report import plain_record

Out = pytest.CaptureFixture[str]


def _socket(path: Path) -> None:
    """Bound by a short relative name: the address of a socket is short."""
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


KINDS: dict[str, Callable[[Path], object]] = {
    "folder": lambda p: p.mkdir(),
    "full folder": lambda p: (p.mkdir(), (p / "f").write_text("mine")),
    "pipe": os.mkfifo,
    "socket": _socket,
    "link to a file": lambda p: ((p.parent / "mine").write_text("mine"), p.symlink_to(p.parent / "mine")),
    "link to nothing": lambda p: p.symlink_to(p.parent / "gone"),
    "link to a folder": lambda p: p.symlink_to(p.parent),
    "link to a device": lambda p: p.symlink_to("/dev/full"),
    "link to itself": lambda p: p.symlink_to(p),
}
DEVICES = (
    "/dev/full",
    "/dev/null",
    "/dev/zero",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/tty",
    "/dev/fd/1",
    "/proc/self/fd/1",
)


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Kinds and contents of everything in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        found[str(path)] = (stat.S_IFMT(mode), path.read_bytes() if stat.S_ISREG(mode) else b"")
    return found


def one_line(capsys: Out) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("anprompt: error: ") and lines[0].isprintable(), lines
    return lines[0]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one record."""
    save_record(tmp_path / "runs", plain_record())
    return tmp_path / "runs"


# --- the writer -----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_regular_files_are_written(kind: str, overwrite: bool, tmp_path: Path) -> None:
    target = tmp_path / "target"
    KINDS[kind](target)
    before = state(tmp_path)
    for write in (lambda: check_output(target, overwrite=overwrite), lambda: write_text(target, "x")):
        with pytest.raises(UserError, match="only regular files are written"):
            write()
    assert state(tmp_path) == before


@pytest.mark.parametrize("device", DEVICES)
def test_devices_are_never_replaced(device: str) -> None:
    """Asked alone, not written: a writer that fails here would break the machine that tests it."""
    if not os.path.lexists(device):
        pytest.skip("this system has no such device")
    with pytest.raises(UserError, match="only regular files"):
        check_output(Path(device), overwrite=True)


def test_a_hard_link_keeps_its_content_under_the_other_name(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("old")
    os.link(tmp_path / "one", tmp_path / "two")
    write_text(tmp_path / "two", "new")
    assert (tmp_path / "one").read_text() == "old" and (tmp_path / "two").read_text() == "new"


@pytest.mark.parametrize(
    "name", ["x" * 255, "ä" * 127, "a" * 240 + ".json", os.fsdecode(b"caf\xe9.html"), "-", " ", "\n"]
)
def test_any_name_that_the_system_takes_is_written(name: str, tmp_path: Path) -> None:
    """Also one that leaves no room for a temporary name."""
    check_output(tmp_path / name)
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("name", ["x" * 256, "x" * 5000, "a\0b", "f/deep", "deep/" * 1200 + "x"])
def test_names_that_the_system_does_not_take_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    before = state(tmp_path)
    for ask in (lambda: check_output(tmp_path / name), lambda: write_text(tmp_path / name, "x")):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).splitlines() == [str(caught.value)]
    assert state(tmp_path) == before


def test_text_that_is_no_text_is_escaped_and_json_reads_it_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "a", name)
    write_json(tmp_path / "b", {name: [name]})
    assert (tmp_path / "a").read_text(encoding="utf-8") == "caf\\udce9"
    found = read_json(tmp_path / "b")
    assert found == {name: [name]} and os.fsencode(found[name][0]) == b"caf\xe9"


def test_space_is_asked_before_the_work(tmp_path: Path) -> None:
    check_folder(tmp_path, 1)
    for ask in (
        lambda: check_folder(tmp_path / "new", 2**60),
        lambda: check_output(tmp_path / "f", bytes_needed=2**60),
    ):
        with pytest.raises(UserError, match=r"MB free, and 1,099,511,627,776 MB are needed"):
            ask()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_protected_file_stays(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    (tmp_path / "f").chmod(0o444)
    with pytest.raises(UserError, match="write-protected"):
        check_output(tmp_path / "f", overwrite=True)


def test_protection_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("mine")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / "f")
    with pytest.raises(UserError, match="write-protected"):
        check_output(tmp_path / "f", overwrite=True)


# --- the commands ---------------------------------------------------------------------------------
OTHERS = {
    "text": b"my thesis\n",
    "page": b"<!doctype html><html><head><title>mine</title></head></html>",
    "binary": bytes(range(256)) * 40,
    "empty": b"",
    "table": b"| a | b |\n|---|---|\n| 1 | 2 |\n",
}


@pytest.mark.parametrize("content", OTHERS)
def test_a_report_replaces_reports_alone(content: str, runs: Path, capsys: Out) -> None:
    page = runs / "page.html"
    page.write_bytes(OTHERS[content])
    words = ["report", str(runs), "--html", str(page), "--no-pictures", "--quiet"]
    assert main(words) == 2 and "was not written by anprompt" in one_line(capsys)
    assert page.read_bytes() == OTHERS[content]
    assert main([*words, "--overwrite"]) == 0 and main(words) == 0  # and its own without being asked
    older = page.read_text().replace('<meta name="generator" content="anprompt">', "")
    page.write_text(older)
    assert main(words) == 0 and page.read_text() != older


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_onto_what_is_no_file(kind: str, runs: Path, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "at").mkdir()
    KINDS[kind](tmp_path / "at" / "page.html")
    before = state(tmp_path)
    assert (
        main(["report", str(runs), "--html", str(tmp_path / "at" / "page.html"), "--no-pictures", "--overwrite"]) == 2
    )
    assert "page.html" in one_line(capsys) and state(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_an_export_onto_what_is_no_file(name: str, kind: str, tmp_path: Path, capsys: Out) -> None:
    pytest.importorskip("onnxruntime")
    KINDS[kind](tmp_path / name)
    before = state(tmp_path)
    assert main(["export", "zeroshot", "--classes", "a,b", "--out", str(tmp_path / "model.onnx"), "--overwrite"]) == 2
    assert name in one_line(capsys) or "must be a file" in name
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["table.md", "table.tex", "table.csv"])
def test_a_sweep_asks_for_its_tables_before_it_runs(name: str, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["bench", "base-to-new", "--data", "embedded:food", "--runs", str(tmp_path)]) == 2
    assert name in one_line(capsys) and os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["table.md", "report.html", "pictures.png"])
def test_a_demo_asks_for_its_files_before_it_runs(name: str, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["demo", "--quick", "--quiet", "--out", str(tmp_path)]) == 2
    assert name in one_line(capsys) and os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"


def test_what_a_demo_wrote_it_replaces(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    facts = PngInfo()
    facts.add_text(*MADE_BY)
    Image.new("RGB", (9, 9)).quantize(256).save(tmp_path / "pictures.png", pnginfo=facts)
    (tmp_path / "table.md").write_text(MARK + "| data |")
    demo.check_outputs(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures.png")
    with pytest.raises(UserError, match="not written by anprompt"):
        check_gallery(tmp_path / "pictures.png")


# --- adapters -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["README.md", "config.json", "adapter.safetensors"])
def test_an_adapter_replaces_no_file_of_others(name: str, adapter_folder: Path, tiny_backbone, tmp_path: Path) -> None:
    method = load_adapter(adapter_folder, backbone=tiny_backbone)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        save_adapter(tmp_path, method)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "mine"
    save_adapter(tmp_path, method, overwrite=True)
    save_adapter(tmp_path, method)  # and its own without being asked


def test_a_card_that_was_changed_stays(
    adapter_folder: Path, tiny_backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """People write model cards."""
    method = load_adapter(adapter_folder, backbone=tiny_backbone)
    folder = save_adapter(tmp_path / "a", method)
    (folder / CARD).write_text("# my model")
    write_record(folder, {"note": "x"})
    assert (folder / CARD).read_text() == "# my model" and "stays as it is" in caplog.text
    assert read_json(folder / CONFIG)["record"] == {"note": "x"}
    with pytest.raises(UserError, match="changed by hand"):
        save_adapter(folder, method)


# --- what is read ---------------------------------------------------------------------------------
@pytest.fixture
def endless(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Names of things that reading never ends of."""
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    yield {
        "pipe": str(tmp_path / "pipe.csv"),
        "link": str(tmp_path / "zero.csv"),
        "device": "/dev/zero",
        "folder": str(tmp_path),
    }


@pytest.mark.parametrize("kind", ["pipe", "link", "device", "folder"])
@pytest.mark.parametrize(
    "words",
    [
        ("predict", "zeroshot", "x.png", "--classes", "@{}"),
        ("eval", "zeroshot", "--data", "{}"),
        ("convert", "{}", "--classes", "a,b", "--backbone", "embedded", "--out", "{tmp}/new"),
        ("fit", "--data", "embedded:food", "--descriptions", "{}", "--out", "{tmp}/new"),
        ("predict", "zeroshot", "{}", "--classes", "a,b"),
    ],
    ids=["class list", "table", "checkpoint", "descriptions", "image"],
)
def test_what_never_ends_is_not_read(
    words: tuple[str, ...],
    kind: str,
    endless: dict[str, str],
    tmp_path: Path,
    capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert main([word.format(endless[kind], tmp=tmp_path) for word in words]) == 2
    one_line(capsys)
    assert not (tmp_path / "new").exists()


def test_texts_have_bounds(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("12345")
    assert read_text(tmp_path / "t") == "12345"
    with pytest.raises(ValueError, match="more than 4"):
        read_text(tmp_path / "t", largest=4)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        atomic_write(tmp_path / "f", broken)
    assert not os.listdir(tmp_path)


# --- before the first step ------------------------------------------------------------------------
def test_space_for_state_and_adapter_is_asked_before_the_first_step(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    words = [
        "fit",
        "--data",
        str(photo_folder),
        "--backbone",
        str(tiny_folder),
        "--method",
        "coop",
        "--shots",
        "1",
        "--quiet",
    ]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "0 MB free, and" in one_line(capsys) and not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("name", [b"caf\xe9", "日本".encode("shift-jis")])
def test_a_data_folder_whose_name_is_no_text_goes_all_the_way(
    name: bytes, tiny_folder: Path, tmp_path: Path, capsys: Out
) -> None:
    """From the first step to adapter, evaluation and report: the name travels as an escape."""
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    for kind, colour in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        (data / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (20, 20 + number), (*colour[:2], colour[2] - number)).save(data / kind / f"{number}.png")
    out, strange = tmp_path / "out", Path(os.fsdecode(os.fsencode(tmp_path) + b"/out-" + name))
    words = ["--data", str(data), "--quiet", "--backbone", str(tiny_folder)]
    assert main(["fit", *words, "--method", "coop", "--shots", "1", "--epochs", "1", "--out", str(out)]) == 0
    assert main(["eval", str(out), *words]) == 0
    assert (
        main(["fit", *words, "--out", str(strange)]) == 2 and "not UTF-8" in one_line(capsys) and not strange.exists()
    )
    assert os.fsencode(read_json(out / CONFIG)["record"]["data"]) == name
    runs = str(tmp_path / "runs")
    assert (
        main(["bench", "few-shot", "--methods", "zeroshot", "--shots", "1", "--runs", runs, "--jobs", "1", *words]) == 0
    )
    assert main(["report", runs, "--no-pictures", "--quiet"]) == 0
    assert "error" not in capsys.readouterr().err


def test_what_saving_can_not_write_is_kept_and_saved_later(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts a file of an adapter's name into the folder while it is trained."""
    from anprompt.commands import fit as fit_command

    out = tmp_path / "out"
    real = fit_command._test
    words = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--method", "coop", "--shots", "1",
             "--epochs", "1", "--out", str(out), "--quiet"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(fit_command, "_test", lambda *given: ((out / CARD).write_text("mine"), real(*given))[1])
        assert main(words) == 2
    assert "is kept in" in one_line(capsys) and (out / CARD).read_text() == "mine"
    (out / CARD).unlink()
    assert main([*words[:-1], "--json"]) == 0
    assert '"resumed_from": 1' in capsys.readouterr().out


# --- streams and numbers --------------------------------------------------------------------------
STREAMS = {  # what the shell does: the exit code, and whether there is a line on stderr
    "data list > /dev/full": (1, "can't be written: No space left on device"),
    "data list --json > /dev/full": (1, "can't be written: No space left on device"),
    "--help > /dev/full": (1, "can't be written: No space left on device"),
    "data list >&-": (2, "stdout is closed"),
    "nope 2>&-": (2, ""),
    "nope 2>/dev/full": (2, ""),
    "data list <&- > /dev/null": (0, ""),
    "data list <&- >&- 2>&-": (2, ""),
    "data list | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}": (0, ""),
    "data list --json | true; exit ${PIPESTATUS[0]}": (0, ""),
}


@pytest.mark.parametrize(
    "words",
    [["fit", "--data", "x", "--out", " "], ["bench", "few-shot", "--runs", ""], ["report", ""], ["report", "x", "--html", ""],
     ["export", "zeroshot", "--classes", "a,b", "--out", ""], ["demo", "--out", ""], ["convert", "x", "--out", ""]],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_name_is_not_the_current_folder(words, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "is empty" in err and len(err.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", STREAMS)
def test_streams_that_are_full_closed_or_gone(words: str) -> None:
    code, said = STREAMS[words]
    command = f"exec 3>&2; {sys.executable} -m anprompt {words}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and said in lines[0] if said else not lines, done


@pytest.mark.parametrize(
    "option",
    [
        ("--shots", "99999999999"), ("--shots", "-1"), ("--epochs", "1e308"), ("--epochs", "1000000000"),
        ("--set", "draws=1000000000"), ("--set", "token_width=99999999"), ("--set", "epochs=99999999"),
        ("--set", "lr=1e999"), ("--lr", "nan"), ("--seed", "9" * 5000), ("--batch-size", "9" * 20), ("--bank-gb", "-1"),
        ("--bank-gb", "1e308"), ("--lr", "1e308"), ("--set", "lr=1e10"), ("--max-megapixels", "1e308"), ("--bank", ""),
        ("--tensorboard", " "), ("--root", ""), ("--names", ""), ("--descriptions", ""), ("--bank", "/dev/full"),
    ],
    ids=lambda option: " ".join(option)[:30],
)  # fmt: skip
def test_absurd_numbers_are_refused_before_anything_is_made(
    option: tuple[str, str], tmp_path: Path, capsys: Out
) -> None:
    assert main(["fit", "--data", "embedded:food", "--out", str(tmp_path / "out"), *option]) == 2
    assert len(one_line(capsys)) < 400 and not os.listdir(tmp_path)
