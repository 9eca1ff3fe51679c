"""`anprompt convert`: prompts trained with the methods' official code become an adapter folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from anprompt.commands._shared.parser import setting
from anprompt.commands._shared.terminal import print_json, say
from anprompt.commands.fit import check_out
from anprompt.commands.predict import class_list
from anprompt.errors import UserError, choices

if TYPE_CHECKING:
    from anprompt.methods import Method


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`."""
    parser.add_argument(
        "file", metavar="FILE", help="'model.pth.tar-N' of CoOp, CoCoOp, MaPLe, PromptSRC, MMRL or MMRL++"
    )
    parser.add_argument(
        "--classes", required=True, metavar="NAMES",
        help="the classes it was trained on, in the order of their labels: 'a,b,c', or @file.txt",
    )  # fmt: skip
    parser.add_argument(
        "--backbone", required=True, metavar="NAME",
        help="the CLIP it was trained on, in hub format: a folder or a hub id",
    )  # fmt: skip
    parser.add_argument("--method", metavar="NAME", help="refuse a file of another method (default: as found)")
    parser.add_argument("--out", default="adapter", metavar="DIR", help="where the adapter goes")
    parser.add_argument(
        "--template", default="a photo of a {}.", metavar="TEXT",
        help="a sentence with {} for the class name (default: 'a photo of a {}.')",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="KEY=VALUE", dest="settings",
        help="what no tensor tells, e.g. class_position=middle, beta=0.7; may be given again",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --out")


def run(args: argparse.Namespace) -> int:
    """Read, check, save."""
    from anprompt.adapters.adapter import save_adapter
    from anprompt.adapters.official_checkpoints import from_state, method_of, official_methods, read_state
    from anprompt.adapters.official_files import check_class_count
    from anprompt.adapters.place import holds_adapter_here, holds_another
    from anprompt.backbones import load_backbone
    from anprompt.methods import check_template

    out = Path(args.out)
    check_out(out)
    if holds_adapter_here(out, overwrite=args.overwrite, option="--out", remedy="--overwrite"):
        raise holds_another(out, "--out", "--overwrite")
    if args.method is not None and args.method not in official_methods():
        raise choices("method of official files", args.method, official_methods())
    check_template(args.template)
    names = class_list(args.classes, whole=True)
    state = read_state(args.file)
    found = method_of(state, args.file)
    if args.method not in (None, found):
        raise UserError(f"{args.file} holds prompts of {found!r}, not of {args.method!r}; leave --method out.")
    check_class_count(state, len(names), args.file)
    # The backbone last: every other slip shows before a large model is loaded.
    backbone = load_backbone(args.backbone)
    method = from_state(state, backbone, names, template=args.template, settings=dict(args.settings), path=args.file)
    save_adapter(out, method, record={"converted_from": Path(args.file).name}, overwrite=args.overwrite)
    _report(args, out, method)
    return 0


def _report(args: argparse.Namespace, out: Path, method: Method) -> None:
    from anprompt.adapters.adapter import TENSORS

    size, trained = (out / TENSORS).stat().st_size / 1024, method.trained_parameters()
    classes = len(method.trained_classnames)
    if args.json:
        print_json({
            "adapter": str(out), "method": method.name, "settings": method.config.to_dict(),
            "backbone": method.backbone.id, "classes": classes, "template": method.template,
            "trained_parameters": trained, "size_kb": round(size, 1),
        })  # fmt: skip
        return
    say(f"adapter {out}: {method.name} for {classes} classes, {trained:,} trained parameters, {size:.0f} KB")
    if not args.quiet:
        say(f"next: anprompt predict {shlex.quote(str(out))} PICTURE")
