"""Where records lie: a folder, or any place that fsspec knows by its URL (s3://, gs://, abfs://, sftp://, file://)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anprompt.errors import UserError
from anprompt.utils import files

Place = str | Path


def is_url(place: Place) -> bool:
    """Whether a place is a URL; everything else is a folder."""
    return isinstance(place, str) and "://" in place


def place_of(text: str) -> Place:
    """A folder as a path, a URL as it is written, without the slash at its end."""
    return text.rstrip("/") if "://" in text else Path(text)


def shown(place: Place, name: str = "") -> str:
    """A place, or a file in it, for people and for programs."""
    return f"{place}/{name}" if is_url(place) else str(Path(place) / name)


def scratch(place: Place) -> Path:
    """The folder for what need not outlive a run: unfinished states and kept adapters.

    It is the folder of the records itself; for a URL, which no process can write step by step, a folder of
    this user on this machine.
    """
    if not is_url(place):
        return Path(place)
    base = files.cache_folder()
    if base is None or not os.access(next(p for p in (base, *base.absolute().parents) if p.exists()), os.W_OK):
        base = Path(tempfile.gettempdir()) / f"anprompt-{os.getuid() if hasattr(os, 'getuid') else 'runs'}" / "anprompt"
    return base / "sweeps" / hashlib.sha256(str(place).encode()).hexdigest()[:16]


def check(place: Place) -> None:
    """Whether a URL is of a kind that can be opened here, asked before hours of training.

    Raises:
        UserError: unknown kind of URL, or the package for it is not installed.
    """
    if is_url(place):
        _open(place)


def read_json(place: Place, name: str) -> Any:
    """Parsed JSON of a file; `UserError` naming it where it is missing or broken."""
    if not is_url(place):
        return files.read_json(Path(place) / name)
    system, root = _open(place)
    try:
        return json.loads(system.cat_file(f"{root}/{name}").decode("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{shown(place, name)} does not exist.") from None
    except Exception as error:  # each kind of store has exceptions of its own
        raise UserError(f"Can't read {shown(place, name)} as JSON: {_line(error)}.") from error


def write_text(place: Place, name: str, text: str) -> None:
    """UTF-8 text, whole or not at all: written under another name beside it, then renamed.

    Raises:
        UserError: the place can't be written.
    """
    if not is_url(place):
        files.write_text(Path(place) / name, text)
        return
    system, root = _open(place)
    waiting = f"{root}/.{name}.{secrets.token_hex(4)}"
    try:
        system.makedirs(root, exist_ok=True)
        system.pipe_file(waiting, files.encoded(text))
        system.mv(waiting, f"{root}/{name}")
    except Exception as error:
        with contextlib.suppress(Exception):
            system.rm_file(waiting)
        raise UserError(f"Can't write {shown(place, name)}: {_line(error)}.") from error


def json_names(place: Place) -> Iterator[str]:
    """Names of the JSON files that lie there, in order.

    Raises:
        UserError: the place does not exist or can't be listed.
    """
    if not is_url(place):
        yield from sorted(path.name for path in Path(place).glob("*.json"))
        return
    system, root = _open(place)
    try:
        system.invalidate_cache()  # others write there
        listed = system.ls(root, detail=False)
    except FileNotFoundError:
        raise UserError(f"There is nothing at {place}; 'anprompt bench ... --runs {place}' makes it.") from None
    except Exception as error:
        raise UserError(f"Can't list {place}: {_line(error)}.") from error
    names = sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed)
    yield from (name for name in names if name.endswith(".json") and not name.startswith("."))


def _open(place: Place) -> tuple[Any, str]:
    """The file system of a URL, and the path within it."""
    from fsspec.core import url_to_fs  # comes with torch

    try:
        system, root = url_to_fs(str(place))
    except (ImportError, ValueError) as error:
        raise UserError(f"Can't open {place}: {_line(error)}.") from None
    except Exception as error:
        raise UserError(f"Can't open {place}: {type(error).__name__}, {_line(error)}.") from error
    return system, root.rstrip("/")


def _line(error: Exception) -> str:
    return files.first_line(error).rstrip(".")
