"""`anprompt fit`: from a data set to an adapter folder."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.common import add_data, add_device, add_names, say_reading
from anprompt.commands._shared.parser import add_bank, positive, renamed, setting, shots, whole
from anprompt.commands._shared.recipe import AUTO, FEW_SHOT, choose_recipe, named_recipe
from anprompt.commands._shared.terminal import note_line, print_json, progress, say
from anprompt.commands._shared.together import together
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.adapters.record import AdapterRecord
    from anprompt.data.types import Dataset
    from anprompt.evaluation.evaluate import Metrics
    from anprompt.prompting.process_group import Team
    from anprompt.training.callbacks import Callback
    from anprompt.training.feature_cache import FeatureCache
    from anprompt.training.job import Job, Tuned

STATE = ".state"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `fit`."""
    add_data(parser, "which half of the classes to train on (default: all)")
    add_names(parser)
    parser.add_argument("--backbone", default="embedded", metavar="NAME", help="embedded, a folder or a hub id")
    parser.add_argument("--method", default="anprompt", metavar="NAME", help="see 'anprompt methods'")
    parser.add_argument(
        "--recipe", metavar="NAME",
        help="auto chooses on the training images (default on all classes, without settings of one's own); "
        "or the protocol whose recipe of the preset holds: few-shot, base-to-new (else the default), ...",
    )  # fmt: skip
    parser.add_argument("--shots", type=shots, default=16, metavar="N|all", help="pictures per class")
    parser.add_argument("--seed", type=whole(0), default=1, help="of draw, start, order and views")
    parser.add_argument("--out", default="adapter", metavar="DIR", help="where the adapter goes")
    parser.add_argument("--epochs", type=whole(1), metavar="N")
    parser.add_argument("--batch-size", type=whole(1), metavar="N")
    parser.add_argument("--lr", type=positive, metavar="X", help="learning rate")
    add_device(parser, "autocast of the training (default: the preset's, fp32)", "--autocast")
    parser.add_argument("--template", metavar="TEXT", help="a sentence with {} for the class name")
    parser.add_argument("--descriptions", metavar="FILE.json", help="{class: [sentences]}")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="any setting of the method or of the training; may be given again",
    )  # fmt: skip
    add_bank(parser, "for later runs")
    parser.add_argument("--tensorboard", metavar="DIR", help="also curves for TensorBoard (extra 'tb')")
    parser.add_argument(
        "--dry-run", action="store_true", dest="estimate", help="say what it will take, and train nothing"
    )
    renamed(parser, "--estimate", "--dry-run")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace an adapter of another run")


def run(args: argparse.Namespace) -> int:
    """Train, evaluate, save; where torchrun started several processes, the first one writes."""
    with together(args.device) as team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: Team | None) -> int:
    from anprompt.backbones import load_backbone, resolve_device
    from anprompt.data.label_names import named
    from anprompt.data.sources import open_dataset
    from anprompt.methods import check_template
    from anprompt.prompting.process_group import on_first
    from anprompt.training.feature_cache import DiskFeatureCache
    from anprompt.training.settings import split_settings
    from anprompt.training.tensorboard import require_tensorboard
    from anprompt.utils.locks import hold

    out = Path(args.out)
    settings, train = split_settings(args.method, _settings(args))
    if args.template is not None:
        check_template(args.template)
    if args.tensorboard is not None:
        require_tensorboard()
    device = team.device if team else resolve_device(args.device)
    on_first(team, lambda: check_out(out))
    dataset = open_dataset(args.data, root=args.root, layout=args.layout, report=args.json)
    dataset = named(dataset, args.names)
    if team is None or team.first:
        say_reading(args, dataset)
    backbone = load_backbone(args.backbone, device=device)
    recipe = named_recipe(args, {**settings, **train}, team is not None)
    job = _plan(args, dataset, backbone, settings, train, recipe)
    bank: FeatureCache | None = None if args.bank == "off" else DiskFeatureCache(args.bank, args.bank_gb)
    if args.estimate:
        if team:
            raise UserError("--dry-run measures one process; ask for it without torchrun.")
        return _estimate(args, job, bank)
    if _is_finished(args, out, job, team):
        return 0
    with contextlib.ExitStack() as held:  # by the first process, for all of them
        on_first(
            team, lambda: held.enter_context(hold(out, "wait until it has finished, or choose another --out folder"))
        )
        if _is_finished(args, out, job, team):  # by another process, between the first look and the lock
            return 0
        on_first(team, lambda: _keep_state(out / STATE, job, overwrite=args.overwrite))
        _train(args, dataset, job, bank, team)
    return 0


def _is_finished(args: argparse.Namespace, out: Path, job: Job, team: Team | None) -> bool:
    """Whether the folder holds the adapter of this very run, which is then said."""
    from anprompt.prompting.process_group import on_first

    if not on_first(team, lambda: _finished(out, job, overwrite=args.overwrite)):
        return False
    if args.json:
        print_json({"adapter": str(out), "already_finished": True})
    else:
        say(f"{out} already holds the adapter of this very run; nothing to do. See {out / 'README.md'}.")
    return True


def _train(args: argparse.Namespace, dataset: Dataset, job: Job, bank: FeatureCache | None, team: Team | None) -> None:
    """Train, test, save, tell."""
    from anprompt.adapters import parameters
    from anprompt.adapters.adapter import save_adapter
    from anprompt.commands._shared.training_progress import TrainingProgress
    from anprompt.training.feature_cache import MemoryFeatureCache
    from anprompt.training.job import run as tune
    from anprompt.training.settings import split_settings
    from anprompt.training.tensorboard import board

    out = Path(args.out)
    _announce(args, job, team)
    first = team is None or team.first
    shown = first and not (args.quiet or args.json)
    asked_job, choice = job, None
    if job.auto:
        bank = MemoryFeatureCache() if bank is None else bank
        settings, train = split_settings(args.method, _settings(args))
        choice = choose_recipe(args, job, {**settings, **train}, bank, out / STATE)
        job = choice.applied(job)
    with progress("training", enabled=shown) as update, board(args.tensorboard if first else None) as curves:
        callbacks: list[tuple[str, Callback]] = [("progress", TrainingProgress(update, lines=shown))]
        if curves:
            callbacks.append(("tensorboard", curves))
        tuned = tune(job, state=out / STATE, callbacks=callbacks, bank=bank, team=team)
    tested = _test(args, job, tuned, team)
    if not first:
        return
    record = _record(dataset, asked_job, tuned, tested)
    settings, train = split_settings(args.method, _settings(args))
    if choice is not None:
        record["recipe"], record["auto"] = AUTO, choice.evidence
        settings = job.settings.to_dict()
        train = {key: value for key, value in job.train.to_dict().items() if key != "seed"}
    asked = {"shots": args.shots, "settings": settings or None, "train": train or None, "subset": args.classes,
             "template": args.template, "descriptions": job.descriptions or None, "backbone": args.backbone}  # fmt: skip
    record["parameters"] = parameters.to_record(asked, tuned.method.descriptions)
    try:
        save_adapter(out, tuned.method, train=job.train, record=record, overwrite=args.overwrite)
    except UserError as error:
        raise UserError(f"{error} The finished training is kept in {out / STATE}: when that is mended, the same "
                        "command writes the adapter without training again.") from error  # fmt: skip
    shutil.rmtree(out / STATE, ignore_errors=True)
    _report(args, out, tuned, record)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """`--set` values, and the options that are short for one."""
    values = dict(args.settings)
    if "seed" in values:
        raise UserError("Give the seed with --seed, not with --set.")
    for key in ("epochs", "batch_size", "lr", "precision"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    return values


def _plan(
    args: argparse.Namespace, dataset: Dataset, backbone: Any, settings: Mapping[str, Any], train: Mapping[str, Any],
    recipe: str,
) -> Job:  # fmt: skip
    from anprompt.training.descriptions import read_descriptions
    from anprompt.training.job import plan

    descriptions = None if args.descriptions is None else read_descriptions(args.descriptions)
    job = plan(
        dataset, backbone, method=args.method, shots=args.shots, seed=args.seed, classes=args.classes,
        settings=settings, train=train, template=args.template, descriptions=descriptions,
        recipe=FEW_SHOT if recipe == AUTO else recipe,
    )  # fmt: skip
    args.recipe = recipe  # as it was decided, for what is said
    job = dataclasses.replace(job, auto=recipe == AUTO)
    if descriptions is not None and not job.resolved.reads_descriptions:
        note_line(f"method {args.method!r} reads no descriptions with these settings; they change nothing")
    return job


# --- the folder -----------------------------------------------------------------------------------
def check_out(out: Path) -> None:
    """Whether an adapter can be written there, asked before hours of training rather than after.

    Nothing is made: a request that is refused later leaves no empty folder.

    Raises:
        UserError: a file is in the way, or the folder can't be written.
    """
    from anprompt.adapters.adapter import check_place

    try:
        check_place(out, overwrite=True)  # what is in it is asked when the run is known
    except UserError as error:
        raise UserError(f"--out {error}") from None


def _finished(out: Path, job: Job, *, overwrite: bool) -> bool:
    """Whether the folder holds this run's adapter; refuses folders that hold something else."""
    from anprompt.adapters.adapter import read_config
    from anprompt.adapters.place import holds_adapter_here, holds_another

    if not holds_adapter_here(out, overwrite=overwrite, option="--out", remedy="--overwrite"):
        return False
    record = read_config(out).get("record")
    if isinstance(record, dict) and job.is_run(record.get("run")):
        return True
    raise holds_another(out, "--out", "--overwrite")


def _keep_state(state: Path, job: Job, *, overwrite: bool) -> None:
    """Note which run the state belongs to; with --overwrite, the state of another run goes."""
    from anprompt.utils.files import read_json, write_json

    if state.is_symlink():  # a folder from elsewhere must not choose where this one writes
        raise UserError(f"{str(state)!r} is a link; remove it, or choose another --out folder.")
    note = state / "run.json"
    same = note.is_file() and read_json(note) == {"run": job.key}
    if state.exists() and not same:
        if not overwrite and any(state.glob("*.safetensors")):
            raise UserError(
                f"{str(state.parent)!r} holds the unfinished state of another run; finish that one with its "
                "own command, choose a new --out folder, or add --overwrite."
            )
        shutil.rmtree(state, ignore_errors=True)
    if not same:
        write_json(note, {"run": job.key})


# --- words ----------------------------------------------------------------------------------------
def _announce(args: argparse.Namespace, job: Job, team: Team | None = None) -> None:
    if args.quiet or args.json:
        return
    data = job.dataset
    say(
        f"{job.method} on {data.name}: {len(data.classnames)} classes, {len(data.train)} pictures, "
        f"{job.train.epochs} epochs ({args.recipe} recipe), backbone {job.backbone.id} on {job.backbone.device.type}"
        + (f", {team.size} processes" if team else "")
    )
    if (line := job.train.warmup_line()) and not args.verbose:  # else the log says so
        say(line)


def _estimate(args: argparse.Namespace, job: Job, bank: FeatureCache | None) -> int:
    from anprompt.training.auto import steps_of_selection
    from anprompt.training.forecast import forecast, in_words

    _announce(args, job)
    found = forecast(job, bank)
    if job.auto and not args.json:
        before, after = steps_of_selection(job)
        say(f"auto: at most {before:,} steps of choosing before {after:,} of training, not counted below")
    if args.json:
        print_json({key: round(value, 4) for key, value in found.facts().items()})
    else:
        for line in in_words(found, job.train):
            say(line)
    return 0


def _test(args: argparse.Namespace, job: Job, tuned: Tuned, team: Team | None) -> Metrics | None:
    from anprompt.training.job import score

    if not job.dataset.test:
        return None
    with progress("testing", enabled=not (args.quiet or args.json)) as update:
        return score(tuned.method, job.dataset, on_batch=update, team=team)[0]


def _record(dataset: Dataset, job: Job, tuned: Tuned, tested: Metrics | None) -> AdapterRecord:
    """Facts and figures of the run; no times, so that equal runs write equal files."""
    from anprompt.data.reading import reading_record
    from anprompt.data.trained_images import MOST, to_record

    last = tuned.log.epochs[-1]
    record: AdapterRecord = {"data": dataset.name, "training_images": len(job.dataset.train)}
    if "val_accuracy" in last:
        record["val_accuracy_percent"] = 100 * last["val_accuracy"]
    if tested:
        record["test_accuracy_percent"] = 100 * tested.accuracy
        record["test_images"] = len(tested.labels)
    record["loss"] = last["loss"]
    if job.dataset.labels:
        record["labels"] = list(job.dataset.labels)
    record["images_left_out"] = len({*tuned.skipped, *dataset.skipped})
    if dataset.reading:
        record["reading"] = reading_record(dataset)
    if dataset.test and dataset.test == dataset.val:
        record["test_is_val"] = True
    if len(job.dataset.train) <= MOST:
        record["image_marks"] = to_record(job.dataset.train)
    record["epochs"], record["run"] = tuned.log.epochs, job.key
    return record


def _report(args: argparse.Namespace, out: Path, tuned: Tuned, record: AdapterRecord) -> None:
    from anprompt.adapters.adapter import TENSORS
    from anprompt.adapters.record import in_former_names

    size = (out / TENSORS).stat().st_size / 1024
    trained, log = tuned.method.trained_parameters(), tuned.log
    if args.json:
        print_json({
            "adapter": str(out), "method": args.method, "size_kb": round(size, 1),
            "trained_parameters": trained, "seconds": round(log.seconds, 2), "steps": log.steps,
            "resumed_from": log.resumed_from, **{key: value for key, value in record.items() if key != "image_marks"}, **in_former_names(record),
        })  # fmt: skip
        return
    if "test_accuracy_percent" in record:
        of = " of val, as there is not a test part" if record.get("test_is_val") else ""
        say(f"test accuracy {record['test_accuracy_percent']:.1f} % on {record['test_images']} pictures{of}")
    say(f"adapter {out}: {size:.0f} KB, {trained:,} trained parameters, {log.seconds:.0f} s of training")
    if args.quiet:
        return
    place, data = shlex.quote(str(out)), shlex.quote(args.data)
    root = f" --root {shlex.quote(args.root)}" if args.root else ""
    if args.classes == "base":
        say(f"next: anprompt eval {place} --data {data}{root} --subset new")
    else:
        say(f"next: anprompt predict {place} PICTURE")
