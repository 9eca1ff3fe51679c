"""Few shots, transfer, domains and noise on a tiny CLIP; what is shared between runs, and what it must equal."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from anprompt import experiments as protocols
from anprompt.backbones import Backbone
from anprompt.commands import bench
from anprompt.data.sources import open_dataset
from anprompt.data.splits import subset_classes
from anprompt.data.types import Dataset, Item
from anprompt.errors import UserError
from anprompt.evaluation.conditions import QUICK, UNSEEN_TEMPLATES, Condition, all_conditions
from anprompt.evaluation.evaluate import evaluate
from anprompt.evaluation.loaders import make_views
from anprompt.evaluation.wording import disturbed_classifier, disturbed_words, shortened
from anprompt.experiments import Event, ExperimentContext, Part, RunSpec, run_protocol, steps
from anprompt.experiments.cache import Shelf, default_budget
from anprompt.experiments.estimate import Pace, estimate, looks, seconds
from anprompt.experiments.records import labels, predicted, save_record
from anprompt.experiments.sweep import run_all
from anprompt.experiments.test_images import DecodedImages
from anprompt.methods import Classifier, build_method
from anprompt.methods.templates import IMAGENET_TEMPLATES
from anprompt.noise.text import PHRASINGS
from anprompt.tables import sheets
from anprompt.training.job import plan as plan_job

SMALL = (("draws", 2), ("projection_rank", 4), ("token_width", 16))
QUICKLY = (("batch_size", 4), ("epochs", 1), ("lr", 0.01))
WORDS = ("text:typo:2", "text:case:3", "template:typo:3", "template:paraphrase:1", "template:unseen:2")
NOISY = ("image:fog:5", "image:jpeg_compression:2", *WORDS)


@pytest.fixture
def spec(photo_folder: Path) -> RunSpec:
    return RunSpec(str(photo_folder), shots=2, settings=SMALL, train=QUICKLY)


@pytest.fixture
def context(tiny_backbone) -> ExperimentContext:
    made = ExperimentContext()
    made.use("embedded", tiny_backbone)
    return made


def add(context: ExperimentContext, name: str, photo_folder: Path, **changes: object) -> Dataset:
    """A variant of the photo folder that the lab opens under a name."""
    data = dataclasses.replace(open_dataset(photo_folder), name=name, **changes)
    context._datasets[name, None, ""] = data
    return data


def run(spec: RunSpec, context: ExperimentContext, **changes: object) -> dict:
    changed = dataclasses.replace(spec, **changes)
    return run_protocol(changed, context)


# --- what the protocols measure -------------------------------------------------------------------
def test_few_shot_tests_all_classes_with_the_trained_head(spec: RunSpec, context: ExperimentContext) -> None:
    record = run(spec, context, protocol="few-shot")
    entry = record["metrics"]["all"]
    assert record["metrics"]["conditions"] == {} and list(record["metrics"]) == ["all", "conditions"]
    assert (
        entry["head"] == "trained"
        and entry["pictures"] == len(context.dataset(spec).test) > 0
        and len(entry["per_class"]) == 4
    )
    assert record["data"]["train_pictures"] == 8 and record["data"]["classes"] == {"all": 4}


def test_cross_dataset_reads_each_target_with_its_own_template(
    spec: RunSpec, context: ExperimentContext, photo_folder: Path
) -> None:
    add(context, "same", photo_folder)
    add(context, "worded", photo_folder, template="somebody drew {} here")
    record = run(spec, context, protocol="cross-dataset", targets=("same", "worded"))
    metrics = record["metrics"]
    assert list(metrics["targets"]) == ["same", "worded"] and metrics["source"]["head"] == "trained"
    assert {entry["head"] for entry in metrics["targets"].values()} == {"unseen"}  # whatever the names are
    same, worded = metrics["targets"].values()
    assert same["confidence"] != worded["confidence"]
    assert record["data"]["targets"]["worded"]["template"] == "somebody drew {} here"


def test_a_target_counts_as_the_method_alone_would(
    spec: RunSpec, context: ExperimentContext, photo_folder: Path
) -> None:
    target = add(context, "target", photo_folder, template="it shows {}", classnames=("a", "b", "c", "d"))
    entry = run(spec, context, protocol="cross-dataset", targets=("target",), method="zeroshot", settings=(), train=())[
        "metrics"
    ]["targets"]["target"]
    backbone = context.backbone(spec)
    method = build_method("zeroshot", backbone, ["a", "b", "c", "d"], template="it shows {}")
    found = evaluate(Classifier(method), make_views(backbone, target, target.test, probe="eval"))
    assert predicted(entry) == found.predictions.tolist() and entry["accuracy"] == 100 * found.accuracy


@pytest.mark.parametrize("targets", [(), ("SOURCE",)])
def test_cross_dataset_needs_other_data(spec: RunSpec, context: ExperimentContext, targets: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="target"):
        run(spec, context, protocol="cross-dataset", targets=tuple(spec.dataset for _ in targets))


def styled(dataset: Dataset, train: str, tests: tuple[str, ...]) -> dict:
    """The parts of a data set with a domain for every picture, test domains in turn."""
    test = tuple(dataclasses.replace(i, domain=tests[n % len(tests)], path=i.path) for n, i in enumerate(dataset.test))
    return {"train": tuple(dataclasses.replace(i, domain=train) for i in dataset.train), "test": test}


def test_domains_that_training_did_not_see_are_tested_apart(
    spec: RunSpec, context: ExperimentContext, photo_folder: Path
) -> None:
    whole = open_dataset(photo_folder)
    add(context, "styles", photo_folder, **styled(whole, "ink", ("ink", "oil", "chalk")))
    metrics = run(spec, context, protocol="domains", dataset="styles")["metrics"]
    assert list(metrics["targets"]) == ["oil", "chalk"]
    parts = [metrics["source"], *metrics["targets"].values()]
    assert sum(part["pictures"] for part in parts) == len(whole.test)
    assert {part["head"] for part in parts} == {"trained"} and len({p["items_hash"] for p in parts}) == 3


def test_a_domain_may_have_some_of_the_classes_and_no_others(
    spec: RunSpec, context: ExperimentContext, photo_folder: Path
) -> None:
    add(context, "half", photo_folder)
    context._datasets["half", None, ""] = subset_classes(context._datasets["half", None, ""], "new")
    metrics = run(spec, context, protocol="domains", targets=("half",))["metrics"]
    assert list(metrics["targets"]["half"]["per_class"]) == ["red_square", "yellow square"]
    add(context, "other", photo_folder, classnames=("red square", "gren square", "x", "y"))
    with pytest.raises(UserError, match="lacks it"):
        run(spec, context, protocol="domains", targets=("other",))
    with pytest.raises(UserError, match="no domain"):
        run(spec, context, protocol="domains")


# --- identity -------------------------------------------------------------------------------------
def test_records_from_before_there_were_targets_stay_valid() -> None:
    kept = Path(__file__).parents[2] / "results" / "embedded-base-to-new"
    names = {path.name for path in kept.glob("*.json")}
    from anprompt.experiments.records import record_path

    spec = RunSpec("embedded:animals")
    assert "targets" not in spec.identity() and record_path(kept, spec.identity()).name in names
    assert dataclasses.replace(spec, targets=("embedded:food",)).identity()["targets"] == ["embedded:food"]


def test_noise_has_all_conditions_unless_some_are_chosen() -> None:
    spec = RunSpec("embedded:food", protocol="noise")
    assert spec.conditions == all_conditions(True) and len(set(spec.conditions)) == len(spec.conditions)
    assert len([c for c in spec.conditions if c.startswith("image:")]) == 18 * 5
    assert "template:description:1" not in RunSpec("photos", protocol="noise").conditions
    assert RunSpec("photos", protocol="noise", conditions=QUICK[:1]).conditions == QUICK[:1]
    for condition in (*all_conditions(True), *QUICK):
        assert str(Condition.parse(condition)) == condition


# --- noise ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["anprompt", "coop", "cocoop", "promptsrc", "zeroshot"])
def test_sharing_changes_no_answer(spec: RunSpec, context: ExperimentContext, method: str) -> None:
    """Noise measured with everything shared against one plain evaluation per condition."""
    noisy = dataclasses.replace(
        spec, method=method, protocol="noise", conditions=NOISY, settings=SMALL if method == "anprompt" else (),
        train=() if method == "zeroshot" else QUICKLY,
    )  # fmt: skip
    for _ in range(2):  # the second time from the shelf
        metrics = run_protocol(noisy, context)["metrics"]
    backbone, data = context.backbone(noisy), context.dataset(noisy)
    kept = steps.trained(noisy, context, context.job(noisy), None, protocols.silent).method
    for name in NOISY:
        condition = Condition.parse(name)
        for half in ("base", "new"):
            part = subset_classes(data, half)
            read = condition.reader(part.read, backbone.dims.image_size)
            views = make_views(backbone, dataclasses.replace(part, read=read), part.test, probe="eval")
            found = evaluate(disturbed_classifier(condition, kept, part.classnames), views)
            entry = metrics["conditions"][name][half]
            assert predicted(entry) == found.predictions.tolist() and entry["head"] == found.head
            assert labels(entry) == found.labels.tolist()
            assert entry["confidence"] == pytest.approx(100 * float(found.confidences.mean()), abs=1e-3)


def test_fit_and_bench_are_one_job(tiny_backbone: Backbone, photo_folder: Path) -> None:
    """The same request has the same fingerprint and the same settings, whoever asks."""
    context = ExperimentContext()
    context.use("embedded", tiny_backbone)
    run = RunSpec(str(photo_folder), "coop", shots=4, seed=2, train=QUICKLY, protocol="few-shot")
    dataset = open_dataset(photo_folder)
    asked = plan_job(dataset, tiny_backbone, method="coop", shots=4, seed=2, train=dict(QUICKLY), recipe="few-shot")
    job = context.job(run)
    assert job.key == asked.key and job.resolved == asked.resolved
    other = plan_job(dataset, tiny_backbone, method="coop", shots=4, seed=2, train=dict(QUICKLY))
    assert other.settings != asked.settings  # the recipe of few shots has 16 context tokens


def test_a_class_without_training_images_is_neither_trained_nor_tested(
    context: ExperimentContext, photo_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["path,label,split"]
    for name in sorted(path.name for path in photo_folder.iterdir()):
        parts = ["train"] * 4 + ["test"] * 4 if name != "green square" else ["test"] * 8
        lines += [f"{photo_folder / name / f'{number}.png'},{name},{part}" for number, part in enumerate(parts)]
    table = tmp_path / "images.csv"
    table.write_text("\n".join(lines))
    record = run_protocol(RunSpec(str(table), "coop", protocol="few-shot", shots=2, train=QUICKLY), context)
    entry = record["metrics"]["all"]
    assert entry["head"] == "trained" and list(entry["per_class"]) == ["blue_square", "red_square", "yellow square"]
    assert entry["pictures"] == 12 and "without training images: green square" in caplog.text
    untrained = run_protocol(RunSpec(str(table), "zeroshot", protocol="few-shot", shots=2), context)
    assert len(untrained["metrics"]["all"]["per_class"]) == 4


def test_words_that_do_not_reach_a_method_change_nothing(spec: RunSpec, context: ExperimentContext) -> None:
    conditions = ("template:typo:3", "template:unseen:1", "text:typo:3")
    changed = dataclasses.replace(spec, protocol="noise", conditions=conditions, train=QUICKLY)
    learned = run_protocol(dataclasses.replace(changed, method="coop", settings=()), context)["metrics"]
    reading = run_protocol(changed, context)["metrics"]
    for name in conditions[:2]:
        entry = learned["conditions"][name]["base"]
        assert entry.pop("unchanged") and entry == learned["base"]
        assert "unchanged" not in reading["conditions"][name]["base"]
        assert reading["conditions"][name]["base"]["confidence"] != reading["base"]["confidence"]
    assert "unchanged" not in learned["conditions"]["text:typo:3"]["base"]


def test_noise_after_base_to_new_trains_nothing_again(spec: RunSpec, tmp_path: Path, tiny_backbone) -> None:
    context = ExperimentContext(adapters=tmp_path / "adapters")
    context.use("embedded", tiny_backbone)
    clean = run_all([spec], tmp_path, context=context)[0]
    events: list[Event] = []
    noisy = dataclasses.replace(spec, protocol="noise", conditions=("image:fog:5",))
    record = run_all([noisy], tmp_path, context=context, observe=events.append)[0]
    assert not {"step", "epoch"} & {event.kind for event in events}
    assert record["metrics"]["base"] == clean["metrics"]["base"] and record["log"] == clean["log"]
    assert record["metrics"]["H"] == clean["metrics"]["H"]


def test_descriptions_are_sentences_about_the_class(tiny_backbone) -> None:
    about = {"owl": ["an owl, a bird.", "a bird of the night."], "cat": ["a cat."]}
    second = Condition.parse("template:description:2")
    assert second.sentences(["owl", "cat"], "a photo of a {}.", about) == ["a bird of the night.", "a cat."]
    with pytest.raises(UserError, match="no description of class 'dog'"):
        second.sentences(["dog"], "a photo of a {}.", about)
    method = build_method("zeroshot", tiny_backbone, ["owl", "cat"])
    asked = disturbed_classifier(second, method, ["owl", "cat"], descriptions=about)
    plain = Classifier(method, ["owl", "cat"])
    assert not torch.allclose(asked.text["text"], plain.text["text"])
    # the method is as it was
    assert torch.equal(Classifier(method, ["owl", "cat"]).text["text"], plain.text["text"])


def test_noise_reaches_descriptions_through_the_name(tiny_backbone) -> None:
    about = {"owl": ["an owl, a bird."], "cat": ["a cat."]}
    method = build_method("zeroshot-descriptions", tiny_backbone, ["owl", "cat"], descriptions=about)
    words = disturbed_words(Condition.parse("text:double_char:1"), method, ["owl", "cat"], "a {}", about)
    assert [lines[0] for lines in words.descriptions.values()] == [
        about[name][0].replace(name, noisy) for name, noisy in zip(about, words.names)
    ]
    disturbed_classifier(Condition.parse("text:double_char:1"), method, ["owl", "cat"], descriptions=about)
    assert method.descriptions == about


def test_unseen_templates_are_in_no_list() -> None:
    seen = {*IMAGENET_TEMPLATES, *(p for row in PHRASINGS.values() for p in row), "a photo of a {}."}
    assert not seen & set(UNSEEN_TEMPLATES) and all(t.count("{}") == 1 for t in UNSEEN_TEMPLATES)


def test_long_sentences_lose_words_and_keep_the_name(tiny_backbone) -> None:
    long = "some very long words which nobody needs in a sentence and more of them before the owl, a bird"
    short = shortened(tiny_backbone, long, "owl")
    assert "owl" in short and long.endswith(short) and len(short) < len(long)
    assert int(tiny_backbone.tokenize([short]).eot) < tiny_backbone.dims.context_length
    assert shortened(tiny_backbone, "an owl", "owl") == "an owl"


@pytest.mark.parametrize("text", ["template:fog:1", "template:unseen:0", "template:description:4", "text:typo:²"])
def test_a_wrong_condition_of_words_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Condition.parse(text)


def test_noise_goes_on_where_it_was_killed(
    spec: RunSpec, context: ExperimentContext, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("anprompt.experiments.measurement.PAUSE", 0.0)
    noisy = dataclasses.replace(spec, method="zeroshot", settings=(), train=(), protocol="noise",
                                conditions=("image:fog:1", "image:fog:3", "text:typo:1"))  # fmt: skip
    whole = run_all([noisy], tmp_path / "whole", context=context)[0]

    def kill(event: Event) -> None:
        if event.text == "fog, severity 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all([noisy], tmp_path / "killed", context=context, observe=kill)
    looked: list[str] = []
    monkeypatch.setattr(Condition, "view", lambda self, item, view: looked.append(str(self)) or np.zeros_like(view))
    context.shelf = Shelf(0)
    resumed = run_all([noisy], tmp_path / "killed", context=context)[0]
    assert set(looked) == {"image:fog:3"}  # the other one was measured before the kill
    name = "image:fog:1"
    assert resumed["metrics"]["conditions"][name] == whole["metrics"]["conditions"][name]


# --- pictures and the shelf -----------------------------------------------------------------------
def test_pictures_as_bytes_are_the_views_bit_for_bit(tiny_backbone, photo_folder: Path) -> None:
    data = open_dataset(photo_folder)
    views = make_views(tiny_backbone, data, data.test, probe="eval")
    pictures = DecodedImages.of(views, tiny_backbone.mean, tiny_backbone.std)
    assert torch.equal(pictures.eval_batch(range(5)), views.eval_batch(range(5)))
    fog = Condition.parse("image:fog:3")
    noisy = dataclasses.replace(data, read=fog.reader(data.read, tiny_backbone.dims.image_size))
    expected = make_views(tiny_backbone, noisy, data.test, probe="eval").eval_batch(range(5))
    assert torch.equal(pictures.disturbed(fog).eval_batch(range(5)), expected)
    assert torch.equal(pictures.eval_batch(range(5)), views.eval_batch(range(5)))  # not touched


def test_large_parts_are_read_anew_with_the_same_answers(
    spec: RunSpec, context: ExperimentContext, monkeypatch: pytest.MonkeyPatch, tiny_backbone
) -> None:
    noisy = dataclasses.replace(spec, method="zeroshot", settings=(), train=(), conditions=NOISY[:3])
    kept = run(noisy, context)["metrics"]
    monkeypatch.setattr("anprompt.experiments.context.KEPT_BYTES", 0)
    context.shelf = Shelf(2**30)
    assert run(noisy, context)["metrics"] == kept and context.shelf.used == 0


def test_a_shelf_keeps_to_its_budget_and_to_the_present_data() -> None:
    shelf = Shelf(100)
    for number in range(5):
        shelf.put("a", number, number, 30)
    assert [shelf.get("a", n) for n in range(5)] == [0, 1, 2, None, None] and shelf.used == 90
    shelf.put("b", 0, "b", 60)  # another data set: the first ones go
    assert shelf.get("b", 0) == "b" and shelf.used <= 100 and shelf.get("a", 0) is None
    shelf.put("b", 1, "too large", 101)
    assert shelf.get("b", 1) is None
    assert default_budget(8) <= default_budget(1) and default_budget(8) > 0


def test_parts_of_one_data_set_are_not_mixed_up(spec: RunSpec, context: ExperimentContext, tiny_backbone) -> None:
    data = context.dataset(spec)
    halves = [subset_classes(data, which) for which in ("base", "new")]
    views = [
        context.test_views(spec, tiny_backbone, Part(spec.dataset, which, half), None)
        for which, half in zip(("base", "new"), halves)
    ]
    assert [v.items for v in views] == [half.test for half in halves]


# --- the command ----------------------------------------------------------------------------------
def parsed(protocol: str, *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args([protocol, *arguments])


def test_few_shot_runs_the_usual_shots_and_zero_shot_once() -> None:
    specs = bench.specifications(parsed("few-shot", "--data", "embedded:food", "--seeds", "1,2"))
    assert [s.shots for s in specs if s.method == "anprompt" and s.seed == 2] == [1, 2, 4, 8, 16]
    assert len([s for s in specs if s.method == "zeroshot"]) == 1
    assert {s.shots for s in bench.specifications(parsed("few-shot", "--shots", "3,all"))} == {3, None}


def test_targets_are_all_others_by_default() -> None:
    spec = bench.specifications(parsed("cross-dataset", "--data", "embedded:food"))[0]
    assert len(spec.targets) == 10 and "embedded:food" not in spec.targets
    spec = bench.specifications(parsed("cross-dataset", "--data", "coop:imagenet"))[0]
    assert len(spec.targets) == 10 and spec.targets[0] == "coop:caltech101"
    spec = bench.specifications(parsed("domains", "--data", "coop:imagenet"))[0]
    assert len(spec.targets) == 4 and "coop:imagenet_r" in spec.targets
    assert bench.specifications(parsed("domains", "--data", "embedded:food"))[0].targets == ()
    for arguments in (("cross-dataset", "--data", "photos"), ("noise", "--targets", "photos")):
        with pytest.raises(UserError, match="targets"):
            bench.specifications(parsed(*arguments))


def test_lists_of_conditions() -> None:
    assert bench.conditions("quick,text:case:1", ["image:fog:1"], True) == (*QUICK, "text:case:1", "image:fog:1")
    assert bench.conditions("all", [], False) == all_conditions()
    assert bench.conditions("descriptions", [], True)[0] == "template:description:1"
    with pytest.raises(UserError, match="Did you mean 'quick'"):
        bench.conditions("quik", [], True)


@pytest.mark.parametrize("protocol, extra", [
    ("few-shot", ("--shots", "1,2")), ("noise", ("--conditions", "image:fog:3,text:typo:2,template:case:1")),
])  # fmt: skip
def test_every_protocol_runs_prints_and_writes(
    protocol: str, extra: tuple[str, ...], photo_folder: Path, tiny_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    args = parsed(
        protocol, "--data", str(photo_folder), "--backbone", str(tiny_folder), "--seeds", "1", *extra,
        "--set", "epochs=1", "--set", "token_width=8", "--set", "draws=2", "--runs", str(tmp_path),
    )  # fmt: skip
    args.dry_run = True
    assert bench.run(args) == 0
    out = capsys.readouterr().out
    assert "to run" in out and "measured now" in out and " MB" in out
    assert not list(tmp_path.glob("*.json"))
    args.dry_run = False
    assert bench.run(args) == 0
    assert "anprompt" in capsys.readouterr().out and (tmp_path / "table.md").is_file()
    args.dry_run = True
    assert bench.run(args) == 0
    assert "Nothing to run" in capsys.readouterr().out


def test_transfer_and_domains_have_tables(
    spec: RunSpec, context: ExperimentContext, photo_folder: Path, tmp_path: Path
) -> None:
    add(context, "same", photo_folder)
    quick = dataclasses.replace(spec, method="zeroshot", settings=(), train=(), targets=("same",))
    records = [run(quick, context, protocol=protocol) for protocol in ("cross-dataset", "domains")]
    for record in records:
        save_record(tmp_path, record)
    assert len(list(tmp_path.glob("*.json"))) == 2 and sheets(records)


# --- estimates ------------------------------------------------------------------------------------
def test_estimates_come_from_records_where_there_are_some(
    spec: RunSpec, context: ExperimentContext, tmp_path: Path
) -> None:
    record = run_all([spec], tmp_path, context=context)[0]
    other = dataclasses.replace(spec, seed=2)
    done, left = estimate([spec, other], tmp_path, context)
    assert done.done and done.pace is None and not left.done
    assert left.pace and left.pace.records == 1 and left.pace.memory_mb == record["memory"]["peak_mb"]
    expected = record["log"]["steps"] * record["timings"]["step_s"] + record["timings"]["eval_s"]
    assert left.seconds == pytest.approx(expected, rel=1e-3)


def test_what_an_estimate_counts(spec: RunSpec, context: ExperimentContext) -> None:
    assert looks((), 10) == 1 and looks(("image:fog:1", "image:fog:2"), 10) == 3
    assert looks(("text:typo:1", "text:typo:2"), 10) == 2 and looks(("text:typo:1",) * 3, 1000) == 3
    pace = Pace(step_s=2.0, picture_s=0.5, memory_mb=1.0, records=1)
    tested = len(context.dataset(spec).test)
    assert seconds(spec, pace, context) == 1 * 2.0 + tested * 0.5  # 4 base images in batches of 4; all test images


def test_an_item_keeps_its_noise_whatever_part_it_is_in() -> None:
    grey = np.full((32, 32, 3), 128, np.uint8)
    snow = Condition.parse("image:snow:2")
    one, other = snow.view(Item("a", 0, "x"), grey), snow.view(Item("a", 3, "y", "ink"), grey)
    assert (one == other).all() and (grey == 128).all()
