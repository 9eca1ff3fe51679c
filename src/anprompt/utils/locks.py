"""One process at a time on a folder: who holds it, since when, and what a second one is told.

    FOLDER/.lock          locked by the system (`filelock`: flock, or its like), so it is free when its process dies
    FOLDER/.lock.owner    who holds it, for the line that others get: process, host, time, command

Both go when the work is done. What a killed process leaves of them blocks nothing. Processes of one machine see
each other's locks always; those of several machines on a network folder where that folder passes locks on (NFS of
version 4, Lustre with `flock`).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from anprompt.errors import UserError
from anprompt.utils.files import check_regular_target, read_json, write_json

LOCK, OWNER = ".lock", ".lock.owner"
SWEEPS = ".sweeps"  # below a runs folder: a folder for each sweep that works there now
LONGEST = 120  # characters of a command that others are shown
_TRIES = 100
_GATE_S = 30.0  # a sweep looks at the others within milliseconds

_held: dict[str, int] = {}  # by real path: the thread of this process that holds it


class Busy(UserError):
    """Another process holds the folder.

    Attributes:
        owner: what it wrote about itself; empty where it has not done so yet.
    """

    def __init__(self, line: str, owner: dict[str, Any]) -> None:
        super().__init__(line)
        self.owner = owner


@contextlib.contextmanager
def hold(
    folder: str | Path, advice: str = "wait until it has finished", *, wait: float = 0.0, work: Iterable[str] = ()
) -> Iterator[None]:  # fmt: skip
    """Within: no other process, and no other thread, holds this folder. What the same thread holds it may hold again.

    Args:
        folder: made if it is not there, and removed again if nothing was put into it.
        advice: what the second one can do, as the end of its line.
        wait: seconds to wait for another to finish.
        work: what is done in it, for others to compare.

    Raises:
        Busy: another one holds it; its message says who, since when, and `advice`.
        UserError: the folder can't be written.
    """
    folder = Path(folder)
    name = os.path.realpath(folder)
    if _held.get(name) == threading.get_ident():
        yield
        return
    new = not folder.exists()
    lock = _acquired(folder, wait, advice)
    _held[name] = threading.get_ident()
    try:
        write_json(folder / OWNER, _myself(work))
        yield
    finally:
        del _held[name]
        for file in (OWNER, LOCK):  # while it is held: whoever opened this very file looks again (`_leads_to`)
            with contextlib.suppress(OSError):
                (folder / file).unlink(missing_ok=True)
        lock.release()
        if new:
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()


def _acquired(folder: Path, wait: float, advice: str) -> Any:
    from filelock import FileLock, Timeout  # a tenth of a second, and to read a folder needs no lock

    until, tries = time.monotonic() + wait, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_regular_target(folder / LOCK)
            lock = FileLock(folder / LOCK)
            lock.acquire(timeout=max(0.0, until - time.monotonic()))
        except Timeout:
            owner = owner_of(folder)
            raise Busy(f"{str(folder)!r} is in use by {words(owner)}; {advice}.", owner) from None
        except (OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            tries += 1
            if isinstance(error, FileNotFoundError) and tries < _TRIES:  # its holder removed the folder meanwhile
                continue
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{str(folder)!r} can't be written ({reason}); choose another folder.") from None
        if _leads_to(folder / LOCK, lock):
            return lock
        lock.release()


def _leads_to(path: Path, lock: Any) -> bool:
    """Whether the file that was locked is still the one of that name: its holder may have removed it meanwhile."""
    handle = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if handle is None or os.name == "nt":  # files that are open can't be removed there
        return True
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


# --- who ------------------------------------------------------------------------------------------
def _myself(work: Iterable[str]) -> dict[str, Any]:
    return {
        "pid": os.getpid(), "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["anprompt", *sys.argv[1:]])[:LONGEST], "work": list(work),
    }  # fmt: skip


def owner_of(folder: Path) -> dict[str, Any]:
    """What the holder wrote about itself; empty where that can't be read."""
    try:
        content = read_json(folder / OWNER)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def words(owner: dict[str, Any]) -> str:
    """`process 123 on host since 2026-01-01T00:00:00+00:00 (anprompt fit ...)`."""
    if "pid" not in owner:
        return "another process"
    pid, host, since, command = (str(owner.get(key, "?"))[:LONGEST] for key in ("pid", "host", "since", "command"))
    return f"process {pid} on {host} since {since} ({command})"


# --- sweeps ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def hold_runs(folder: str | Path, runs: Iterable[str]) -> Iterator[None]:
    """Within: no other sweep does one of these runs in this folder. Sweeps of other runs may share the folder.

    The process that was started holds them for its workers, here or on a cluster, which take no lock of their own.

    Args:
        folder: of the records.
        runs: names of the records that are not there yet.

    Raises:
        Busy: another sweep does one of the runs.
        UserError: the folder can't be written.
    """
    mine, sweeps = sorted(set(runs)), Path(folder) / SWEEPS
    if not mine:
        yield
        return
    new = not Path(folder).exists()
    own = sweeps / f"{os.getpid()}-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        with hold(sweeps, wait=_GATE_S):
            for other in sorted(path for path in sweeps.iterdir() if path.is_dir() and not path.is_symlink()):
                _refuse_shared(Path(folder), other, mine)
            stack.enter_context(hold(own, work=mine))
        try:
            yield
        finally:
            stack.close()
            with contextlib.suppress(OSError):  # another sweep is there
                sweeps.rmdir()
            if new:
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()


def _refuse_shared(folder: Path, other: Path, mine: list[str]) -> None:
    owner = _holder(other)
    if owner is None:  # a sweep that was killed
        shutil.rmtree(other, ignore_errors=True)
        return
    theirs = owner.get("work")
    both = set(mine) & set(theirs) if isinstance(theirs, list) else set(mine)
    if both:
        raise Busy(
            f"{len(both)} of the {len(mine)} runs to do in {str(folder)!r} are being done by {words(owner)}; wait "
            "until it has finished and start again (what is done is skipped), or choose another --runs folder.", owner,
        )  # fmt: skip


def _holder(folder: Path) -> dict[str, Any] | None:
    """What the holder of a folder says about itself, this thread or another; None where nobody holds it."""
    if os.path.realpath(folder) in _held:
        return owner_of(folder)
    try:
        with hold(folder):
            return None
    except Busy as busy:
        return busy.owner
