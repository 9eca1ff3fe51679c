"""Measuring a trained method on parts of data sets, clean and under conditions, at no more cost than needed.

- What the frozen encoder says of a picture (`Method.image_state`) is the same for every method that looks at it in
  the same way, so it is kept for the next one within the lab's budget.
- Conditions of words leave the pictures as they are. All of them are asked at once: the class lists stand
  one behind the other as one long list, the pictures pass once, and the logits are cut apart again.
- What is measured is written down now and then, so that a run killed in the middle goes on from there.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt.data.names import class_key
from anprompt.data.views import Views
from anprompt.errors import UserError
from anprompt.evaluation.conditions import DESCRIPTION, Condition
from anprompt.evaluation.evaluate import Metrics, calibration_error, metrics
from anprompt.evaluation.inference import image_states, logits_of
from anprompt.evaluation.wording import Wording, disturbed_words, with_sentences
from anprompt.experiments.attacked import attacked_entries
from anprompt.experiments.context import ExperimentContext
from anprompt.experiments.protocols import Part
from anprompt.experiments.records import data_hash, spec_hash
from anprompt.experiments.spec import Event, Observer, RunSpec
from anprompt.experiments.test_images import DecodedImages
from anprompt.methods import Classifier, Method, create_method
from anprompt.prompting.prompts import ImageState
from anprompt.training.descriptions import match_descriptions
from anprompt.utils.files import read_json, write_text

BATCHES = {"cpu": 32}  # pictures of a pass: on a CPU more would leave the caches
BATCH = 100  # elsewhere
MOST_CLASSES = 2048  # of class lists asked at once
PAUSE = 5.0  # seconds between two writings of what is measured
Entry = dict[str, Any]


class MeasurementLog:
    """What is measured so far, by (condition, part); on disk where a folder is given."""

    def __init__(self, state: Path | None) -> None:
        self.path = state / "measured.json" if state else None
        self.entries: dict[str, Entry] = {}
        self._written = time.monotonic()
        if self.path and self.path.is_file():
            with suppress(UserError, KeyError, TypeError):  # damaged: then it is measured again
                kept = read_json(self.path)
                self.entries = kept["entries"] if kept["checksum"] == spec_hash(kept["entries"]) else {}

    def put(self, key: str, entry: Entry) -> None:
        self.entries[key] = entry
        if self.path and time.monotonic() - self._written > PAUSE:
            kept = {"checksum": spec_hash(self.entries), "entries": self.entries}
            write_text(self.path, json.dumps(kept))
            self._written = time.monotonic()


class Measurement:
    """One run's tests of a trained method.

    Args:
        parts: by the name they have in the record.
        state: folder of the run's resumable state.
    """

    def __init__(
        self, spec: RunSpec, context: ExperimentContext, method: Method, parts: Mapping[str, Part], state: Path | None,
        observe: Observer,
    ) -> None:  # fmt: skip
        self.spec, self.context, self.method, self.parts, self.observe = spec, context, method, parts, observe
        self.notes = MeasurementLog(state)
        self.skipped: list[str] = []
        self._asked = [Condition.parse(text) for text in spec.conditions]
        self._about = {name: self._descriptions(part) for name, part in parts.items()}
        self._plain: dict[str, tuple[Classifier, bool]] = {}
        self._plain_clip: Method | None = None

    def run(self) -> tuple[dict[str, Entry], dict[str, dict[str, Entry]]]:
        """Entries by part on clean pictures, and by condition and part."""
        clean = {name: self._pictures(name, None) for name in self.parts}
        pictures = [c for c in self._asked if c.kind == "image"]
        for number, condition in enumerate(pictures):
            self._tell((1 + number) / (2 + len(pictures)), condition.title)
            for name in self.parts:
                self._pictures(name, condition)
        words = [c for c in self._asked if c.kind != "image"]
        if words:
            self._tell((1 + len(pictures)) / (2 + len(pictures)), f"{len(words)} conditions of words")
            for name in self.parts:
                self._words(name, words)
        found = {str(c): {name: self.notes.entries[_key(c, name)] for name in self.parts} for c in self._asked}
        return clean, found

    # --- pictures ---------------------------------------------------------------------------------
    def _pictures(self, name: str, condition: Condition | None) -> Entry:
        """The entry of a part, with the words as they are."""
        key, part = _key(condition, name), self.parts[name]
        if key not in self.notes.entries:
            if condition is None:
                self._tell(0.0, "clean")
            classifier, _ = self._clean(name)
            views = self._views(part, condition)
            logits = torch.cat([self._logits(classifier, seen) for seen in self._seen(part, condition, views)])
            self.notes.put(key, self._entry(logits, classifier, views))
        return self.notes.entries[key]

    def _clean(self, name: str) -> tuple[Classifier, bool]:
        """The classifier of a part with its own template, and whether the method reads templates."""
        if name not in self._plain:
            data = self.parts[name].data
            words = Wording.clean(data.classnames, data.template, self._about[name])
            self._plain[name] = with_sentences(self._asked_of(name), [words], self.parts[name].head, data.classnames)
            self._plain[name][0].classnames = data.classnames  # results are counted under the given names
        return self._plain[name]

    def _asked_of(self, name: str) -> Method:
        """The method itself; of classes that it can say nothing of, zero-shot CLIP, and the record says so."""
        method = self.method
        if method.opens or set(map(class_key, self.parts[name].data.classnames)) <= set(method.names_by_key()):
            return method
        if self._plain_clip is None:
            self._plain_clip = create_method(
                "zeroshot", method.backbone, method.trained_classnames, template=method.template
            )
        return self._plain_clip

    def _views(self, part: Part, condition: Condition | None) -> Views | DecodedImages:
        views = self.context.test_views(self.spec, self.method.backbone, part, condition)
        self.skipped += views.skipped
        return views

    def _seen(self, part: Part, condition: Condition | None, views: Views | DecodedImages) -> Iterator[ImageState]:
        """What the method sees of the pictures, a batch at a time."""
        backbone = self.method.backbone
        noise = condition if condition and condition.kind == "image" else None
        key = backbone.weight_hash, self.spec.root, part.which, noise, self.spec.precision, state_key(self.method)
        kept = isinstance(views, DecodedImages)
        for number, indices in enumerate(torch.arange(len(views)).split(BATCHES.get(backbone.device.type, BATCH))):
            seen = self.context.shelf.get(part.source, (*key, number)) if kept else None
            if seen is None:
                seen = image_states(self.method, views.eval_batch, indices, self.method.reads, self.spec.precision)
                if kept:
                    size = sum(t.numel() * t.element_size() for t in (seen.trunk, seen.frozen))
                    self.context.shelf.put(part.source, (*key, number), seen, size)
            yield seen

    def _logits(self, classifier: Classifier, seen: ImageState) -> Tensor:
        return logits_of(classifier.method, seen, classifier.text, classifier.head, precision=self.spec.precision)

    def _entry(self, logits: Tensor, classifier: Classifier, views: Views | DecodedImages) -> Entry:
        entry = metrics_entry(metrics(logits, views.labels, classifier), [item.domain for item in views.items])
        return {**entry, "items_hash": data_hash(views.items)}

    # --- attacks ----------------------------------------------------------------------------------
    def under_attack(self) -> dict[str, dict[str, Entry]]:
        """Entries by attack and part."""
        tests = {name: (self._clean(name)[0], self._views(part, None)) for name, part in self.parts.items()}
        return attacked_entries(self.spec.attacks, tests, self.notes, self._tell)

    # --- words ------------------------------------------------------------------------------------
    def _words(self, name: str, conditions: Sequence[Condition]) -> None:
        """The entries of a part under conditions that leave the pictures alone."""
        data, method = self.parts[name].data, self.method
        plain = Wording.clean(data.classnames, data.template, self._about[name])
        clean, reads = self._clean(name)
        rows: list[tuple[Condition, Wording]] = []
        for condition in conditions:
            if _key(condition, name) in self.notes.entries:
                continue
            words = disturbed_words(condition, method, data.classnames, data.template, self._about[name])
            if words.names == plain.names and (not reads or words.sentences == plain.sentences):
                # nothing of it reaches the method: another wording where learned vectors stand
                entry = {**self.notes.entries[_key(None, name)], "unchanged": True}
                self.notes.put(_key(condition, name), entry)
            else:
                rows.append((condition, words))
        at_once = max(1, MOST_CLASSES // len(data.classnames))
        for start in range(0, len(rows), at_once):
            self._at_once(name, rows[start : start + at_once], clean)

    def _at_once(self, name: str, rows: Sequence[tuple[Condition, Wording]], clean: Classifier) -> None:
        part = self.parts[name]
        asked, _ = with_sentences(self._asked_of(name), [words for _, words in rows], clean.head, part.data.classnames)
        views = self._views(part, None)
        logits = torch.cat([self._logits(asked, seen) for seen in self._seen(part, None, views)])
        counted = copy.copy(asked)
        counted.classnames = part.data.classnames
        for (condition, _), own in zip(rows, logits.split(len(part.data.classnames), dim=1)):
            self.notes.put(_key(condition, name), self._entry(own, counted, views))

    def _descriptions(self, part: Part) -> dict[str, list[str]]:
        """What is said about the classes, where the method or a condition reads it."""
        asked = any(c.family == DESCRIPTION for c in self._asked)
        if not asked and not self.method.descriptions:
            return {}
        known = self.context.known_descriptions(self.spec, part.source)
        return match_descriptions(known, part.data.classnames) if known else {}

    def _tell(self, done: float, text: str) -> None:
        self.observe(Event(self.spec, "evaluate", done, text))


def metrics_entry(metrics: Metrics, domains: Iterable[str] = ()) -> dict[str, Any]:
    """Accuracies in percent, with the predicted labels in the order of the items.

    Args:
        domains: one per picture; more than one kind gives accuracies per domain as well.
    """
    right = (metrics.predictions == metrics.labels).tolist()
    by_domain: dict[str, list[bool]] = {}
    for domain, hit in zip(domains, right):
        by_domain.setdefault(domain, []).append(hit)
    entry = {
        "accuracy": 100 * metrics.accuracy,
        "pictures": len(right),
        "head": metrics.head,
        "confidence": 100 * float(metrics.confidences.mean()),
        "ece": 100 * calibration_error(metrics.confidences, metrics.predictions == metrics.labels),
        "per_class": {name: round(100 * value, 4) for name, value in metrics.per_class.items()},
        "labels": " ".join(map(str, metrics.labels.tolist())),
        "predicted": " ".join(map(str, metrics.predictions.tolist())),
    }
    if len(by_domain) > 1:
        entry["per_domain"] = {name: 100 * sum(hits) / len(hits) for name, hits in by_domain.items()}
    return entry


def state_key(method: Method) -> tuple[Any, ...]:
    """What decides the image states of a method besides the images; two with the same key share them."""
    usual = type(method).image_state is Method.image_state
    own = () if usual else (type(method), json.dumps(method.config.to_dict(), sort_keys=True))
    return (method.reads, method.first_block, method.engine, *own)


def _key(condition: Condition | None, part: str) -> str:
    return f"{condition or 'clean'}|{part}"
