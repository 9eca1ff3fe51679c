"""`anprompt eval`: accuracy of an adapter, or of zero-shot CLIP, on a data set."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.common import ZEROSHOT, add_adapter, add_data, add_device, add_names, open_method
from anprompt.commands._shared.parser import one_of
from anprompt.commands._shared.terminal import note_line, percent, print_json, progress, say, table
from anprompt.commands._shared.together import together
from anprompt.errors import UserError

PARTS = ("test", "val", "train")

if TYPE_CHECKING:
    from anprompt.data.types import Dataset
    from anprompt.prompting.process_group import Team


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eval`."""
    add_adapter(parser)
    add_data(parser, "which half of the data's classes to test on (default: all)")
    add_names(parser)
    parser.add_argument(
        "--split", type=one_of("split", (*PARTS, "all")), metavar="test|val|train|all",
        help="which images (default: test); all: every image, for a folder that was not trained on",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", type=one_of("candidates", ("auto", "trained", "data")), default="auto", metavar="auto|trained|data",
        help="the classes to choose from; auto: the trained ones where the folder holds some of them and no other",
    )  # fmt: skip
    parser.add_argument(
        "--head", type=one_of("head", ("auto", "trained", "unseen")), default="auto", metavar="auto|trained|unseen",
        help="auto: the trained head if and only if every class was trained on",
    )  # fmt: skip
    parser.add_argument("--domain", metavar="NAME", help="only pictures of this domain")
    parser.add_argument("--per-class", action="store_true", help="also the accuracy of every class")
    add_device(parser, "precision of the frozen weights (default: fp32)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print; processes of torchrun take a share of the pictures each."""
    with together(args.device) as team:
        args.device = str(team.device) if team else args.device
        return _run(args, team)


def _trained(args: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and labels of the trained classes; none for zero-shot CLIP. A slip in the folder's name shows here."""
    from anprompt.adapters.adapter import read_config, trained_labels

    if args.adapter == ZEROSHOT:
        return (), ()
    config = read_config(args.adapter)
    return tuple(map(str, config["classnames"])), trained_labels(config)


def _record(args: argparse.Namespace) -> dict[str, Any]:
    """What the adapter keeps of its training."""
    from anprompt.adapters.adapter import read_config

    record = {} if args.adapter == ZEROSHOT else read_config(args.adapter).get("record")
    return record if isinstance(record, dict) else {}


def _of_its_data(record: dict[str, Any], data: Dataset) -> bool:
    """Whether the record tells of just these data: the same name, classes and counts."""
    from anprompt.data.reading import class_counts

    reading = record.get("reading")
    same = record.get("data") == data.name
    return same and isinstance(reading, dict) and reading.get("images") == class_counts(data)


def _run(args: argparse.Namespace, team: Team | None) -> int:
    from anprompt.data.candidates import candidates
    from anprompt.data.label_names import in_trained_names, named
    from anprompt.data.reading import reading_record
    from anprompt.data.sources import open_dataset
    from anprompt.data.splits import subset_classes
    from anprompt.data.trained_images import trained_among, trained_count
    from anprompt.evaluation.evaluate import calibration_error
    from anprompt.evaluation.loaders import part_items
    from anprompt.training.job import score

    trained, labels = _trained(args)
    data = open_dataset(
        args.data, root=args.root, layout=args.layout, known=(*trained, *labels), least_classes=1 if trained else 2
    )
    data = whole = named(data, args.names) if args.names else in_trained_names(data, labels, trained)
    told: list[str] = []
    data = subset_classes(data, args.classes)
    split = args.split or "test"
    part_items(data, split, args.domain)  # fails before a backbone is loaded
    if args.classes == "all":
        data, told = candidates(data, trained, args.candidates)
    if len(data.classnames) < 2:
        alone = f"{data.name} has one class only ({data.classnames[0]!r}), so there is nothing to choose from"
        if args.classes == "all":
            raise UserError(f"{alone}.")
        told.append(f"{alone}: the accuracy says nothing")
    record, items = _record(args), part_items(data, split, args.domain)
    known = trained_among(record, items)
    if known:
        told.append(f"{known} of the {len(items)} images were trained on: a figure on them says little")
    if args.split is None and whole.reading and whole.reading.divided:
        every = part_items(data, "all", args.domain)
        there = trained_among(record, every)
        own = _of_its_data(record, whole) if there is None else 0 < trained_count(record) <= 2 * there
        if not own:
            none = "If none of it was trained on," if there is None else f"{there or 'None'} of it was trained on:"
            told.append(
                f"{len(items)} of {len(every)} images: the test part, as fit divides data without parts. {none} --split "
                "all tests on every image"
            )
    method = open_method(args, data.classnames, data.template)
    with progress("testing", enabled=not (args.quiet or args.json)) as update:
        metrics, skipped = score(
            method, data, part=split, domain=args.domain, head=args.head, on_batch=update, team=team
        )
    for line in told:
        note_line(line)
    ece = calibration_error(metrics.confidences, metrics.predictions == metrics.labels)
    if args.json:
        print_json({
            "adapter": args.adapter, "method": method.preset or method.name, "data": data.name,
            "classes": args.classes, "split": split, "domain": args.domain, "head": metrics.head,
            "accuracy_percent": 100 * metrics.accuracy, "calibration_error_percent": 100 * ece,
            "accuracy": metrics.accuracy, "calibration_error": ece, "pictures": len(metrics.labels), "class_count": len(data.classnames),
            "template": method.template, "trained_on": known, "skipped": [*whole.skipped, *skipped],
            **({"reading": reading_record(whole)} if whole.reading else {}),
            **({"per_class": metrics.per_class} if args.per_class else {}),
        })  # fmt: skip
        return 0
    where = (
        f"{data.name}, "
        + ("all images" if split == "all" else f"{split} split")
        + (f", {args.domain}" if args.domain else "")
    )
    say(f"accuracy {percent(metrics.accuracy)}, calibration error {percent(ece)}")
    say(
        f"{method.preset or method.name} on {where}: {len(metrics.labels)} pictures, {len(data.classnames)} "
        f"classes ({args.classes}), {metrics.head} head"
    )
    if known == 0:
        say("none of these images was trained on")
    if args.per_class:
        rows = sorted(metrics.per_class.items(), key=lambda row: row[1])
        table(("class", "accuracy"), [(name, percent(value)) for name, value in rows], right=(1,))
    return 0
