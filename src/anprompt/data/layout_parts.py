"""Part folders: `train/<class>` beside `test/<class>`, and `<class>/train` beside `<class>/test`."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.data.images import shown
from anprompt.data.layout_notes import CONTAINERS, NAMED, PARTS, Reader, all_parts, counted, few, with_count
from anprompt.data.names import class_key
from anprompt.data.part_names import UNLABELLED, named_parts, part_name, plain_part
from anprompt.data.walk import Folder
from anprompt.errors import UserError

_BESIDE = frozenset(
    [
        "annotations",
        "annotation",
        "labels",
        "label",
        "masks",
        "mask",
        "docs",
        "doc",
        "metadata",
        "meta",
        "scripts",
        "code",
        "src",
        "utils",
        "results",
        "outputs",
        "output",
        "logs",
        "segmentations",
        "bboxes",
        "readme",
        "assets",
        "figures",
        "examples",
        "samples",
    ]
)  # what lies beside parts without being one


class PartReader(Reader):
    """Reads part folders; methods named `as_...` say whether they understood the folder."""

    # --- train, val, test -----------------------------------------------------------------------
    def as_parts(self, node: Folder) -> bool:
        names = self.part_names(node)
        named = [folder for folder in node.folders if folder.name in names]
        if not any(folder.count for folder in named):
            return False
        opened = {folder.name: self.unwrapped(folder) for folder in named}
        labelled = [f for f in named if names[f.name] != UNLABELLED and opened[f.name].filled]
        others = [folder for folder in node.filled if folder.name not in names]
        if not labelled:
            return self.flat_parts(node, [f for f in named if f.count], others)
        self.refuse_half_parts(node, labelled, others, names)
        self.found.name = "part folders"
        labelled = self.without_flat(labelled, opened, names)
        self.open_common(labelled, opened)
        for folder in named:
            self.leave_between(folder, opened[folder.name], "lies outside the class folders")
        for folder in named:
            inner, part = opened[folder.name], names[folder.name]
            if folder in labelled:
                self.part(part, folder, inner)
            elif folder.count:
                self.no_labels(folder, inner)
            else:
                self.decide(f"{folder.name}/ is empty")
                self.leave_empty(folder)
        for folder in node.folders:
            if folder not in named:
                self.leave(folder.path, with_count("lies beside the part folders", folder.count))
        self.leave_files(node, "lies outside the class folders")
        self.tell_parts(names, labelled)
        return True

    def part_names(self, node: Folder) -> dict[str, str]:
        names = [folder.name for folder in node.folders]
        parts = named_parts(names)
        if self.layout == "parts":
            parts = {name: p.part for name in names if (p := part_name(name))} | parts
        return {name: part for name, part in parts.items() if not self.is_known(name)}

    def unwrapped(self, folder: Folder) -> Folder:
        """`seg_train/seg_train/` and `train/images/`: the inner folder, where the outer one holds nothing else."""
        while not folder.images and len(folder.filled) == 1:
            inner, own = folder.filled[0], part_name(folder.name)
            inside = part_name(inner.name)
            same = class_key(inner.name) == class_key(folder.name) or inner.name.lower() in CONTAINERS
            if not same and not (own and inside and own.part == inside.part and not self.is_known(inner.name)):
                break
            folder = inner
        return folder

    def open_common(self, labelled: Sequence[Folder], opened: dict[str, Folder]) -> None:
        """`train/fruit/<class>` beside `test/fruit/<class>`: one folder in each part is not a class."""
        inner = [opened[folder.name] for folder in labelled]
        names = {class_key(only.name) for folder in inner for only in folder.filled}
        if (
            len(names) == 1
            and not names & self.known
            and all(len(f.filled[0].filled) > 1 and not f.filled[0].images for f in inner)
        ):
            for folder in labelled:
                opened[folder.name] = opened[folder.name].filled[0]

    def without_flat(self, labelled: list[Folder], opened: dict[str, Folder], names: dict[str, str]) -> list[Folder]:
        """Less those that are unlabelled in truth: more loose images than sorted ones, no class of train/."""
        train = {class_key(c.name) for f in labelled if names[f.name] == "train" for c in opened[f.name].filled}
        return [
            f for f in labelled
            if not train or names[f.name] == "train" or train & {class_key(c.name) for c in opened[f.name].filled}
            or len(opened[f.name].images) <= sum(c.count for c in opened[f.name].filled)
        ]  # fmt: skip

    def part(self, part: str, folder: Folder, inner: Folder) -> None:
        """The classes of one part folder."""
        where = self.found.short(inner.path)
        if len(inner.filled) > 1 and all_parts(inner.filled):
            raise UserError(f"{shown(folder.path)} holds part folders again; give that folder itself as the data.")
        self.found.parts.setdefault(part, []).append(where)
        if inner is not folder:
            self.decide(f"the classes of {folder.name}/ lie in {where}/")
        for each in inner.folders:
            self.add(each, part)
        self.leave_files(inner, "lies outside the class folders")

    def no_labels(self, folder: Folder, inner: Folder) -> None:
        where = self.found.short(inner.path)
        self.found.unlabelled.append(where)
        self.leave(inner.path, f"unlabelled: {counted(inner.count)} without class folders")
        self.decide(f"{where}/ is unlabelled ({counted(inner.count)} without class folders): left out; 'anprompt predict' can name them")  # fmt: skip

    def flat_parts(self, node: Folder, flat: list[Folder], others: list[Folder]) -> bool:
        """Part names over images without class folders: classes by chance, or nothing that has classes."""
        names = ", ".join(f"{folder.name}/" for folder in flat[:NAMED])
        rests = {found.rest for folder in flat if (found := part_name(folder.name))}
        if len(rests) > 1 and not others:
            first = f"class and part in one name, which needs folders like {sorted(rests)[0]}/train"
            raise self.two_readings(node, first, "", f"{len(flat)} classes ({names})", "classes")
        if self.layout == "parts" or not others:
            raise self._unlabelled_only(node, flat, names)
        if not any(plain_part(folder.name) == "train" for folder in flat):
            first = f"{names} unlabelled beside the classes"
            raise self.two_readings(node, first, "", f"{names} a class like {others[0].name}/", "classes",
                                    remedy=f"move {names} elsewhere, or")  # fmt: skip
        self.decide(
            f"{names} read as class{'es' if len(flat) > 1 else ''}: images straight in {'them' if len(flat) > 1 else 'it'}, like {others[0].name}/"
        )
        return False

    def _unlabelled_only(self, node: Folder, flat: list[Folder], names: str) -> UserError:
        tables = [file.name for file in node.files if file.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl")]
        hint = f" If {tables[0]} holds the labels, give it as a table path,label[,split]." if tables else ""
        other = ""
        if len(flat) > 1 and self.layout != "parts":
            other = f"; or, if {names} are the classes themselves, say --layout classes"
        return UserError(
            f"{shown(node.path)} holds images straight in {names}, without class folders: unlabelled. Put those of each "
            f"class into a folder with its name, e.g. {flat[0].name}/cat/1.jpg{other}.{hint}"
        )

    def refuse_half_parts(
        self, node: Folder, labelled: list[Folder], others: list[Folder], names: dict[str, str]
    ) -> None:
        """`train/<folders>` beside other folders of images may be a class of vehicles."""
        others = [folder for folder in others if folder.name.lower() not in _BESIDE]
        if self.layout == "parts" or not others or len({names[folder.name] for folder in labelled}) > 1:
            return
        folder, _other = labelled[0], others[0]
        first = f"{folder.name}/ a part with the classes {few(folder.filled)}, {few(others)} left out"
        raise self.two_readings(node, first, "parts", f"classes {few([*others, folder])}", "classes")

    def tell_parts(self, names: dict[str, str], labelled: list[Folder]) -> None:
        for part in PARTS:
            folders = [f"{folder.name}/" for folder in labelled if names[folder.name] == part]
            if folders and folders != [f"{part}/"]:
                self.decide(f"{' and '.join(folders)} read as {part}")

    # --- parts inside classes -------------------------------------------------------------------
    def as_parts_in_classes(self, node: Folder) -> bool:
        """`cat/train`, `cat/test`, `dog/train`, ..."""
        divided = [f for f in node.filled if f.filled and all(plain_part(s.name) for s in f.filled)]
        parts = {plain_part(inner.name) for folder in divided for inner in folder.filled} - {UNLABELLED}
        whole = [folder for folder in node.filled if folder not in divided]
        if not divided or not parts or (whole and len(parts) == 1 and self.layout == "auto"):
            return False
        if whole and self.layout == "auto":
            first = f"parts in the class folders ({divided[0].name}/{divided[0].filled[0].name}), {few(whole)} left out"
            raise self.two_readings(node, first, "parts", f"classes {few(node.filled)} with all below them", "classes")
        self.found.name = "part folders in class folders"
        for folder in whole:
            self.leave(folder.path, f"has no part folders, as the other classes have ({counted(folder.count)})")
        for folder in divided:
            for inner in folder.folders:
                part = plain_part(inner.name)
                if part in PARTS:
                    self.add(inner, part, folder.name)
                    where = f"{'*' if len(divided) > 1 else folder.name}/{inner.name}"
                    if where not in self.found.parts.setdefault(part, []):
                        self.found.parts[part].append(where)
                elif inner.count:
                    self.no_labels(inner, inner)
                else:
                    self.leave_empty(inner)
            self.leave_files(folder, "lies beside the part folders of its class")
        for folder in node.folders:
            if not folder.count:
                self.leave_empty(folder)
        self.leave_files(node, "lies outside the class folders")
        self.decide(f"every class folder has its own parts ({divided[0].name}/{divided[0].filled[0].name})")
        return True
