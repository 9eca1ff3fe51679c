"""The one walk through a user's folders: what systems leave behind is passed over, links are followed once."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anprompt.data.images import check_picture, shown
from anprompt.errors import UserError

DEEPEST = 64  # folders below one another; deeper ones are left out

# What NAS boxes, desktops, archives and tools put into folders of images. Lower case.
_SYSTEM_FOLDERS = frozenset({
    "@eadir", "@recycle", "@recently-snapshot", "@tmp", "@sharebin", "@sharesnap", "@__thumb", "@transcode",
    "@appstore", "@database", "@quarantine", "#recycle", "#snapshot", "#work", "$recycle.bin", "$winreagent",
    "$sysreset", "recycler", "recycled", "recycle.bin", "system volume information", "lost+found", "lost.dir",
    "network trash folder", "temporary items", "__macosx", "__pycache__", "node_modules",
})  # fmt: skip
_SYSTEM_FILES = frozenset({
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "picasa.ini", "zbthumbnail.info",
    "desktop.db", "ntuser.ini",
})  # fmt: skip
_SYSTEM_NAME = re.compile(r"found\.\d{3}|~\$.*|.*@syno(eastream|resource)|.*:zone\.identifier")

# Names under which images come. Other files are opened to see.
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".hif",
})  # fmt: skip


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)}: {self.reason}"


@dataclass
class Folder:
    """A visible folder with what is visible in it, each by name."""

    path: Path
    folders: list[Folder] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)  # those of `files` that are meant as images

    @property
    def name(self) -> str:
        """Its own name in composed Unicode, whatever the file system keeps."""
        return unicodedata.normalize("NFC", self.path.name)

    @property
    def count(self) -> int:
        """Files meant as images in it and below."""
        return len(self.images) + sum(folder.count for folder in self.folders)

    @property
    def filled(self) -> list[Folder]:
        """The folders in it that hold images."""
        return [folder for folder in self.folders if folder.count]

    def all_files(self) -> Iterator[Path]:
        """Every visible file in it and below."""
        yield from self.files
        for folder in self.folders:
            yield from folder.all_files()


@dataclass
class Tree:
    """A folder with everything below it, and what was not followed or shown."""

    root: Folder
    left_out: list[LeftOut] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)  # names of system and hidden folders and files


def is_system(name: str) -> bool:
    """Whether a file or folder is hidden or one that a system keeps for itself."""
    low = name.lower()
    return name.startswith(".") or low in _SYSTEM_FOLDERS or low in _SYSTEM_FILES or bool(_SYSTEM_NAME.fullmatch(low))


def looks_like_image(file: Path) -> bool:
    """Whether a file is meant as an image: by its name, or else by what it holds."""
    return file.suffix.lower() in IMAGE_SUFFIXES or check_picture(file) is None


def read_tree(root: Path) -> Tree:
    """Everything visible below a folder.

    Links to folders are followed, but every real folder is read once: links back up, and second links to
    the same place, are left out with a reason. The root itself is read whatever its name is (`..`, a hidden
    folder, a link).

    Raises:
        UserError: a folder can't be listed.
    """
    tree = Tree(Folder(root))
    seen = {os.path.realpath(root): root}
    links: list[tuple[Folder, Path]] = []
    _fill(tree.root, tree, seen, links, 0)
    while links:
        parent, link = links.pop(0)
        real = os.path.realpath(link)
        if _is_above(real, link.parent):
            tree.left_out.append(LeftOut(str(link), "is a link to a folder above it"))
        elif real in seen:
            tree.left_out.append(LeftOut(str(link), f"is a link to {shown(seen[real])}, which is read already"))
        else:
            seen[real] = link
            below = Folder(link)
            _fill(below, tree, seen, links, len(link.relative_to(root).parts))
            parent.folders.append(below)
            parent.folders.sort(key=lambda folder: folder.path.name)
    return tree


def _is_above(real: str, folder: Path) -> bool:
    here = os.path.realpath(folder)
    return here == real or here.startswith(real.rstrip(os.sep) + os.sep)


def _fill(folder: Folder, tree: Tree, seen: dict[str, Path], links: list[tuple[Folder, Path]], depth: int) -> None:
    for path in _listed(folder.path):
        if is_system(path.name):
            tree.passed[path.name + ("/" if os.path.isdir(path) else "")] += 1
        elif not os.path.isdir(path):
            folder.files.append(path)
            if looks_like_image(path):
                folder.images.append(path)
        elif path.is_symlink():
            links.append((folder, path))
        elif depth >= DEEPEST:
            tree.left_out.append(LeftOut(str(path), f"lies more than {DEEPEST} folders deep"))
        elif (real := os.path.realpath(path)) in seen:
            tree.left_out.append(LeftOut(str(path), f"is {shown(seen[real])}, which is read already"))
        else:
            seen[real] = path
            below = Folder(path)
            folder.folders.append(below)
            _fill(below, tree, seen, links, depth + 1)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{shown(folder)} can't be listed ({reason}); check its permissions.") from None


def picture_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files in a folder and in the folders in it, sorted by folder; hidden and system ones are passed over.

    Raises:
        UserError: it holds no file, or a folder in it can't be listed.
    """
    found = list(read_tree(Path(folder)).root.all_files())
    if not found:
        raise UserError(f"The folder {os.fspath(folder)!r} holds no pictures.")
    return found
