"""What every data source yields: items, class names, and how to read one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL.Image import Image

if TYPE_CHECKING:
    from anprompt.data.reading import Reading


@dataclass(frozen=True)
class Item:
    """One labelled picture.

    Attributes:
        path: a file path, or a key of the source ("embedded:food/pizza/twemoji/train/0007").
        label: index into the data set's class names.
        classname: the class name as it was given; `names.spoken` is what the text encoder reads of it.
        domain: style or variant the picture belongs to; empty where there is only one.
        listed: an official list names it: records know it by its path there, all others by its content.
    """

    path: str
    label: int
    classname: str
    domain: str = ""
    listed: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Dataset:
    """A labelled data set with its official split.

    Attributes:
        classnames: in label order, as they were given.
        labels: what the data calls the classes where they were given other names (`--names`); else empty.
        read: opens an item as an RGB picture; raises `UserError` naming the file if it can't.
        template: a sentence with one `{}` for the class name.
        skipped: one line per file that was left out, with the reason.
        describe: gives sentences about the classes, where the data come with some.
        reading: how a user's folder or table was understood; None for data sets known by name.
    """

    name: str
    classnames: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    read: Callable[[Item], Image]
    template: str = "a photo of a {}."
    licence: str = ""
    citation: str = ""
    skipped: tuple[str, ...] = ()
    reading: Reading | None = None
    labels: tuple[str, ...] = ()
    describe: Callable[[], dict[str, list[str]]] | None = field(default=None, compare=False)

    def known_descriptions(self) -> dict[str, list[str]] | None:
        """Sentences by class name that come with the data, for methods that read them; None where there are none."""
        return self.describe() if self.describe else None
