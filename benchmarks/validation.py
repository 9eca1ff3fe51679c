"""A validation with power: what a setting is worth, without any test image and without any new class.

Inside the base classes of each embedded set the first half plays "base" and the second half "new". Training takes the
training images of one style, 16 a class; what is judged are fresh compositions (their paths are in no split) of that
style and of the other one, half and half, as in the test. Clean; under image noise, one random family and severity
(1, 3 or 5) per image; under every operator in names, and in templates. All variants of a set are judged in one pass
over its images; the frozen trunk below the prompts is computed once for all of them.

    python benchmarks/validation.py run --out runs/validation --sets food,sky --variants variants.txt
    python benchmarks/validation.py table --out runs/validation --against mmrl

A line of the file of variants is `NAME METHOD key=value,key=value`, with settings of the method and of the training.
One JSON file per (set, seed, variant), with how much is right of every image; finished ones are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from anprompt.backbones import Backbone, load_backbone
from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset, read_embedded
from anprompt.data.names import spoken
from anprompt.data.splits import few_shot, subset_classes
from anprompt.data.types import Dataset, Item
from anprompt.data.views import normalised
from anprompt.evaluation.conditions import UNSEEN, Condition, all_conditions
from anprompt.evaluation.loaders import make_views
from anprompt.evaluation.statistics import Spread
from anprompt.evaluation.wording import shortened
from anprompt.methods import Method, create_method, get_preset
from anprompt.methods.layers import prompted_blocks
from anprompt.noise.image import IMAGE_NOISE
from anprompt.noise.seeds import stable_seed
from anprompt.noise.text import DEFAULT_OPS
from anprompt.noise.weak_image import WEAK_FAMILIES
from anprompt.prompting.compute import threads_for
from anprompt.prompting.prompts import ImageState as ImageState
from anprompt.prompting.prompts import see
from anprompt.training.feature_cache import MemoryFeatureCache
from anprompt.training.loop import TrainConfig, fit
from anprompt.utils.files import read_json, write_json

SEVERITIES = (1, 3, 5)
SHARES = (0.0, 0.15, 0.25, 0.4, 0.5)  # of frozen CLIP in the answers, all judged at no cost
BATCH = 64
DRAWS = 500  # of the bootstrap


# --- data -----------------------------------------------------------------------------------------
def halves(name: str, seed: int, count: int) -> dict[str, Dataset]:
    """Pseudo-base and pseudo-new classes of a set; `test` are fresh compositions, `count` per class and style.

    Odd seeds train on the first style, even seeds on the second.
    """
    base = subset_classes(embedded_dataset(name), "base")
    styles = sorted({item.domain for item in base.train})
    own = styles[(seed + 1) % len(styles)]
    judged = tuple(
        Item(f"embedded:{name}/{classname}/{style}/validation/{number:04d}", label, classname, style)
        for label, classname in enumerate(base.classnames) for style in styles for number in range(count)
    )  # fmt: skip
    train = tuple(item for item in base.train if item.domain == own)
    drawn = few_shot(dataclasses.replace(base, train=train, val=(), test=judged), 16, seed)
    return {half: subset_classes(drawn, half) for half in ("base", "new")}


@dataclass(frozen=True)
class Judged:
    """Images of one half: uint8 [n, H, W, 3] clean and noisy, labels, and which noise each got."""

    clean: np.ndarray
    noisy: np.ndarray
    labels: np.ndarray
    families: tuple[str, ...]
    own: np.ndarray


def judged(half: Dataset, own: str, backbone: Backbone) -> Judged:
    """Compose and disturb; everything is a function of the image's path."""
    families = tuple(IMAGE_NOISE)
    clean, noisy, chosen = [], [], []
    for item in half.test:
        view = np.asarray(read_embedded(item))
        assert view.shape[0] == backbone.dims.image_size
        draw = np.random.default_rng(stable_seed("validation", item.path))
        family = families[int(draw.integers(len(families)))]
        severity = SEVERITIES[int(draw.integers(len(SEVERITIES)))]
        clean.append(view)
        noisy.append(Condition("image", family, severity).view(item, view))
        chosen.append(family)
    labels = np.array([item.label for item in half.test])
    return Judged(
        np.stack(clean), np.stack(noisy), labels, tuple(chosen), np.array([i.domain == own for i in half.test])
    )


def with_sentences(half: Dataset, backbone: Backbone) -> dict[str, list[list[str]]]:
    """Sentences per group of conditions: one list per condition, a sentence per class."""
    clean = [half.template.format(spoken(name)) for name in half.classnames]
    groups: dict[str, list[list[str]]] = {"clean": [clean]}
    for condition in map(Condition.parse, all_conditions()):
        if condition.kind == "image":
            continue
        seen = "seen" if condition.family in DEFAULT_OPS else "other"
        group = f"{'names' if condition.kind == 'text' else 'templates'}, {seen} operators"
        group = "templates, unseen wordings" if condition.family == UNSEEN else group
        names = condition.names(half.classnames)
        sentences = condition.sentences(half.classnames, half.template)
        groups.setdefault(group, []).append([shortened(backbone, s, n) for s, n in zip(sentences, names)])
    return groups


# --- variants -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Variant:
    """A method with settings, of its own and of the training."""

    name: str
    method: str
    settings: dict[str, Any]
    train: dict[str, Any]

    @classmethod
    def parse(cls, line: str) -> Variant:
        name, method, *rest = line.split()
        values: dict[str, Any] = {}
        for pair in filter(None, ",".join(rest).split(",")):
            key, value = pair.split("=")
            try:
                values[key] = json.loads(value)
            except json.JSONDecodeError:
                values[key] = value.split("+") if key.endswith(("_ops", "_families")) else value
        fields = {field.name for field in dataclasses.fields(TrainConfig)}
        return cls(
            name, method, {k: v for k, v in values.items() if k not in fields},
            {k: v for k, v in values.items() if k in fields},
        )  # fmt: skip

    @property
    def key(self) -> str:
        facts = [self.method, self.settings, self.train]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def trained(
    variant: Variant, base: Dataset, backbone: Backbone, seed: int, bank: MemoryFeatureCache
) -> tuple[Method, float]:
    """The method after its training, and the seconds of processor time that took."""
    recipe = get_preset(variant.method)
    config = cast(TrainConfig, TrainConfig.from_dict({**recipe.train, **variant.train, "seed": seed}))
    method = create_method(
        variant.method, backbone, base.classnames, template=base.template, settings=variant.settings, seed=seed
    )
    started = time.process_time()
    if method.trained_parameters():
        fit(method, make_views(backbone, base, base.train, config=config), config, bank=bank)
    return method, time.process_time() - started


# --- judging --------------------------------------------------------------------------------------
@torch.no_grad()
def texts(method: Method, groups: dict[str, list[list[str]]]) -> tuple[Tensor, Tensor]:
    """Unit text features of all conditions' sentences, one after the other: prompted and frozen, [n, E]."""
    sentences = [sentence for lists in groups.values() for one in lists for sentence in one]
    bank = method.prepare(sentences, sentences)
    prompted = method.encode_classes(bank)["text"] if method.trained_parameters() else bank.frozen
    return prompted, bank.frozen


@dataclass(frozen=True)
class Seen:
    """One half of a set as every variant meets it: what the frozen encoder makes of its images, and the sentences.

    Attributes:
        clean, noisy: image states by batch.
        groups: sentences per group of conditions, see `with_sentences`.
    """

    which: str
    half: Dataset
    first: int
    judged: Judged
    clean: list[ImageState]
    noisy: list[ImageState]
    groups: dict[str, list[list[str]]]


@torch.no_grad()
def seen(which: str, half: Dataset, own: str, backbone: Backbone) -> Seen:
    """Compose, disturb, and run the frozen trunk once for all variants."""
    images = judged(half, own, backbone)
    first = prompted_blocks(0, 0, (backbone.dims.text_depth, backbone.dims.vision_depth))[0]

    def states(pixels: np.ndarray) -> list[ImageState]:
        batches = [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)]
        return [see(backbone, normalised(batch, backbone.mean, backbone.std), first) for batch in batches]

    return Seen(which, half, first, images, states(images.clean), states(images.noisy), with_sentences(half, backbone))


@torch.no_grad()
def judge(method: Method, part: Seen) -> dict[str, dict[str, str]]:
    """By answer and group: for every image the number of the group's conditions that are right, two hex digits each."""
    assert method.first_block == part.first or not method.trained_parameters()
    text, frozen = texts(method, part.groups)
    classes, counts = len(part.half.classnames), dict[str, dict[str, list[np.ndarray]]]()
    for kind, states in (("clean", part.clean), ("image noise", part.noisy)):
        asked = part.groups if kind == "clean" else {kind: part.groups["clean"]}
        rows = classes * sum(len(lists) for lists in asked.values())
        at = 0
        for state in states:
            labels = torch.from_numpy(part.judged.labels[at : at + len(state.frozen)])
            at += len(labels)
            image, token = features(method, state)
            found = answers(method, image, token, state.frozen, text[:rows], frozen[:rows], part.which)
            for answer, logits in found.items():
                right = logits.view(len(labels), -1, classes).argmax(-1) == labels[:, None]  # [B, conditions]
                columns = right.split([len(lists) for lists in asked.values()], dim=1)
                for group, column in zip(asked, columns):
                    counts.setdefault(answer, {}).setdefault(group, []).append(column.sum(1).numpy())
    return {
        answer: {group: np.concatenate(kept).astype(np.uint8).tobytes().hex() for group, kept in by_group.items()}
        for answer, by_group in counts.items()
    }


def features(method: Method, vision: Any) -> tuple[Tensor, Tensor]:
    """Class-token features and those of the tokens, [B, E]; frozen ones for a method that trains nothing."""
    if not method.trained_parameters():
        return vision.frozen, vision.frozen
    return method.image_features(vision)  # type: ignore[operator, no-any-return]


def answers(
    method: Method, image: Tensor, token: Tensor, frozen_image: Tensor, text: Tensor, frozen_text: Tensor, which: str
) -> dict[str, Tensor]:
    """Logits by answer: shares of frozen CLIP, and for new classes both heads."""
    tau, s = method.logit_scale, getattr(method.config, "head_weight", 1.0)
    z, z_frozen = tau * image @ text.T, tau * frozen_image @ frozen_text.T
    fused = s * z + (1 - s) * tau * token @ text.T
    heads = {"": fused} if which == "base" else {"": z, " fused": fused}
    if not method.trained_parameters():
        return {"q0": z_frozen}
    return {f"q{q:g}{head}": (1 - q) * own + q * z_frozen for head, own in heads.items() for q in SHARES}


def run(args: argparse.Namespace) -> None:
    backbone = load_backbone("embedded")
    variants = [
        Variant.parse(line) for line in args.variants.read_text().splitlines() if line.strip() and line[0] != "#"
    ]
    for seed in args.seeds:
        for name in args.sets:
            todo = [v for v in variants if not path_of(args.out, name, seed, v).is_file()]
            if todo:
                with threads_for(backbone):
                    one_set(args, backbone, name, seed, todo)


def path_of(out: Path, name: str, seed: int, variant: Variant) -> Path:
    return out / f"{name}_s{seed}_{variant.name}_{variant.key}.json"


def one_set(args: argparse.Namespace, backbone: Backbone, name: str, seed: int, todo: Sequence[Variant]) -> None:
    parts, bank = halves(name, seed, args.images), MemoryFeatureCache()
    own = parts["base"].train[0].domain
    met = [seen(which, half, own, backbone) for which, half in parts.items()]
    facts = {part.which: {"families": " ".join(part.judged.families), "own": "".join("01"[int(v)] for v in part.judged.own)}
             for part in met}  # fmt: skip
    of = {**{group: len(lists) for group, lists in met[0].groups.items()}, "image noise": 1}
    for variant in todo:
        method, seconds = trained(variant, parts["base"], backbone, seed, bank)
        content = {
            "set": name, "seed": seed, "variant": variant.name, "method": variant.method, "settings": variant.settings,
            "train": variant.train, "processor_s": round(seconds, 2), "facts": facts, "of": of,
            "right": {part.which: judge(method, part) for part in met},
        }  # fmt: skip
        write_json(path_of(args.out, name, seed, variant), content)
        print(f"{name} seed {seed}: {variant.name}, {seconds:.0f} s", flush=True)


# --- tables ---------------------------------------------------------------------------------------
def decoded(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), np.uint8).astype(float)


def load(out: Path) -> dict[tuple[str, str], dict[tuple[str, int], Any]]:
    """(variant, answer) -> (set, seed) -> {half: {group: share right per image}}."""
    rows: dict[tuple[str, str], dict[tuple[str, int], Any]] = {}
    for path in sorted(out.glob("*.json")):
        kept = read_json(path)
        of = kept["of"]
        for answer in kept["right"]["new"]:
            plain = answer.removesuffix(" fused")
            cell: dict[str, dict[str, np.ndarray]] = {}
            for which in ("base", "new"):
                right = kept["right"][which][answer if which == "new" else plain]
                cell[which] = {group: 100 * decoded(text) / of[group] for group, text in right.items()}
                families = np.array(kept["facts"][which]["families"].split())
                other = ~np.isin(families, WEAK_FAMILIES)
                cell[which]["image noise, other families"] = cell[which]["image noise"][other]
                own = np.array(list(kept["facts"][which]["own"])) == "1"
                cell[which]["clean, other style"] = cell[which]["clean"][~own]
                cell[which]["clean, own style"] = cell[which]["clean"][own]
            rows.setdefault((kept["variant"], answer), {})[kept["set"], kept["seed"]] = cell
    return rows


def interval(
    first: dict[Any, Any], second: dict[Any, Any], which: str, group: str, over: str = "images"
) -> tuple[float, float]:
    """Mean difference and half the width of its 95 % interval.

    Args:
        first, second: by (set, seed), as `load` gives them.
        over: "images": resampled within the sets, about these trainings on these sets; "sets": Student's t over the
            trainings, about others like them. The second is the wider one: a training is one draw.
    """
    cells = sorted(first.keys() & second.keys())
    gaps = [first[cell][which][group] - second[cell][which][group] for cell in cells]
    if over == "sets":
        spread = Spread.of(float(gap.mean()) for gap in gaps)
        return spread.mean, spread.half if spread.half is not None else float("nan")
    rng = np.random.default_rng(0)
    means = sum(gap[rng.integers(len(gap), size=(DRAWS, len(gap)))].mean(1) for gap in gaps) / len(gaps)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([gap.mean() for gap in gaps])), float(high - low) / 2


def table(args: argparse.Namespace) -> None:
    rows = load(args.out)
    against = rows[args.against, args.answer_against]
    groups = [g for g in GROUPS if g in next(iter(against.values()))["base"]]
    print(f"| variant | answer | cells | {' | '.join(groups)} |\n|---|---|--:|{'--:|' * len(groups)}")
    for (name, answer), cells in sorted(rows.items()):
        if args.answers and answer not in args.answers:
            continue
        common = cells.keys() & against.keys()
        if not common:
            continue
        shown = []
        for group in groups:
            one = []
            for which in ("base", "new"):
                mean, half = interval(cells, against, which, group, args.over)
                value = np.mean([cells[c][which][group].mean() for c in common])
                one.append(f"{value:.2f} ({mean:+.2f} ± {half:.2f})")
            shown.append(" / ".join(one))
        print(f"| {name} | {answer} | {len(common)} | {' | '.join(shown)} |")


GROUPS = (
    "clean", "clean, own style", "clean, other style", "image noise", "image noise, other families", "names, seen operators", "names, other operators",
    "templates, seen operators", "templates, other operators", "templates, unseen wordings",
)  # fmt: skip


def main(argv: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", type=Path)
    parser.add_argument("--sets", default=",".join(EMBEDDED_SETS), type=lambda text: text.split(","))
    parser.add_argument("--seeds", default="1", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--images", type=int, default=30, help="judged images per class and style")
    parser.add_argument("--against", default="mmrl")
    parser.add_argument("--answer-against", default="q0")
    parser.add_argument("--answers", default="", type=lambda text: [part for part in text.split(",") if part])
    parser.add_argument("--over", default="images", choices=("images", "sets"), help="what intervals are about")
    args = parser.parse_args(None if argv is None else list(argv))
    args.out.mkdir(parents=True, exist_ok=True)
    run(args) if args.what == "run" else table(args)


if __name__ == "__main__":
    main()
