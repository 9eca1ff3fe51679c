"""Where the runs of a sweep are executed: on this machine, or on a Ray cluster."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from anprompt.commands.parser import one_of, whole
from anprompt.data.bank import DiskBank
from anprompt.errors import UserError
from anprompt.protocols import Observer, RunSpec
from anprompt.results import Record
from anprompt.store import Place
from anprompt.workers import default_jobs, run_parallel

ENGINES = ("local", "ray")
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
    add(
        "--run-timeout",
        type=amount,
        metavar="SECONDS",
        help="ray: the longest a run may take (default: no limit)",
    )
    add(
        "--retries", type=whole(0), metavar="N", help="ray: attempts after a worker or node died (default: 3)"
    )


def amount(text: str) -> float:
    """A number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, not {text!r}")
    return value


def execute(
    args: argparse.Namespace, specs: Sequence[RunSpec], runs: Place, observe: Observer
) -> list[Record]:
    """Run what is not there yet on the engine that was asked for.

    Raises:
        UserError: options that the engine does not have, and whatever it says itself.
    """
    check_engine(args)
    bank = (args.bank, args.bank_gb) if args.bank != "off" else None
    if args.engine == "local":
        if bank:
            DiskBank(*bank)  # whether it can be made is said before anything is started
        jobs = args.jobs or default_jobs(args.backbone, args.device)
        return run_parallel(specs, runs, jobs=jobs, device=args.device, bank=bank, observe=observe)
    from anprompt.ray_engine import Needs, run_ray

    gpus = float(args.device.startswith("cuda")) if args.gpus_per_run is None else args.gpus_per_run
    cpus = 1.0 if args.cpus_per_run is None else args.cpus_per_run
    needs = Needs(cpus, gpus, int((args.memory_per_run or 0) * 2**30))
    return run_ray(
        specs, runs, address=args.address, needs=needs, device=args.device, timeout=args.run_timeout or None,
        retries=3 if args.retries is None else args.retries, bank=bank, observe=observe,
    )  # fmt: skip


def check_engine(args: argparse.Namespace) -> None:
    """Whether the options belong to the engine, asked before anything is opened.

    Raises:
        UserError: one of them does not.
    """
    given = [name for name in RAY_ONLY if getattr(args, name) is not None]
    if args.engine == "local" and given:
        raise UserError(f"--{given[0].replace('_', '-')} is for clusters; add --engine ray.")
    if args.engine == "ray" and args.jobs:
        raise UserError(
            "--jobs is for --engine local; with Ray, --cpus-per-run says how many runs fit on a node."
        )
