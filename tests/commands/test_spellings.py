"""Old spellings of options work for one version, with a hint; the new ones say nothing."""

from __future__ import annotations

import pytest

from anprompt.commands.main import parser_of

DATA = ["--data", "embedded:sky"]
RENAMED = [
    ("fit", DATA, "--classes", "--subset", "base", "classes"),
    ("eval", ["zeroshot", *DATA], "--classes", "--subset", "new", "classes"),
    ("fit", DATA, "--precision", "--autocast", "bf16", "precision"),
    ("bench", ["few-shot"], "--precision", "--autocast", "fp16", "precision"),
    ("eval", ["zeroshot", *DATA], "--precision", "--dtype", "bf16", "precision"),
    ("predict", ["zeroshot", "x.png"], "--precision", "--dtype", "fp16", "precision"),
    ("serve", ["zeroshot"], "--precision", "--dtype", "bf16", "precision"),
    ("calibrate", ["adapter", *DATA], "--precision", "--dtype", "bf16", "precision"),
    ("fit", DATA, "--estimate", "--dry-run", None, "estimate"),
    ("bench", ["few-shot"], "--estimate", "--dry-run", None, "dry_run"),
    ("data", ["prepare", "dtd"], "--split", "--split-file", "split.json", "split"),
]


@pytest.mark.parametrize(("command", "words", "old", "new", "value", "name"), RENAMED)
@pytest.mark.parametrize("joined", [False, True], ids=["two words", "with ="])
def test_old_spelling(
    capsys: pytest.CaptureFixture[str], command: str, words: list[str], old: str, new: str, value: str | None,
    name: str, joined: bool,
) -> None:  # fmt: skip
    def parsed(option: str) -> object:
        given = [option] if value is None else [f"{option}={value}"] if joined else [option, value]
        return getattr(parser_of(command).parse_args([*words, *given]), name)

    assert parsed(new) == (True if value is None else value)
    assert capsys.readouterr().err == ""
    assert parsed(old) == parsed(new)
    [line] = capsys.readouterr().err.splitlines()
    assert f"{old} is now {new}" in line
    assert f"{old} " not in parser_of(command).format_help()


def test_a_list_of_names_keeps_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    args = parser_of("predict").parse_args(["zeroshot", "x.png", "--classes", "a,b"])
    assert args.classes == "a,b" and capsys.readouterr().err == ""
