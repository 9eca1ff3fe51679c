"""`anprompt demo`: train on embedded data sets, compare with zero-shot CLIP, write a report to look at."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.commands._shared.parser import one_of, whole
from anprompt.commands._shared.terminal import console, print_json, say
from anprompt.commands.bench import words
from anprompt.commands.fit import check_out
from anprompt.commands.progress import SweepProgress
from anprompt.errors import choices
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.records import Record
from anprompt.report import NEXT, check_report, write_report
from anprompt.report.gallery import Case, Gallery, check_gallery, choose, gallery_png
from anprompt.tables import CLEAN, MARK, MEAN_H, Row, base_new_rows, condition_rows, markdown, markdown_note, terminal
from anprompt.tables.noise import seen_in_training
from anprompt.utils.files import check_output, write_text
from anprompt.utils.locks import hold

if TYPE_CHECKING:
    from anprompt.experiments import RunSpec

KINDS = ("classify", "detect")
METHODS = ("zeroshot", "anprompt")
SETS = ("food", "animals", "transport")
CONDITIONS = ("image:gaussian_noise:3", "image:motion_blur:3", "image:fog:3", "text:typo:2")
QUICK = (("epochs", 2),)
PICTURES = 6  # in the one picture beside the report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt demo`."""
    parser.add_argument(
        "kind", nargs="?", type=one_of("demo", KINDS), default=KINDS[0], metavar="|".join(KINDS),
        help="classify: name pictures (default); detect: find defects on circuit boards, from a few normal crops",
    )  # fmt: skip
    parser.add_argument("--sets", default=",".join(SETS), help="embedded data sets (default: %(default)s)")
    parser.add_argument("--out", default="demo-report", help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=whole(0), default=1, help="default: %(default)s")
    parser.add_argument("--shots", type=whole(1), default=16, help="pictures per class (default: %(default)s)")
    parser.add_argument("--jobs", type=whole(1), metavar="N", help="runs at a time (default: one a core)")
    parser.add_argument("--quick", action="store_true", help="one data set, 4 shots, 2 epochs: a look in seconds")
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not of anprompt")
    parser.add_argument("--json", action="store_true", help="print what was written, with the figures, as JSON")


def run(args: argparse.Namespace) -> int:
    """Train, compare, write the report; what an earlier call finished is taken from its records."""
    if args.kind == "detect":
        from anprompt.commands.detect_bench import run_demo

        return run_demo(args)
    from anprompt.experiments.runners.local import default_jobs, run_parallel

    started = time.monotonic()
    screen = console(stderr=args.json)
    specs, out = specifications(args), Path(args.out)
    screen.print(
        f"ANPrompt and zero-shot CLIP on embedded data sets ({', '.join(dict.fromkeys(s.dataset[9:] for s in specs))}): "
        f"{specs[0].shots} pictures of each base class to train on, none of the new classes.",
        soft_wrap=True,
    )
    check_outputs(out, args.overwrite)
    jobs = args.jobs or default_jobs("embedded")
    with hold(out, "wait until it has finished, or choose another --out folder"), SweepProgress(specs, screen) as live:
        records = run_parallel(specs, out / "runs", jobs=jobs, observe=live)
    rows = [row for row in base_new_rows(records) if row.dataset != MEAN_H]
    screen.print(terminal(rows, "Accuracy in percent"))
    screen.print(terminal(noise_rows(records), "Under noise, on average", "condition"))
    write_text(out / "table.md", MARK + markdown(rows, markdown_note(records)))
    shown = galleries(records, specs, args.seed)
    report = write_report(out / "report.html", records, shown, overwrite=args.overwrite)
    if any(gallery.cases for gallery in shown):
        gallery_png(out / "pictures.png", in_turn(shown, PICTURES), overwrite=args.overwrite)
    if args.json:
        print_json({
            "report": str(report), "seconds": round(time.monotonic() - started, 1),
            "rows": [dataclasses.asdict(row) for row in rows],
        })  # fmt: skip
        return 0
    say("")
    say(f"{time.monotonic() - started:.0f} s. The report, with pictures and their answers:")
    say(f"  {report.resolve()}", style="bold")
    say("Then with your own photos, one folder per class:")
    say(f"  {runnable(NEXT)}", style="bold")
    return 0


def check_outputs(out: Path, overwrite: bool = False) -> None:
    """Whether the files of a demo may be written there.

    Raises:
        UserError: one of them is another's, or the folder can't be written.
    """
    check_out(out)
    begins = (MARK.encode(), markdown([]).splitlines()[0].encode())  # the second: from before there was a mark
    check_output(out / "table.md", overwrite=overwrite, ours=begins)
    check_report(out / "report.html", overwrite)
    check_gallery(out / "pictures.png", overwrite)


def runnable(command: str) -> str:
    """The command as this shell can run it: with the program's own path where it is not on PATH."""
    program, rest = command.split(maxsplit=1)
    if shutil.which(program):
        return command
    beside = Path(sys.executable).with_name(program)
    if not beside.exists():
        return f"{sys.executable} -m {program} {rest}"
    here = Path.cwd()
    return f"{beside.relative_to(here) if beside.is_relative_to(here) else beside} {rest}"


def specifications(args: argparse.Namespace) -> list[RunSpec]:
    """The demo's runs.

    Raises:
        UserError: an embedded data set that does not exist.
    """
    from anprompt.data.embedded import EMBEDDED_SETS
    from anprompt.experiments.sweep import plan

    names = [name.removeprefix("embedded:") for name in words(args.sets, "sets")]
    for name in names:
        if name not in EMBEDDED_SETS:
            raise choices("embedded data set", name, EMBEDDED_SETS)
    if args.quick:
        names = names[:1]
    return plan(
        [f"embedded:{name}" for name in names], METHODS, [args.seed],
        shots=min(args.shots, 4) if args.quick else args.shots,
        overrides={"anprompt": ((), QUICK if args.quick else ())}, conditions=CONDITIONS,
    )  # fmt: skip


def noise_rows(records: Sequence[Record]) -> list[Row]:
    """Averages under each condition, which stands in the place of the data set."""
    rows, met = [], seen_in_training(records)
    for row in condition_rows(records):
        if row.condition != CLEAN:
            title = Condition.parse(row.condition).title + ("" if row.condition in met else " (unseen)")
            rows.append(dataclasses.replace(row, dataset=title))
    return rows


def in_turn(shown: Sequence[Gallery], count: int) -> list[Case]:
    """The first case of every gallery, then the second of every one, and so on."""
    rounds = itertools.zip_longest(*(gallery.cases for gallery in shown))
    return [case for cases in rounds for case in cases if case is not None][:count]


def galleries(records: Sequence[Record], specs: Sequence[RunSpec], seed: int) -> list[Gallery]:
    """A gallery per data set."""
    from anprompt.experiments import ExperimentContext

    context, found = ExperimentContext(), []
    for dataset in dict.fromkeys(spec.dataset for spec in specs):
        own = [record for record in records if record["spec"]["dataset"] == dataset]
        opened = context.dataset(next(spec for spec in specs if spec.dataset == dataset))
        found.append(choose(own, opened, seed=seed))
    return found
