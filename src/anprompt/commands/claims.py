"""`anprompt claims`: figures that others reported, and figures measured here, in columns of their own."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from anprompt.commands._shared.terminal import console, print_json, safe, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `claims`."""
    parser.add_argument("method", nargs="?", metavar="METHOD", help="one method (default: all)")
    parser.add_argument("--json", action="store_true", help="print the ledger as JSON, with notes and ablations")


def run(args: argparse.Namespace) -> int:
    """Print the ledger, or one method's."""
    from anprompt.tables.claims import ledger, ledgers

    shown = {args.method: ledger(args.method)} if args.method is not None else ledgers()
    if args.json:
        print_json(shown[args.method] if args.method is not None else list(shown.values()))
        return 0
    for content in shown.values():
        _print(content)
    if args.method is None:
        say("Figures of different backbones or data are not comparable. One method: anprompt claims METHOD")
    return 0


def _print(content: Mapping[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", show_lines=True)
    made.title = Text(safe(f"{content['method']}  {content.get('paper') or ''}".strip()))
    for name in ("what", "reported by others", "measured here"):
        made.add_column(name, overflow="fold")
    for entry in content["entries"]:
        made.add_row(*(Text("\n".join(map(safe, cell))) for cell in (_what(entry), _reported(entry), _measured(entry))))
    console().print(made)
    for note in content.get("notes", []):
        say(f"note: {note}")
    if "ablation" in content:
        say("choices of our own and the ablation behind them: --json")


def _what(entry: Mapping[str, Any]) -> list[str]:
    return [entry["protocol"], entry["backbone"], entry["data"], f"{entry['shots']} shots"]


def figures(values: Mapping[str, float], spread: Mapping[str, float] | None = None) -> str:
    """`base 82.69  new 63.22  H 71.66`, with `± 0.20` where there is a spread."""
    more = {key: f" ± {value:.2f}" for key, value in (spread or {}).items()}
    return "  ".join(f"{key} {value:.2f}{more.get(key, '')}" for key, value in values.items())


def _reported(entry: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for claim in entry.get("reported", []):
        lines += [figures(claim["values"]), f"  {claim['kind']}: {claim['source']}"]
    return lines or ["none"]


def _measured(entry: Mapping[str, Any]) -> list[str]:
    measured = entry["measured"]
    if measured is None:
        return [entry["reason"]]
    seeds = ", ".join(map(str, measured["seeds"]))
    return [
        figures(measured["values"], measured.get("spread")),
        f"  seeds {seeds}; {measured['hardware']}",
        f"  {measured['command']}",
        f"  records: {measured['records']}",
    ]
