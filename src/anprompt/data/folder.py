"""A folder of labelled images as a data set; what it means is decided in `layout`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from anprompt.data.assemble import LabelledFile, assemble
from anprompt.data.layout import recognise
from anprompt.data.types import Dataset


def folder_dataset(root: Path, *, layout: str = "auto", known: Iterable[str] = (), least_classes: int = 2) -> Dataset:
    """Reads a folder in one of the layouts that `layout.recognise` knows.

    Images in folders below a class folder count for the class. Hidden and system files are passed over;
    anything else that can't be used is in `reading.left_out`. Parts that are there are taken as they are;
    a folder without parts is divided.

    Args:
        layout, known: see `layout.recognise`.
        least_classes: how many classes it must hold.

    Raises:
        UserError: two readings, no class folders, too few classes with images, class names that can't be
            told apart, or a folder that can't be listed.
    """
    found = recognise(root, layout=layout, known=known)
    files = [
        LabelledFile(str(file), group.classname, group.part, group.domain)
        for group in found.groups
        for file in group.files
    ]
    return assemble(
        root, root.resolve().name, files, layout=found.name,
        classnames=[(group.part, group.classname) for group in found.groups], folder=found.folder,
        parts=found.parts, unlabelled=found.unlabelled, decisions=found.decisions, left_out=found.left_out,
        least_classes=least_classes,
    )  # fmt: skip
