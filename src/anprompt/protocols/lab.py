"""What the runs of a sweep have in common: opened once, shared between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anprompt.backbones import Backbone, load_backbone
from anprompt.conditions import Condition
from anprompt.data.sources import open_dataset
from anprompt.data.types import Dataset
from anprompt.data.views import Views
from anprompt.errors import UserError
from anprompt.methods import method_class, preset
from anprompt.protocols.spec import RunSpec
from anprompt.tuning import make_views, match_descriptions, read_descriptions, wants_descriptions

KEPT_BYTES = 32 * 2**20


class Lab:
    """Backbones and data sets, opened once and shared between the runs of a sweep.

    Args:
        adapters: folder where trained methods are kept, so that another protocol on the same training
            measures without training again; None keeps nothing.
    """

    def __init__(self, device: str = "cpu", adapters: str | Path | None = None) -> None:
        self.device = device
        self.adapters = Path(adapters) if adapters else None
        self._backbones: dict[str, Backbone] = {}
        self._datasets: dict[tuple[str, str | None], Dataset] = {}
        self._views: dict[tuple[Any, ...], Views] = {}

    def use(self, name: str, backbone: Backbone) -> None:
        """Give a loaded backbone for a specification's name."""
        self._backbones[name] = backbone

    def backbone(self, spec: RunSpec) -> Backbone:
        if spec.backbone not in self._backbones:
            self._backbones[spec.backbone] = load_backbone(spec.backbone, device=self.device)
        return self._backbones[spec.backbone]

    def dataset(self, spec: RunSpec) -> Dataset:
        key = spec.dataset, spec.root
        if key not in self._datasets:
            self._datasets[key] = open_dataset(spec.dataset, root=spec.root)
        return self._datasets[key]

    def test_views(
        self, spec: RunSpec, backbone: Backbone, half: Dataset, which: str, condition: Condition | None
    ) -> Views:
        """Test pictures of a half, disturbed; small ones stay for the next method on the same data set."""
        noise = condition if condition and condition.kind == "image" else None
        key = backbone.weight_hash, spec.dataset, spec.root, which, noise
        if key not in self._views:
            if self._views and next(iter(self._views))[:3] != key[:3]:
                self._views.clear()
            if noise:
                half = dataclasses.replace(half, read=noise.reader(half.read, backbone.dims.image_size))
            views = make_views(backbone, half, half.test, probe="eval")
            if len(views) * 3 * backbone.dims.image_size**2 > KEPT_BYTES:
                return views
            self._views[key] = views
        return self._views[key]

    def descriptions(self, spec: RunSpec, classnames: Sequence[str]) -> dict[str, list[str]]:
        """Sentences per class, from the given file or from the embedded data set; empty if none are read."""
        recipe = preset(spec.method, spec.protocol)
        config = method_class(recipe.method).Config.from_dict({**recipe.settings, **dict(spec.settings)})
        if not wants_descriptions(config):
            return {}
        kind, _, name = spec.dataset.partition(":")
        if spec.descriptions:
            known = read_descriptions(spec.descriptions)
        elif kind == "embedded":
            from anprompt.data.embedded import embedded_descriptions

            known = embedded_descriptions(name)
        else:
            raise UserError(
                f"{spec.method} reads class descriptions; give {{class: [sentences]}} with --descriptions."
            )
        return match_descriptions(known, tuple(classnames))
