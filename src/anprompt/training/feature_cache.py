"""The view bank: what the frozen encoders make of training views, kept on disk or in memory.

A row holds the tensors of one view under a 16-byte key (`Views.view_keys`); a *space* is one way of looking
at views (weights, first prompted block, precision). On disk:

    DIR/lock                           held while a process writes or evicts
    DIR/<space>/space.json             what the space is, for people
    DIR/<space>/<name>.safetensors     a shard: rows, their keys, a checksum; written whole or not at all

Shards never change. One that is damaged is deleted and its rows are computed again; whatever goes wrong
with the disk, training goes on without the bank.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from anprompt.errors import UserError
from anprompt.utils.byte_cache import ByteCache
from anprompt.utils.files import atomic_write, read_tensors, write_json, write_tensors

log = logging.getLogger("anprompt")

SUFFIX = ".safetensors"
_OPEN_SHARDS = 64
_STALE_S = 3600.0  # a temporary file this old belongs to a process that was killed
_PATIENCE_S = 60.0  # to write a shard takes seconds
KEYS = "keys"

Named = dict[str, Tensor]


class Rows(Protocol):
    """The rows of one space."""

    def get(self, keys: Sequence[bytes]) -> Named | None:
        """The tensors [B, ...] of these views, or None if one of them is not there."""

    def put(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        """Keep the rows of tensors [B, ...]; those that are there already stay."""

    def has(self, key: bytes) -> bool:
        """Whether a row is there."""

    def flush(self) -> None:
        """Write what waits in memory."""


class FeatureCache(Protocol):
    """A feature cache on disk or in memory, which keeps the rows of each data set, model and recipe apart."""

    def open(self, space: Mapping[str, Any]) -> Rows:
        """The rows of one space, a description of data set, model and recipe: those of earlier runs, or none yet."""


# --- memory ---------------------------------------------------------------------------------------
class MemoryFeatureCache:
    """Rows in memory within a budget, the least recently used forgotten first.

    Args:
        megabytes: over all spaces.
    """

    def __init__(self, megabytes: float = 512) -> None:
        self.rows: ByteCache[tuple[str, bytes], Named] = ByteCache(int(megabytes * 2**20))

    @property
    def budget(self) -> int:
        """Bytes it may hold."""
        return self.rows.budget

    @property
    def used(self) -> int:
        """Bytes it holds."""
        return self.rows.used

    def open(self, space: Mapping[str, Any]) -> Rows:
        return _MemoryRows(self.rows, space_name(space))


class _MemoryRows:
    def __init__(self, rows: ByteCache[tuple[str, bytes], Named], space: str) -> None:
        self.rows, self.space = rows, space

    def get(self, keys: Sequence[bytes]) -> Named | None:
        rows = [self.rows.get((self.space, key)) for key in keys]
        return _stacked([row for row in rows if row is not None]) if None not in rows else None

    def put(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        for index, key in enumerate(keys):
            row = {name: value[index] for name, value in tensors.items()}
            if not self.has(key) and (size := _bytes(row)) <= self.rows.budget:
                self.rows.put((self.space, key), {name: value.clone() for name, value in row.items()}, size)

    def has(self, key: bytes) -> bool:
        return (self.space, key) in self.rows

    def flush(self) -> None:
        pass


# --- disk -----------------------------------------------------------------------------------------
class DiskFeatureCache:
    """Rows in a folder, shared between runs and between processes.

    Not a `utils.byte_cache.ByteCache`: its unit is a file that never changes, the order of use is the files' own times,
    so that all processes see one, and what this process reads from must not go.

    Args:
        folder: made if it is not there.
        gigabytes: of all shards together. When they are used up, the shards that were not used for the
            longest time go, but none that this process used; if only such are left, no more are written.
        shard_mb: rows wait in memory until there are this many megabytes, or an epoch ends.

    Raises:
        UserError: the folder can't be made, or a file is in the way.
    """

    def __init__(self, folder: str | Path, gigabytes: float = 10, shard_mb: float = 32) -> None:
        self.folder = Path(folder)
        self.budget, self.shard_bytes = int(gigabytes * 2**30), int(shard_mb * 2**20)
        self.used: set[Path] = set()
        self.writes = True
        self._spaces: dict[str, _DiskRows] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"The view bank {str(folder)!r} can't be made ({reason}); choose another folder.") from None
        except ValueError as error:
            raise UserError(f"The view bank can't be {str(folder)!r} ({error}).") from None

    def open(self, space: Mapping[str, Any]) -> Rows:
        """Rows of one space; several runs of a process share them, with what waits to be written."""
        rows = self._spaces.setdefault(space_name(space), _DiskRows(self, space))
        rows.refresh()
        return rows

    def shards(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of every shard, the longest unused first."""
        found = []
        for path in self.folder.glob(f"*/[!.]*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another process may have evicted it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def make_room(self, size: int) -> bool:
        """Evict until `size` more bytes fit; False, and nothing evicted, if they can't. Call under `lock`."""
        shards = self.shards()
        excess = sum(entry[1] for entry in shards) + size - self.budget
        old = [entry for entry in shards if entry[2] not in self.used]
        if excess > sum(entry[1] for entry in old):
            return False
        for _, freed, path in old:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= freed
        return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time; the system frees it when a process dies."""
        try:
            with FileLock(self.folder / "lock", timeout=_PATIENCE_S):
                yield
        except Timeout:
            raise UserError(f"another process has held {self.folder / 'lock'} for {_PATIENCE_S:g} s") from None

    def stop_writing(self, reason: object) -> None:
        """One line; from here on rows are computed and not kept."""
        if self.writes:
            log.warning("the view bank %s keeps no more views (%s); training goes on", self.folder, reason)
        self.writes = False


class _DiskRows:
    """One space: an index of its shards, the open ones, and rows that wait to be written."""

    def __init__(self, bank: DiskFeatureCache, space: Mapping[str, Any]) -> None:
        self.bank, self.space = bank, dict(space)
        self.name = space_name(space)
        self.folder = bank.folder / self.name
        self._index: dict[bytes, tuple[Path, int]] = {}
        self._known: set[Path] = set()
        self._open: OrderedDict[Path, Named] = OrderedDict()
        self._waiting: dict[bytes, Named] = {}
        self._waiting_bytes = 0

    def refresh(self) -> None:
        """Take in shards that other processes wrote, and clear away what killed ones left half-written."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob(f".*{SUFFIX}.*"):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink(missing_ok=True)
            for path in sorted(self.folder.glob(f"[!.]*{SUFFIX}")):
                if path not in self._known:
                    self._take_in(path)

    def _take_in(self, path: Path) -> None:
        self._known.add(path)
        try:
            keys = _keys_of(path)
        except (UserError, ValueError) as error:
            self._drop(path, error)
            return
        for row, key in enumerate(keys):
            self._index.setdefault(key, (path, row))

    def _drop(self, path: Path, error: Exception | str) -> None:
        """Forget a shard: evicted by another process (no word about it) or damaged (deleted, one line)."""
        if path.exists():
            log.warning("view bank: %s is damaged (%s); its views are computed anew", path, error)
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self._open.pop(path, None)
        self._index = {key: place for key, place in self._index.items() if place[0] != path}

    def has(self, key: bytes) -> bool:
        return key in self._waiting or key in self._index

    def get(self, keys: Sequence[bytes]) -> Named | None:
        rows = []
        for key in keys:
            row = self._waiting.get(key)
            if row is None:
                row = self._read(key)
            if row is None:
                return None
            rows.append(row)
        return _stacked(rows)

    def _read(self, key: bytes) -> Named | None:
        if key not in self._index:
            return None
        path, number = self._index[key]
        if path not in self._open:
            try:
                self._open[path] = _checked_shard(path, self.name)
            except (UserError, ValueError) as error:
                self._drop(path, error)
                return None
            self.bank.used.add(path)
            with contextlib.suppress(OSError):
                os.utime(path)  # the time of last use, by which shards are evicted
            while len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return {name: value[number] for name, value in self._open[path].items()}

    def put(self, keys: Sequence[bytes], tensors: Mapping[str, Tensor]) -> None:
        if not self.bank.writes:
            return
        stored = {name: value.detach().to("cpu") for name, value in tensors.items()}
        for index, key in enumerate(keys):
            if not self.has(key):
                row = {name: value[index].clone() for name, value in stored.items()}
                self._waiting[key] = row
                self._waiting_bytes += _bytes(row)
        if self._waiting_bytes >= self.bank.shard_bytes:
            self.flush()

    def flush(self) -> None:
        if self._waiting and self.bank.writes:
            try:
                with self.bank.lock():
                    self._write()
            except (UserError, OSError) as error:
                self.bank.stop_writing(error)
        self._waiting, self._waiting_bytes = {}, 0

    def _write(self) -> None:
        self.refresh()
        fresh = {key: row for key, row in self._waiting.items() if key not in self._index}
        if not fresh:
            return
        if not self.bank.make_room(self._waiting_bytes):
            self.bank.stop_writing(f"its {self.bank.budget / 2**30:g} GB are full")
            return
        path = self.folder / f"{int(time.time())}-{secrets.token_hex(6)}{SUFFIX}"
        self.folder.mkdir(exist_ok=True)
        if not (self.folder / "space.json").exists():
            write_json(self.folder / "space.json", self.space)
        tensors = _stacked(list(fresh.values()))
        tensors[KEYS] = torch.frombuffer(bytearray(b"".join(fresh)), dtype=torch.uint8).view(-1, 16)
        meta = {"space": self.name, "checksum": checksum(tensors)}
        atomic_write(path, lambda temporary: write_tensors(temporary, tensors, meta))
        self.bank.used.add(path)
        self._take_in(path)


# --- shards ---------------------------------------------------------------------------------------
def space_name(space: Mapping[str, Any]) -> str:
    """Folder name of a space: 16 hexadecimal digits of what it is."""
    return hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:16]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _keys_of(path: Path) -> list[bytes]:
    keys = read_tensors(path)[0].get(KEYS)
    if keys is None or keys.dtype != torch.uint8 or keys.ndim != 2 or keys.shape[1] != 16:
        raise ValueError("no keys in it")
    return [row.tobytes() for row in np.asarray(keys)]


def _checked_shard(path: Path, space: str) -> Named:
    """The tensors of a shard, mapped from the file (pages are read when used).

    Raises:
        UserError, ValueError: missing, damaged, or of another space.
    """
    tensors, meta = read_tensors(path)
    if meta.get("space") != space or meta.get("checksum") != checksum(tensors):
        raise ValueError("its checksum is wrong")
    rows = len(tensors.pop(KEYS))
    if any(value.ndim < 1 or len(value) != rows for value in tensors.values()):
        raise ValueError("its tensors have other numbers of rows")
    return tensors


def _stacked(rows: Sequence[Named]) -> Named:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _bytes(row: Named) -> int:
    return sum(value.numel() * value.element_size() for value in row.values())
