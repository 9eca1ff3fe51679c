"""What is there of a classic data set, what is missing, where it should lie, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anprompt.data.classic.catalog import SPLITS_SOURCE, CatalogRow
from anprompt.data.classic.coop import PARTS, Parts, catalog_row, home_of, missing_pictures, read_layout, split_path
from anprompt.data.images import shown
from anprompt.errors import UserError

_NAMED = 5  # missing pictures that are named before the rest is only counted


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "found", "missing" or "wrong"; "note" for what a user should know but need not mend.
        what: a path, or a sentence.
        todo: the next step; empty where there is nothing to do.
    """

    state: str
    what: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.state:<7}  {self.what}{f' ({self.todo})' if self.todo else ''}"


@dataclass(frozen=True)
class Check:
    """A data set's findings.

    Attributes:
        home: where it lies or should lie.
        counts: "classes", "train", "val" and "test" as found; None where they can't be told yet.
        expected: the same of the field's split.
    """

    name: str
    home: str
    findings: tuple[Finding, ...]
    counts: dict[str, int] | None
    expected: dict[str, int]

    @property
    def complete(self) -> bool:
        """Whether it can be used as it is."""
        return all(finding.state in ("found", "note") for finding in self.findings)

    @property
    def next_step(self) -> str:
        """The first thing to do; empty where there is nothing."""
        for finding in self.findings:
            if finding.state in ("missing", "wrong"):
                return finding.todo or finding.what
        return ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "complete": self.complete, "next_step": self.next_step}


def check_dataset(name: str, root: str | Path) -> Check:
    """Looks at a classic data set without opening a picture.

    Raises:
        UserError: an unknown name; everything else that is wrong is a finding.
    """
    row = catalog_row(name)
    findings: list[Finding] = []
    counts: dict[str, int] | None = None
    home = Path(root).expanduser() / row.folder
    try:
        home = home_of(row, Path(root))
        findings += _places(row, home)
        if all(finding.state == "found" for finding in findings):
            parts, names = read_layout(row, home)
            counts = {"classes": len(names), **{part: len(parts[part]) for part in PARTS}}
            findings += _pictures(row, home, parts, counts)
    except UserError as error:
        findings.append(Finding("wrong", str(error)))
    return Check(name, str(home), tuple(findings), counts, asdict(row.counts))


def _places(row: CatalogRow, home: Path) -> Iterator[Finding]:
    """The folders and files that must be there."""
    if not home.is_dir():
        how = f"get the pictures from {_sources(row)}, then 'anprompt data prepare {row.name} --from DOWNLOAD'"
        yield Finding("missing", f"{shown(home)}/", how)
        return
    yield Finding("found", f"{shown(home)}/")
    if row.images:
        images = home / row.images
        how = f"get the pictures from {_sources(row)} and unpack them here"
        yield _finding(images.is_dir(), f"{shown(images)}/", how)
    for file in _list_files(row, home):
        yield _finding(file.is_file(), shown(file), f"get it as told in {SPLITS_SOURCE} and put it here")


def _list_files(row: CatalogRow, home: Path) -> list[Path]:
    files = [split_path(row, home)]
    if row.layout == "aircraft":
        files += [home / f"images_variant_{part}.txt" for part in PARTS]
    return files


def _finding(there: bool, what: str, todo: str) -> Finding:
    return Finding("found", what) if there else Finding("missing", what, todo)


def _sources(row: CatalogRow) -> str:
    return " or ".join((row.source, *row.alternatives))


def _pictures(row: CatalogRow, home: Path, parts: Parts, counts: dict[str, int]) -> Iterator[Finding]:
    """Whether the listed pictures are there, and as many as the field has."""
    listed = ", ".join(f"{counts[part]} {part}" for part in PARTS if counts[part] or not row.listed)
    yield Finding("found", f"{counts['classes']} classes; {listed} pictures listed")
    expected = asdict(row.counts)
    if row.listed:
        for key, count in expected.items():
            if counts[key] < count:
                what = f"{count - counts[key]} of {count} {key if key == 'classes' else f'{key} pictures'}"
                yield Finding("missing", what, f"unpack all of {row.source} below {shown(home / row.images)}")
        return
    if counts != expected:
        whole = ", ".join(f"{expected[part]} {part}" for part in PARTS)
        yield Finding("note", f"not the field's split, which has {expected['classes']} classes; {whole}")
    paths = [item.path for part in PARTS for item in parts[part]]
    if len(set(paths)) < len(paths):
        yield Finding("note", f"{len(paths) - len(set(paths))} pictures are listed more than once")
    missing = missing_pictures(parts)
    for path in missing[:_NAMED]:
        yield Finding("missing", shown(path))
    if missing[_NAMED:]:
        more = f"... and {len(missing) - _NAMED} more pictures"
        yield Finding("missing", more, f"get them from {_sources(row)}")
