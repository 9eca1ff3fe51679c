"""`anprompt bench base-to-new`: methods side by side on data sets and seeds, one record a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.commands.fit import check_out
from anprompt.commands.parser import one_of, setting, shots, whole
from anprompt.commands.terminal import console, say
from anprompt.errors import UserError
from anprompt.files import write_text
from anprompt.live import LiveSweep
from anprompt.protocols import PROTOCOLS, Pairs, RunSpec
from anprompt.results import finished
from anprompt.sweep import is_untrained, plan
from anprompt.tables import as_csv, base_new_rows, markdown, markdown_note, terminal
from anprompt.train import PRECISIONS
from anprompt.tuning import split_settings
from anprompt.workers import default_jobs, run_parallel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt bench`."""
    parser.add_argument(
        "protocol",
        type=one_of("protocol", PROTOCOLS),
        metavar="PROTOCOL",
        help="what to measure: base-to-new",
    )
    parser.add_argument(
        "--data", default="embedded", help="data sets, separated by commas: embedded (all of them), embedded:food, "
        "a folder, a CSV file, coop:oxford_pets (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--root", help="folder that relative paths and coop: data sets start from")
    parser.add_argument("--methods", default="zeroshot,anprompt", help="presets (default: %(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    parser.add_argument("--shots", type=shots, default=16, metavar="N|all", help="pictures per class")
    parser.add_argument("--backbone", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument(
        "--precision", default="fp32", type=one_of("precision", PRECISIONS), metavar="fp32|bf16|fp16"
    )
    parser.add_argument(
        "--jobs",
        type=whole(1),
        metavar="N",
        help="runs at a time (default: one a core with the embedded model)",
    )
    parser.add_argument("--descriptions", default="", help="JSON file {class: [sentences]}")
    parser.add_argument(
        "--condition", action="append", default=[], metavar="KIND:FAMILY:STRENGTH",
        help="a disturbed test condition besides the clean one, e.g. image:fog:3 or text:typo:2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        type=setting, help="a setting of the method or of the training, e.g. epochs=20; repeatable",
    )  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder of the records (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, start none")


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet, print the table, write it to table.md and table.csv."""
    specs = specifications(args)
    runs = Path(args.runs)
    if args.dry_run:
        for spec in specs:
            state = "done" if finished(runs, spec.identity()) else "to run"
            say(f"{state:7} {spec.dataset} {spec.method} seed {spec.seed}")
        return 0
    check_out(runs)
    jobs = args.jobs or default_jobs(args.backbone, args.device)
    with LiveSweep(specs, console(), title=f"{args.protocol}, {args.shots or 'all'} shots") as live:
        records = run_parallel(specs, runs, jobs=jobs, device=args.device, observe=live)
    rows = base_new_rows(records)
    console().print(terminal(rows))
    write_text(runs / "table.md", markdown(rows, markdown_note(records)))
    write_text(runs / "table.csv", as_csv(rows))
    say(f"Records and tables: {runs}/ (table.md, table.csv)")
    return 0


def specifications(args: argparse.Namespace) -> list[RunSpec]:
    """The runs that the options ask for.

    Raises:
        UserError: a value that is no number, an unknown name, an empty list.
    """
    methods = words(args.methods, "methods")
    return plan(
        data_sets(args.data), methods, seeds(args.seeds),
        protocol=args.protocol, shots=args.shots,
        backbone=args.backbone, precision=args.precision, overrides=overrides(dict(args.settings), methods),
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


def seeds(text: str) -> list[int]:
    """`1,2,3`.

    Raises:
        UserError: one is no whole number from 0 on.
    """
    try:
        return [whole(0)(word) for word in words(text, "seeds")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--seeds: a seed {error}.") from None


def words(text: str, option: str) -> list[str]:
    """The parts between commas.

    Raises:
        UserError: there is none.
    """
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise UserError(f"--{option} is empty; give values separated by commas.")
    return found


def overrides(values: dict[str, Any], methods: Sequence[str]) -> dict[str, tuple[Pairs, Pairs]]:
    """`--set` values by method, each method getting those it knows.

    Raises:
        UserError: none of the methods knows a key.
    """
    found = {
        name: split_settings(name, {k: v for k, v in values.items() if knows(name, k)}) for name in methods
    }
    for key in values:
        if not any(knows(name, key) for name in methods):
            split_settings(methods[-1], {key: values[key]})  # raises, and names the nearest
    return {name: (pairs(settings), pairs(train)) for name, (settings, train) in found.items()}


def knows(method: str, key: str) -> bool:
    """Whether a method, or its training where it has one, has this setting."""
    try:
        _, train = split_settings(method, {key: None})
    except UserError:
        return False
    return not (train and is_untrained(method))


def pairs(values: dict[str, Any]) -> Pairs:
    """Sorted and hashable."""
    return tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(values.items()))
