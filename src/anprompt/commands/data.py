"""`anprompt data list` and `anprompt data check`."""

from __future__ import annotations

import argparse

from anprompt.commands.parser import one_of
from anprompt.commands.terminal import note_line, print_json, say, table
from anprompt.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `data`."""
    parser.add_argument(
        "action", type=one_of("action", ("list", "check")), metavar="list|check",
        help="list: the data sets known by name; check: what of one is there and what is missing",
    )  # fmt: skip
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets to check (default: all classic ones)"
    )
    parser.add_argument("--root", metavar="DIR", help="the folder that holds the classic data sets")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """List or check; a check that finds something missing exits with 1."""
    return _list(args) if args.action == "list" else _check(args)


def _list(args: argparse.Namespace) -> int:
    from anprompt.data.catalog import CATALOG
    from anprompt.data.embedded import EMBEDDED_SETS

    if args.names:
        raise UserError("'data list' takes no names; to look at one, use 'data check NAME --root DIR'.")
    names = [f"embedded:{name}" for name in EMBEDDED_SETS] + [f"coop:{name}" for name in CATALOG]
    if args.json:
        print_json(names)
        return 0
    rows = [(f"embedded:{name}", "comes with the package") for name in EMBEDDED_SETS]
    rows += [(f"coop:{row.name}", row.source) for row in CATALOG.values()]
    table(("name", "where its pictures are"), rows)
    say("Also any folder of class folders, and any CSV file with path,label[,split].")
    return 0


def _check(args: argparse.Namespace) -> int:
    from anprompt.data.catalog import CATALOG
    from anprompt.data.sources import check_dataset
    from anprompt.errors import choices

    if args.root is None:
        raise UserError("'data check' needs --root DIR, the folder that holds the data sets.")
    names = [name.removeprefix("coop:") for name in args.names] or list(CATALOG)
    for name in names:
        if name not in CATALOG:
            raise choices("classic data set", name, CATALOG)
    found = {name: check_dataset(name, args.root) for name in names}
    broken = [name for name, lines in found.items() if any(not line.startswith("found") for line in lines)]
    if args.json:
        print_json({name: {"complete": name not in broken, "lines": lines} for name, lines in found.items()})
    else:
        for name, lines in found.items():
            say(f"coop:{name}", style="bold")
            for line in lines:
                say(f"  {line}")
    if broken:
        note_line(f"{len(broken)} of {len(names)} data sets incomplete: {', '.join(broken)}")
    return 1 if broken else 0
