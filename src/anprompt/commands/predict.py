"""`anprompt predict`: names for pictures, from any list of classes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.answer_file import AnswerFile, answer_path
from anprompt.commands._shared.common import ZEROSHOT, add_adapter, add_device, add_names, open_method
from anprompt.commands._shared.parser import share, whole
from anprompt.commands._shared.terminal import note_line, percent, print_json, progress, safe, say, table
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.methods import Classifier, Method

BATCH = 64
READERS = 4  # threads that decode the next batch while one is answered


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`."""
    add_adapter(parser)
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="picture files, folders of them, or @list.txt with a path per line",
    )
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
    parser.add_argument(
        "--batch-size", type=whole(1), default=BATCH, metavar="N", help=f"pictures at a time (default: {BATCH})"
    )
    parser.add_argument(
        "--out", type=answer_path, metavar="FILE",
        help="answers to a .csv or .jsonl file, batch by batch; the same command again goes on where it stopped",
    )  # fmt: skip
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
    if args.out is not None:
        return _to_file(args, classifier, called, least, paths)
    started = time.perf_counter()
    answers: list[dict[str, Any]] = []
    skipped: list[tuple[Path, str]] = []
    for found, failed in _batches(args, classifier, called, least, paths):
        answers += found
        skipped += failed
    if not answers:
        raise _nothing(skipped)
    _tell_skipped(skipped, len(paths))
    _print(args, classifier, called, answers, skipped, time.perf_counter() - started)
    return 0


def _to_file(
    args: argparse.Namespace, classifier: Classifier, called: Sequence[dict[str, str]], least: float | None,
    paths: Sequence[Path],
) -> int:  # fmt: skip
    """Answers to `--out`; pictures that stand in it already are not asked again."""
    method, top = classifier.method, min(args.top, len(classifier.classnames))
    request = {
        **_content(method), "classes": list(called), "head": classifier.head, "threshold": least, "top": top,
        "dtype": str(method.backbone.dtype),
    }  # fmt: skip
    with AnswerFile(args.out, request, top).opened() as file:
        open_ones = [path for path in dict.fromkeys(paths) if str(path) not in file.done]
        before, started = len(file.done), time.perf_counter()
        skipped: list[tuple[Path, str]] = []
        for found, failed in _batches(args, classifier, called, least, open_ones):
            file.add(found, failed)
            skipped += failed
    _tell_skipped(skipped, len(open_ones))
    if args.json:
        print_json({"out": str(args.out), "pictures": len(open_ones), "before": before, "skipped": len(skipped)})
    elif not args.quiet:
        had = f"; {before} stood there before" if before else ""
        say(f"{len(open_ones)} pictures{_pace(len(open_ones), time.perf_counter() - started)} to {args.out}{had}")
    return 0


def _content(method: Method) -> dict[str, Any]:
    """What tells one method from another: its settings and a hash of its tensors."""
    from anprompt.adapters.adapter import adapter_config
    from anprompt.backbones.hf import weight_hash

    config = adapter_config(method)
    kept = {key: config[key] for key in ("method", "settings", "template", "seed", "classnames", "backbone")}
    return {**kept, "temperature": method.temperature, "tensors": weight_hash(method)}


def _pace(count: int, seconds: float) -> str:
    return f" ({count / seconds:.3g} a second)" if count > 1 and seconds > 0 else ""


def _tell_skipped(skipped: Sequence[tuple[Path, str]], count: int) -> None:
    for _, reason in skipped:
        note_line(f"skipped: {reason}")
    if skipped:
        note_line(f"{len(skipped)} of {count} pictures skipped")


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
        if text.startswith("@") and not path.exists():
            yield from _listed(text[1:])
        elif path.is_dir():
            yield from picture_files(path)
        else:
            yield path


def _listed(name: str) -> list[Path]:
    """The paths in a list, one a line; those that are not absolute start at the list's folder."""
    from anprompt.data.text_files import file_text

    lines = [line.rstrip("\r") for line in file_text(name).split("\n")]
    found = [Path(name).parent / line for line in lines if line.strip()]
    if not found:
        raise UserError(f"The list {name!r} holds no path.")
    return found


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


Answers = tuple[list[dict[str, Any]], list[tuple[Path, str]]]  # of a batch; files that can't be read, with the reason


def _batches(
    args: argparse.Namespace, classifier: Classifier, called: Sequence[dict[str, str]], least: float | None,
    paths: Sequence[Path],
) -> Iterator[Answers]:  # fmt: skip
    """Answers batch by batch; the next batch is decoded while one is answered."""
    from concurrent.futures import ThreadPoolExecutor

    from anprompt.data.image_limits import pixel_limit

    def decoded(start: int) -> list[Any]:
        return [pool.submit(_view, path, size, limit) for path in paths[start : start + args.batch_size]]

    size, limit, begun = classifier.method.backbone.dims.image_size, pixel_limit(), time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool, progress("predicting", enabled=not (args.quiet or args.json)) as update:
        update(0, len(paths))
        coming = decoded(0)
        for start in range(0, len(paths), args.batch_size):
            views = [view.result() for view in coming]
            coming = decoded(start + args.batch_size)
            yield _answers(classifier, called, paths[start : start + args.batch_size], views, args.top, least)
            done = min(start + args.batch_size, len(paths))
            update(done, len(paths), f"{done / (time.perf_counter() - begun):.3g} a second")


def _view(path: Path, size: int, limit: int) -> Any:
    """The model's view of a file [size, size, 3], or why it can't be read."""
    from anprompt.data.crop import centre_view
    from anprompt.data.images import open_picture

    try:
        return centre_view(open_picture(path, max_pixels=limit), size)
    except UserError as error:
        return str(error)


def _answers(
    classifier: Classifier, called: Sequence[dict[str, str]], paths: Sequence[Path], views: Sequence[Any], top: int,
    least: float | None,
) -> Answers:  # fmt: skip
    """Answers for a batch of files, the classes as they are called."""
    import numpy as np

    from anprompt.data.views import normalised
    from anprompt.evaluation.inference import predict_logits

    failed = [(path, view) for path, view in zip(paths, views) if isinstance(view, str)]
    read = [path for path, view in zip(paths, views) if not isinstance(view, str)]
    if not read:
        return [], failed
    backbone = classifier.method.backbone
    pixels = normalised(np.stack([view for view in views if not isinstance(view, str)]), backbone.mean, backbone.std)
    shares = predict_logits(classifier, pixels.__getitem__, len(read), batch_size=len(read)).softmax(dim=-1)
    values, labels = shares.topk(min(top, shares.shape[1]))
    answers = []
    for path, row_labels, row_values in zip(read, labels.tolist(), values.tolist()):
        best = [{**called[label], "probability": round(value, 6)} for label, value in zip(row_labels, row_values)]
        doubt = {} if least is None else {"none_of_these": best[0]["probability"] < least}
        answers.append({"picture": str(path), "top": best, **doubt})
    return answers, failed


def _nothing(skipped: Sequence[tuple[Path, str]]) -> UserError:
    if len(skipped) == 1:
        return UserError(skipped[0][1])
    return UserError(f"None of the {len(skipped)} pictures can be read; the first: {skipped[0][1]}")


def _print(
    args: argparse.Namespace, classifier: Classifier, called: Sequence[dict[str, str]],
    answers: Sequence[dict[str, Any]], skipped: Sequence[tuple[Path, str]], seconds: float,
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
        pace = _pace(len(answers), seconds)
        say(f"{len(answers)} pictures{pace}, {len(classifier.classnames)} classes, {classifier.head} head")


def _words(answer: dict[str, Any]) -> list[str]:
    """The cells of one picture: the answers with their probabilities, "none of these" before them."""
    from anprompt.evaluation.calibration import NONE

    shown = [f"{safe(t['class'])} {percent(t['probability'])}" for t in answer["top"]]
    return [NONE, *shown] if answer.get("none_of_these") else shown
