"""`anprompt report`: one HTML page from the run records of one or several folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.commands._shared.terminal import print_json, say
from anprompt.errors import UserError
from anprompt.utils.storage import is_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anprompt.experiments.records import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt report`."""
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders or URLs of run records")
    parser.add_argument(
        "--html", metavar="FILE", help="the page to write (default: RUNS/report.html; report.html for a URL)"
    )
    parser.add_argument("--root", metavar="DIR", help="where relative paths and coop: data sets start from")
    parser.add_argument("--no-pictures", action="store_true", help="no test pictures; data is not opened")
    parser.add_argument("--seed", type=int, default=1, help="which pictures are drawn (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is not a report of anprompt")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")


def run(args: argparse.Namespace) -> int:
    """Read the records, choose pictures, write the page.

    Raises:
        UserError: a folder that is missing or has no record; a target that can't be written.
    """
    from anprompt.report import check_report, write_report
    from anprompt.report.collect import galleries, read

    target = page_path(args.html, args.runs)
    check_report(target, args.overwrite)  # before the records and pictures of hours are read
    records = read(args.runs)
    found, missing = ([], []) if args.no_pictures else galleries(records, root=args.root, seed=args.seed)
    write_report(target, records, found, missing, overwrite=args.overwrite)
    _tell(args, records, target, missing)
    return 0


def page_path(html: str | None, runs: Sequence[str]) -> Path:
    """Where the page goes.

    Raises:
        UserError: the target is a folder.
    """
    target = Path(html) if html else Path("." if is_url(runs[0]) else runs[0]) / "report.html"
    if target.is_dir():
        raise UserError(f"{target} is a folder; give the page's file, like --html {target / 'report.html'}.")
    return target


def _tell(args: argparse.Namespace, records: Sequence[Record], target: Path, missing: Sequence[str]) -> None:
    if args.json:
        print_json({"html": str(target), "records": len(records), "notes": list(missing)})
        return
    for sentence in missing:
        say(sentence)
    say(f"{len(records)} records, one page: {target.resolve()}")
