"""`anprompt calibrate`: a temperature, and a threshold for "none of these", into an adapter's record."""

from __future__ import annotations

import argparse

from anprompt.commands._shared.common import PRECISIONS, add_adapter_folder, add_device, add_layout, add_names
from anprompt.commands._shared.parser import one_of, share
from anprompt.commands._shared.terminal import percent, print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `calibrate`."""
    add_adapter_folder(parser)
    parser.add_argument(
        "--data", metavar="SPEC", required=True,
        help="labelled pictures of the trained classes: a folder of class folders, a CSV file, embedded:NAME or coop:NAME",
    )  # fmt: skip
    add_layout(parser)
    add_names(parser)
    parser.add_argument("--root", metavar="DIR", help="what relative paths and coop:NAME start from")
    parser.add_argument(
        "--split", type=one_of("split", ("val", "test", "train", "all")), default="val", metavar="val|test|train|all",
        help="which pictures; those trained on would flatter (default: val)",
    )  # fmt: skip
    parser.add_argument(
        "--accept", type=share, metavar="SHARE",
        help="also a threshold for 'predict --none-of-these' that accepts this share of the pictures, such as 0.95",
    )  # fmt: skip
    parser.add_argument("--no-temperature", action="store_true", help="leave the probabilities as they are")
    add_device(parser, "precision of the frozen weights (default: fp32)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Fit and record."""
    from anprompt.adapters.adapter import load_adapter, read_config, trained_labels
    from anprompt.adapters.calibration_record import save_calibration
    from anprompt.backbones import load_backbone
    from anprompt.data.label_names import in_trained_names, named
    from anprompt.data.sources import open_dataset
    from anprompt.evaluation.calibration import calibrate
    from anprompt.evaluation.loaders import part_items

    config = read_config(args.adapter)  # slips show before a backbone is loaded
    trained, labels = tuple(map(str, config["classnames"])), trained_labels(config)
    data = open_dataset(args.data, root=args.root, layout=args.layout, known=(*trained, *labels))
    data = named(data, args.names) if args.names else in_trained_names(data, labels, trained)
    part_items(data, args.split)
    dtype = PRECISIONS[args.precision or "fp32"]
    given = load_backbone(args.backbone, device=args.device, dtype=dtype) if args.backbone else None
    method = load_adapter(args.adapter, backbone=given, device=args.device, dtype=dtype)
    found = calibrate(method, data, part=args.split, temperature=not args.no_temperature, accept=args.accept)
    save_calibration(args.adapter, found)
    if args.json:
        print_json(
            {
                "adapter": args.adapter,
                "data": data.name,
                "split": args.split,
                **found.to_dict(),
                "doubts": list(found.doubts),
            }
        )
        return 0
    say(
        f"temperature {found.temperature:.3f}: calibration error {percent(found.ece[0])} -> {percent(found.ece[1])} "
        f"on the {found.pictures} pictures it was fitted on ({data.name}, {args.split} split)"
    )
    if found.threshold is not None:
        say(f"threshold {found.threshold:.3f} accepts {percent(found.accept or 0)} of them")
    return 0
