"""Putting files of a download into place: linked or copied, never over a file that differs, repeatable."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from anprompt.data.images import shown
from anprompt.errors import UserError
from anprompt.utils.files import atomic_write

Progress = Callable[..., None]


def place(source: Path, target: Path, *, copy: bool, progress: Progress) -> str:
    """Makes `target` show `source`, a folder or a file, as one link or as copies of all files.

    What is there already stays: a link to the same place, a folder of the user's own, an equal file. A copy
    that was interrupted goes on where it stopped; each file appears whole or not at all.

    Returns:
        What was done, as a line.

    Raises:
        UserError: something else is in the way, or the disk is full or read-only.
    """
    source = source.resolve()
    if _is_there(source, target):
        return f"there    {shown(target)}"
    if not copy:
        if target.is_dir():
            return f"kept     {shown(target)}/ (a folder of its own; nothing was linked into it)"
        link(source, target)
        return f"linked   {shown(target)} -> {shown(source)}"
    if source.is_file():
        copy_file(source, target)
        return f"copied   {shown(target)}"
    files = sorted(_files_below(source))
    for number, file in enumerate(files):
        copy_file(source / file, target / file)
        progress(number + 1, len(files))
    return f"copied   {shown(target)}/ ({len(files)} files)"


def link(source: Path, target: Path) -> None:
    """A symbolic link; one that is there and leads to the same place stays.

    Raises:
        UserError: something else is in the way, or links can't be made here.
    """
    if _is_there(source, target):
        return
    if target.exists():
        raise UserError(f"{shown(target)} is there already and differs; move it away and run this again.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
    except OSError as error:
        raise UserError(
            f"Can't link {shown(target)} ({error.strerror}); choose a writable folder, or use --copy."
        ) from None


def copy_file(source: Path, target: Path) -> None:
    """A copy that is whole or not there; an equal file stays, one that differs is refused."""
    if target.exists():
        _require_equal(source, target)
        return
    atomic_write(target, lambda temporary: shutil.copyfile(source, temporary))


def write_new(target: Path, data: bytes) -> None:
    """Writes a file that is whole or not there; an equal one stays, one that differs is refused."""
    if target.exists():
        if not target.is_file() or target.read_bytes() != data:
            raise UserError(f"{shown(target)} is there already and differs; move it away and run this again.")
        return
    atomic_write(target, lambda temporary: temporary.write_bytes(data))


def _is_there(source: Path, target: Path) -> bool:
    if target.is_symlink() and not target.exists():
        raise UserError(f"{shown(target)} links to {shown(os.readlink(target))}, which is gone; remove the link first.")
    if not target.exists():
        return False
    if target.resolve() == source.resolve():
        return True
    if target.is_symlink():
        raise UserError(f"{shown(target)} links to {shown(target.resolve())}; remove the link first.")
    if target.is_file() != source.is_file():
        raise UserError(f"{shown(target)} is in the way; move it and run this again.")
    if source.is_file():
        _require_equal(source, target)
    return source.is_file()


def _require_equal(source: Path, target: Path) -> None:
    if not target.is_file() or not filecmp.cmp(source, target, shallow=False):
        raise UserError(f"{shown(target)} is there already and differs; move it away and run this again.")


def _files_below(folder: Path) -> Iterable[str]:
    """Visible files, relative to the folder."""
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(base, name), folder)
