"""The page at `/`: one file, put together once, allowed to talk to nobody but this service."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib import resources


def _part(name: str) -> str:
    return (resources.files("anprompt.serve") / name).read_text(encoding="utf-8")


@functools.cache
def _style_and_script() -> tuple[str, str]:
    return _part("page.css"), _part("page.js")


def page(token: bool) -> str:
    """The HTML with its style and script inside.

    Args:
        token: whether to ask for a token.
    """
    style, script = _style_and_script()
    html = _part("page.html").replace("{{token}}", "" if token else "hidden")
    return html.replace("{{style}}", style).replace("{{script}}", script)


def page_policy() -> str:
    """The Content-Security-Policy: this style and this script by their hashes, nothing else."""
    style, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in _style_and_script()
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data: blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
