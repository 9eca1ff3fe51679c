"""`anprompt methods`: what can be trained."""

from __future__ import annotations

import argparse

from anprompt.commands.terminal import print_json, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `methods`."""
    parser.add_argument("--json", action="store_true", help="print the list as JSON, with all settings")


def run(args: argparse.Namespace) -> int:
    """List the presets, the method each runs, and its paper."""
    from anprompt.methods import method_class, preset, preset_names

    rows = []
    for name in preset_names():
        recipe = preset(name)
        cls = method_class(recipe.method)
        settings = cls.Config.from_dict(recipe.settings).to_dict()
        rows.append((name, recipe, cls.paper, settings))
    if args.json:
        print_json([
            {"name": name, "method": recipe.method, "paper": paper, "settings": settings, "train": dict(recipe.train)}
            for name, recipe, paper, settings in rows
        ])  # fmt: skip
        return 0
    table(("name", "method", "paper"), [(name, recipe.method, paper) for name, recipe, paper, _ in rows])
    return 0
