"""Packages of the documents, as pip would leave them: a module, and metadata with its entry points."""

from __future__ import annotations

import re
from pathlib import Path

from anprompt.methods.presets import tomllib

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """Blocks of code of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def install(folder: Path, module: str, page: str) -> Path:
    """The page's first Python block as a module in the folder, its TOML block as entry points; the latter's file."""
    (folder / f"{module}.py").write_text(blocks(page, "python")[0])
    info = folder / f"{module}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.1\n")
    [toml] = blocks(page, "toml")
    lines: list[str] = []
    for group, points in tomllib.loads(toml)["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return info / "entry_points.txt"
