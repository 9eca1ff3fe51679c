"""What the runs of a sweep have in common: opened once, shared between them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from anprompt.backbones import Backbone, load_backbone
from anprompt.data.label_names import named, warn_of_codes
from anprompt.data.sources import open_dataset
from anprompt.data.types import Dataset
from anprompt.data.views import Views
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.evaluation.loaders import make_views
from anprompt.experiments.cache import Shelf, default_budget
from anprompt.experiments.protocols import Part, protocol
from anprompt.experiments.spec import RunSpec
from anprompt.experiments.test_images import DecodedImages
from anprompt.training.descriptions import match_descriptions, read_descriptions
from anprompt.training.feature_cache import DiskFeatureCache
from anprompt.training.job import Job, plan

KEPT_BYTES = 64 * 2**20  # of one part's pictures; larger parts are read anew each time


class ExperimentContext:
    """Backbones and data sets, opened once and shared between the runs of a sweep.

    Args:
        adapters: folder where trained methods are kept, so that another protocol on the same training
            measures without training again; None keeps nothing.
        budget: bytes for test pictures and for what the frozen encoder says of them.
        bank: folder and gigabytes of a view bank that trainings share; None computes every look.
    """

    def __init__(
        self, device: str = "cpu", adapters: str | Path | None = None, budget: int | None = None,
        bank: tuple[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.device = device
        self.bank = DiskFeatureCache(*bank) if bank else None
        self.adapters = Path(adapters) if adapters else None
        self.shelf = Shelf(default_budget() if budget is None else budget)
        self._backbones: dict[str, Backbone] = {}
        self._datasets: dict[tuple[str, str | None, str], Dataset] = {}

    def use(self, name: str, backbone: Backbone) -> None:
        """Give a loaded backbone for a specification's name."""
        self._backbones[name] = backbone

    def backbone(self, spec: RunSpec) -> Backbone:
        if spec.backbone not in self._backbones:
            self._backbones[spec.backbone] = load_backbone(spec.backbone, device=self.device)
        return self._backbones[spec.backbone]

    def dataset(self, spec: RunSpec, name: str | None = None) -> Dataset:
        """The run's data set, or another one under the same root."""
        key = name or spec.dataset, spec.root, spec.names if name in (None, spec.dataset) else ""
        if key not in self._datasets:
            data = self._datasets[key] = named(open_dataset(key[0], root=spec.root), key[2] or None)
            if name:  # of the run's own, the job tells it
                warn_of_codes(data.classnames, data.template, "folders named in words")
        return self._datasets[key]

    def test_views(
        self, spec: RunSpec, backbone: Backbone, part: Part, condition: Condition | None
    ) -> Views | DecodedImages:
        """Test pictures of a part, disturbed; small ones stay for the next method on the same data set."""
        if not part.data.test:
            raise UserError(f"{part.data.name} has no test pictures; give more pictures, or a test part.")
        noise = condition if condition and condition.kind == "image" else None
        if len(part.data.test) * 3 * backbone.dims.image_size**2 > KEPT_BYTES:
            data = part.data
            if noise:
                data = dataclasses.replace(data, read=noise.reader(data.read, backbone.dims.image_size))
            return make_views(backbone, data, data.test, probe="eval")
        key = backbone.weight_hash, spec.root, part.which, noise
        kept = self.shelf.get(part.source, key)
        if kept is None:
            if noise:
                clean = self.test_views(spec, backbone, part, None)
                assert isinstance(clean, DecodedImages)
                kept = clean.disturbed(noise)
            else:
                views = make_views(backbone, part.data, part.data.test, probe="eval")
                kept = DecodedImages.of(views, backbone.mean, backbone.std)
            self.shelf.put(part.source, key, kept, kept.nbytes)
        return kept

    def job(self, spec: RunSpec) -> Job:
        """What is trained in a run, by the way that `anprompt fit` goes too.

        Raises:
            UserError: whatever of the specification can't be done; also descriptions that lack a class which is tested.
        """
        dataset, known = self.dataset(spec), read_descriptions(spec.descriptions) if spec.descriptions else None
        job = plan(
            dataset, self.backbone(spec), method=spec.method, shots=spec.shots, seed=spec.seed,
            classes=protocol(spec.protocol).classes, settings=dict(spec.settings),
            train={**dict(spec.train), "precision": spec.precision}, descriptions=known, recipe=spec.recipe,
        )  # fmt: skip
        if job.resolved.reads_descriptions:  # told before the training, not after it
            match_descriptions(known or dataset.known_descriptions() or {}, dataset.classnames)
        return job

    def known_descriptions(self, spec: RunSpec, dataset: str) -> dict[str, list[str]]:
        """Whatever is known about the classes of a data set; may be nothing."""
        if spec.descriptions:
            return read_descriptions(spec.descriptions)
        return self.dataset(spec, dataset).known_descriptions() or {}
