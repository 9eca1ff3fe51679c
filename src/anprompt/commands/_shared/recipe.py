"""Which recipe `fit` trains by, and what it says while it chooses one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt.commands._shared.terminal import percent, say
from anprompt.errors import UserError, choices

if TYPE_CHECKING:
    from anprompt.training.auto import Choice
    from anprompt.training.feature_cache import FeatureCache
    from anprompt.training.job import Job

AUTO, FEW_SHOT, BASE_TO_NEW = "auto", "few-shot", "base-to-new"
FILE = "auto.json"  # in the state folder: what was chosen, for a run that goes on


def named_recipe(args: argparse.Namespace, values: Mapping[str, Any], together: bool) -> str:
    """The recipe that was asked for, or the one that fits the use.

    Training on all classes without a setting of one's own: `auto`. With `--subset`, or with settings of the recipe given:
    base to new, the published one.

    Args:
        values: settings of method and training that were given.
        together: whether several processes share the run.

    Raises:
        UserError: `auto` for a method or a run that has none.
    """
    from anprompt.experiments.protocols import PROTOCOLS, protocol
    from anprompt.methods import get_method, get_preset

    kind = get_method(get_preset(args.method).method)
    by_steps = kind.trains and not kind.from_features
    if args.recipe is None:
        free = by_steps and args.classes == "all" and not values and not together
        return AUTO if free else BASE_TO_NEW
    if args.recipe not in (AUTO, *PROTOCOLS):
        raise choices("recipe", args.recipe, (AUTO, *PROTOCOLS))
    if args.recipe != AUTO:
        return str(protocol(args.recipe).recipe or args.recipe)
    if not by_steps:
        raise UserError(
            f"--recipe auto chooses how prompts are trained; {args.method} is trained in one go. Leave it out."
        )
    if together:
        raise UserError("--recipe auto runs in one process; with torchrun give --recipe few-shot.")
    return AUTO


def choose_recipe(
    args: argparse.Namespace, job: Job, fixed: Mapping[str, Any], bank: FeatureCache, state: Path
) -> Choice:
    """Choose on the training images, telling what it takes and what came out; kept for a run that goes on."""
    from anprompt.training.auto import Choice, choose, probe_first, steps_of_selection
    from anprompt.utils.files import read_json, write_json

    note = state / FILE
    if note.is_file():
        kept = read_json(note)
        if isinstance(kept, dict) and kept.get("run") == job.key:
            return Choice(kept["settings"], kept["train"], kept["evidence"])
    quiet = args.quiet or args.json
    before, after = steps_of_selection(job)
    right, seconds = probe_first(job, bank)
    if not quiet:
        reached = f"reaches {percent(right)} on held-out training images" if right is not None else "is trained"
        say(f"a linear probe {reached} in {seconds:.1f} s; prompts are being trained")
        if before:
            say(f"auto: at most {before:,} steps of choosing before {after:,} of training")
    found = choose(job, bank, None if quiet else say, fixed=fixed)
    if right is not None:
        found.evidence["linear probe, cross-validated"] = round(right, 4)
    write_json(note, {"run": job.key, "settings": found.settings, "train": found.train, "evidence": found.evidence})
    return found
