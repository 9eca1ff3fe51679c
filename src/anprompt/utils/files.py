"""Files that are either whole or not there, tensors without pickle, and the versions both record.

Every output that a user names goes through `check_output` before the work and `atomic_write` after it: only
regular files are written, and another maker's file is replaced only where the user says so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from anprompt.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_JSON = 256 * 2**20  # bytes; a real config, record or split is smaller
LONGEST_REASON = 20_000  # characters of a library's message that are looked at
_UNSAFE = re.compile(
    r"trust_?remote_?code|weights_only|allow_pickle|safe_globals|torch\.load|arbitrary code|pickle_module|do it only if|unsafe",
    re.I,
)
LARGEST_HEADER = 16 * 2**20  # bytes of names and shapes; an adapter has some thousand


LARGEST_TEXT = 256 * 2**20  # bytes of a class list, a table or a split file
LONGEST_PREFIX = 100  # bytes of the target's name in the name of its temporary file
HEAD = 4096  # bytes at the beginning of a file, in which a mark of ours stands
KINDS = (
    (stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


# --- before the work: may it be written there? -----------------------------------------------------
def check_output(
    path: Path, *, overwrite: bool = False, ours: Callable[[bytes], bool] | tuple[bytes, ...] = (),
    bytes_needed: int = 0,
) -> None:  # fmt: skip
    """Whether an output can be written to `path`; asked before the work, and nothing is made.

    Args:
        overwrite: the user said that a file that is there may be replaced.
        ours: how files that anprompt wrote here begin, or a function that tells it by the first `HEAD` bytes; such
            a file is replaced without being asked. Empty: no file is.
        bytes_needed: space that must be free.

    Raises:
        UserError: no regular file there, another's file, no legal name, no permission, or no space.
    """
    check_regular_target(path)
    if os.path.lexists(path):
        if not os.access(path, os.W_OK):
            raise UserError(f"{path} is write-protected; choose another name, or allow writing.")
        if not overwrite and not _is_ours(path, ours):
            raise UserError(
                f"{path} is there already" + (" and was not written by anprompt" if ours else "")
                + "; choose another name, or add --overwrite."
            )  # fmt: skip
    check_folder(path.parent, bytes_needed)


def _is_ours(path: Path, ours: Callable[[bytes], bool] | tuple[bytes, ...]) -> bool:
    try:
        head = file_head(path)
    except OSError:  # not for us to read: not ours
        return False
    return ours(head) if callable(ours) else head.startswith(ours)


def check_regular_target(path: Path) -> None:
    """Raises `UserError` where `path` is anything but a regular file or free: a folder, a link, a pipe, a device."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # a name too long, with a NUL, in a folder that can't be searched
        raise UserError(f"Can't write {path}: {_reason(error)}. Choose another name.") from None
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "no regular file")
        leads = f" to {os.readlink(path)!r}" if stat.S_ISLNK(mode) else ""
        raise UserError(f"{path} is {kind}{leads}, and only regular files are written; choose another name.")


def check_folder(folder: Path, bytes_needed: int = 0) -> None:
    """Whether files can be written in a folder that may not exist yet. Nothing is made.

    Raises:
        UserError: a file is in the way, an illegal name, no permission, or less space than `bytes_needed`.
    """
    try:
        there = next(one for one in (folder, *folder.absolute().parents) if _exists(one))
        if not there.is_dir():
            raise UserError(f"{str(folder)!r}: a file is in the way ({there}); choose another folder.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{str(folder)!r} can't be written; choose another folder.")
        free = shutil.disk_usage(there).free
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{str(folder)!r} can't be a folder ({_reason(error)}); choose another one.") from None
    if free < bytes_needed:
        raise UserError(
            f"{str(folder)!r} has {free / 2**20:,.0f} MB free, and {bytes_needed / 2**20:,.0f} MB are needed; make space, or "
            "choose another folder."
        )


def check_encodable(folder: Path) -> None:
    """Raises `UserError` where a folder's full name is not UTF-8, as the library for tensor files asks of it."""
    try:
        str(folder.absolute()).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{str(folder)!r}: the name is not UTF-8, which tensor files need; choose another folder."
        ) from None


def _exists(path: Path) -> bool:
    """Like `Path.exists`, which hides impossible names in some Python versions."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def file_head(path: Path) -> bytes:
    """The first `HEAD` bytes of a regular file."""
    with path.open("rb") as file:
        return file.read(HEAD)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


# --- writing ----------------------------------------------------------------------------------------
def atomic_write(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary)` beside `path`, flush it to disk, then rename: never a half-written file.

    A regular file that is there is replaced; whether it may be is asked by `check_output`.

    Raises:
        UserError: the folder can't be written, the disk is full, or a link, a folder, a pipe or a device is there.
    """
    temporary: Path | None = None
    try:
        check_regular_target(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp made it private; a result is as readable as any file
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise UserError(f"Can't write {path}: {_reason(error)}. Choose a writable folder with space.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """An empty hidden file beside `path`; a name as long as the system allows leaves room for no suffix."""
    name = os.fsencode(path.name)[:LONGEST_PREFIX].decode("utf-8", "ignore")
    handle, made = tempfile.mkstemp(prefix=f".{name}.", dir=path.parent)
    os.close(handle)
    return Path(made)


def encoded(text: str) -> bytes:
    """UTF-8. What is not text, as in names of files that are not UTF-8, becomes an escape, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """`encoded` text, atomically."""
    atomic_write(path, lambda temporary: temporary.write_bytes(encoded(text)))


def json_text(value: Any) -> str:
    """Indented JSON; NaN is refused rather than written as broken JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """`json_text`, atomically."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Parsed JSON; `UserError` naming the file where it is missing, broken, or holds NaN or Inf."""
    try:
        check_readable(path, LARGEST_JSON)
        return json.loads(path.read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"Can't read {path} as JSON: {first_line(error).rstrip('.')}.") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def read_text(path: Path, encoding: str = "utf-8", largest: int = LARGEST_TEXT) -> str:
    """Text of a regular file.

    Raises:
        OSError: it can't be read.
        ValueError: a pipe or a device, a file larger than `largest` bytes, or no text of that encoding.
    """
    check_readable(path, largest)
    return path.read_text(encoding=encoding)


def check_readable(path: Path, largest: int = 2**62) -> int:
    """Bytes of a file; `ValueError` before it is opened if it is a pipe or a device, or larger than is sound."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is not a regular file")
    if status.st_size > largest:
        raise ValueError(f"it has {status.st_size:,} bytes, more than {largest:,}")
    return status.st_size


def first_line(error: BaseException) -> str:
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Safetensors; every tensor is stored on its own, contiguous and on the CPU."""
    from safetensors.torch import save_file  # records and tables are read without torch

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
    size = check_readable(path)
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


def cache_folder() -> Path | None:
    """This user's folder for what can be made again: $ANPROMPT_CACHE, else anprompt/ in $XDG_CACHE_HOME or ~/.cache.

    Returns:
        None where there is no such place: `ANPROMPT_CACHE=off`, or a user without a home.
    """
    own = os.environ.get("ANPROMPT_CACHE")
    if own:
        return None if own.lower() == "off" else Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(base or Path.home() / ".cache") / "anprompt"
    except RuntimeError:  # no home
        return None
