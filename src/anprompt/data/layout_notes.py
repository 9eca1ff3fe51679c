"""What a reading of a folder's layout is made of, and the words that the readers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.data.images import shown
from anprompt.data.names import class_key
from anprompt.data.part_names import LAYOUTS as LAYOUTS
from anprompt.data.part_names import plain_part
from anprompt.data.walk import Folder, LeftOut
from anprompt.errors import UserError

PARTS = ("train", "val", "test")
CONTAINERS = frozenset(
    [
        "images",
        "image",
        "imgs",
        "img",
        "data",
        "dataset",
        "pictures",
        "photos",
        "jpegimages",
        "jpg",
        "jpeg",
        "png",
        "raw",
        "all",
    ]
)
NAMED = 5  # names in a line before the rest is counted


@dataclass(frozen=True)
class Group:
    """The files of one class in one part.

    Attributes:
        classname: as the folder or the table has it.
        part: "train", "val" or "test"; "" where the layout has no parts.
        domain: the folder above the classes, where those are domains.
        files: every visible file, images or not, sorted by path.
    """

    classname: str
    part: str
    files: tuple[Path, ...]
    domain: str = ""


@dataclass
class Layout:
    """What was understood.

    Attributes:
        root: the folder that was given.
        folder: the folder that is read: `root`, or one below it.
        name: "class folders", "part folders", "part folders in class folders", "domains" or "metadata".
        parts: the folders of each part that was found.
        unlabelled: folders whose images have no class.
        left_out: files and folders that are not read, with the reason.
        decisions: what was decided, one line each, for people.
    """

    root: Path
    folder: Path
    name: str = "class folders"
    groups: list[Group] = field(default_factory=list)
    parts: dict[str, list[str]] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    def short(self, path: Path) -> str:
        """A path below the root as it is told."""
        return shown(path.relative_to(self.root) if path != self.root else path)


class Reader:
    """Notes of one reading of one tree."""

    def __init__(self, found: Layout, known: set[str], layout: str) -> None:
        self.found, self.known, self.layout = found, known, layout

    def is_known(self, name: str) -> bool:
        return class_key(name) in self.known

    def add(self, folder: Folder, part: str, name: str | None = None, domain: str = "") -> None:
        files = tuple(sorted(folder.all_files(), key=str))
        self.found.groups.append(Group(name or folder.name, part, files, domain))

    def leave(self, path: Path, reason: str) -> None:
        self.found.left_out.append(LeftOut(str(path), reason))

    def leave_empty(self, folder: Folder) -> None:
        """A folder without images, where it holds anything else."""
        if next(folder.all_files(), None) is not None:
            self.leave(folder.path, "holds no images")

    def leave_between(self, outer: Folder, inner: Folder, reason: str) -> None:
        """What lies beside the way down from a folder to the one that holds all its images."""
        while outer is not inner:
            self.leave_files(outer, reason)
            for folder in outer.folders:
                if not folder.count:
                    self.leave_empty(folder)
            outer = outer.filled[0]

    def leave_files(self, folder: Folder, reason: str) -> None:
        for file in folder.files:
            self.leave(file, reason)

    def decide(self, line: str) -> None:
        self.found.decisions.append(line)

    def two_readings(
        self, node: Folder, first: str, first_layout: str, second: str, second_layout: str, remedy: str = ""
    ) -> UserError:
        option = f" (--layout {first_layout})" if first_layout else ""
        return UserError(
            f"{shown(node.path)} can be read in two ways: {first}{option}; or {second} (--layout {second_layout}). "
            f"{remedy[:1].upper() + remedy[1:] + ' say' if remedy else 'Say'} which with --layout (in Python: "
            f"open_dataset(folder, layout=...))."
        )


def all_parts(folders: Sequence[Folder]) -> bool:
    return bool(folders) and all(plain_part(folder.name) for folder in folders)


def few(folders: Sequence[Folder]) -> str:
    names = [shown(folder.name) for folder in folders]
    return ", ".join(names[:NAMED]) + (f", ... ({len(names)})" if len(names) > NAMED else "")


def counted(count: int) -> str:
    return f"{count} image" + ("" if count == 1 else "s")


def with_count(reason: str, count: int) -> str:
    return f"{reason} ({counted(count)})" if count else reason
