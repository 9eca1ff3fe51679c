"""`anprompt detect fit`, `predict`, `eval`, `threshold` and `bench`: anomalies, from normal images alone."""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.common import PRECISIONS, add_device
from anprompt.commands._shared.parser import one_of, setting, share, whole
from anprompt.commands._shared.terminal import note_line, percent, print_json, progress, say, table
from anprompt.detection import DETECTION_METHODS
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.detection.detector import AnomalyDetector, Answer
    from anprompt.detection.evaluation import Examined
    from anprompt.detection.metrics import Figures

ACTIONS = ("fit", "predict", "eval", "threshold", "bench")
CSV_MARK = b"image,score,threshold,anomalous,note"
COLUMNS = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
SHOWN = 12  # overlays on the sheet of 'eval --gallery'
# Options that mean something to some actions only.
_ONLY = {
    "out": ("--out", "fit"), "method": ("--method", "fit"), "shots": ("--shots", "fit and bench"),
    "settings": ("--set", "fit and bench"),
    "object_name": ("--object", "fit"), "tiles": ("--tiles", "fit and bench"), "csv": ("--csv", "predict"), "maps": ("--maps", "predict"),
    "gallery": ("--gallery", "eval"), "data": ("--data", "fit, eval, threshold and bench"),
    "category": ("--category", "fit, eval, threshold and bench"), "false_alarms": ("--false-alarms", "fit and threshold"), "methods": ("--methods", "bench"), "seeds": ("--seeds", "bench"),
    "runs": ("--runs", "bench"),
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `detect`."""
    parser.add_argument(
        "action", type=one_of("action", ACTIONS), metavar="|".join(ACTIONS),
        help="fit: learn from normal images; predict: scores, verdicts and maps of images; eval: figures on a data set; "
        "threshold: choose one at a rate of false alarms; bench: methods side by side",
    )  # fmt: skip
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="the detector's folder; predict: then images, or folders"
    )
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help="a folder of normal images, of MVTec's, VisA's or BTAD's layout, or embedded:boards",
    )
    parser.add_argument("--category", metavar="NAME", help="one of a folder's categories (eval: default all)")
    parser.add_argument(
        "--backbone", metavar="NAME", help="embedded, a folder or a hub id (default: embedded, or as fitted)"
    )
    add_device(parser, "precision of the frozen weights (default: fp32)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    fit = parser.add_argument_group("fit")
    fit.add_argument("--method", type=one_of("detection method", DETECTION_METHODS), metavar="|".join(DETECTION_METHODS),
                     help="default: apt")  # fmt: skip
    fit.add_argument("--shots", metavar="N", help="normal images to learn from (default: all; bench: 0,1,4,16)")
    fit.add_argument("--seed", type=whole(0), default=1, help="of draw, start and generated anomalies")
    fit.add_argument("--object", dest="object_name", metavar="TEXT", help="what the images show (default: object)")
    fit.add_argument("--tiles", metavar="auto|N", help="windows along the shorter side (default: auto)")
    fit.add_argument("--set", type=setting, action="append", default=[], metavar="KEY=VALUE", dest="settings",
                     help="any setting of the method; may be given again")  # fmt: skip
    fit.add_argument("--out", metavar="DIR", help="where the detector goes (default: detector)")
    fit.add_argument("--overwrite", action="store_true", help="replace a detector, or files, that are there")
    fit.add_argument(
        "--false-alarms", type=share, metavar="SHARE", help="of normal images, e.g. 0.02 (fit: default 0.05)"
    )
    bench = parser.add_argument_group("bench")
    bench.add_argument("--methods", metavar="NAME,...", help="default: clip,winclip,patchcore,apt")
    bench.add_argument("--seeds", metavar="N,...", help="default: 1,2,3")
    bench.add_argument("--runs", metavar="DIR", help="folder of the records (default: runs)")
    predict = parser.add_argument_group("predict and eval")
    predict.add_argument("--csv", metavar="FILE", help="write one line an image")
    predict.add_argument("--maps", metavar="DIR", help="write an overlay with heat map and contour for every image")
    predict.add_argument("--gallery", metavar="FILE.png", help="eval: a sheet of test images, true and found")


def run(args: argparse.Namespace) -> int:
    """Fit, predict, test or choose a threshold."""
    for name, (option, where) in _ONLY.items():
        given = getattr(args, name) not in (None, [])
        if given and args.action not in where.replace(" and", ",").split(", "):
            raise UserError(f"{option} belongs to 'detect {where}', not to 'detect {args.action}'.")
    from anprompt.commands.detect_bench import run_bench

    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "fit": _fit, "predict": _predict, "eval": _eval, "threshold": _threshold, "bench": run_bench,
    }  # fmt: skip
    return actions[args.action](args)


# --- fit --------------------------------------------------------------------------------------------
def _fit(args: argparse.Namespace) -> int:
    from anprompt.detection import store
    from anprompt.detection.detector import FALSE_ALARMS, AnomalyDetector
    from anprompt.detection.layouts import open_category
    from anprompt.utils.locks import hold

    if args.names:
        raise UserError(
            f"'detect fit' takes no names ({args.names[0]!r}); give images with --data, and a folder with --out."
        )
    out = Path(args.out or "detector")
    store.check_place(out, overwrite=args.overwrite)
    category = open_category(_data(args), args.category)
    detector = AnomalyDetector(
        args.backbone or "embedded", args.method or "apt", _shots(args.shots), args.seed, settings=dict(args.settings) or None,
        object_name=args.object_name or "object", tiles=tiles_of(args.tiles), false_alarms=args.false_alarms or FALSE_ALARMS,
        device=args.device, dtype=PRECISIONS[args.precision or "fp32"],
    )  # fmt: skip
    if not (args.quiet or args.json):
        say(f"{detector.method} on {category.name} ({category.layout}): {len(category.train)} normal images")
        for line in category.notes:
            say(f"  {line}")
    started = time.perf_counter()
    with hold(out, "wait until it has finished, or choose another --out folder"):
        with _progress(args) as update:
            detector.fit(category, progress=update)
        detector.save(out, overwrite=args.overwrite, record={"data": category.name})
    seconds = time.perf_counter() - started
    for line in detector.skipped_:
        note_line(f"skipped: {line}")
    if args.json:
        kept = detector.threshold_.to_dict() if detector.threshold_ else None
        print_json({"detector": str(out), "images": detector.images_, "tiles": detector.tiles_, "threshold": kept})
        return 0
    say(
        f"{out}: learned from {detector.images_} normal images in {seconds:.0f} s, {detector.tiles_} windows along the shorter side"
    )
    _say_threshold(detector)
    return 0


def _shots(text: str | None) -> int | None:
    try:
        return None if text is None else whole(0)(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--shots {error}") from None


def tiles_of(text: str | None) -> int | str:
    """`auto`, or a number of windows."""
    if text is None or text == "auto":
        return "auto"
    if not text.isdecimal():
        raise UserError(f"--tiles must be 'auto' or a whole number, not {text[:40]!r}.")
    return int(text)


def _say_threshold(detector: AnomalyDetector) -> None:
    if detector.threshold_ is None:
        say(
            "no threshold: no normal image was held out; choose one with 'anprompt detect threshold DETECTOR --data normal/'"
        )
        return
    first, *rest = detector.threshold_.lines()
    say(first)
    for line in rest:
        note_line(line)


def _data(args: argparse.Namespace) -> str:
    if args.data is None:
        raise UserError(f"'detect {args.action}' needs --data: a folder of images, or embedded:boards.")
    return str(args.data)


def _progress(args: argparse.Namespace) -> Any:
    return progress("detect", enabled=not (args.quiet or args.json))


def _open(args: argparse.Namespace) -> AnomalyDetector:
    from anprompt.detection.detector import AnomalyDetector

    if not args.names:
        raise UserError(f"'detect {args.action}' needs the folder of a detector, as 'detect fit' writes it.")
    return AnomalyDetector.load(
        args.names[0], backbone=args.backbone, device=args.device, dtype=PRECISIONS[args.precision or "fp32"]
    )


# --- predict ----------------------------------------------------------------------------------------
def _predict(args: argparse.Namespace) -> int:
    from anprompt.commands.predict import expand
    from anprompt.utils.files import check_folder, check_output, write_text

    if len(args.names) < 2:
        raise UserError("'detect predict' needs a detector and images: anprompt detect predict detector/ pictures/")
    if args.csv:
        check_output(Path(args.csv), ours=(CSV_MARK,))
    if args.maps:
        check_folder(Path(args.maps))
    paths = list(expand(args.names[1:]))
    detector = _open(args)
    rows, failed = [], 0
    with _progress(args) as update:
        for number, path in enumerate(paths, 1):
            row = _row(detector, path, args.maps, number)
            failed += "score" not in row
            rows.append(row)
            update(number, len(paths))
    if failed == len(paths):
        raise UserError(f"None of the {len(paths)} files is an image that can be read; the first: {rows[0]['note']}")
    if args.csv:
        write_text(Path(args.csv), csv_text(rows))
    for row in rows:
        if "score" not in row:
            note_line(f"skipped: {row['note']}")
    _print_rows(args, detector, rows)
    return 0


def _row(detector: AnomalyDetector, path: Path, maps: str | None, number: int) -> dict[str, Any]:
    try:
        answer = detector.answer(str(path))
    except UserError as error:
        return {"image": str(path), "note": str(error)}
    row: dict[str, Any] = {"image": str(path), "score": answer.score, "anomalous": answer.anomalous}
    if detector.threshold_:
        row["threshold"] = detector.threshold_.value
    if maps:
        row["map"] = str(_write_map(detector, answer, Path(maps), number))
    return row


def _write_map(detector: AnomalyDetector, answer: Answer, folder: Path, number: int) -> Path:
    from anprompt.detection.overlay import overlay
    from anprompt.utils.files import atomic_write

    verdict = {True: "anomalous", False: "normal", None: "no threshold"}[answer.anomalous]
    sheet = overlay(answer.image, answer.map, floor=detector.floor_, contour=detector.contour_,
                    title=f"{answer.score:.3f}  {verdict}")  # fmt: skip
    target = folder / f"{number:04d}_{Path(answer.name).stem[:80]}.png"
    atomic_write(target, lambda path: sheet.save(path, "PNG"))
    return target


def csv_text(rows: list[dict[str, Any]]) -> str:
    """All answers as a table; an image that could not be read has a note and no score."""
    file = io.StringIO()
    names = CSV_MARK.decode().split(",")
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _print_rows(args: argparse.Namespace, detector: AnomalyDetector, rows: list[dict[str, Any]]) -> None:
    if args.json:
        kept = detector.threshold_.to_dict() if detector.threshold_ else None
        print_json({"threshold": kept, "answers": rows})
        return
    answered = [row for row in rows if "score" in row]
    words = {True: "anomalous", False: "normal", None: "-"}
    table(
        ("image", "score", "verdict"),
        [(r["image"], f"{r['score']:.4f}", words[r["anomalous"]]) for r in answered],
        right=(1,),
    )
    if detector.threshold_ is None:
        note_line("no threshold was chosen, so there is no verdict; see 'anprompt detect threshold'")
    else:
        say(f"{sum(bool(r['anomalous']) for r in answered)} of {len(answered)} images are above the threshold")


# --- eval -------------------------------------------------------------------------------------------
def _eval(args: argparse.Namespace) -> int:
    from anprompt.detection.evaluation import examine, mean_figures
    from anprompt.detection.layouts import open_categories, open_category
    from anprompt.utils.files import check_output

    if args.gallery:
        check_output(Path(args.gallery), overwrite=True)
    data = _data(args)
    categories = {args.category: open_category(data, args.category)} if args.category else open_categories(data)
    detector = _open(args)
    found: dict[str, dict[str, Figures]] = {}
    for name, category in categories.items():
        with _progress(args) as update:
            result = examine(
                category, lambda image, _: detector.scored_image(image), learned=detector.learned_, progress=update
            )
        for line in (*category.notes, *result.skipped):
            note_line(line)
        found[name] = result.by_kind()
        if args.gallery:
            _write_gallery(detector, result, Path(args.gallery))
    means = mean_figures({name: kinds["all"] for name, kinds in found.items()})
    if args.json:
        plain = {name: {kind: one.to_dict() for kind, one in kinds.items()} for name, kinds in found.items()}
        print_json({"categories": plain, "mean": means})
        return 0
    rows = [(name, kind, *_cells(one.to_dict())) for name, kinds in found.items() for kind, one in kinds.items()]
    if len(found) > 1:
        rows.append(("mean", "all", *_cells(means)))
    table(("category", "defects", *(name.replace("_", " ") for name in COLUMNS)), rows, right=range(2, 9))
    return 0


def _cells(figures: Mapping[str, float]) -> list[str]:
    return [percent(figures[name]) if name in figures else "" for name in COLUMNS]


def _write_gallery(detector: AnomalyDetector, result: Examined, path: Path) -> None:
    """A sheet with some images of every kind, picked by their place and not by how well they went."""
    from anprompt.data.images import open_image
    from anprompt.detection.masks import read_mask
    from anprompt.detection.overlay import gallery, overlay
    from anprompt.utils.files import atomic_write

    kinds = sorted({sample.kind for sample in result.samples})
    each = max(1, SHOWN // len(kinds))
    chosen = [s for kind in kinds for s in [x for x in result.samples if x.kind == kind][:each]]
    sheets = []
    for sample in chosen:
        answer = detector.answer(sample.path)
        try:
            truth = read_mask(sample.mask, answer.image.size) if sample.mask else None
        except UserError:
            truth = None
        sheets.append(overlay(open_image(sample.path), answer.map, floor=detector.floor_, contour=detector.contour_, truth=truth,
                              title=f"{sample.kind}  {answer.score:.3f}"))  # fmt: skip
    atomic_write(path, lambda temporary: gallery(sheets).save(temporary, "PNG"))


# --- threshold --------------------------------------------------------------------------------------
def _threshold(args: argparse.Namespace) -> int:
    from anprompt.detection import store
    from anprompt.detection.layouts import open_category
    from anprompt.detection.threshold import choose_threshold

    if args.false_alarms is None:
        raise UserError("'detect threshold' needs the rate of false alarms: --false-alarms 0.02")
    category = open_category(_data(args), args.category)
    detector = _open(args)
    held, scores = detector.not_learned(category), []
    with _progress(args) as update:
        for number, sample in enumerate(held, 1):
            try:
                scores.append(detector.answer(sample.path).score)
            except UserError as error:
                note_line(f"skipped: {error}")
            update(number, len(held))
    chosen = choose_threshold(scores, args.false_alarms)
    detector.set_threshold(chosen)
    store.write_threshold(args.names[0], chosen.to_dict())
    if args.json:
        print_json({**chosen.to_dict(), "promised": chosen.promised})
    else:
        _say_threshold(detector)
    return 0
