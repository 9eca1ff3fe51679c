"""What mkdocs asks when it builds the site: the first page, the reference, and links to files that are not part of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")
ROW = re.compile(r"^\| `(anprompt[\w.]*)` \| (.*?) \|", re.MULTILINE)


def reference(module: str, cell: str) -> str:
    """The page of one row of docs/api.md: a directive of mkdocstrings for every stable name."""
    from anprompt import __all__ as face

    names = face if "__all__" in cell else re.findall(r"`(\w+)`", cell)
    wanted = [f"::: {module}.{name}" for name in names if not name.startswith("__")]
    return "\n\n".join([f"# {module}", *wanted]) + "\n"


def on_files(files: Files, config: Any) -> Files:
    """The README as the first page, and one page of reference for every module of docs/api.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = re.sub(r"\]\((?!docs/|https?:|#)", "](../", readme).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for module, cell in ROW.findall((ROOT / "docs/api.md").read_text(encoding="utf-8")):
        files.append(File.generated(config, f"reference/{module}.md", content=reference(module, cell)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository become their names; `tests/docs/test_docs.py` checks that the files exist."""
    folder = (ROOT / "docs" / page.file.src_uri).parent
    if page.file.src_uri == "api.md":
        markdown = re.sub(r"^\| `(anprompt[\w.]*)` \|", r"| [`\1`](reference/\1.md) |", markdown, flags=re.MULTILINE)

    def plain(link: re.Match[str]) -> str:
        path = (folder / link[2].partition("#")[0]).resolve()
        return link[0] if path.is_relative_to(ROOT / "docs") else link[1]

    return LINK.sub(plain, markdown)
