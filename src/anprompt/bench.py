"""`anprompt bench base-to-new`: methods side by side on data sets and seeds, one record a run."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console

from anprompt.errors import UserError
from anprompt.files import write_text
from anprompt.live import LiveSweep
from anprompt.methods import method_class, preset
from anprompt.protocols import Lab, RunSpec
from anprompt.results import finished
from anprompt.sweep import plan, run_all
from anprompt.tables import as_csv, base_new_rows, markdown, markdown_note, terminal
from anprompt.train import PRECISIONS, TrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt bench`."""
    parser.add_argument("protocol", choices=["base-to-new"], help="what to measure")
    parser.add_argument(
        "--data", default="embedded", help="data sets, separated by commas: embedded (all of them), embedded:food, "
        "a folder, a CSV file, coop:oxford_pets (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--root", help="folder that relative paths and coop: data sets start from")
    parser.add_argument("--methods", default="zeroshot,anprompt", help="presets (default: %(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    parser.add_argument("--shots", default="16", help="pictures per class, or all (default: %(default)s)")
    parser.add_argument("--backbone", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--precision", default="fp32", choices=list(PRECISIONS))
    parser.add_argument("--descriptions", default="", help="JSON file {class: [sentences]}")
    parser.add_argument(
        "--condition", action="append", default=[], metavar="KIND:FAMILY:STRENGTH",
        help="a disturbed test condition besides the clean one, e.g. image:fog:3 or text:typo:2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], dest="set_values", metavar="KEY=VALUE",
        help="a setting of the method or of the training, e.g. epochs=20; repeatable",
    )  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder of the records (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, start none")


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet, print the table, write it to table.md and table.csv."""
    console = Console()
    specs = specifications(args)
    runs = Path(args.runs)
    if args.dry_run:
        for spec in specs:
            state = "done" if finished(runs, spec.identity()) else "to run"
            console.print(
                f"{state:7} {spec.dataset} {spec.method} seed {spec.seed}", highlight=False, markup=False
            )
        return 0
    with LiveSweep(specs, console, title=f"{args.protocol}, {args.shots} shots") as live:
        records = run_all(specs, runs, lab=Lab(args.device), observe=live)
    rows = base_new_rows(records)
    console.print(terminal(rows))
    write_text(runs / "table.md", markdown(rows, markdown_note(records)))
    write_text(runs / "table.csv", as_csv(rows))
    console.print(f"Records and tables: {runs}/ (table.md, table.csv)", highlight=False, markup=False)
    return 0


def specifications(args: argparse.Namespace) -> list[RunSpec]:
    """The runs that the options ask for.

    Raises:
        UserError: a value that is no number, an unknown name, an empty list.
    """
    methods = words(args.methods, "methods")
    settings, train = split_settings(parse_settings(args.set_values), methods)
    return plan(
        data_sets(args.data), methods, [whole(seed, "seed") for seed in words(args.seeds, "seeds")],
        protocol=args.protocol, shots=None if args.shots == "all" else whole(args.shots, "shots"),
        backbone=args.backbone, precision=args.precision, settings=settings, train=train,
        conditions=tuple(args.condition), descriptions=args.descriptions, root=args.root,
    )  # fmt: skip


def data_sets(text: str) -> list[str]:
    """`embedded` stands for all embedded data sets."""
    found: list[str] = []
    for word in words(text, "data"):
        if word == "embedded":
            from anprompt.data.embedded import EMBEDDED_SETS

            found += [f"embedded:{name}" for name in EMBEDDED_SETS]
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def words(text: str, option: str) -> list[str]:
    """The parts between commas.

    Raises:
        UserError: there is none.
    """
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise UserError(f"--{option} is empty; give values separated by commas.")
    return found


def whole(text: str, option: str) -> int:
    """A whole number that is not negative."""
    if not text.strip().isdecimal():
        raise UserError(f"{option} must be a whole number, not {text!r}.")
    return int(text)


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """`["lr=1e-3", "noise_ops=('typo',)"]` as values; what is no Python literal stays text."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment!r} is not KEY=VALUE.")
        text = {"true": "True", "false": "False"}.get(text, text)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        values[key.strip()] = tuple(value) if isinstance(value, list) else value
    return values


def split_settings(values: dict[str, Any], methods: Iterable[str]) -> tuple[tuple, tuple]:
    """Into (settings of the method, settings of the training), both checked against what exists."""
    training = set(TrainConfig().to_dict())
    train = {key: value for key, value in values.items() if key in training}
    settings = {key: value for key, value in values.items() if key not in training}
    TrainConfig.from_dict(train)
    for name in methods:
        recipe = preset(name)
        if recipe.method != "zeroshot":
            method_class(recipe.method).Config.from_dict({**recipe.settings, **settings})
    return tuple(sorted(settings.items())), tuple(sorted(train.items()))
