"""Help and completion are made from the commands' own parsers: nothing in them can be out of date."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from anprompt.commands._shared.examples import EXAMPLES
from anprompt.commands.completion import SHELLS, bash, entry, fish, zsh
from anprompt.commands.main import COMMANDS, main, parser_of


@pytest.fixture(scope="module")
def entries() -> list:
    return [entry(name, COMMANDS[name].help, parser_of(name)) for name in COMMANDS]


def test_every_command_has_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for name, lines in EXAMPLES.items():
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        for line in lines:
            assert f"\n  {line}\n" in shown, line
            if name == "completion":  # within a shell's own words
                continue
            program, command, *words = shlex.split(line)
            assert (program, command) == ("anprompt", name)
            parser_of(name).parse_args(words)


def test_every_command_speaks_json() -> None:
    for name in COMMANDS:
        assert any("--json" in action.option_strings for action in parser_of(name)._actions), name


def test_bench_as_json(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "base-to-new", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--methods",
             "zeroshot", "--seeds", "1", "--shots", "2", "--jobs", "1", "--runs", str(tmp_path / "runs"), "--json"]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    [planned] = json.loads(capsys.readouterr().out)
    assert (planned["method"], planned["shots"], planned["done"]) == ("zeroshot", 2, False)
    assert planned["seconds"] > 0 and not (tmp_path / "runs").exists()
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    [path] = told["records"]
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    figures = [value for table in told["tables"] for line in table["lines"] for value in line.values()]
    assert pytest.approx(record["metrics"]["base"]["accuracy"]) in [v for v in figures if isinstance(v, float)]
    assert all(Path(file).is_file() for file in told["files"])
    assert main([*words, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["done"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_in_the_script(shell: str, entries: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    options = [(e.name, name) for e in entries for option in e.options for name in option.names]
    assert len(options) > 100
    for command, name in options:
        if shell == "fish":
            word = f"-l {name[2:]} " if name.startswith("--") else f"-s {name[1:]} "
            found = any(f"from {command}'" in line and word in f"{line} " for line in script.splitlines())
        else:
            [block] = [part for part in script.split(";;") if f" {command}) " in part]
            found = (
                name in block.replace("'*", " ").replace("[", " ").split() or f"{name} " in block or f'{name}"' in block
            )
        assert found, (command, name)
    for word in ("cross-dataset", "prepare", "bf16"):  # words that options and arguments may be
        assert word in script
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": shell, "script": script}
    assert main(["completion", "bsh"]) == 2
    assert "Did you mean 'bash'?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_reads_it(shell: str, entries: list, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / f"completion.{shell}"
    script.write_text({"bash": bash, "zsh": zsh, "fish": fish}[shell](entries), encoding="utf-8")
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    "words, expected",
    [
        (["ca"], {"calibrate"}),
        (["fit", "--sh"], {"--shots"}),
        (["eval", "--head", "un"], {"unseen"}),
        (["bench", "few"], {"few-shot"}),
        (["predict", "adapter", "pict"], {"picture.png"}),
    ],
)
def test_bash_offers_what_fits(words: list[str], expected: set[str], entries: list, tmp_path: Path) -> None:
    (tmp_path / "picture.png").touch()
    (tmp_path / "c.bash").write_text(bash(entries), encoding="utf-8")
    line = " ".join(shlex.quote(word) for word in ["anprompt", *words])
    code = (
        f'source ./c.bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _anprompt; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert set(done.stdout.split()) == expected, done.stderr
