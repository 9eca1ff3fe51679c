"""`anprompt attack`: what accuracy is left of an adapter when somebody tries to make it err."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.attacks.threat import ATTACKS, NORMS, ThreatModel, check_library
from anprompt.commands._shared.common import ZEROSHOT, add_adapter, add_data, add_device, add_names, open_method
from anprompt.commands._shared.parser import one_of, whole
from anprompt.commands._shared.terminal import note_line, percent, print_json, progress, say, table
from anprompt.errors import UserError
from anprompt.utils.fractions import fraction

if TYPE_CHECKING:
    from anprompt.data.types import Dataset
    from anprompt.methods import Classifier

USUAL = "pgd-ce,pgd-margin,transfer"
SIZES = "1/255,2/255,4/255"
SPLITS = ("test", "val", "train", "all")  # as in `anprompt.evaluation.loaders`, which imports torch
FRAGILE = 10  # classes that are told
SHOWN = 8  # images of the gallery


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `anprompt attack`."""
    add_adapter(parser)
    add_data(parser, "which classes: all of the data, or the field's halves (default: all)")
    add_names(parser)
    parser.add_argument(
        "--split",
        type=one_of("split", SPLITS),
        default="test",
        metavar="|".join(SPLITS),
        help="which images (default: test)",
    )
    parser.add_argument(
        "--attacks", default=USUAL, metavar="A,A,...", help=f"of {', '.join(ATTACKS)} (default: %(default)s)"
    )
    parser.add_argument(
        "--eps", default=SIZES, metavar="E,E,...", help="sizes, in units of pixels in [0, 1] (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=whole(0), default=20, metavar="N", help="steps of each attack (default: %(default)s)"
    )
    parser.add_argument(
        "--restarts", type=whole(0), default=1, metavar="N", help="random starts (default: %(default)s)"
    )
    parser.add_argument(
        "--norm", default="linf", metavar="|".join(NORMS), help="norm of the sizes (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, metavar="N", help="of random starts (default: %(default)s)")
    parser.add_argument("--images", type=whole(1), metavar="N", help="at most so many images, drawn (default: all)")
    parser.add_argument(
        "--out", default="attack", metavar="DIR", help="folder of the page and the figures (default: %(default)s/)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files in --out that are not of anprompt")
    add_device(parser, "precision of the frozen weights; attacks run in fp32 alone")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def threats(args: argparse.Namespace) -> tuple[ThreatModel, ...]:
    """The attacks that the options ask for, smaller sizes first.

    Raises:
        UserError: one can't be, or needs the extra.
    """
    names, sizes = ([w.strip() for w in text.split(",") if w.strip()] for text in (args.attacks, args.eps))
    if not names or not sizes:
        raise UserError(f"--{'eps' if names else 'attacks'} is empty; give values separated by commas.")
    found = [
        ThreatModel(name, args.norm, fraction(size), args.steps, args.restarts, seed=args.seed)
        for size in sizes
        for name in names
    ]
    if any(threat.runner == "library" for threat in found):
        check_library()
    return tuple(dict.fromkeys(sorted(found, key=lambda threat: threat.eps)))


def run(args: argparse.Namespace) -> int:
    """Attack, print what is left, write the page."""
    from anprompt.experiments.measurement import MeasurementLog
    from anprompt.experiments.records import spec_hash
    from anprompt.report.attack_page import check_page

    asked = threats(args)
    data = images(args)
    out = Path(args.out)
    check_page(out, args.overwrite)
    method = open_method(args, data.classnames, data.template)
    facts = {
        "adapter": str(args.adapter), "backbone": method.backbone.weight_hash, "data": data_facts(data),
        "tensors": tensors_hash(method), "classes": list(data.classnames),
    }  # fmt: skip
    log = MeasurementLog(out / ".state" / spec_hash(facts)[:16])
    result = measured(args, method, data, asked, log)
    from anprompt.report.attack_page import write_page

    path = write_page(out, result, overwrite=args.overwrite)
    if args.json:
        print_json({key: value for key, value in result.items() if key != "gallery"})
        return 0
    show(result)
    say(f"Page and figures: {path}")
    return 0


def images(args: argparse.Namespace) -> Dataset:
    """The data set with the images to attack as its test part.

    Raises:
        UserError: one class, no images of the split.
    """
    import dataclasses

    from anprompt.adapters.adapter import read_config, trained_labels
    from anprompt.data.candidates import candidates
    from anprompt.data.label_names import in_trained_names, named
    from anprompt.data.sources import open_dataset
    from anprompt.data.splits import subset_classes
    from anprompt.evaluation.loaders import part_items
    from anprompt.experiments.protocols.adversarial import drawn
    from anprompt.experiments.protocols.base import Part

    config = {} if args.adapter == ZEROSHOT else read_config(args.adapter)
    trained = tuple(map(str, config.get("classnames", ())))
    labels = trained_labels(config) if config else ()
    data = open_dataset(
        args.data, root=args.root, layout=args.layout, known=(*trained, *labels), least_classes=1 if trained else 2
    )
    data = named(data, args.names) if args.names else in_trained_names(data, labels, trained)
    data = subset_classes(data, args.classes)
    if args.classes == "all":
        data, told = candidates(data, trained, "auto")
        for line in told:
            note_line(line)
    if len(data.classnames) < 2:
        raise UserError(f"{data.name} has one class only; there is nothing to take an image for. Give two or more.")
    data = dataclasses.replace(data, test=part_items(data, args.split))
    return drawn(Part(data.name, args.split, data), args.images).data if args.images else data


def data_facts(data: Dataset) -> str:
    """A hash of the images and their labels."""
    from anprompt.experiments.records import data_hash

    return data_hash(data.test)


def tensors_hash(method: Any) -> str:
    """A hash of the method's own tensors: another adapter in the same folder is another attack."""
    import hashlib

    digest = hashlib.sha256(repr((method.name, method.config.to_dict(), method.temperature)).encode())
    for key, value in sorted(method.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def measured(
    args: argparse.Namespace, method: Any, data: Dataset, asked: Sequence[ThreatModel], log: Any
) -> dict[str, Any]:
    """Figures, classes and gallery as plain values (the gallery holds images)."""
    from anprompt.evaluation.loaders import make_views
    from anprompt.experiments.attacked import attacked_entries, doubtful
    from anprompt.methods import Classifier

    views = make_views(method.backbone, data, data.test, probe="eval")
    classifier = Classifier(method, data.classnames)
    names = [str(threat) for threat in asked]
    with progress("attacking", enabled=not (args.quiet or args.json)) as update:
        found = attacked_entries(
            names, {"images": (classifier, views)}, log, lambda done, text: update(round(1000 * done), 1000)
        )
    entries = {name: found[name]["images"] for name in names}
    first = next(iter(entries.values()))
    return {
        "adapter": str(args.adapter), "method": method.preset or method.name, "data": data.name, "split": args.split,
        "images": first["pictures"], "classes": len(data.classnames), "head": classifier.head, "accuracy": first["clean"],
        "skipped": list(views.skipped), "attacks": entries, "doubts": doubtful(entries),
        "fragile": fragile(entries), "gallery": gallery(classifier, views, data, entries),
    }  # fmt: skip


def fragile(entries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Classes that lose most under all attacks of the smallest size at once, the most fragile first."""
    from anprompt.experiments.protocols.adversarial import by_size

    names = next(iter(by_size(entries).values()))
    first = entries[names[0]]
    truth = first["labels"].split()
    kept = [all(entries[name]["predicted"].split()[at] == label for name in names) for at, label in enumerate(truth)]
    order = list(dict.fromkeys(sorted(truth, key=int)))
    rows = []
    for label, name in zip(order, first["per_class"], strict=True):
        places = [at for at, other in enumerate(truth) if other == label]
        rows.append({"class": name, "images": len(places), "left": 100 * sum(kept[at] for at in places) / len(places)})
    return sorted(rows, key=lambda row: row["left"])[:FRAGILE]


def gallery(classifier: Classifier, views: Any, data: Dataset, entries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Images that are right as they are and lost at the smallest size that loses any: before, after, what changed."""
    import torch

    from anprompt.attacks.run import attack_images
    from anprompt.data.identity import identities
    from anprompt.evaluation.loaders import make_views

    ordered = sorted(map(ThreatModel.parse, entries), key=lambda threat: (threat.attack == "transfer", threat.eps))
    for threat in ordered:
        entry = entries[str(threat)]
        lost = lost_places(entry, classifier, views)[:SHOWN]
        if not lost:
            continue
        few = make_views(classifier.method.backbone, data, tuple(views.items[at] for at in lost), probe="eval")
        made = attack_images(classifier, few, threat, keys=identities(few.items), keep=range(len(few)))
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (classifier.method.backbone.mean, classifier.method.backbone.std)
        )
        return [
            {
                "truth": classifier.classnames[int(few.labels[at])], "answer": classifier.classnames[int(made.attacked[at])],
                "attack": str(threat), "before": bytes_of(few.eval_batch([at])[0] * std + mean), "after": bytes_of(after),
                "change": bytes_of(0.5 + 10 * (after - (few.eval_batch([at])[0] * std + mean))),
            }
            for at, after in made.images.items()
            if made.attacked[at] != few.labels[at]
        ]  # fmt: skip
    return []


def lost_places(entry: Mapping[str, Any], classifier: Classifier, views: Any) -> list[int]:
    """Places of images that an attack turned; those that were wrong before are left out."""
    from anprompt.attacks.run import clean_logits

    before = clean_logits(classifier, views).argmax(1).tolist()
    truth, after = ([int(word) for word in entry[key].split()] for key in ("labels", "predicted"))
    return [at for at, label in enumerate(truth) if before[at] == label != after[at]]


def bytes_of(pixels: Any) -> Any:
    """[3, H, W] in [0, 1] as uint8 [H, W, 3]."""
    return (pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def show(result: Mapping[str, Any]) -> None:
    """What is left, and of which classes least."""
    say(
        f"{result['method']} on {result['data']}: {result['images']} images, {result['classes']} classes, accuracy "
        f"{percent(result['accuracy'] / 100)} as they are"
    )
    rows = [
        (entry["threat"]["size"], ThreatModel.parse(name).title, percent(entry["accuracy"] / 100), name)
        for name, entry in result["attacks"].items()
    ]
    table(("size", "attack", "accuracy left", "threat model"), rows, right=(2,))
    worst = [(row["class"], row["images"], percent(row["left"] / 100)) for row in result["fragile"]]
    table(("most fragile classes", "images", "accuracy left"), worst, right=(1, 2))
    for line in result["doubts"]:
        note_line(line)
