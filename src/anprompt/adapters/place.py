"""Folders that an adapter goes to: empty ones, or the place of the very same adapter."""

from __future__ import annotations

from pathlib import Path

from anprompt.errors import UserError

_FILES = ("config.json", "adapter.safetensors")
# What an unfinished run or the system leaves there: a state, a new adapter half moved, a lock, a file's last write.
_OURS = (".state", ".new", ".writing.", ".lock", ".anprompt", ".config.json.", ".adapter.safetensors.", ".README.md.")
_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini", "lost+found")


def holds_adapter_here(folder: Path, *, overwrite: bool, option: str, remedy: str) -> bool:
    """Whether an adapter lies in a folder; `fit`, `convert` and `PromptClassifier.save` all ask here.

    Args:
        overwrite: whether anything there may be replaced; then nothing is asked.
        option: how the folder was given, for the message ("--out", or "").
        remedy: what to add to replace it ("--overwrite").

    Raises:
        UserError: other files lie there, hidden ones too, or a file is in the way.
    """
    if overwrite or not folder.exists():
        return False
    shown = f"{option} {str(folder)!r}".strip()
    if not folder.is_dir():
        raise UserError(f"{shown}: a file is in the way; choose another folder.")
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if not name.startswith(_OURS) and name not in _SYSTEM]
    if ".new" in names and not others:  # a kill came before it was moved
        others = sorted(path.name for path in (folder / ".new").iterdir())
    if not others:
        return False
    if not set(_FILES) <= set(others):
        first = next((name for name in others if not name.startswith(".")), others[0])
        raise UserError(f"{shown} holds other files ({first!r}); choose a new folder, or add {remedy}.")
    return True


def holds_another(folder: Path, option: str, remedy: str) -> UserError:
    """The refusal of a folder with the adapter of another run."""
    shown = f"{option} {str(folder)!r}".strip()
    return UserError(f"{shown} holds the adapter of another run; choose a new folder, or add {remedy}.")
