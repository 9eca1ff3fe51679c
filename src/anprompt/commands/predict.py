"""`anprompt predict`: names for pictures, from any list of classes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.common import ZEROSHOT, add_adapter, add_device, add_names, open_method
from anprompt.commands._shared.parser import share, whole
from anprompt.commands._shared.terminal import note_line, percent, print_json, progress, safe, say, table
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.methods import Classifier

BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`."""
    add_adapter(parser)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files, or folders of them")
    parser.add_argument(
        "--classes", metavar="NAMES", help="'a,b,c', or @file.txt with a name per line (default: as trained)"
    )
    add_names(parser)
    parser.add_argument(
        "--none-of-these", action="store_true",
        help="say so where the best class is less probable than the threshold of 'anprompt calibrate --accept'",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=share, metavar="SHARE", help="the same with a threshold of your own, for any classes"
    )
    parser.add_argument("--top", type=whole(1), default=3, metavar="N", help="answers per picture")
    add_device(parser, "precision of the frozen weights (default: fp32)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Predict what can be read; the rest is named and counted."""
    from anprompt.methods import Classifier

    labels = class_list(args.classes) if args.classes is not None else None
    names = class_names(labels, args.names) if labels else None
    paths = list(expand(args.pictures))
    if not any(path.exists() for path in paths):
        raise _nothing([(path, f"{path}: does not exist") for path in paths])
    method = open_method(args, names, None)
    classifier = Classifier(method, names)
    called = _called(classifier, labels, args.names)
    least = _threshold(args, classifier)
    answers: list[dict[str, Any]] = []
    skipped: list[tuple[Path, str]] = []
    with progress("predicting", enabled=not (args.quiet or args.json)) as update:
        for start in range(0, len(paths), BATCH):
            found, failed = _predict(classifier, called, paths[start : start + BATCH], args.top)
            if least is not None:
                found = [{**answer, "none_of_these": answer["top"][0]["probability"] < least} for answer in found]
            answers += found
            skipped += failed
            update(min(start + BATCH, len(paths)), len(paths))
    if not answers:
        raise _nothing(skipped)
    for _, reason in skipped:
        note_line(f"skipped: {reason}")
    if skipped:
        note_line(f"{len(skipped)} of {len(paths)} pictures skipped")
    _print(args, classifier, called, answers, skipped)
    return 0


def _threshold(args: argparse.Namespace, classifier: Classifier) -> float | None:
    """The least probability of an answer; None where any will do."""
    if args.threshold is not None or not args.none_of_these:
        return args.threshold
    from anprompt.adapters.calibration_record import of_adapter
    from anprompt.classifier import trained_threshold

    if args.adapter == ZEROSHOT:
        raise UserError("zeroshot has no threshold for --none-of-these; give one of your own with --threshold.")
    return trained_threshold(of_adapter(args.adapter), classifier)


def class_list(text: str, *, whole: bool = False) -> list[str]:
    """Class names from 'a,b,"c, d"', from a JSON list, or from @file.

    Args:
        whole: every line of the file must be usable, since the order of the names matters.

    Raises:
        UserError: no such file, fewer than two names, or names that can't be told apart.
    """
    from anprompt.data.name_lists import read_class_list, split_names
    from anprompt.data.names import check_classnames

    try:
        names = read_class_list(text[1:], whole=whole) if text.startswith("@") else check_classnames(split_names(text))
    except UserError as error:
        raise UserError(f"--classes: {error}") from None
    if not names:
        raise UserError("--classes: the class list is empty; give names like 'cat,dog'.")
    if len(names) < 2:
        raise UserError(f"--classes: only {names[0]!r}; give at least two names to choose from.")
    return names


def expand(given: Sequence[str]) -> Iterator[Path]:
    """The files given, and those in the folders given, sorted; hidden ones in folders are passed over.

    Raises:
        UserError: a folder holds no file.
    """
    from anprompt.data.walk import picture_files

    for text in given:
        if not text.strip():
            raise UserError("An image's name is empty; give files or folders (a single '.' is this folder).")
        path = Path(text)
        if path.is_dir():
            yield from picture_files(path)
        else:
            yield path


def class_names(labels: Sequence[str], names: str | None) -> list[str]:
    """The names of a file (`--names`) for classes called by numbers or codes; without one, these as they are.

    Raises:
        UserError: a class without a name, or two with the same.
    """
    from anprompt.data.label_names import names_for
    from anprompt.data.names import check_classnames

    return check_classnames(names_for(labels, names)) if names else list(labels)


def _called(classifier: Classifier, labels: Sequence[str] | None, names: str | None) -> list[dict[str, str]]:
    """What answers say of each class: its name, and its label where the data or the user calls it by one.

    An adapter that was trained on codes keeps its classes and their head; its answers are told in names.
    """
    method, shown = classifier.method, list(classifier.classnames)
    if labels is None and names:
        labels = list(method.labels or method.trained_classnames)
        shown = class_names(labels, names)
    elif labels is None or not names:
        labels = method.labels if classifier.classnames == method.trained_classnames else ()
    if not labels:
        return [{"class": name} for name in shown]
    return [{"class": name, "label": label} for name, label in zip(shown, labels)]


def _predict(
    classifier: Classifier, called: Sequence[dict[str, str]], paths: Sequence[Path], top: int
) -> tuple[list[dict[str, Any]], list[tuple[Path, str]]]:
    """Answers for a batch of files, the classes as they are called, and the files that can't be read with the reason."""
    import numpy as np

    from anprompt.data.crop import centre_view
    from anprompt.data.images import open_picture
    from anprompt.data.views import normalised
    from anprompt.evaluation.inference import predict_logits

    backbone = classifier.method.backbone
    views, read, failed = [], [], []
    for path in paths:
        try:
            views.append(centre_view(open_picture(path), backbone.dims.image_size))
            read.append(path)
        except UserError as error:
            failed.append((path, str(error)))
    if not views:
        return [], failed
    pixels = normalised(np.stack(views), backbone.mean, backbone.std)
    shares = predict_logits(classifier, pixels.__getitem__, len(views)).softmax(dim=-1)
    values, labels = shares.topk(min(top, shares.shape[1]))
    answers = [
        {
            "picture": str(path),
            "top": [{**called[label], "probability": round(value, 6)} for label, value in zip(row_labels, row_values)],
        }
        for path, row_labels, row_values in zip(read, labels.tolist(), values.tolist())
    ]
    return answers, failed


def _nothing(skipped: Sequence[tuple[Path, str]]) -> UserError:
    if len(skipped) == 1:
        return UserError(skipped[0][1])
    return UserError(f"None of the {len(skipped)} pictures can be read; the first: {skipped[0][1]}")


def _print(
    args: argparse.Namespace, classifier: Classifier, called: Sequence[dict[str, str]],
    answers: Sequence[dict[str, Any]], skipped: Sequence[tuple[Path, str]],
) -> None:  # fmt: skip
    if args.json:
        print_json({
            "adapter": args.adapter, "head": classifier.head, "classes": [one["class"] for one in called],
            "predictions": list(answers),
            "skipped": [{"picture": str(path), "reason": reason} for path, reason in skipped],
        })  # fmt: skip
        return
    rows = [[answer["picture"], *_words(answer)] for answer in answers]
    width = max(map(len, rows)) - 1
    table(["picture", "answer", *("or" for _ in range(width - 1))], rows)
    if not args.quiet:
        say(f"{len(answers)} pictures, {len(classifier.classnames)} classes, {classifier.head} head")


def _words(answer: dict[str, Any]) -> list[str]:
    """The cells of one picture: the answers with their probabilities, "none of these" before them."""
    from anprompt.evaluation.calibration import NONE

    shown = [f"{safe(t['class'])} {percent(t['probability'])}" for t in answer["top"]]
    return [NONE, *shown] if answer.get("none_of_these") else shown
