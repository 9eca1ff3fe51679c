"""What a folder means as a data set, and why: the one recogniser of layouts.

`recognise` looks at names and at which folders hold images; it opens no image that has an image's name. It
returns what it understood with one line per decision, or refuses with one line that names both readings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from anprompt.data.images import shown
from anprompt.data.layout_notes import CONTAINERS, LAYOUTS, NAMED, PARTS, Group, Layout, all_parts, few
from anprompt.data.layout_parts import PartReader
from anprompt.data.metadata import Labels, find_labels
from anprompt.data.names import class_key
from anprompt.data.part_names import named_parts, plain_part
from anprompt.data.walk import Folder, Tree, read_tree
from anprompt.errors import UserError, choices

_DATES = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}|(0?[1-9]|1[0-2])")


def recognise(root: Path, *, layout: str = "auto", known: Iterable[str] = ()) -> Layout:
    """Reads the layout of a folder of labelled images.

    Args:
        root: the folder.
        layout: one of `LAYOUTS`; anything but "auto" settles which of two readings is meant.
        known: class names that a model knows: folders with these names are classes, whatever else their
            names or places could mean.

    Raises:
        UserError: an unknown layout, nothing that can be read, or two readings.
    """
    if layout not in LAYOUTS:
        raise choices("layout", layout, LAYOUTS)
    tree = read_tree(root)
    reader = _Reader(Layout(root, root), {class_key(name) for name in known}, layout)
    reader.read(tree)
    _tell_passed(reader.found, tree)
    return reader.found


class _Reader(PartReader):
    """Reads one tree in whatever layout it has."""

    def read(self, tree: Tree) -> None:
        top, layout = tree.root, self.layout
        if self.as_metadata(top):
            pass
        elif layout == "classes":
            self.classes(top)
        else:
            node = self.descend(top)
            if node is not top and self.as_metadata(node):
                pass
            elif layout == "domains":
                self.domains(node)
            elif self.as_parts(node) or self.as_parts_in_classes(node):
                pass
            elif layout == "parts":
                names = ", ".join(folder.name for folder in node.folders[:NAMED]) or "no folders"
                raise UserError(f"{shown(node.path)} has no part folders such as train, val and test, but {names}.")
            else:
                self.refuse_ambiguous(node)
                self.classes(node)
        self.found.left_out = [*tree.left_out, *self.found.left_out]

    # --- one folder below another ---------------------------------------------------------------
    def descend(self, top: Folder) -> Folder:
        """The folder that holds the classes or parts, where all images lie in one folder below."""
        node = top
        while (inner := self._only(node)) is not None:
            node = inner
        if node is top:
            return top
        self.found.folder = node.path
        self.decide(f"all images lie below {self.found.short(node.path)}, so that folder is read")
        self.leave_between(top, node, "lies outside the folder that is read")
        return node

    def _only(self, node: Folder) -> Folder | None:
        if len(node.filled) != 1 or self.is_known(node.filled[0].name):
            return None
        inner = node.filled[0]
        if plain_part(inner.name) and not all_parts(inner.filled):
            return None  # train/ alone is a part
        if len(inner.filled) == 1 and self._only(inner) is None and not plain_part(inner.filled[0].name):
            return None  # a class with one folder in it
        return inner if inner.filled and len(node.images) <= inner.count else None

    # --- classes --------------------------------------------------------------------------------
    def refuse_ambiguous(self, node: Folder) -> None:
        """Folders that hold folders of the same names; one that only gathers classes beside plain classes."""
        nested = [f for f in node.filled if len(f.filled) > 1 and not f.images and not self.is_known(f.name)]
        places: dict[str, list[str]] = {}
        for folder in nested:
            for inner in folder.filled:
                places.setdefault(class_key(inner.name), []).append(inner.name)
        shared = [names[0] for names in places.values() if len(names) > 1]
        if len(shared) > 1 and not all(_DATES.fullmatch(name) for name in shared):
            first = f"{few(nested)} parts or domains with the classes {', '.join(shared[:NAMED])}"
            raise self.two_readings(node, first, "domains", f"classes {few(node.filled)}", "classes",
                                    remedy="call part folders train, val and test, or")  # fmt: skip
        gathering = [folder for folder in nested if folder.name.lower() in CONTAINERS]
        if gathering and len(node.filled) > 1:
            raise UserError(
                f"{shown(node.path)} can be read in two ways: {gathering[0].name}/ holds the classes {few(gathering[0].filled)}, "
                f"or it is a class beside {few([f for f in node.filled if f is not gathering[0]])}. Give "
                f"{shown(gathering[0].path)} as the data, or say --layout classes."
            )

    def classes(self, node: Folder) -> None:
        if not node.folders:
            self.one_class(node)
            return
        for folder in node.folders:
            self.add(folder, "")
        self.leave_files(node, "lies outside the class folders")
        inner = [f"{folder.name}/{folder.filled[0].name}" for folder in node.folders if folder.filled]
        if inner:
            self.decide(f"folders in class folders ({inner[0]}) count for the class above")

    def one_class(self, node: Folder) -> None:
        """A folder without folders: a class that is known, or nothing that can be read."""
        name = node.path.resolve().name
        if node.images and self.is_known(name):
            self.add(Folder(node.path, [], node.files, node.images), "", name)
            self.decide(f"the folder itself is the class {name!r}")
            return
        archives = [
            file.name for file in node.files if file.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
        ]
        hint = f" Unpack {shown(archives[0])} first." if archives and not node.images else ""
        tables = [file.name for file in node.files if file.suffix.lower() in (".csv", ".tsv")]
        if tables:
            hint = f" If {shown(tables[0])} holds the labels, give it as the data: a table path,label[,split]."
        raise UserError(
            f"{shown(node.path)} holds no class folders. Put the pictures of each class into a folder with its "
            f"name, e.g. {shown(node.path)}/cat/1.jpg.{hint}"
        )

    def domains(self, node: Folder) -> None:
        """`photo/<class>` beside `sketch/<class>`."""
        self.found.name = "domains"
        for folder in node.folders:
            for inner in folder.folders:
                self.add(inner, "", domain=folder.name)
            self.leave_files(folder, "lies outside the class folders")
        self.leave_files(node, "lies outside the class folders")
        self.decide(f"{few(node.filled)} read as domains with class folders in them")

    # --- tables beside the images ---------------------------------------------------------------
    def as_metadata(self, node: Folder) -> bool:
        if self.layout not in ("auto", "metadata"):
            return False
        labels = find_labels(node)
        if labels is None or not labels.rows:
            if self.layout == "metadata":
                raise UserError(
                    f"{shown(node.path)} has no metadata.csv or metadata.jsonl with the columns file_name and label."
                )
            if labels is not None:
                self.decide(f"{labels.names} has no column 'label', so the folders are the classes")
            return False
        self.found.name, self.found.folder = "metadata", node.path
        self.from_table(node, labels)
        return True

    def from_table(self, node: Folder, labels: Labels) -> None:
        above = {row.path: row.path.parent.name for row in labels.rows if row.path.parent not in labels.folders}
        parts = named_parts(folder.name for folder in node.folders)
        sorted_in = {path: name for path, name in above.items() if name not in parts and name.lower() not in CONTAINERS}
        names = {row.path: row.label for row in labels.rows}
        if self.layout == "auto" and len(sorted_in) == len(labels.rows) and len(set(sorted_in.values())) > 1:
            pairs = {(sorted_in[row.path], row.label) for row in labels.rows}
            if len(pairs) == len({f for f, _ in pairs}) == len({label for _, label in pairs}):
                names = sorted_in
                self.decide(f"{labels.names} and the folders agree; classes are called like the folders")
            else:
                raise self.two_readings(node, f"the labels of {labels.names}", "metadata",
                                        f"the folders {', '.join(sorted({f for f, _ in pairs})[:NAMED])}", "classes")  # fmt: skip
        groups: dict[tuple[str, str], list[Path]] = {}
        for row in labels.rows:
            step = row.path.relative_to(node.path).parts[0] if node.path in row.path.parents else ""
            part = row.part or parts.get(step, "")
            groups.setdefault((names[row.path], part if part in PARTS else ""), []).append(row.path)
            if part in PARTS and step in parts and step not in self.found.parts.setdefault(part, []):
                self.found.parts[part].append(step)
        for (name, part), files in sorted(groups.items()):
            self.found.groups.append(Group(name, part, tuple(sorted(files, key=str))))
        for file in node.all_files():
            if file not in names and file not in labels.files:
                self.leave(file, f"is not listed in {labels.names}")
        self.decide(f"classes from {labels.names}")


def _tell_passed(found: Layout, tree: Tree) -> None:
    """System and hidden files and folders in one line."""
    if not tree.passed:
        return
    names = [shown(name) + (f" ({count})" if count > 1 else "") for name, count in sorted(tree.passed.items())]
    more = f" and {len(names) - NAMED} more names" if len(names) > NAMED else ""
    found.decisions.append(f"passed over, as hidden or of the system: {', '.join(names[:NAMED])}{more}")
