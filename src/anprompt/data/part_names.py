"""Names of parts (train, val, test) as people write them: `Training`, `train2017`, `seg_train`, `Train Data`."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

UNLABELLED = "unlabelled"
LAYOUTS = ("auto", "classes", "parts", "domains", "metadata")  # what a caller can say of a folder

_WORDS = {
    "train": "train training trainings trainval trn traning trian entrenamiento apprentissage addestramento treino",
    "val": "val vals valid vaild validation validate validating validierung validacion validazione dev devel development",
    "test": "test tests testing tst eval evaluation evaluate holdout heldout prueba pruebas teste",
    UNLABELLED: "pred prediction predictions predict unlabelled unlabeled unlabel inference infer unsup unsupervised",
}  # fmt: skip
_PART_OF = {word: part for part, words in _WORDS.items() for word in words.split()}
# Words around a part's name that say no more than that it is a part of a data set of images.
_PLAIN = frozenset(
    [
        "set",
        "sets",
        "data",
        "dataset",
        "images",
        "image",
        "imgs",
        "img",
        "pics",
        "pictures",
        "picture",
        "photos",
        "photo",
        "files",
        "file",
        "folder",
        "dir",
        "directory",
        "split",
        "splits",
        "part",
        "subset",
        "samples",
        "sample",
        "examples",
        "daten",
        "datensatz",
        "bilder",
        "the",
        "new",
        "final",
        "full",
        "all",
        "only",
        "small",
        "large",
        "jpg",
        "jpeg",
        "png",
        "of",
        "for",
        "my",
        "our",
    ]
)
_JOINED = re.compile(
    rf"({'|'.join(sorted(_PART_OF, key=len, reverse=True))})s??({'|'.join(sorted(_PLAIN, key=len, reverse=True))})"
)
_PAIRS = {("hold", "out"): "holdout", ("held", "out"): "heldout", ("un", "labelled"): "unlabelled",
          ("un", "labeled"): "unlabelled", ("train", "val"): "trainval"}  # fmt: skip


class PartName(NamedTuple):
    """What a folder's name says.

    Attributes:
        part: "train", "val", "test" or "unlabelled".
        rest: the words that say something else ("seg" of `seg_train`); empty where the name is plain.
        word: the part's word as written, in lower case.
    """

    part: str
    rest: str
    word: str


def part_name(name: str) -> PartName | None:
    """The part that a folder's or a column's name may mean; None where it holds no part's word, or two.

    `train_station` gives the rest "station": whether it is a part, its neighbours show (`named_parts`).
    """
    words = _words(name)
    found = [(place, _PART_OF[word]) for place, word in enumerate(words) if word in _PART_OF]
    if len(found) != 1:
        return None
    place, part = found[0]
    rest = " ".join(word for at, word in enumerate(words) if at != place and word not in _PLAIN)
    return PartName(part, rest, words[place])


def plain_part(name: str) -> str:
    """The part that a name means by itself ("train", "val", "test", "unlabelled"), or "".

    >>> plain_part("Training"), plain_part("train_images"), plain_part("val2017"), plain_part("train station")
    ('train', 'train', 'val', '')
    """
    found = part_name(name)
    return found.part if found and not found.rest else ""


def named_parts(names: Iterable[str]) -> dict[str, str]:
    """Which of some neighbouring names are parts: {name: part}.

    Plain names are. Names with other words are where at least two parts share those words: `seg_train` beside
    `seg_test`, but not `bullet_train` beside `plane`. `eval` is the test part, or the val part where another
    name is the test part already.
    """
    read = {name: found for name in names if (found := part_name(name))}
    kinds: dict[str, set[str]] = {}
    for found in read.values():
        kinds.setdefault(found.rest, set()).add(found.part)
    parts = {name: found.part for name, found in read.items() if not found.rest or len(kinds[found.rest]) > 1}
    tests = {name for name, part in parts.items() if part == "test"}
    loose = {name for name in tests if read[name].word.startswith("eval")}
    if loose and tests - loose and "val" not in parts.values():
        parts.update(dict.fromkeys(loose, "val"))
    return parts


def _words(name: str) -> list[str]:
    """Words in lower case, without numbers: at blanks, signs, digits and capitals in the middle."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    words = [word for word in re.split(r"[\W\d_]+", text.casefold()) if word]
    for first, second in itertools.pairwise(words):
        if (first, second) in _PAIRS:
            at = words.index(first)
            words[at : at + 2] = [_PAIRS[first, second]]
            break
    parted: list[str] = []
    for word in words:
        joined = None if word in _PART_OF else _JOINED.fullmatch(word)
        parted += [joined[1], joined[2]] if joined else [word]
    return parted
