"""Old module paths, which go on working for one version.

`import anprompt.predict` gives `anprompt.classifier`, the same module object, with a `DeprecationWarning` that
names the new place.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "adapter_checks": "adapters.checks",
    "bench": "commands.bench",
    "calibrate": "evaluation.calibration",
    "checkpoint": "adapters.adapter",
    "checkpoints_field": "adapters.official_checkpoints",
    "cli": "commands.main",
    "commands.common": "commands._shared.common",
    "commands.examples": "commands._shared.examples",
    "commands.parser": "commands._shared.parser",
    "commands.terminal": "commands._shared.terminal",
    "commands.together": "commands._shared.together",
    "conditions": "evaluation.conditions",
    "data.bank": "training.feature_cache",
    "data.catalog": "data.classic.catalog",
    "data.check": "data.classic.check",
    "data.coop": "data.classic.coop",
    "data.downloads": "data.classic.downloads",
    "data.hub": "data.classic.hub",
    "data.labelled": "data.classic.labelled",
    "data.placing": "data.classic.placing",
    "data.prepare": "data.classic.prepare",
    "demo": "commands.demo",
    "distributed": "training.distributed",
    "engines": "experiments.runners",
    "estimate": "experiments.estimate",
    "evaluate": "evaluation.evaluate",
    "export": "adapters.onnx",
    "files": "utils.files",
    "forecast": "training.forecast",
    "gallery": "report.gallery",
    "ledger": "tables.claims",
    "live": "commands.progress",
    "looks": "training.frozen_features",
    "losses": "methods.losses",
    "machine": "utils.machine",
    "memory": "prompting.memory",
    "noise.weak_noise": "methods.weak_noise",
    "packing": "prompting.packing",
    "pictures": "data.inputs",
    "predict": "classifier",
    "protocols": "experiments",
    "protocols.lab": "experiments.context",
    "protocols.measuring": "experiments.measurement",
    "protocols.parts": "experiments.steps",
    "protocols.pictures": "experiments.test_images",
    "protocols.shelf": "experiments.cache",
    "protocols.spec": "experiments.spec",
    "ray_engine": "experiments.runners.ray",
    "results": "experiments.records",
    "sharing": "prompting.shared_text",
    "stats": "evaluation.statistics",
    "store": "utils.storage",
    "sweep": "experiments.sweep",
    "templates": "methods.templates",
    "tensorboard": "training.tensorboard",
    "train": "training.loop",
    "train_state": "training.state",
    "tuning": "training.job",
    "workers": "experiments.runners.local",
}


class _Forwarder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name and gives the one at its new place."""

    def __init__(self) -> None:
        self._own: dict[str, importlib.machinery.ModuleSpec | None] = {}  # a module's own spec, by old name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, old = fullname.partition(".")
        if package != "anprompt" or old not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"anprompt.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._own[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run at its new place; what the import machinery wrote over is put back."""
        old = module.__spec__
        if old is not None and old.name in self._own:
            module.__spec__ = self._own.pop(old.name)


def install() -> None:
    """Let old paths be imported."""
    if not any(isinstance(finder, _Forwarder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Forwarder())  # before the finder of files, which would load a moved package twice
