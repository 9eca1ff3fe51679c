"""`anprompt detect bench`: detection methods side by side, one record a run, tables and a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.commands._shared.parser import whole
from anprompt.commands._shared.terminal import console, print_json, progress, say
from anprompt.commands.bench import seeds, words
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.experiments.anomaly import AnomalySpec
    from anprompt.experiments.schema import ExtendedRecord

REPORT = "anomaly.html"
NEXT = "anprompt detect fit --data parts/ --shots 8 --out detector/"


def run_bench(args: argparse.Namespace) -> int:
    """Run what is not there yet, print the main table, write the tables and the page beside the records."""
    from anprompt.experiments.anomaly import check_specs, run_all
    from anprompt.experiments.records import record_name
    from anprompt.report.anomaly import write_anomaly_report
    from anprompt.report.page import check_report
    from anprompt.tables import check_tables, to_terminal, write_sheets
    from anprompt.tables.anomaly import anomaly_sheets
    from anprompt.utils.files import check_folder
    from anprompt.utils.locks import hold_runs

    specs = specifications(args)
    check_specs(specs)
    runs = Path(args.runs or "runs")
    check_folder(runs)
    check_tables(runs, args.overwrite)
    check_report(runs / REPORT, args.overwrite)
    with hold_runs(runs, [record_name(spec.identity()) for spec in specs]), _watched(args, len(specs)) as told:
        records = run_all(specs, runs, device=args.device, told=told)
    sheets = anomaly_sheets(records)
    sources = {spec.dataset: spec.source for spec in specs}
    page = write_anomaly_report(runs / REPORT, records, sources, overwrite=args.overwrite)
    files = [*write_sheets(runs, sheets, overwrite=args.overwrite), page]
    if args.json:
        print_json({"runs": str(runs), "files": [str(path) for path in files],
                    "figures": [{**r["spec"], **r["metrics"]["all"]} for r in records]})  # fmt: skip
        return 0
    console().print(to_terminal(sheets[0]))
    say(f"Records, tables and page: {runs}/ ({', '.join(Path(path).name for path in files)})")
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """`anprompt demo detect`: the embedded boards, a few normal crops, three methods and the page of their answers."""
    shots = min(args.shots, 4) if args.quick else args.shots
    methods = "clip,patchcore" if args.quick else "clip,patchcore,apt"
    say(
        f"{methods} on embedded:boards, crops of circuit boards: {shots} normal ones to learn from, none with a defect."
    )
    words = {
        "data": "embedded:boards", "category": None, "methods": methods, "shots": str(shots), "seeds": str(args.seed),
        "tiles": "1" if args.quick else None, "runs": args.out, "settings": [], "backbone": None, "device": "cpu",
    }  # fmt: skip
    code = run_bench(argparse.Namespace(**{**vars(args), **words}))
    if not args.json:
        say(f"Then with images of your own: {NEXT}")
    return code


def _watched(args: argparse.Namespace, count: int):  # type: ignore[no-untyped-def]
    """A bar that counts runs."""
    import contextlib

    @contextlib.contextmanager
    def watched():  # type: ignore[no-untyped-def]
        done = 0
        with progress("runs", enabled=not (args.quiet or args.json)) as update:

            def told(spec: AnomalySpec, record: ExtendedRecord, was_there: bool) -> None:
                nonlocal done
                done += 1
                update(done, count, f"{spec.method}, {spec.shots} images, seed {spec.seed}")

            yield told

    return watched()


def specifications(args: argparse.Namespace) -> list[AnomalySpec]:
    """The runs that the options ask for.

    Raises:
        UserError: a value that is not a number, an unknown name, an empty list.
    """
    from anprompt.commands.detect import tiles_of
    from anprompt.experiments.anomaly import plan

    if args.data is None:
        raise UserError("'detect bench' needs --data: data sets separated by commas, like embedded:boards.")
    tiles = tiles_of(args.tiles)
    methods = words(args.methods or "clip,winclip,patchcore,apt", "methods")
    found: list[AnomalySpec] = []
    for name in words(args.data, "data"):
        place = Path(name).expanduser()
        root = "" if name.startswith("embedded:") else str(place.resolve().parent)
        known = name if name.startswith("embedded:") else place.resolve().name
        found += plan(
            [known], methods, shots=_shots(args.shots), seeds=seeds(args.seeds or "1,2,3"), category=args.category or "",
            backbone=args.backbone or "embedded", tiles=0 if tiles == "auto" else int(tiles), root=root,
            overrides={method: dict(args.settings) for method in methods} if args.settings else None,
        )  # fmt: skip
    return found


def _shots(text: str | None) -> list[int]:
    """`0,1,4`."""
    try:
        return [whole(0)(word) for word in words(text or "0,1,4,16", "shots")]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--shots: a number of normal images {error}.") from None
