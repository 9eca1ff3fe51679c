"""Sentences about classes, for methods that read them: from a file, or with the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anprompt.data.names import class_key
from anprompt.errors import UserError
from anprompt.utils.files import read_json


def read_descriptions(path: str | Path) -> dict[str, list[str]]:
    """A JSON file {class: [sentences]}.

    Raises:
        UserError: no such file, no JSON, or another form.
    """
    content = read_json(Path(path))
    if not isinstance(content, dict) or not content:
        raise UserError(f"{str(path)!r} must hold {{class: [sentences]}}, not {_kind(content)}.")
    for name, sentences in content.items():
        sound = isinstance(sentences, list) and sentences and all(isinstance(s, str) for s in sentences)
        # The field's files begin some sentences with a line break; blanks are not a fault.
        if not sound or not all(s.split() and " ".join(s.split()).isprintable() for s in sentences):
            raise UserError(f"{str(path)!r}: class {name!r} needs a list of sentences in plain words.")
    return {name: [" ".join(s.split()) for s in sentences] for name, sentences in content.items()}


def _kind(value: Any) -> str:
    return "an empty one" if value == {} else f"a {type(value).__name__}"


def match_descriptions(descriptions: Mapping[str, Sequence[str]], classnames: Sequence[str]) -> dict[str, list[str]]:
    """The descriptions of these classes, whatever case and underscores the file's names have.

    Raises:
        UserError: a class has none.
    """
    by_name = {class_key(name): list(sentences) for name, sentences in descriptions.items()}
    missing = [name for name in classnames if class_key(name) not in by_name]
    if missing:
        more = f" and of {len(missing) - 1} more classes" if len(missing) > 1 else ""
        raise UserError(f"The descriptions lack those of class {missing[0]!r}{more}; add a list of sentences.")
    return {name: by_name[class_key(name)] for name in classnames}
