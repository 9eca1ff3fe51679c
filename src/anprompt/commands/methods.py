"""`anprompt methods`: what can be trained, by which recipe, and how much of it is trained on a backbone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.terminal import print_json, say, table
from anprompt.errors import UserError, choices

if TYPE_CHECKING:
    from anprompt.backbones import Backbone

# Two classes stand in for the caller's: only class-specific context grows with their number.
_CLASSES = ("cat", "dog")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `methods`."""
    parser.add_argument("preset", nargs="?", metavar="NAME", help="one preset in full, with the source of every value")
    parser.add_argument(
        "--backbone", default="embedded", metavar="NAME",
        help="where trained parameters are counted: embedded, a folder or a hub id (default: embedded)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """List the presets, or show one."""
    from anprompt.methods import list_presets

    names = list_presets()
    if args.preset is not None and args.preset not in names:
        raise choices("method", args.preset, names)
    from anprompt.backbones import load_backbone

    backbone = load_backbone(args.backbone)
    entries = [describe(name, backbone) for name in ([args.preset] if args.preset else names)]
    if args.json:
        print_json(entries[0] if args.preset else entries)
    elif args.preset:
        _show(entries[0])
    else:
        _list(entries, backbone.id)
    return 0


def describe(name: str, backbone: Backbone) -> dict[str, Any]:
    """All that is known of a preset, as plain values.

    Returns:
        name, method, paper, settings, train (empty where nothing is trained), trained_parameters on the
        backbone (None with `not_counted`, the reason, where it can't be built there), and the preset's file.
    """
    from anprompt.methods import create_method, get_method, get_preset
    from anprompt.training.loop import TrainConfig

    recipe = get_preset(name)
    cls = get_method(recipe.method)
    entry: dict[str, Any] = {
        "name": name,
        "method": recipe.method,
        "paper": cls.paper,
        "from_features": cls.from_features,
        "settings": cls.Config.from_dict(recipe.settings).to_dict(),
        "train": {},
        "backbone": backbone.id,
    }
    try:
        built = create_method(name, backbone, _CLASSES, fresh=False)
        entry["trained_parameters"] = built.trained_parameters()
        entry["counted_for_classes"] = len(_CLASSES) if built.by_class else None  # they grow with the list
    except UserError as error:
        entry |= {"trained_parameters": None, "not_counted": str(error)}
    if entry["trained_parameters"] != 0:
        train = TrainConfig.from_dict(recipe.train).to_dict()
        entry["train"] = {key: value for key, value in train.items() if key != "seed"}
    entry["file"] = preset_text(name)
    return entry


def preset_text(name: str) -> str:
    """The preset's TOML with its comments; empty for a plug-in's method, which has none."""
    from importlib import resources

    file = resources.files("anprompt") / "presets" / f"{name}.toml"
    return file.read_text(encoding="utf-8") if file.is_file() else ""


# --- words ----------------------------------------------------------------------------------------
def _count(entry: Mapping[str, Any]) -> str:
    count = entry["trained_parameters"]
    classes = entry.get("counted_for_classes")
    return "-" if count is None else f"{count:,}" + (f" for {classes} classes" if classes else "")


def _recipe(train: Mapping[str, Any], from_features: bool = False) -> str:
    """`sgd lr 0.002, 50 epochs, batch 32`."""
    if not train:
        return "nothing to train"
    if from_features:
        return f"on frozen features of {max(train.get('views', 1), 1)} views, in one go"
    return f"{train['optimizer']} lr {train['lr']:g}, {train['epochs']} epochs, batch {train['batch_size']}"


def _list(entries: list[dict[str, Any]], backbone: str) -> None:
    rows = [(e["name"], e["method"], e["paper"], _count(e), _recipe(e["train"], e["from_features"])) for e in entries]
    table(("name", "method", "paper", "trained", "recipe (base-to-new, 16 shots)"), rows, right=(3,))
    table(("name", "settings (--set KEY=VALUE)"), [(e["name"], _pairs(e["settings"])) for e in entries])
    say(f"trained: number of trained parameters on {backbone}; one preset in full: anprompt methods NAME")


def _pairs(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{key}={_word(value)}" for key, value in values.items())


def _word(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if value == "" or " " in str(value) else str(value)


def _show(entry: Mapping[str, Any]) -> None:
    say(f"{entry['name']}: method {entry['method']}, {entry['paper']}")
    reason = f" ({entry['not_counted']})" if "not_counted" in entry else ""
    say(f"trained parameters on {entry['backbone']}: {_count(entry)}{reason}")
    say(f"settings: {_pairs(entry['settings'])}")
    say(f"recipe:   {_pairs(entry['train']) or 'nothing to train'}")
    if not entry["file"]:
        say("no preset file: the method's own defaults")
        return
    say("")
    say("as written, with what the protocols change:")
    for line in entry["file"].splitlines():
        say(f"  {line}" if line else "")
