"""`anprompt export`: an adapter with a class list as one ONNX file that runs without torch."""

from __future__ import annotations

import argparse

from anprompt.commands._shared.common import add_adapter, open_method
from anprompt.commands._shared.parser import one_of, whole
from anprompt.commands._shared.terminal import print_json, say
from anprompt.commands.predict import class_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    add_adapter(parser)
    parser.add_argument(
        "--classes", metavar="NAMES", help="'a,b,c', or @file.txt with a name per line (default: as trained)"
    )
    parser.add_argument("--out", default="model.onnx", metavar="FILE", help="default: model.onnx; model.json joins it")
    parser.add_argument(
        "--head", type=one_of("head", ("auto", "trained", "unseen")), default="auto",
        metavar="auto|trained|unseen", help="auto: 'trained' where all classes were trained on",
    )  # fmt: skip
    parser.add_argument("--opset", type=whole(1), default=18, metavar="N", help="ONNX operator set (default: 18)")
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with the adapter's own answers")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Open, trace, check, write."""
    from anprompt.adapters.onnx import check_target, export_onnx

    check_target(args.out, args.opset, args.overwrite)  # slips show before a model is loaded
    names = class_list(args.classes) if args.classes is not None else None
    args.device, args.precision = "cpu", "fp32"
    done = export_onnx(
        open_method(args, names, None), args.out, names, head=args.head, opset=args.opset,
        check=not args.no_check, overwrite=args.overwrite,
    )  # fmt: skip
    facts = done.facts
    if args.json:
        print_json({"onnx": str(done.path), "json": str(done.facts_path), **facts})
        return 0
    size, worst = facts["bytes"] / 1e6, facts["largest_difference"]
    checked = f"checked: differs by at most {max(worst.values()):.0e}" if worst else "not checked"
    say(
        f"{done.path}: {facts['preset']}, {len(facts['classes'])} classes, {facts['head']} head, {size:.1f} MB, {checked}"
    )
    if not args.quiet:
        say(f"next: python examples/onnx_predict.py {done.path} PICTURE (class names: {done.facts_path})")
    return 0
