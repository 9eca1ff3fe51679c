"""Options and steps that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anprompt.commands._shared.parser import one_of, renamed
from anprompt.commands._shared.terminal import say
from anprompt.errors import UserError

if TYPE_CHECKING:
    from anprompt.data.types import Dataset
    from anprompt.methods import Method

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ZEROSHOT = "zeroshot"


def add_data(parser: argparse.ArgumentParser, classes_help: str) -> None:
    """--data, --root, --subset."""
    parser.add_argument(
        "--data",
        metavar="SPEC",
        required=True,
        help="a folder of class folders, a CSV file, embedded:NAME or coop:NAME",
    )
    add_layout(parser)
    parser.add_argument("--root", metavar="DIR", help="what relative paths and coop:NAME start from")
    parser.add_argument(
        "--subset",
        dest="classes",
        type=one_of("class subset", ("all", "base", "new")),
        default="all",
        metavar="all|base|new",
        help=classes_help,
    )
    renamed(parser, "--classes", "--subset")


def add_layout(parser: argparse.ArgumentParser) -> None:
    """--layout."""
    from anprompt.data.part_names import LAYOUTS

    parser.add_argument(
        "--layout", type=one_of("layout", LAYOUTS), default="auto", metavar="|".join(LAYOUTS),
        help="what a folder's folders are, where they can be read in two ways (default: auto)",
    )  # fmt: skip


def say_reading(args: argparse.Namespace, dataset: Dataset) -> None:
    """How a folder or table was understood; each class and each file left out with --verbose."""
    from anprompt.data.reading import reading_lines

    if not (args.quiet or args.json):
        for line in reading_lines(dataset, verbose=args.verbose):
            say(line)


def add_names(parser: argparse.ArgumentParser) -> None:
    """--names."""
    parser.add_argument(
        "--names", metavar="FILE",
        help="names for classes called by numbers or codes: JSON {label: name}, a table label,name, or a name a line",
    )  # fmt: skip


def add_device(parser: argparse.ArgumentParser, precision_help: str, option: str = "--dtype") -> None:
    """--device, and --dtype of the frozen weights or --autocast of a training."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument(
        option,
        dest="precision",
        type=one_of("precision", PRECISIONS),
        default=None,
        metavar="fp32|bf16|fp16",
        help=precision_help,
    )
    renamed(parser, "--precision", option)


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """ADAPTER, --backbone, --template."""
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter folder, or 'zeroshot' for plain CLIP")
    parser.add_argument(
        "--backbone", metavar="NAME", help="hub id or folder, if not the one recorded (zeroshot: embedded)"
    )
    parser.add_argument("--template", metavar="TEXT", help="a sentence with {} for the class name")


def add_adapter_folder(parser: argparse.ArgumentParser) -> None:
    """ADAPTER that must be a folder, --backbone."""
    parser.add_argument("adapter", metavar="ADAPTER", help="an adapter folder")
    parser.add_argument("--backbone", metavar="NAME", help="hub id or folder, if not the one recorded")


def open_method(args: argparse.Namespace, classnames: Sequence[str] | None, template: str | None) -> Method:
    """The adapter's method, or zero-shot CLIP.

    Args:
        classnames, template: of zero-shot CLIP; `--template` goes first.
    """
    from anprompt.adapters.adapter import load_adapter, read_config
    from anprompt.backbones import load_backbone
    from anprompt.data.label_names import warn_of_codes
    from anprompt.methods import check_template, create_method

    dtype = PRECISIONS[args.precision or "fp32"]
    if args.template is not None:
        check_template(args.template)
    if args.adapter == ZEROSHOT:
        if not classnames:
            raise UserError('zeroshot knows no classes of its own; give them with --classes "a,b,c".')
        warn_of_codes(classnames, args.template or template or "a photo of a {}.")
        backbone = load_backbone(args.backbone or "embedded", device=args.device, dtype=dtype)
        sentence = args.template or template or "a photo of a {}."
        return create_method(ZEROSHOT, backbone, classnames, template=sentence)
    read_config(args.adapter)  # a slip in the folder's name shows before a backbone is loaded
    given = load_backbone(args.backbone, device=args.device, dtype=dtype) if args.backbone else None
    method = load_adapter(args.adapter, backbone=given, device=args.device, dtype=dtype)
    if args.template is not None:
        method.template = args.template
    return method
