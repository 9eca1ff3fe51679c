"""Folders that mean something else than their outermost folders say; each kind over many forms."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.commands.main import main
from anprompt.data.part_names import named_parts, plain_part
from anprompt.data.reading import class_counts, reading_lines
from anprompt.data.sources import open_dataset
from anprompt.data.walk import picture_files
from anprompt.errors import UserError
from tests.pictures import class_folders, noise, save


def build(root: Path, *entries: str) -> Path:
    """Makes `a/b: 3` (three images), `a/b/` (an empty folder), `a/b.png` (an image), `a.txt=text`, `link -> a`."""
    for entry in entries:
        if " -> " in entry:
            link, target = entry.split(" -> ")
            (root / link).parent.mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(root / target)
        elif re.match(r"[^ ]*\.\w+=", entry):
            file, text = entry.split("=", 1)
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text, encoding="utf-8")
        elif ": " in entry:
            folder, count = entry.rsplit(": ", 1)
            start = sum(map(ord, folder))
            for number in range(int(count)):
                save(root / folder / f"{number}.png", noise(6, 6, seed=start + number))
        elif entry.endswith("/"):
            (root / entry).mkdir(parents=True, exist_ok=True)
        else:
            save(root / entry)
    return root


def counts(data) -> dict[str, tuple[int, int, int]]:
    return {name: (row["train"], row["val"], row["test"]) for name, row in class_counts(data).items()}


def told(data) -> str:
    return "\n".join(reading_lines(data, verbose=True))


def refusal(root, **options) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(root, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- names of parts ---------------------------------------------------------------------------------
SPELLINGS = {
    "train": [
        "train", "TRAIN", "Training", "training_set", "train2017", "train_images", "Train Data", "TrainingSet", "trainset",
        "train-01", "imagesTrain", "split=train", "01_train", "Trainingsdaten", "trn", "new train images",
    ],
    "val": ["val", "Valid", "VALIDATION", "val2017", "validation-set", "dev", "dev_set", "Val Images", "validate"],
    "test": [
        "test", "Testing", "TestData", "test_set", "testset", "test1", "eval", "evaluation", "holdout", "hold-out", "Hold Out",
        "held_out", "test images",
    ],
    "unlabelled": ["pred", "unlabeled", "Unlabelled", "predict", "inference"],
    "": ["plane", "train station", "bullet_train", "contest", "protest", "latest", "test tube", "training_dog", "trains",
         "validator", "seg_train", "attest"],
}  # fmt: skip


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in SPELLINGS.items() for name in names])
def test_part_names_as_people_write_them(part, name):
    assert plain_part(name) == part


@given(
    word=st.sampled_from(["train", "val", "test"]),
    before=st.sampled_from(["", "my", "data", "images", "01"]),
    after=st.sampled_from(["", "set", "images", "2017", "data"]),
    sign=st.sampled_from(["_", "-", " ", "."]),
    case=st.sampled_from([str.lower, str.upper, str.title]),
)
@settings(max_examples=60, deadline=None)
def test_affixes_signs_and_case_do_not_matter(word, before, after, sign, case):
    assert plain_part(case(sign.join(piece for piece in (before, word, after) if piece))) == word


@pytest.mark.parametrize("affix", ["seg", "asl alphabet", "fruits-360", "chest_xray"])
def test_a_shared_affix_makes_parts_and_a_lone_one_does_not(affix):
    pair = named_parts([f"{affix}_train", f"{affix}_test", f"{affix}_pred"])
    assert list(pair.values()) == ["train", "test", "unlabelled"]
    assert named_parts([f"{affix}_train", "plane", "car"]) == {}


def test_eval_beside_test_is_val():
    assert named_parts(["train", "eval"])["eval"] == "test"
    assert named_parts(["train", "eval", "test"])["eval"] == "val"


# --- part folders -----------------------------------------------------------------------------------
PAIRS = [
    ("Training", "Testing"), ("TRAIN", "TEST"), ("seg_train", "seg_test"), ("train_images", "test_images"),
    ("Train Data", "Test Data"), ("training_set/training_set", "test_set/test_set"), ("seg_train/seg_train", "seg_test/seg_test"),
    ("train", "holdout"), ("train/images", "test/images"), ("train/fruit", "test/fruit"), ("train_1", "eval"),
]  # fmt: skip


@pytest.mark.parametrize(("train", "test"), PAIRS)
@pytest.mark.parametrize("below", ["", "archive/", "a/b/c/"])
def test_parts_are_read_whatever_they_are_called_and_however_deep(tmp_path, train, test, below):
    build(tmp_path, *(f"{below}{part}/{name}: {n}" for part, n in ((train, 3), (test, 2)) for name in ("cat", "dog")))
    data = open_dataset(tmp_path)
    assert counts(data) == {"cat": (3, 0, 2), "dog": (3, 0, 2)}
    assert data.reading.layout == "part folders" and data.skipped == ()


@pytest.mark.parametrize("test", ["test", "Testing", "test/images", "test/test", "pred", "test_images"])
def test_an_unlabelled_flat_test_folder_is_left_out_and_told(tmp_path, test):
    data = open_dataset(build(tmp_path, "train/cat: 3", "train/dog: 3", f"{test}: 4"))
    assert data.classnames == ("cat", "dog") and len(data.train) == 6 and not data.test
    assert data.reading.unlabelled == (test,) and "unlabelled (4 images" in told(data)


@pytest.mark.parametrize(
    "stray", ["train/cover.png", "cover.png", "train/notes.txt=x", "test/0.png", "readme.md=x", "train/.DS_Store=x"]
)
def test_a_stray_file_changes_nothing_else(tmp_path, stray):
    tree = [f"{part}/{name}: 3" for part in ("train", "test") for name in ("cat", "dog")]
    before = open_dataset(build(tmp_path / "a" / "set", *tree))
    after = open_dataset(build(tmp_path / "b" / "set", *tree, stray))
    assert counts(after) == counts(before)
    hidden = ".DS_Store" in stray
    assert len(after.skipped) == (0 if hidden else 1)
    assert stray.split("=")[0].rsplit("/")[-1] in told(after)


@pytest.mark.parametrize("empty", [(), ("val/", "test/"), ("Validation/", "Testing/.DS_Store=x")])
def test_train_alone_is_all_trained_on_and_nothing_is_tested(tmp_path, empty):
    data = open_dataset(build(tmp_path, "train/cat: 16", "train/dog: 16", *empty))
    assert counts(data) == {"cat": (16, 0, 0), "dog": (16, 0, 0)}
    assert "none is tested" in told(data) and not data.reading.divided
    assert all("is empty" in told(data) for _ in empty)


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev", "val2017"])
def test_train_and_val_are_taken_as_they_are(tmp_path, val):
    data = open_dataset(build(tmp_path, "train/cat: 16", "train/dog: 16", f"{val}/cat: 6", f"{val}/dog: 6"))
    assert counts(data) == {"cat": (16, 6, 6), "dog": (16, 6, 6)} and data.val == data.test
    assert "val images serve for validation and for testing" in told(data)


def test_a_table_with_train_and_val_rows_is_taken_as_it_is(tmp_path):
    rows = [f"{name}/{n}.png,{name},{'Training' if n < 3 else 'dev'}\n" for name in ("cat", "dog") for n in range(4)]
    build(tmp_path, "cat: 4", "dog: 4", "t.csv=path,label,split\n" + "".join(rows))
    assert counts(open_dataset(tmp_path / "t.csv")) == {"cat": (3, 1, 1), "dog": (3, 1, 1)}


def test_names_of_one_class_may_differ_between_parts(tmp_path):
    data = open_dataset(build(tmp_path, "train/Apple: 2", "train/red_fox: 2", "test/apple: 2", "test/red fox: 1"))
    assert [row for row in counts(data).values()] == [(2, 0, 2), (2, 0, 1)] and "'apple' is the class 'Apple'" in told(
        data
    )


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("train", "val", "test", "pred")])
def test_parts_inside_class_folders(tmp_path, names):
    tree = [f"{name}/{part}: {n + 2}" for name in ("cat", "dog") for n, part in enumerate(names)]
    data = open_dataset(build(tmp_path, *tree, "cat/loose.png"))
    assert data.classnames == ("cat", "dog") and data.reading.layout == "part folders in class folders"
    assert counts(data)["cat"] == ((2, 3, 4) if len(names) == 4 else (2, 0, 3))
    assert "loose.png" in told(data)


# --- archives, systems, links -----------------------------------------------------------------------
@pytest.mark.parametrize("below", ["fruit", "archive/fruit", "a/b/c/d"])
@pytest.mark.parametrize("beside", [(), ("__MACOSX/fruit: 2",), ("readme.txt=x", "__MACOSX/"), ("cover.png",)])
def test_an_unpacked_archive_is_read_further_down(tmp_path, below, beside):
    data = open_dataset(build(tmp_path, f"{below}/cat: 6", f"{below}/dog: 6", *beside))
    assert {name: sum(row) for name, row in counts(data).items()} == {"cat": 6, "dog": 6}
    assert f"all images lie below {below}" in told(data) and data.reading.folder == str(tmp_path / below)


SYSTEM = [
    "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", ".Trash-1000", ".AppleDouble", ".ipynb_checkpoints", "__pycache__",
    "__MACOSX", "System Volume Information", "RECYCLER", "@Recycle", "#snapshot", ".git", ".thumbnails", "found.000", "LOST.DIR",
    "@__thumb", "Network Trash Folder",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
@pytest.mark.parametrize("place", ["", "cat/", "cat/2024/", "train/", "train/cat/"])
def test_system_folders_are_passed_over_at_any_depth(tmp_path, name, place):
    part = "train/" if place.startswith("train") else ""
    build(tmp_path, f"{part}cat: 4", f"{part}dog: 4", f"{place}{name}/below/more: 2", f"{place}{name}: 1")
    data = open_dataset(tmp_path)
    assert data.classnames == ("cat", "dog") and len({*data.train, *data.val, *data.test}) == 8
    assert data.skipped == () and name in told(data)
    assert len(picture_files(tmp_path)) == 8  # the same walk for predict


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "THUMBS.DB", "desktop.ini", "ehthumbs.db", "._0.png", ".DS_Store", "~$a.png", "0.png:Zone.Identifier",
             ".picasa.ini", "Icon\r"]
)  # fmt: skip
def test_system_files_are_passed_over(tmp_path, name):
    build(tmp_path, "cat: 4", "dog: 4")
    (tmp_path / "cat" / name).write_bytes(b"x" * 9)
    assert open_dataset(tmp_path).skipped == () and len(picture_files(tmp_path)) == 8


@pytest.mark.parametrize("form", ["..", "sub/..", ".hidden", "link"])
def test_the_folder_itself_may_be_called_anything(tmp_path, monkeypatch, form):
    home = build(tmp_path / ".hidden", "cat: 4", "dog: 4", "sub/")
    (home / "sub").rmdir()
    (tmp_path / "link").symlink_to(home)
    monkeypatch.chdir(tmp_path if form in (".hidden", "link") else home / "cat" if form == ".." else home)
    folder = {"..": "..", "sub/..": "cat/.."}.get(form, form)
    assert open_dataset(folder).classnames == ("cat", "dog")
    assert len(picture_files(folder)) == 8


LINKS = {
    "up": ("cat/again -> cat", "link to a folder above"),
    "root": ("cat/all -> .", "link to a folder above"),
    "class twice": ("fox -> cat", "is read already"),
    "inside another": ("dog/more -> cat", "is read already"),
    "outside twice": ("", "is read already"),
}


@pytest.mark.parametrize("name", LINKS)
def test_every_real_folder_is_read_once(tmp_path, name):
    link, reason = LINKS[name]
    root = build(tmp_path / "set", "cat: 4", "dog: 4", *([link] if link else []))
    extra = 0
    if not link:
        build(tmp_path, "store: 3")
        (root / "cat" / "one").symlink_to(tmp_path / "store")
        (root / "cat" / "two").symlink_to(tmp_path / "store")
        extra = 3
    data = open_dataset(root)
    assert data.classnames == ("cat", "dog") and len(data.train + data.val + data.test) == 8 + extra
    assert len(data.skipped) == 1 and reason in data.skipped[0]


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_part_that_links_to_train_is_no_test(tmp_path, part):
    data = open_dataset(build(tmp_path, "train/cat: 4", "train/dog: 4", f"{part} -> train"))
    assert len(data.train) == 8 and not data.test and "is read already" in data.skipped[0]


def test_a_very_deep_folder_ends(tmp_path):
    build(tmp_path, "cat: 2", "dog: 2", "cat/" + "a/" * 90 + "x: 1")
    data = open_dataset(tmp_path)
    assert len(data.train + data.val + data.test) == 4 and "folders deep" in data.skipped[0]


# --- tables beside images ---------------------------------------------------------------------------
def _metadata(kind: str, rows: list[tuple[str, object]], column: str = "label") -> str:
    if kind == "csv":
        return f"metadata.csv=file_name,{column}\n" + "".join(f"{file},{label}\n" for file, label in rows)
    return "metadata.jsonl=" + "".join(json.dumps({"file_name": f, column: label}) + "\n" for f, label in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("column", ["label", "class", "category"])
def test_image_folder_with_metadata(tmp_path, kind, column):
    rows = [(f"{n}.png", "cat" if n % 2 else "dog") for n in range(4)]
    for part in ("train", "test"):
        build(tmp_path, f"{part}: 5", f"{part}/{_metadata(kind, rows, column)}")
    data = open_dataset(tmp_path)
    assert counts(data) == {"cat": (2, 0, 2), "dog": (2, 0, 2)} and data.reading.layout == "metadata"
    assert len(data.skipped) == 2 and "is not listed" in data.skipped[0]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_at_the_root(tmp_path, kind):
    rows = [(f"{part}/{n}.png", ("cat", "dog")[n % 2]) for part in ("train", "validation", "test") for n in range(4)]
    build(tmp_path, "train: 4", "validation: 4", "test: 4", _metadata(kind, rows))
    assert counts(open_dataset(tmp_path)) == {"cat": (2, 2, 2), "dog": (2, 2, 2)}


def test_metadata_without_labels_leaves_the_folders(tmp_path):
    data = open_dataset(build(tmp_path, "cat: 4", "dog: 4", "metadata.csv=file_name,text\ncat/0.png,a cat\n"))
    assert data.classnames == ("cat", "dog") and "no column 'label'" in told(data)


def test_metadata_with_numbers_for_the_folders_keeps_their_names(tmp_path):
    rows = [(f"{name}/{n}.png", number) for number, name in enumerate(("cat", "dog")) for n in range(4)]
    assert open_dataset(build(tmp_path, "cat: 4", "dog: 4", _metadata("jsonl", rows))).classnames == ("cat", "dog")


def test_metadata_that_contradicts_the_folders_is_two_readings(tmp_path):
    rows = [("cat/0.png", "x"), ("cat/1.png", "y"), ("dog/0.png", "x"), ("dog/1.png", "x")]
    build(tmp_path, "cat: 2", "dog: 2", _metadata("csv", rows))
    assert "two ways" in refusal(tmp_path)
    assert open_dataset(tmp_path, layout="metadata").classnames == ("x", "y")
    assert open_dataset(tmp_path, layout="classes").classnames == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metadata.csv=file_name,label\nnone.png,cat\n", "line 2: there is no file"),
        ("metadata.csv=file_name,label\n0.png,\n", "line 2: the label is empty"),
        ("metadata.jsonl=[1]\n", "line 1: no JSON object with a file_name"),
        ('metadata.jsonl={"file_name": "0.png", "label": [1, 2]}\n', "'label' is list, not one class"),
        ("metadata.csv=file_name,label\n0.png,cat\n0.png,dog\n", "more than once"),
    ],
)
def test_bad_metadata_is_refused_in_one_line(tmp_path, text, message):
    assert message in refusal(build(tmp_path, "a.png", "0.png", text))


# --- two readings -----------------------------------------------------------------------------------
TWO = {
    "vehicles with kinds of trains": (("train/steam: 3", "train/electric: 3", "plane: 3"), {"parts": 2, "classes": 2}),
    "test beside classes": (("cat: 3", "dog: 3", "test: 3"), {"classes": 3}),
    "class and part in one name": (("cat_train: 3", "cat_test: 3", "dog_train: 3", "dog_test: 2"), {"classes": 4}),
    "unknown part names": (("Lernset/a: 3", "Lernset/b: 3", "Pruefset/a: 3", "Pruefset/b: 3"), {"domains": 2, "classes": 2}),
    "folds": ([f"fold{n}/{c}: 2" for n in range(3) for c in "abc"], {"domains": 3, "classes": 3}),
    "some classes with parts": (("cat/train: 3", "cat/test: 3", "dog: 3", "fox: 3"), {"classes": 3}),
    "classes in a gathering folder": (("images/a: 3", "images/b: 3", "samples: 3"), {"classes": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", TWO)
def test_two_readings_are_refused_and_both_can_be_chosen(tmp_path, name):
    tree, choices = TWO[name]
    build(tmp_path, *tree)
    message = refusal(tmp_path)
    assert "two ways" in message and "--layout classes" in message
    for layout, classes in choices.items():
        assert layout in message
        assert len(open_dataset(tmp_path, layout=layout).classnames) == classes


@pytest.mark.parametrize(
    "tree",
    [
        ("train: 3", "plane: 3"),
        ("train: 3", "test: 3", "plane: 3"),
        ("cat/2023: 2", "cat/2024: 2", "dog/2023: 2", "dog/2024: 2"),
    ],
)
def test_one_reading_that_makes_sense_is_taken(tmp_path, tree):
    assert len(open_dataset(build(tmp_path, *tree)).classnames) == len(
        {entry.split(":")[0].split("/")[0] for entry in tree}
    )


@pytest.mark.parametrize("table", ["", "train.csv=id,label\n"])
def test_images_straight_in_parts_have_no_class(tmp_path, table):
    message = refusal(build(tmp_path, "train: 3", "test: 3", *([table] if table else [])))
    assert "unlabelled" in message and "train/" in message and ("train.csv" in message) == bool(table)


def test_domains(tmp_path):
    build(tmp_path, "photo/cat: 3", "photo/dog: 3", "sketch/cat: 3", "sketch/dog: 3")
    data = open_dataset(tmp_path, layout="domains")
    assert {item.domain for item in data.train + data.val + data.test} == {"photo", "sketch"}


@pytest.mark.parametrize("layout", ["clases", ""])
def test_an_unknown_layout_names_the_choices(tmp_path, layout):
    assert "metadata" in refusal(build(tmp_path, "cat: 2", "dog: 2"), layout=layout)


# --- classes without images of a part ---------------------------------------------------------------
def test_classes_of_one_part_only_are_told_with_the_nearest_name(tmp_path):
    data = open_dataset(
        build(tmp_path, "train/apple: 2", "train/plum: 2", "train/pear: 2", "test/apple: 2", "test/plumm: 2")
    )
    lines = "\n".join(data.reading.warnings)
    assert "'plumm' has no training images" in lines and "(did you mean 'plum'?)" in lines
    assert "'pear' has no test images" in lines and "'plum' has no test images" in lines


def test_a_table_tells_them_too(tmp_path):
    rows = ["cat/0.png,cat,train", "dog/0.png,dog,train", "cat/1.png,cat,test", "dog/1.png,dgo,test"]
    build(tmp_path, "cat: 2", "dog: 2", "t.csv=path,label,split\n" + "\n".join(rows))
    assert "'dgo' has no training images" in "\n".join(open_dataset(tmp_path / "t.csv").reading.warnings)


@given(
    st.dictionaries(st.sampled_from(["train", "val", "test"]), st.sets(st.sampled_from("abcd"), min_size=1), min_size=1)
)
@settings(max_examples=25, deadline=None)
def test_no_image_of_a_part_is_lost_or_moved(tmp_path_factory, parts):
    root = tmp_path_factory.mktemp("set")
    build(root, *(f"{part}/{name}: 2" for part, names in parts.items() for name in names))
    if len(set().union(*parts.values())) < 2:
        refusal(root)
        return
    data = open_dataset(root, report=False)
    for part in parts:
        inside = {os.path.relpath(item.path, root).split(os.sep)[0] for item in getattr(data, part)}
        assert inside == {part} and len(getattr(data, part)) == 2 * len(parts[part])
    assert {item.path for item in data.train}.isdisjoint(item.path for item in data.test)


# --- the command line -------------------------------------------------------------------------------
QUICK = ["--method", "coop", "--shots", "2", "--set", "epochs=1"]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_fit_and_check_print_the_reading(tmp_path, capsys):
    root = build(tmp_path / "set", "Training/cat: 3", "Training/dog: 3", "Testing/cat: 2", "Testing/dog: 2", "Training/x.png",
                 "Training/cat/page.jpg=<html>", "Training/dog/a.jpg=<html>", "Training/dog/@eaDir: 2")  # fmt: skip
    for words in (("data", "check", root), ("fit", "--data", root, *QUICK, "--out", tmp_path / "out")):
        assert run(*words) == 0
        text = capsys.readouterr().out
        assert "part folders, 2 classes (cat, dog)" in text and "train 6" in text and "test 4" in text
        assert "Training/ read as train" in text and "@eaDir" in text
        assert re.search(r"left out: 3 \(web page: 2, outside the class folders: 1\)", text)
        assert "page.jpg" not in text
    record = json.loads((tmp_path / "out" / "config.json").read_text())["record"]["reading"]
    assert set(record["left_out"]) == {"Training/x.png", "Training/cat/page.jpg", "Training/dog/a.jpg"}
    assert run("data", "check", root, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)[str(root)]["left_out"]) == 3


@pytest.mark.parametrize("command", ["check", "fit", "eval"])
def test_each_file_left_out_is_listed_with_verbose(tmp_path, capsys, command):
    root = build(tmp_path / "set", "cat: 4", "dog: 4", *(f"cat/p{n}.jpg=<html>" for n in range(8)))
    words = {"check": ("data", "check", root), "fit": ("fit", "--data", root, *QUICK, "--out", tmp_path / "out"),
             "eval": ("eval", "zeroshot", "--data", root)}[command]  # fmt: skip
    assert run(*words, "--verbose") == 0
    text = "".join(capsys.readouterr())
    assert all(re.search(rf"p{n}\.jpg: is a web page", text) for n in range(8))
    assert run(*words, *(["--overwrite"] if command == "fit" else [])) == 0
    text = "".join(capsys.readouterr())
    assert "web page: 8" in text and "p3.jpg" not in text


def test_many_classes_are_told_compactly(tmp_path, capsys):
    root = class_folders(tmp_path / "set", {f"c{n:02}": 2 + n % 3 for n in range(40)})
    assert run("data", "check", root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 10 and "40 classes (c00, c01" in lines[0]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """Trained on apple, banana, kiwi, plum."""
    root = class_folders(tmp_path_factory.mktemp("photos") / "photos", {"apple": 4, "banana": 4, "kiwi": 4, "plum": 4})
    out = root.parent / "adapter"
    assert run("fit", "--data", root, *QUICK, "--out", out, "--quiet") == 0
    return out


def evaluated(capsys, *words) -> tuple[dict, str]:
    capsys.readouterr()
    assert run("eval", *words, "--json") == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


@pytest.mark.parametrize("held", [("apple", "banana", "kiwi", "plum"), ("apple", "kiwi"), ("kiwi",)])
def test_a_hold_out_folder_is_evaluated_among_the_trained_classes(tmp_path, capsys, adapter, held):
    root = class_folders(tmp_path / "new", dict.fromkeys(held, 10), first=500)
    shutil.copy(adapter.parent / "photos" / "kiwi" / "000.png", root / "kiwi" / "known.png")  # one may be known
    result, err = evaluated(capsys, adapter, "--data", root, "--split", "all")
    assert result["pictures"] == 10 * len(held) + 1 and result["class_count"] == 4 and result["head"] == "trained"
    assert ("answers are chosen from all 4" in err) == (len(held) < 4)
    _, err = evaluated(capsys, adapter, "--data", root)
    assert f"of {10 * len(held) + 1} images" in err


def test_the_folder_trained_on_is_tested_on_its_test_part_without_a_word(tmp_path, capsys, adapter):
    result, err = evaluated(capsys, adapter, "--data", adapter.parent / "photos")
    assert result["pictures"] == len(open_dataset(adapter.parent / "photos").test) > 0 and err == ""


def test_the_class_folder_itself_is_a_hold_out(tmp_path, capsys, adapter):
    root = class_folders(tmp_path, {"kiwi": 5})
    result, _ = evaluated(capsys, adapter, "--data", root / "kiwi", "--split", "all")
    assert result["pictures"] == 5 and result["class_count"] == 4


def test_the_candidates_can_be_chosen(tmp_path, capsys, adapter):
    root = class_folders(tmp_path / "new", {"apple": 3, "kiwi": 3})
    result, _ = evaluated(capsys, adapter, "--data", root, "--split", "all", "--candidates", "data")
    assert result["class_count"] == 2


def test_an_unknown_class_is_told_with_the_nearest_name(tmp_path, capsys, adapter):
    root = class_folders(tmp_path / "new", {"aple": 3, "kiwi": 3})
    result, err = evaluated(capsys, adapter, "--data", root, "--split", "all")
    assert "did you mean 'apple'?" in err and result["head"] == "unseen"


@pytest.mark.parametrize("words", [("zeroshot",), ("ADAPTER", "--candidates", "data")])
def test_one_class_alone_is_no_choice(tmp_path, capsys, adapter, words):
    root = class_folders(tmp_path / "one", {"apple": 3})
    given = [adapter if word == "ADAPTER" else word for word in words]
    assert run("eval", *given, "--data", root, "--split", "all") == 2
    assert "one class only" in capsys.readouterr().err


def test_a_folder_without_test_names_what_it_has(tmp_path, capsys, adapter):
    root = build(tmp_path, "train/apple: 3", "train/kiwi: 3")
    assert run("eval", adapter, "--data", root) == 2
    assert "has no test pictures. It has 6 train; choose with --split" in capsys.readouterr().err


def test_a_class_without_training_images_does_not_count_as_trained(tmp_path, capsys):
    root = build(tmp_path / "set", "train/apple: 3", "train/plum: 3", "test/apple: 2", "test/kiwi: 2")
    assert run("fit", "--data", root, *QUICK, "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["classnames"] == ["apple", "plum"] and config["record"]["test_images"] == 2
    assert "'kiwi' has no training images" in out and "'plum' has no test images" in out and "kiwi" in err


def test_eval_lists_what_was_left_out(tmp_path, capsys, adapter):
    root = build(tmp_path, "apple: 4", "kiwi: 4", "apple/x.jpg=<html>")
    result, _ = evaluated(capsys, adapter, "--data", root, "--split", "all")
    assert len(result["skipped"]) == 1 and "x.jpg" in result["skipped"][0]


# --- Python -----------------------------------------------------------------------------------------
def test_the_classifier_reads_folders_alike(tmp_path, caplog):
    import anprompt as ap

    root = build(tmp_path / "set", "Training/apple: 3", "Training/plum: 3", "Testing/apple: 2", "Testing/plum: 2",
                 "Training/cover.png")  # fmt: skip
    clf = ap.PromptClassifier("embedded", method="coop", shots=2, train={"epochs": 1}).fit(root)
    assert list(clf.classes_) == ["apple", "plum"] and any("cover.png" in line for line in clf.skipped_)
    assert 0 <= clf.score(root) <= 1
    record = json.loads((clf.save(tmp_path / "saved") / "config.json").read_text())["record"]
    assert record["reading"]["layout"] == "part folders" and "Training/cover.png" in record["reading"]["left_out"]
    new = class_folders(tmp_path / "new", {"apple": 5})
    assert 0 <= clf.score(new, part="all") <= 1 and "answers are chosen from all 2" in caplog.text


# --- any tree ---------------------------------------------------------------------------------------
WORDS = [
    "train",
    "test",
    "val",
    "cat",
    "dog",
    "images",
    "seg_train",
    "seg_test",
    "Training",
    "eval",
    "@eaDir",
    ".git",
    "2023",
    "pred",
]
TREES = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), max_size=3), st.sampled_from(["1.png", "2.png", "note.txt"])),
    max_size=12,
)


@given(TREES, st.sampled_from(["auto", "auto", "classes", "parts", "domains"]))
@settings(max_examples=60, deadline=None)
def test_every_image_of_any_tree_is_used_or_named(tmp_path_factory, tree, layout):
    root = tmp_path_factory.mktemp("any")
    image = save(root.parent / f"{root.name}.png", noise(6, 6)).read_bytes()
    for folders, name in tree:
        folder = root.joinpath(*folders)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image if name.endswith(".png") else b"text")
    try:
        data = open_dataset(root, layout=layout, report=False, least_classes=1)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    used = {item.path for item in (*data.train, *data.val, *data.test)}
    assert {item.path for item in data.train}.isdisjoint(item.path for item in data.test)
    for folders, name in tree:
        file = root.joinpath(*folders, name)
        hidden = any(word in ("@eaDir", ".git") for word in folders)
        named = any(
            file == Path(e.path) or (Path(e.path) in file.parents and e.path != str(root))
            for e in data.reading.left_out
        )
        assert hidden or (str(file) in used) + named == 1, (file, data.reading)
        assert not (hidden and str(file) in used)
