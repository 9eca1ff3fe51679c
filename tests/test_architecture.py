"""The rooms of the house: imports go one way, docs/architecture.md names every room, old paths forward."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import anprompt
from anprompt._moved import MOVED
from anprompt.commands.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGE = Path(anprompt.__file__).parent
# From the ground up; a module may import from its own room and from those on lines above it.
FLOORS = [
    ["_version", "_moved", "errors"],
    ["utils"],
    ["noise", "data"],
    ["backbones"],
    ["prompting"],
    ["methods"],
    ["attacks"],
    ["evaluation"],
    ["adapters", "training"],
    ["detection"],
    ["classifier", "experiments"],
    ["tables"],
    ["report", "serve"],
    ["commands", "testing"],
    ["", "__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT_COMMANDS = ["--help", "claims", "data list", "completion bash", *(f"{name} --help" for name in COMMANDS)]


def name_of(path: Path) -> str:
    """`anprompt.data.folder` of a file."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in FILES}


def room_of(module: str) -> str:
    return module.removeprefix("anprompt").lstrip(".").split(".")[0]


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & NAMES
            found |= inside or {node.module or ""}
    return {name for name in found if name.split(".")[0] == "anprompt"}


@pytest.mark.parametrize("path", FILES, ids=[name_of(path) for path in FILES])
def test_imports_go_down(path: Path) -> None:
    own = room_of(name_of(path))
    for module in imports_of(path):
        other = room_of(module)
        assert module in NAMES, f"{module} is an old path or does not exist"
        climbs = other != own and FLOOR[other] >= FLOOR[own]
        assert not climbs, f"{name_of(path)} ({own}) imports {module}: {other!r} is not below it"


def test_every_room_is_on_the_page() -> None:
    """docs/architecture.md can't go stale: each room has a row in its table, and no row is of another."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip().strip("`/") for line in page.splitlines() if line.startswith("| `")]
    rooms = {room_of(name_of(path)) for path in FILES} - {"", "__main__", "_moved", "_version"}
    listed = {word.strip(" `/").removesuffix(".py") for row in rows for word in row.split(",")}
    assert rooms <= listed, f"rooms without a row: {sorted(rooms - listed)}"


def test_the_root_is_the_face_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {
        "__init__", "__main__", "_moved", "_version", "classifier", "errors",
    }  # fmt: skip


@pytest.mark.parametrize(
    "module", ["tables", "report", "experiments.records", "evaluation.statistics", "tables.claims"]
)
def test_tables_and_report_do_without_torch(module: str) -> None:
    code = f"import sys, anprompt.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("command", LIGHT_COMMANDS)
def test_light_commands_do_without_torch(command: str) -> None:
    code = (
        "import sys\nfrom anprompt.commands.main import main\n"
        f"code = main({command.split()!r})\nheavy = {{'torch', 'transformers', 'sklearn'}} & set(sys.modules)\n"
        "sys.exit(f'exit {code}, imported {heavy}' if code or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("old", sorted(MOVED))
def test_old_paths_forward(old: str) -> None:
    if old in ("ray_engine",) and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    sys.modules.pop(f"anprompt.{old}", None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        module = importlib.import_module(f"anprompt.{old}")
    assert module is importlib.import_module(f"anprompt.{MOVED[old]}")
    assert module.__spec__ is not None and module.__spec__.name == f"anprompt.{MOVED[old]}"
    assert any(f"is now anprompt.{MOVED[old]}" in str(one.message) for one in told)
