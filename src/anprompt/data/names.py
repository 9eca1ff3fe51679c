"""Class names: one rule for what may be a name, one for what the text encoder reads, one for comparing.

    as given      `red_apple` is what comes back: in answers, columns, records, files
    `spoken`      "red apple" is what stands in the sentence for the text encoder
    `class_key`   what is compared wherever the question is whether two names mean the same class

Lengths are checked before any Unicode work: normalising a long run of accents takes time that grows with
the square of its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from anprompt.errors import UserError

LONGEST_NAME = 300  # characters, as given
_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")  # turn the text around them
# Characters that no font shows. Those of the second group shape their neighbours in some scripts and in
# emoji, so the text encoder gets them; nobody can tell two names apart by them, so comparing passes over both.
_INVISIBLE = "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufff8"
_SHAPING = "\u180b-\u180f\u200c\u200d\ufe00-\ufe0f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
_UNSPOKEN = re.compile(f"[{_INVISIBLE}]")
_IGNORED = re.compile(f"[{_INVISIBLE}{_SHAPING}\u202a-\u202e\u2066-\u2069]")


def spoken(name: str) -> str:
    """The words of a class name for the text encoder.

    Underscores become spaces, white space collapses, invisible characters go, Unicode is composed (NFC).
    Case, hyphens and everything else stay. `spoken(spoken(name)) == spoken(name)`.

    >>> spoken("red_panda "), spoken("Boeing 737-800")
    ('red panda', 'Boeing 737-800')

    Args:
        name: as it came from a folder, a file or a person.

    Raises:
        UserError: no words in it, more than 300 characters, or control characters, undecodable bytes or
            marks that turn the direction of the text around them.
    """
    name = str(name)
    if len(name) > LONGEST_NAME:  # before anything else: see above
        raise UserError(f"The class name {name[:40] + '...'!r} has {len(name)} characters; at most {LONGEST_NAME} fit.")
    stripped = name.strip()
    if _DIRECTIONS.search(stripped) or any(unicodedata.category(c) in ("Cc", "Cs") for c in stripped):
        raise UserError(f"The class name {name!r} holds control or undecodable characters; rename it.")
    words = " ".join(unicodedata.normalize("NFC", _UNSPOKEN.sub("", stripped)).replace("_", " ").split())
    if not words:
        raise UserError(f"The class name {name!r} is empty; every class needs a name of words.")
    return words


def class_key(name: str) -> str:
    """What is compared to tell whether two names mean the same class.

    Equal for names that differ in case, in runs of spaces and underscores, in the Unicode form (composed,
    decomposed, full width) or in invisible characters. Hyphens and all other signs count: "A-" is not "A".
    Any text has a key; keys are for comparing, never for showing. `class_key(class_key(n)) == class_key(n)`.

    >>> class_key("Red_Panda") == class_key("red panda"), class_key("A-") == class_key("A")
    (True, False)
    """
    key = str(name)
    for _ in range(4):  # folding can make what normalising composes, and the other way round
        if len(key) > LONGEST_NAME:  # not a usable name; compared as it is
            break
        before = key
        folded = unicodedata.normalize("NFKC", _IGNORED.sub("", unicodedata.normalize("NFD", key)).casefold())
        key = " ".join(folded.replace("_", " ").split())
        if key == before:
            break
    return key


def check_classnames(names: Iterable[str], *, allow_duplicates: bool = False) -> list[str]:
    """The names as they were given, once it is sure that each can be a class of its own.

    Args:
        names: as they come from folders, files or people.
        allow_duplicates: for official lists that hold the same name twice (ImageNet does).

    Raises:
        UserError: one of them is unusable (`spoken`), or two mean the same class (`class_key`).
    """
    kept: list[str] = []
    seen: dict[str, str] = {}
    for name in names:
        words, key = spoken(name), class_key(name)
        if key in seen and not allow_duplicates:
            raise UserError(f"The class names {seen[key]!r} and {name!r} both read as {words!r}; rename or merge one.")
        seen[key] = name
        kept.append(str(name))
    return kept


def clean_classnames(names: Iterable[str], *, allow_duplicates: bool = False) -> list[str]:
    """`check_classnames`, and the names as the text encoder reads them; for official lists."""
    return [spoken(name) for name in check_classnames(names, allow_duplicates=allow_duplicates)]
