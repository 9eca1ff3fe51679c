"""The protocol `anomaly`: detection methods on categories, at several numbers of normal images, with several seeds.

>>> specs = plan(["embedded:boards"], ["clip", "patchcore"], shots=[1, 4], seeds=[1, 2])
>>> records = run_all(specs, "runs/")

A run is fitted on the images that its seed draws, tested once on all test images, and written as one record. What the frozen
encoder says of a test image is the same for all runs that look at it in the same way, so it is seen once for all of them.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from anprompt.backbones import Backbone, load_backbone
from anprompt.detection import detection_method
from anprompt.detection.base import Scored
from anprompt.detection.detector import AnomalyDetector
from anprompt.detection.evaluation import Examined, examine, file_hash_or_none
from anprompt.detection.features import Look, Sight, look
from anprompt.detection.layouts import Category, Sample, open_category
from anprompt.detection.metrics import PRO_LIMIT, pro_curve
from anprompt.errors import UserError
from anprompt.experiments.records import finished, now, save_record, spec_hash, versions
from anprompt.experiments.schema import FORMAT, ExtendedRecord, Record
from anprompt.prompting.compute import threads_for
from anprompt.utils.files import atomic_write, read_tensors, write_tensors
from anprompt.utils.machine import hardware, peak_memory_mb

PROTOCOL = "anomaly"
CURVE_POINTS = 61
SHOWN_OF_A_KIND, SHOWN_SIDE = 2, 32  # maps that a record keeps, and pixels of their longer side
Told = Callable[["AnomalySpec", ExtendedRecord, bool], None]  # a run, its record, and whether that was there before


@dataclass(frozen=True)
class AnomalySpec:
    """Everything that decides a run's numbers.

    Attributes:
        dataset: as `open_category` takes it; a name for people and the folder's name for what is recorded.
        category: where the data set has several.
        shots: normal images; 0 for zero-shot methods.
        tiles: windows along the shorter side; 0 for "auto".
        settings: what replaces the method's values, as (name, value) pairs.
        root: where the data set lies; not a part of the identity.
    """

    dataset: str
    method: str
    shots: int
    seed: int = 1
    category: str = ""
    backbone: str = "embedded"
    tiles: int = 0
    settings: tuple[tuple[str, Any], ...] = ()
    root: str = dataclasses.field(default="", compare=False)

    def identity(self) -> dict[str, Any]:
        """As plain JSON values; what the record's name is a hash of."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "root"}
        return json.loads(json.dumps({"protocol": PROTOCOL, **values, "settings": dict(self.settings)}))

    @property
    def source(self) -> str:
        """What `open_category` opens."""
        return self.dataset if self.dataset.startswith("embedded:") else str(Path(self.root) / self.dataset)


def plan(
    datasets: Iterable[str], methods: Sequence[str], *, shots: Sequence[int], seeds: Sequence[int],
    overrides: Mapping[str, Mapping[str, Any]] | None = None, **common: Any,
) -> list[AnomalySpec]:  # fmt: skip
    """One run per data set, method, number of shots and seed; what changes nothing is left out.

    Args:
        overrides: settings by method.
        common: what all runs share, as `AnomalySpec` takes it.

    Returns:
        Runs on one data set together, so that they share what is seen of it.
    """
    specs = []
    for dataset in datasets:
        for method in methods:
            kind = detection_method(method)
            settings = tuple(
                sorted(
                    (key, tuple(v) if isinstance(v, list) else v)
                    for key, v in (overrides or {}).get(method, {}).items()
                )
            )
            for number in shots:
                if number == 0 and kind.few_shot:
                    continue
                blind = number == 0 or method == "clip"
                specs += [AnomalySpec(dataset, method, 0 if method == "clip" else number, seed, settings=settings, **common)
                          for seed in (seeds[:1] if blind else seeds)]  # fmt: skip
    return list(dict.fromkeys(specs))


class Seen:
    """What was seen of a category's test images, once for all methods that look in a like way."""

    def __init__(self, backbone: Backbone, sights: Sequence[Sight], folder: Path | None = None) -> None:
        self.backbone, self.folder = backbone, folder
        self._wanted = _merged(sights)
        self._looks: dict[tuple[str, Sight], Look] = {}

    def of(self, image: Image.Image, sample: Sample, sight: Sight) -> Look:
        """The image as `sight` sees it, from what was seen before where it can be."""
        whole = next((one for one in self._wanted if _covers(one, sight)), sight)
        key = (sample.path, whole)
        if key not in self._looks:
            self._looks[key] = self._kept(image, sample, whole)
        return _narrowed(self._looks[key], whole, sight)

    def _kept(self, image: Image.Image, sample: Sample, sight: Sight) -> Look:
        """Seen now, or by an earlier process that wrote it down."""
        path = None
        if self.folder:
            words = {
                "image": file_hash_or_none(sample.path),
                "sight": dataclasses.asdict(sight),
                "by": self.backbone.weight_hash,
            }
            path = self.folder / f"{spec_hash(words)}.safetensors"
            if path.is_file():
                with suppress(UserError):  # damaged: then it is looked at again
                    return Look.from_tensors(read_tensors(path)[0])
        with threads_for(self.backbone):
            seen = look(self.backbone, image, sight).kept()
        if path:
            atomic_write(path, lambda temporary: write_tensors(temporary, seen.tensors()))
        return seen


def _merged(sights: Sequence[Sight]) -> list[Sight]:
    """Sights that differ in blocks alone as one; small windows stay with the plain one that needs them."""
    found: dict[tuple[Any, ...], Sight] = {}
    for sight in sights:
        key = (sight.tiles, sight.attention, sight.first, sight.radius)
        other = found.get(key, sight)
        blocks, scales = {*other.blocks, *sight.blocks}, {*other.scales, *sight.scales}
        found[key] = dataclasses.replace(sight, blocks=tuple(sorted(blocks)), scales=tuple(sorted(scales)))
    return list(found.values())


def _covers(whole: Sight, part: Sight) -> bool:
    same = dataclasses.replace(whole, blocks=part.blocks, scales=part.scales) == part
    return same and {*part.blocks} <= {*whole.blocks} and {*part.scales} <= {*whole.scales}


def _narrowed(seen: Look, whole: Sight, part: Sight) -> Look:
    tokens = seen.tokens[:, :, [whole.blocks.index(block) for block in part.blocks]].float()
    return dataclasses.replace(seen, tokens=tokens, image=seen.image.float(), windows=seen.windows.float(),
                               small={scale: (seen.small[scale][0].float(), seen.small[scale][1].float())
                                      for scale in part.scales})  # fmt: skip


def run_all(
    specs: Sequence[AnomalySpec],
    runs_dir: str | Path,
    *,
    device: str = "cpu",
    looks: Path | None = None,
    told: Told | None = None,
) -> list[ExtendedRecord]:
    """Run what is not there yet, data set by data set, and return all records in the order of the specifications.

    Args:
        runs_dir: folder of the records; finished ones are taken as they are.
        looks: folder that keeps what was seen of test images for a later process.
        told: called after each run.
    """
    records: dict[AnomalySpec, ExtendedRecord] = {}
    backbones: dict[str, Backbone] = {}
    for key in dict.fromkeys((s.source, s.category, s.backbone) for s in specs):
        group = [s for s in specs if (s.source, s.category, s.backbone) == key]
        left = []
        for spec in group:
            if record := finished(runs_dir, spec.identity()):
                records[spec] = cast(ExtendedRecord, record)
                if told:
                    told(spec, records[spec], True)
            else:
                left.append(spec)
        if not left:
            continue
        backbone = backbones.setdefault(key[2], load_backbone(key[2], device=device))
        category = open_category(key[0], key[1] or None)
        seen = Seen(backbone, [_sight(spec, backbone, category) for spec in left], looks)
        for spec in left:
            records[spec] = run_one(spec, category, backbone, seen)
            save_record(runs_dir, cast(Record, records[spec]))
            if told:
                told(spec, records[spec], False)
    return [records[spec] for spec in specs]


def _detector(spec: AnomalySpec, backbone: Backbone) -> AnomalyDetector:
    return AnomalyDetector(backbone, spec.method, spec.shots, spec.seed, settings=dict(spec.settings),
                           tiles=spec.tiles or "auto", false_alarms=None)  # fmt: skip


def _sight(spec: AnomalySpec, backbone: Backbone, category: Category) -> Sight:
    kind = detection_method(spec.method)
    method = kind(backbone, kind.Config.from_dict(dict(spec.settings)))
    if spec.tiles:
        return method.sight(spec.tiles)
    from anprompt.detection.tiles import auto_tiles

    with Image.open(category.train[0].path) as first:  # a guess; a detector measures the images that it learns from
        return method.sight(auto_tiles(min(first.size), backbone.dims.image_size))


def run_one(spec: AnomalySpec, category: Category, backbone: Backbone, seen: Seen) -> ExtendedRecord:
    """Fit on the drawn images, test once, describe."""
    started = time.perf_counter()
    detector = _detector(spec, backbone).fit(dataclasses.replace(category, test=()))
    fitted = time.perf_counter()

    def score(image: Image.Image, sample: Sample) -> Scored:
        return detector.scored(seen.of(image, sample, detector.sight))

    found = examine(category, score, learned=detector.learned_)
    return _record(spec, detector, found, fitted - started, time.perf_counter() - fitted)


def _record(
    spec: AnomalySpec, detector: AnomalyDetector, found: Examined, fit_s: float, test_s: float
) -> ExtendedRecord:
    """What is written: figures in percent by kind of defect, scores of every image, curves."""
    identity, backbone = spec.identity(), detector.method_.backbone
    metrics = {
        kind: {name: 100 * value for name, value in one.to_dict().items()} for kind, one in found.by_kind().items()
    }
    return {
        "format": FORMAT, "spec": identity, "spec_hash": spec_hash(identity), "finished": now(),
        "method": {"name": detector.method_.name, "paper": detector.method_.paper, "settings": detector.method_.config.to_dict()},
        "backbone": {"id": backbone.id, "weight_hash": backbone.weight_hash, **dataclasses.asdict(backbone.dims)},
        "data": {
            "name": found.category.name, "layout": found.category.layout, "tiles": detector.tiles_,
            "learned": sorted(detector.learned_.values()), "test": len(found.samples), "hash": category_hash(found.category),
            "skipped": found.skipped[:100], "skipped_count": len(found.skipped),
        },
        "metrics": metrics,
        "images": {
            "names": [f"{s.kind}/{Path(s.path).name}" for s in found.samples],
            "scores": [float(f"{score:.6g}") for score in found.scores],
        },
        "curves": curves(found), "gallery": kept_maps(found, detector),
        "timings": {"fit_s": round(fit_s, 3), "test_s": round(test_s, 3)},
        "memory": {"peak_mb": round(peak_memory_mb(), 1)}, "versions": versions(), "hardware": hardware(backbone.device),
    }  # fmt: skip


def kept_maps(found: Examined, detector: AnomalyDetector) -> dict[str, Any]:
    """Small maps of the first images of every kind, so that a report can show some: chosen by place, not by how well it went."""
    maps: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(sample.kind for sample in found.samples):
        for index in [i for i, s in enumerate(found.samples) if s.kind == kind][:SHOWN_OF_A_KIND]:
            one = found.maps[index]
            factor = -(-max(one.shape) // SHOWN_SIDE)
            levels = np.clip(
                (one[::factor, ::factor] - detector.floor_) / (detector.contour_ - detector.floor_ + 1e-9) * 100, 0, 255
            )
            name = f"{kind}/{Path(found.samples[index].path).name}"
            maps[name] = {
                "shape": list(levels.shape),
                "hundredths": base64.b64encode(levels.astype(np.uint8).tobytes()).decode(),
            }
    return maps


def category_hash(category: Category) -> str:
    """sha256 over the contents of all images and masks, wherever they lie."""
    files = [path for s in (*category.train, *category.test) for path in (s.path, s.mask) if path]
    return spec_hash({"files": [file_hash_or_none(path) for path in files]})


def curves(found: Examined) -> dict[str, list[float]]:
    """ROC of the images and PRO of the pixels, sampled at the same shares of false alarms."""
    from sklearn.metrics import roc_curve

    labels = np.array([sample.anomalous for sample in found.samples])
    at = np.linspace(0, 1, CURVE_POINTS)
    result: dict[str, list[float]] = {"false_alarms": at.round(4).tolist()}
    if labels.any() and not labels.all():
        wrong, right, _ = roc_curve(labels, found.scores)
        result["roc"] = np.interp(at, wrong, right).round(4).tolist()
    kept = [(mask, one) for mask, one in zip(found.masks, found.maps) if mask is not None]
    if any(mask.any() for mask, _ in kept):
        wrong, share = pro_curve([mask for mask, _ in kept], [one for _, one in kept])
        limits = at * PRO_LIMIT
        result["pro"] = np.interp(limits, wrong, share).round(4).tolist()
    return result


def check_specs(specs: Sequence[AnomalySpec]) -> None:
    """Open every data set and build every config, so that a slip is told before hours of work.

    Raises:
        UserError: what is wrong, in one line.
    """
    if not specs:
        raise UserError("Nothing to run: give at least one data set, method, number of shots and seed.")
    for spec in specs:
        detection_method(spec.method).Config.from_dict(dict(spec.settings))
    for source, category in dict.fromkeys((s.source, s.category) for s in specs):
        if not open_category(source, category or None).test:
            raise UserError(f"{source} has no test images; see docs/anomaly.md for the layouts.")
