"""`anprompt bench PROTOCOL`: methods side by side on data sets, shots and seeds, one record a run."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from anprompt.attacks.threat import ATTACKS, NORMS, ThreatModel, check_library
from anprompt.commands._shared.common import add_names
from anprompt.commands._shared.engine_options import add_engine_options, engine_of
from anprompt.commands._shared.parser import add_bank, one_of, renamed, setting, shots, whole
from anprompt.commands._shared.terminal import console, print_json, say
from anprompt.commands.progress import SweepProgress
from anprompt.errors import UserError, choices
from anprompt.evaluation.conditions import QUICK, all_conditions, described
from anprompt.experiments import PROTOCOLS
from anprompt.experiments.protocols.adversarial import SIZES, STEPS, USUAL
from anprompt.experiments.records import Record, record_name
from anprompt.experiments.runners import execute
from anprompt.tables import Line, Sheet, check_tables, sheets, to_terminal, write_sheets
from anprompt.utils.files import check_folder
from anprompt.utils.fractions import fraction
from anprompt.utils.storage import Place, check, place_of, shown

if TYPE_CHECKING:
    from anprompt.experiments import ExperimentContext, Pairs, RunSpec
    from anprompt.experiments.estimate import Estimate

AUTOCAST = ("fp32", "bf16", "fp16")  # as in `anprompt.prompting.compute`, which imports torch
LISTS = ("all", "quick", "image", "text", "template", "descriptions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt bench`."""
    parser.add_argument(
        "protocol",
        type=one_of("protocol", PROTOCOLS),
        metavar="PROTOCOL",
        help="what to measure: " + "; ".join(f"{name} ({one.doc})" for name, one in PROTOCOLS.items()),
    )
    parser.add_argument(
        "--data", default="embedded", help="data sets, separated by commas: embedded (all of them), embedded:food, "
        "a folder, a CSV file, coop:oxford_pets (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--targets", metavar="DATA", help="data sets to test on besides, separated by commas (cross-dataset: by "
        "default the other embedded sets, or the other classic ones for coop:imagenet; domains: data sets of the "
        "same classes, by default the variants of coop:imagenet, else the unseen domains of the data itself)",
    )  # fmt: skip
    parser.add_argument("--root", help="folder that relative paths and coop: data sets start from")
    parser.add_argument("--methods", default="zeroshot,anprompt", help="presets (default: %(default)s)")
    parser.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    parser.add_argument("--shots", metavar="N,N,...|all", help="pictures per class (default: 16; few-shot: 1,2,4,8,16)")
    parser.add_argument("--backbone", default="embedded", help="embedded, a folder, or a hub id")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument(
        "--autocast", default="fp32", dest="precision", type=one_of("precision", AUTOCAST), metavar="fp32|bf16|fp16",
        help="autocast of training and tests (default: %(default)s)",
    )  # fmt: skip
    renamed(parser, "--precision", "--autocast")
    parser.add_argument(
        "--jobs", type=whole(1), metavar="N", help="runs at a time (default: one a core with the embedded model)"
    )
    parser.add_argument("--descriptions", default="", help="JSON file {class: [sentences]}")
    add_names(parser)
    parser.add_argument(
        "--condition", action="append", default=[], metavar="KIND:FAMILY:STRENGTH",
        help="a disturbed test condition besides the clean one, e.g. image:fog:3 or text:typo:2; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--conditions", metavar="LIST", help="several: all, quick (a dozen), image, text, template, descriptions, or "
        "conditions separated by commas (default: none; noise: all)",
    )  # fmt: skip
    parser.add_argument(
        "--attacks",
        metavar="A,A,...",
        help=f"adversarial: attacks, of {', '.join(ATTACKS)} (default: {','.join(USUAL)})",
    )
    parser.add_argument(
        "--eps", metavar="E,E,...", help="adversarial: their sizes, in units of pixels in [0, 1] (default: "
        f"{','.join(SIZES)})",
    )  # fmt: skip
    parser.add_argument("--attack-steps", type=whole(0), metavar="N", help=f"adversarial: steps (default: {STEPS})")
    parser.add_argument("--restarts", type=whole(0), metavar="N", help="adversarial: random starts (default: 1)")
    parser.add_argument("--norm", metavar="|".join(NORMS), help="adversarial: norm of the sizes (default: linf)")
    parser.add_argument(
        "--images", type=whole(1), metavar="N",
        help="adversarial: at most so many test images of each half, clean and attacked (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        type=setting, help="a setting of the method or of the training, e.g. epochs=20; repeatable",
    )  # fmt: skip
    parser.add_argument("--runs", default="runs", help="folder or URL of the records (default: %(default)s)")
    add_bank(parser, "for the other methods and later runs")
    add_engine_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list the runs with estimated time and memory, start none"
    )
    renamed(parser, "--estimate", "--dry-run")
    parser.add_argument("--overwrite", action="store_true", help="replace tables in --runs that are not of anprompt")
    parser.add_argument("--json", action="store_true", help="print what was run, with its figures, as JSON")


def run(args: argparse.Namespace) -> int:
    """Run what is not there yet, print the tables, write them beside the records."""
    specs = specifications(args)
    runs = place_of(args.runs)
    engine = engine_of(args)
    if args.dry_run:
        from anprompt.experiments import ExperimentContext
        from anprompt.experiments.runners.local import default_jobs

        jobs = args.jobs or default_jobs(args.backbone, args.device)
        return dry_run(specs, runs, ExperimentContext(args.device), jobs, plain=args.json)
    check(runs) if isinstance(runs, str) else check_folder(runs)
    check_tables(runs, args.overwrite)
    with SweepProgress(specs, console(stderr=args.json), title=args.protocol) as live:
        records = execute(engine, specs, runs, live)
    if args.json:
        print_json(as_json(records, runs, args.overwrite))
    else:
        show(records, runs, args.overwrite)
    return 0


def as_json(records: Sequence[Record], runs: Place, overwrite: bool = False) -> dict[str, Any]:
    """Where records and tables lie, and the tables' unrounded figures by line and column."""
    found = sheets(records)
    return {
        "runs": str(runs), "records": [shown(runs, record_name(record["spec"])) for record in records],
        "files": [shown(runs, path.name) for path in write_sheets(runs, found, overwrite=overwrite)],
        "tables": [{"title": sheet.title, "lines": [figures(sheet, line) for line in sheet.lines]} for sheet in found],
    }  # fmt: skip


def figures(sheet: Sheet, line: Line) -> dict[str, Any]:
    """A line of a table by column: the unrounded figure, or the text where it is none."""
    cells = {
        column.name: cell.text if cell.mean is None else cell.mean for column, cell in zip(sheet.columns, line.cells)
    }
    return {"group": line.group, "name": line.name, **cells}


def show(records: Sequence[Record], runs: Place, overwrite: bool = False) -> None:
    """Print the first table of a sweep, and write all of them."""
    found = sheets(records)
    if found:
        console().print(to_terminal(found[0]))
    names = ", ".join(path.name for path in write_sheets(runs, found, overwrite=overwrite))
    say(f"Records and tables: {runs}/ ({names})")


def dry_run(
    specs: Sequence[RunSpec], runs: Place, context: ExperimentContext, jobs: int, *, plain: bool = False
) -> int:
    """List the runs: which are done, and what the others will take."""
    from anprompt.experiments.estimate import estimate

    found = estimate(specs, runs, context)
    if plain:
        print_json([planned(one) for one in found])
        return 0
    several_shots = len({spec.shots for spec in specs}) > 1
    for one in found:
        spec = one.spec
        drawn = f" {spec.shots or 'all'} shots" if several_shots else ""
        takes = f"  {duration(one.seconds)}, {one.pace.memory_mb:.0f} MB" if one.pace else ""
        say(f"{'done' if one.done else 'to run':7} {spec.dataset} {spec.method}{drawn} seed {spec.seed}{takes}")
    left = [one for one in found if not one.done]
    paces = [one.pace for one in left if one.pace]
    if paces:
        total = sum(one.seconds for one in left) / min(jobs, len(left))
        told = sum(pace.records > 0 for pace in paces)
        how = f"{told} by records in {runs}, {len(paces) - told} by a few steps measured now"
        memory = sum(sorted((pace.memory_mb for pace in paces), reverse=True)[:jobs])
        say(f"{len(left)} runs, {jobs} at a time: about {duration(total)}, {memory:.0f} MB ({how})")
    else:
        say("Nothing to run.")
    return 0


def planned(one: Estimate) -> dict[str, Any]:
    """A run of a sweep that was not started, in plain values."""
    spec = one.spec
    facts = {"data": spec.dataset, "method": spec.method, "shots": spec.shots or "all", "seed": spec.seed}
    takes = {"seconds": round(one.seconds, 2), "memory_mb": round(one.pace.memory_mb)} if one.pace else {}
    return {**facts, "done": one.done, **takes}


def duration(seconds: float) -> str:
    """`45 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def specifications(args: argparse.Namespace) -> list[RunSpec]:
    """The runs that the options ask for.

    Raises:
        UserError: a value that is not a number, an unknown name, an empty list.
    """
    from anprompt.experiments.sweep import plan

    methods = words(args.methods, "methods")
    specs: list[RunSpec] = []
    for dataset in (several := data_sets(args.data)):
        if args.names and len(several) > 1:
            raise UserError(
                f"--names holds the names of one data set, and --data names {len(several)}; bench them apart."
            )
        known = bool(args.descriptions) or dataset.startswith("embedded:")
        for number in all_shots(args.shots, args.protocol):
            specs += plan(
                [dataset], methods, seeds(args.seeds),
                protocol=args.protocol, shots=number,
                backbone=args.backbone, precision=args.precision,
                overrides=overrides(dict(args.settings), methods),
                conditions=conditions(args.conditions, args.condition, known),
                targets=targets(args.targets, args.protocol, dataset),
                attacks=attacks(args), images=args.images or 0,
                descriptions=args.descriptions, names=args.names or "", root=args.root,
            )  # fmt: skip
    return list(dict.fromkeys(once_untrained(specs)))


def once_untrained(specs: Iterable[RunSpec]) -> Iterator[RunSpec]:
    """A method with nothing to train is the same for any number of shots: its first one stands."""
    from anprompt.experiments.sweep import is_untrained

    first: dict[tuple[str, str], int | None] = {}
    for spec in specs:
        if is_untrained(spec.method):
            shots = first.setdefault((spec.dataset, spec.method), spec.shots)
            spec = dataclasses.replace(spec, shots=shots)
        yield spec


def all_shots(text: str | None, protocol: str) -> list[int | None]:
    """`1,2,4` or `all`; what is usual for the protocol where nothing is given.

    Raises:
        UserError: one is not a whole number from 1 on.
    """
    if text is None:
        return list(PROTOCOLS[protocol].shots)
    try:
        return list(dict.fromkeys(shots(word) for word in words(text, "shots")))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--shots: pictures per class {error}.") from None


def targets(text: str | None, protocol: str, dataset: str) -> tuple[str, ...]:
    """The data sets to test on besides the one trained on.

    Raises:
        UserError: the protocol has no targets, or none are known for this data set.
    """
    asked = PROTOCOLS[protocol]
    if text is None:
        return asked.targets(dataset) if asked.takes_targets else ()
    if not asked.takes_targets:
        raise UserError(f"{protocol} tests on the data it trains on; leave out --targets.")
    return tuple(name for name in data_sets(text) if name != dataset)


def attacks(args: argparse.Namespace) -> tuple[str, ...]:
    """The attacks that the options ask for; none where they say nothing, and the protocol's own ones are run.

    Raises:
        UserError: the protocol takes none, or one can't be; with the extra missing where one needs it.
    """
    given = {key: getattr(args, key) for key in ("attacks", "eps", "attack_steps", "restarts", "norm", "images")}
    if not PROTOCOLS[args.protocol].attacks():
        for key, value in given.items():
            if value is not None:
                raise UserError(
                    f"{args.protocol} runs no attacks; leave out --{key.replace('_', '-')}, or take adversarial."
                )
        return ()
    if all(value is None for key, value in given.items() if key != "images"):
        return ()
    names = words(args.attacks, "attacks") if args.attacks is not None else list(USUAL)
    sizes = words(args.eps, "eps") if args.eps is not None else list(SIZES)
    steps, restarts = (
        value if value is not None else usual for value, usual in ((args.attack_steps, STEPS), (args.restarts, 1))
    )
    threats = [
        ThreatModel(name, args.norm or "linf", fraction(size), steps, restarts) for size in sizes for name in names
    ]
    if any(threat.runner == "library" for threat in threats):
        check_library()
    return tuple(dict.fromkeys(map(str, threats)))


def conditions(text: str | None, single: Sequence[str], descriptions: bool) -> tuple[str, ...]:
    """`--conditions` and `--condition` together, each condition once.

    Raises:
        UserError: an unknown word or condition.
    """
    found: list[str] = []
    everything = all_conditions(descriptions)
    for word in words(text, "conditions") if text is not None else []:
        if word in ("all", "default"):
            found += everything
        elif word == "quick":
            found += QUICK
        elif word == "descriptions":
            found += described()
        elif word in ("image", "text", "template"):
            found += [c for c in everything if c.startswith(f"{word}:")]
        elif ":" in word:
            found.append(word)
        else:
            raise choices("list of conditions", word, LISTS)
    return tuple(dict.fromkeys([*found, *single]))


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
        UserError: one is not a whole number from 0 on.
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
    from anprompt.training.settings import has_setting, split_settings

    for key in values:
        if not any(has_setting(name, key) for name in methods):
            split_settings(methods[-1], {key: values[key]})  # raises, and names the nearest
            raise UserError(f"None of {', '.join(methods)} has the setting {key!r}: there is nothing to train.")
    own: dict[str, tuple[Pairs, Pairs]] = {}
    for name in methods:
        settings, train = split_settings(name, {k: v for k, v in values.items() if has_setting(name, k)})
        own[name] = pairs(settings), pairs(train)
    return own


def pairs(values: dict[str, Any]) -> Pairs:
    """Sorted and hashable."""
    return tuple((key, tuple(v) if isinstance(v, list) else v) for key, v in sorted(values.items()))
