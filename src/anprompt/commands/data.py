"""`anprompt data list`, `anprompt data check` and `anprompt data prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.commands._shared.common import add_layout, say_reading
from anprompt.commands._shared.parser import one_of, renamed, whole
from anprompt.commands._shared.terminal import note_line, print_json, progress, say, table
from anprompt.errors import UserError, choices

if TYPE_CHECKING:
    from anprompt.data.classic.check import Check

_ACTIONS = ("list", "check", "prepare")
# Options that mean something to one action only.
_PREPARE_ONLY = {"source": "--from", "split": "--split-file", "make_split": "--make-split", "copy": "--copy"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `data`."""
    parser.add_argument(
        "action", type=one_of("action", _ACTIONS), metavar="list|check|prepare",
        help="list: the data sets known by name; check: what of them is there and what is missing, or how a "
        "folder or table of yours is read; "
        "prepare: put a download where it belongs",
    )  # fmt: skip
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets, folders or tables (check: default all classic ones)"
    )
    add_layout(parser)
    parser.add_argument("--root", metavar="DIR", help="the folder that holds the classic data sets")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    group = parser.add_argument_group("prepare")
    group.add_argument("--from", dest="source", metavar="PATH", help="the unpacked download, or a parquet file")
    group.add_argument(
        "--split-file", dest="split", metavar="FILE", help="the field's split file (ImageNet: classnames.txt)"
    )
    renamed(parser, "--split", "--split-file")
    group.add_argument(
        "--make-split", type=whole(0), metavar="SEED", help="divide the pictures anew; not the field's split"
    )
    group.add_argument("--copy", action="store_true", help="copy the pictures instead of linking to them")


def run(args: argparse.Namespace) -> int:
    """List, check or prepare; a check that finds something asked for missing exits with 1."""
    if args.action != "prepare":
        for attribute, option in _PREPARE_ONLY.items():
            if getattr(args, attribute) not in (None, False):
                raise UserError(f"{option} belongs to 'data prepare', not to 'data {args.action}'.")
    return {"list": _list, "check": _check, "prepare": _prepare}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from anprompt.data.classic.catalog import CATALOG
    from anprompt.data.embedded import EMBEDDED_SETS
    from anprompt.data.embedded_defects import NAME as DEFECTS

    if args.names:
        raise UserError("'data list' takes no names; to look at one, use 'data check NAME --root DIR'.")
    if args.json:
        rows = [{"name": f"embedded:{name}"} for name in (*EMBEDDED_SETS, DEFECTS)]
        print_json(rows + [{**asdict(row), "name": f"coop:{row.name}"} for row in CATALOG.values()])
        return 0
    lines: list[tuple[object, ...]] = [
        (f"embedded:{name}", "", "", "", "", "CC BY 4.0, MIT", "comes with the package") for name in EMBEDDED_SETS
    ]
    lines.append((f"embedded:{DEFECTS}", "", "", "", "", "MIT", "comes with the package"))
    for row in CATALOG.values():
        c = row.counts
        lines.append((f"coop:{row.name}", c.classes, c.train, c.val, c.test, row.licence, row.source))
    columns = ("name", "classes", "train", "val", "test", "licence", "where its pictures are")
    table(columns, lines, right=(1, 2, 3, 4))
    say("Also any folder of class folders, and any CSV file with path,label[,split].")
    return 0


def _check(args: argparse.Namespace) -> int:
    from anprompt.data.classic.catalog import CATALOG
    from anprompt.data.sources import check_dataset

    if args.names and not any(_is_classic(name) for name in args.names):
        return _check_own(args)
    asked = [name.removeprefix("coop:") for name in dict.fromkeys(args.names)]
    for name in asked:
        if name not in CATALOG:
            raise choices("classic data set", name, CATALOG)
    if args.root is None:
        raise UserError(
            "'data check' needs --root DIR, the folder that holds the classic data sets, or a folder of your own."
        )
    _require_folder(args.root)
    found = [check_dataset(name, args.root) for name in dict.fromkeys(asked or CATALOG)]
    broken = [check.name for check in found if not check.complete]
    if args.json:
        print_json({check.name: check.as_dict() for check in found})
    elif asked:
        for check in found:
            _say_check(check)
    else:
        _overview(found)
    if broken:
        note_line(f"{len(broken)} of {len(found)} data sets incomplete: {', '.join(broken)}")
    return 1 if asked and broken else 0


def _is_classic(name: str) -> bool:
    """Whether a word can only mean a classic data set: it is one's name, or nothing that lies there."""
    from anprompt.data.classic.catalog import CATALOG

    if name.startswith("coop:") or name in CATALOG:
        return True
    looks_like_path = "/" in name or "\\" in name or name in (".", "..") or name.startswith("~") or "." in name
    return not (looks_like_path or Path(name).exists())


def _check_own(args: argparse.Namespace) -> int:
    """How folders and tables are read."""
    from anprompt.data.reading import reading_record
    from anprompt.data.sources import open_dataset

    found = {}
    for name in dict.fromkeys(args.names):
        data = open_dataset(name, root=args.root, layout=args.layout, report=False)
        say_reading(args, data)
        found[name] = {"classes": list(data.classnames), **reading_record(data)}
    if args.json:
        print_json(found)
    return 0


def _say_check(check: Check) -> None:
    say(f"coop:{check.name}", style="bold")
    for finding in check.findings:
        say(f"  {finding}")


def _overview(found: list[Check]) -> None:
    rows = []
    for check in found:
        counts = check.counts or {}
        cells = [counts.get(key, "") for key in ("classes", "train", "val", "test")]
        rows.append((f"coop:{check.name}", "yes" if check.complete else "no", *cells, check.next_step))
    table(("name", "usable", "classes", "train", "val", "test", "next step"), rows, right=(2, 3, 4, 5))


def _require_folder(root: str) -> None:
    try:
        there = Path(root).expanduser().is_dir()
    except (OSError, ValueError):  # a name too long or with a NUL is not a folder
        there = False
    if not there:
        raise UserError(f"--root {root} is not a folder; give the folder that holds the data sets.")


def _prepare(args: argparse.Namespace) -> int:
    from anprompt.data.classic.prepare import prepare

    if len(args.names) != 1:
        raise UserError("'data prepare' takes one NAME, e.g. 'data prepare dtd --from dtd-r1.0.1/ --root data/'.")
    for value, option in ((args.source, "--from PATH, the download"), (args.root, "--root DIR")):
        if value is None:
            raise UserError(f"'data prepare' needs {option}.")
    with progress("placing pictures", enabled=not args.quiet and not args.json) as update:
        done = prepare(
            args.names[0].removeprefix("coop:"), args.source, args.root,
            split=args.split, make_split=args.make_split, copy=args.copy, progress=update,
        )  # fmt: skip
    if args.json:
        print_json({"lines": done.lines, **done.check.as_dict()})
        return 0 if done.check.complete else 1
    for line in done.lines:
        say(line)
    _say_check(done.check)
    return 0 if done.check.complete else 1
