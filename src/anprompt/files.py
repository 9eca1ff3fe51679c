"""Files that are either whole or not there, tensors without pickle, and the versions both record."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from anprompt.errors import UserError

LARGEST_JSON = 256 * 2**20  # bytes; more is no config, record or split of anybody's
LONGEST_REASON = 20_000  # characters of a library's message that are looked at
_UNSAFE = re.compile(r"trust_?remote_?code|weights_only|allow_pickle|safe_globals|torch\.load|arbitrary code|pickle_module|do it only if|unsafe", re.I)
LARGEST_HEADER = 16 * 2**20  # bytes of names and shapes; an adapter has some thousand


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
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"Can't write {path}: {reason}. Choose a writable folder with space.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """UTF-8 text, atomically."""
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def json_text(value: Any) -> str:
    """Indented JSON; NaN is refused rather than written as broken JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """`json_text`, atomically."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Parsed JSON; `UserError` naming the file where it is missing, broken, or holds NaN or Inf."""
    try:
        _check_regular(path, LARGEST_JSON)
        return json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"Can't read {path} as JSON: {first_line(error).rstrip('.')}.") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _check_regular(path: Path, largest: int) -> int:
    """Bytes of a file; refused before it is opened if it is a pipe or a device, or larger than is sound."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    if status.st_size > largest:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {largest:,}")
    return status.st_size


def first_line(error: Exception) -> str:
    """What an exception says, in one printable line; its name where it says nothing.

    Libraries quote names from files as they are.
    """
    said = str(error).strip()[:LONGEST_REASON]
    line = (without_advice(said) or type(error).__name__).splitlines()[0][:300]
    return line if line.isprintable() else ascii(line)[1:-1]


def without_advice(text: str) -> str:
    """A library's message without the sentences that tell how to load files unsafely."""
    if not _UNSAFE.search(text):
        return text
    sentences = re.split(r"(?<=[.!?:;])\s+|\s*\n\s*|\s+\(\d\)\s+", text)
    return " ".join(sentence for sentence in sentences if sentence and not _UNSAFE.search(sentence))


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Safetensors; every tensor is stored on its own, contiguous and on the CPU."""
    flat = {key: value.detach().to("cpu").contiguous().clone() for key, value in tensors.items()}
    save_file(flat, path, dict(metadata or {}))


# What safetensors and torch raise on headers that say impossible things.
BAD_TENSORS = (OSError, SafetensorError, ValueError, RuntimeError, KeyError, TypeError, OverflowError, AttributeError)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; `UserError` naming the file where it is missing or damaged."""
    try:
        check_header(path)
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except BAD_TENSORS as error:
        raise UserError(f"Can't read tensors from {path}: {first_line(error)}.") from error


def check_header(path: Path) -> None:
    """That a header of names and shapes is as long as it may be, before anything of it is read.

    Raises:
        ValueError, OSError: it is not, or there is no regular file.
    """
    size = _check_regular(path, 2**62)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > min(size, LARGEST_HEADER):
        raise ValueError(f"its header says it has {length:,} bytes")


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def package_versions(names: Iterable[str], missing: str) -> dict[str, str]:
    """Installed versions by package name, `missing` for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = missing
    return found
