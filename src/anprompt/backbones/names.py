"""What a backbone's name stands for: a hub id is a hub id, a folder is asked for by a path.

transformers takes a folder that happens to be called like a hub id, and open_clip a file that is called
like a tag of weights. Where the working directory is a stranger's, that would be the stranger's model.
"""

from __future__ import annotations

import os

from anprompt.errors import UserError

_OPEN_CLIP = "open-clip:"
_STARTS = ("./", "../", "~", ".\\", "..\\")


def is_path(spec: str) -> bool:
    """Whether a name is written as a path: absolute, or from "./", "../" or "~"."""
    return os.path.isabs(spec) or spec in (".", "..") or spec.startswith(_STARTS)


def resolve(spec: str | os.PathLike[str]) -> str:
    """The name as the libraries are given it: a folder's path as it is, with "~" filled in, or another name.

    Args:
        spec: a name; an `os.PathLike` is a path in any case.

    Raises:
        UserError: a path without a folder, or a name that the libraries would take for a file or folder beside.
    """
    if not isinstance(spec, str):
        spec = os.fspath(spec) if is_path(os.fspath(spec)) else os.path.join(".", os.fspath(spec))
    if is_path(spec):
        folder = os.path.expanduser(spec)
        if not os.path.isdir(folder):
            what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
            raise UserError(f"Backbone folder {spec!r} {what}; give a folder in hub format, or a hub id.")
        return folder
    before, name = ("", spec) if not spec.startswith(_OPEN_CLIP) else _weights(spec)
    if spec != "embedded" and name and not is_path(name) and "\0" not in name and os.path.lexists(name):
        kind = "folder" if os.path.isdir(name) else "file"
        raise UserError(
            f"Backbone {spec!r} is the name of a published model, but a {kind} {name!r} lies in the working "
            f"directory. Write {before + './' + name!r} for the {kind}, or run this elsewhere for the model."
        )
    return spec


def _weights(spec: str) -> tuple[str, str]:
    """A name of open_clip, cut before its weights: the library takes a file that is called like them."""
    model, slash, weights = spec.partition("/")
    return model + slash, "" if ":hf-hub:" in spec else weights
