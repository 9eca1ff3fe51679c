"""`--engine` of commands that execute runs, and the options that belong to one engine."""

from __future__ import annotations

import argparse
import math

from anprompt.commands._shared.parser import one_of, whole
from anprompt.errors import UserError
from anprompt.experiments.runners import ENGINES, Engine

RAY_ONLY = ("address", "cpus_per_run", "gpus_per_run", "memory_per_run", "run_timeout", "retries")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--engine` and what belongs to it."""
    add = parser.add_argument_group("engines").add_argument
    add(
        "--engine", default="local", type=one_of("engine", ENGINES), metavar="local|ray",
        help="this machine's processes, or a Ray cluster (pip install 'anprompt[ray]'; default: %(default)s)",
    )  # fmt: skip
    add(
        "--address", metavar="HOST:PORT",
        help="of the Ray cluster, also ray://HOST:PORT or auto (default: $RAY_ADDRESS, else this machine alone)",
    )  # fmt: skip
    add("--cpus-per-run", type=amount, metavar="N", help="ray: cores of one run (default: 1)")
    add(
        "--gpus-per-run", type=amount, metavar="N",
        help="ray: GPUs of one run, 0.5 for two runs on one (default: 1 with --device cuda, else 0)",
    )  # fmt: skip
    add("--memory-per-run", type=amount, metavar="GB", help="ray: memory of one run (default: not declared)")
    add("--run-timeout", type=amount, metavar="SECONDS", help="ray: the longest a run may take (default: no limit)")
    add("--retries", type=whole(0), metavar="N", help="ray: attempts after a worker or node died (default: 3)")


def amount(text: str) -> float:
    """A number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, not {text!r}")
    return value


def check_engine(args: argparse.Namespace) -> None:
    """Whether the options belong to the engine, asked before anything is opened.

    Raises:
        UserError: one of them does not.
    """
    given = [name for name in RAY_ONLY if getattr(args, name) is not None]
    if args.engine == "local" and given:
        raise UserError(f"--{given[0].replace('_', '-')} is for clusters; add --engine ray.")
    if args.engine == "ray" and args.jobs:
        raise UserError("--jobs is for --engine local; with Ray, --cpus-per-run says how many runs fit on a node.")


def engine_of(args: argparse.Namespace) -> Engine:
    """The engine that the options ask for.

    Raises:
        UserError: options that the engine does not have.
    """
    check_engine(args)
    bank = (args.bank, args.bank_gb) if args.bank != "off" else None
    cuda = float(args.device.startswith("cuda"))
    return Engine(
        args.engine, device=args.device, jobs=args.jobs, bank=bank, address=args.address,
        cpus_per_run=1.0 if args.cpus_per_run is None else args.cpus_per_run,
        gpus_per_run=cuda if args.gpus_per_run is None else args.gpus_per_run,
        memory_per_run=args.memory_per_run or 0.0, run_timeout=args.run_timeout or None,
        retries=3 if args.retries is None else args.retries,
    )  # fmt: skip
