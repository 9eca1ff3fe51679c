"""Files that are either whole or not there, tensors without pickle, and the versions both record."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anprompt.errors import UserError


def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)` beside `path`, flush it to disk, then rename: never a half-written file.

    Raises:
        UserError: the folder can't be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp made it private; a result is as readable as any file
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"Can't write {path}: {error.strerror or error}. Choose a writable folder with space."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, atomically; NaN is refused rather than written as broken JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parsed JSON; `UserError` naming the file where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"Can't read {path} as JSON: {str(error).splitlines()[0]}.") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Safetensors; every tensor is stored on its own, contiguous and on the CPU."""
    flat = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    save_file(flat, path, dict(metadata or {}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; `UserError` naming the file where it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"Can't read tensors from {path}: {str(error).splitlines()[0]}.") from error


def package_versions(names: Iterable[str], missing: str) -> dict[str, str]:
    """Installed versions by package name, `missing` for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = missing
    return found
