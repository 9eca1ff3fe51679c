"""Downloads as archives, libraries and hubs leave them, brought into the field's layout; and what is refused."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.commands.main import main
from anprompt.data.classic.catalog import BENCHMARKS, CATALOG, IMAGENET_VARIANTS
from anprompt.data.classic.hub import parquet_entries
from anprompt.data.classic.labelled import Labelled, made_split
from anprompt.data.classic.prepare import prepare
from anprompt.data.sources import check_dataset, open_dataset
from anprompt.errors import UserError
from tests.downloads import DOWNLOADS, NAMES, PARTS, SYNSETS, download, pictures, split_json, tree
from tests.pictures import noise, save


@pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download_with_the_fields_split(tmp_path, name, copy):
    source, root = download(tmp_path, name), tmp_path / "root"
    before = tree(source)
    done = prepare(name, source, root, copy=copy)
    data = open_dataset(f"coop:{name}", root=root)
    assert done.check.complete and len(data.classnames) == 2 and data.train and data.val and data.test
    for item in data.train + data.val + data.test:
        assert data.read(item).size == (8, 8) and item.path.startswith(str(root))
    pieces = [root / CATALOG[name].folder / piece.to for piece in CATALOG[name].pieces]
    assert any(piece.is_symlink() for piece in pieces) != copy
    once = tree(root)
    again = prepare(name, source, root, copy=copy)
    assert again.check == done.check and tree(root) == once and tree(source) == before


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_split_of_our_own_is_made_where_the_fields_is_missing(tmp_path, name, caplog):
    source, root = download(tmp_path, name, split=False), tmp_path / "root"
    with pytest.raises(UserError, match=rf"needs {CATALOG[name].split_file}.* DATASETS|DATASETS") as caught:
        prepare(name, source, root)
    assert "--split-file FILE" in str(caught.value) and "--make-split SEED" in str(caught.value)
    assert not root.exists()
    prepare(name, source, root, make_split=7)
    home = root / CATALOG[name].folder
    made = home / "split_made_seed7.json"
    first = made.read_bytes()
    assert "Not the field's split" in json.loads(first)["note"] and not (home / CATALOG[name].split_file).exists()
    data = open_dataset(f"coop:{name}", root=root)
    assert "not by the field's split" in caplog.text
    rows = {(row[0], row[2]) for row in DOWNLOADS[name](tmp_path / "again")}
    items = data.train + data.val + data.test
    got = {(os.path.relpath(i.path, home / CATALOG[name].images), i.classname) for i in items}
    assert got == {(path, classname.replace("_", " ")) for path, classname in rows} and len(items) == len(got)
    prepare(name, source, root, make_split=7)
    assert made.read_bytes() == first
    with pytest.raises(UserError, match="remove it to make another split"):
        prepare(name, source, root, make_split=8)


@pytest.mark.parametrize("name, test", [("oxford_pets", 8), ("stanford_cars", 6), ("sun397", 10), ("ucf101", 8)])
def test_made_splits_keep_the_test_part_that_the_authors_drew(tmp_path, name, test):
    prepare(name, download(tmp_path, name, split=False), tmp_path / "root", make_split=0)
    assert len(open_dataset(f"coop:{name}", root=tmp_path / "root").test) == test


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=st.integers(0, 5), own=st.booleans())
def test_made_splits_hold_every_picture_once_and_every_class(sizes, seed, own):
    found = [
        Labelled(f"{c}/{n}.jpg", f"class {c}", c, test=own and n % 3 == 1)
        for c, size in enumerate(sizes)
        for n in range(size)
    ]
    rows = made_split(found, seed)
    everything = [tuple(row) for part in PARTS for row in rows[part]]
    assert sorted(everything) == sorted((p.path, p.order, p.classname) for p in found)
    assert {row[1] for row in rows["train"]} == set(range(len(sizes)))
    assert rows == made_split(reversed(found), seed)
    if any(p.test for p in found):
        assert {row[0] for row in rows["test"]} == {p.path for p in found if p.test}
    fewer = made_split([p for p in found if p.order == 0 or own], seed)  # other classes change nothing
    if not own:
        assert [r for r in fewer["train"] if r[1] == 0] == [r for r in rows["train"] if r[1] == 0]


def test_another_seed_is_another_split():
    found = [Labelled(f"{n}.jpg", "cat", 0) for n in range(30)]
    assert made_split(found, 1)["test"] != made_split(found, 2)["test"]


# --- ImageNet, its variants, aircraft ---------------------------------------------------------------
def imagenet(base: Path) -> Path:
    for part in ("train", "val"):
        for synset in SYNSETS:
            pictures(base / part / synset, f"{synset}_1.JPEG", f"{synset}_2.JPEG")
    (base / "classnames.txt").write_text(NAMES)
    return base


VARIANTS = {
    "imagenetv2": ("imagenetv2-matched-frequency", ("0", "1", "2")),
    "imagenet_sketch": ("sketch", SYNSETS),
    "imagenet_a": ("imagenet-a", SYNSETS[1:]),
    "imagenet_r": ("imagenet-r", SYNSETS[1:]),
}


def test_every_data_set_of_the_catalog_is_prepared_here():
    assert {"imagenet", "fgvc_aircraft", *DOWNLOADS} == set(BENCHMARKS) and set(VARIANTS) == set(IMAGENET_VARIANTS)


def test_imagenet_and_its_variants(tmp_path):
    root = tmp_path / "root"
    done = prepare("imagenet", imagenet(tmp_path / "ILSVRC"), root)
    assert done.check.counts == {"classes": 3, "train": 6, "val": 0, "test": 6}
    names = open_dataset("coop:imagenet", root=root).classnames
    assert names == ("tench", "goldfish", "great white shark")
    for name, (folder, classes) in VARIANTS.items():
        base = tmp_path / name / folder
        for number, class_folder in enumerate(classes):
            pictures(base / class_folder, f"{number}.jpg")
        (base / "README.txt").write_text("about")
        prepare(name, tmp_path / name, root)  # ImageNet's names lie beside
        data = open_dataset(f"coop:{name}", root=root)
        assert data.classnames == names[3 - len(classes) :] and len(data.test) == len(classes)
        assert [item.classname for item in data.test] == list(data.classnames)
    strange = tmp_path / "other.txt"
    strange.write_text(NAMES.replace("tench", "perch"))
    with pytest.raises(UserError, match=r"differs from .*use ImageNet's for all"):
        prepare("imagenet_a", tmp_path / "imagenet_a", root, split=strange)


def test_a_variant_under_another_name_is_known_by_its_folders(tmp_path):
    pictures(tmp_path / "my_download" / SYNSETS[0], "1.jpg")
    (tmp_path / "names.txt").write_text(NAMES)
    prepare("imagenet_r", tmp_path / "my_download", tmp_path / "root", split=tmp_path / "names.txt")
    assert open_dataset("coop:imagenet_r", root=tmp_path / "root").classnames == ("tench",)


def test_imagenet_without_its_class_names(tmp_path):
    (imagenet(tmp_path / "ILSVRC") / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"needs classnames\.txt.*DATASETS\.md") as caught:
        prepare("imagenet", tmp_path / "ILSVRC", tmp_path / "root")
    assert "--make-split" not in str(caught.value)
    with pytest.raises(UserError, match="--make-split does not apply"):
        prepare("imagenet", tmp_path / "ILSVRC", tmp_path / "root", make_split=1)


def test_aircraft(tmp_path):
    home = tmp_path / "fgvc-aircraft-2013b" / "data"
    pictures(home / "images", *(f"{n:07}.jpg" for n in range(6)))
    (home / "variants.txt").write_text("707-320\nF-16A/B\n")
    for number, part in enumerate(PARTS):
        lines = [f"{2 * number + n:07} {name}\n" for n, name in enumerate(("707-320", "F-16A/B"))]
        (home / f"images_variant_{part}.txt").write_text("".join(lines))
    done = prepare("fgvc_aircraft", tmp_path / "fgvc-aircraft-2013b", tmp_path / "root", copy=True)
    assert done.check.complete and done.check.counts == {"classes": 2, "train": 2, "val": 2, "test": 2}
    (home / "images_variant_val.txt").unlink()
    with pytest.raises(UserError, match=r"there is no images_variant_val\.txt"):
        prepare("fgvc_aircraft", tmp_path / "fgvc-aircraft-2013b", tmp_path / "other")


# --- class folders and parquet files ----------------------------------------------------------------
def class_folders(base: Path, name: str) -> dict[str, tuple[list, Path]]:
    """The same pictures below train and validation folders by class, as hubs have them: row and place of each."""
    rows = DOWNLOADS[name](base / "original")
    moved = {}
    images = next(f for f in [base, *(base / "original").rglob("*")] if (f / rows[0][0]).is_file())
    for number, (path, _, classname) in enumerate(rows):
        folder = path.rpartition("/")[0] or classname
        target = base / "hub" / ("train" if number % 3 else "validation") / folder.replace("/", "_")
        target.mkdir(parents=True, exist_ok=True)
        moved[path] = (rows[number], (images / path).rename(target / path.rpartition("/")[2]))
    return moved


@pytest.mark.parametrize("name", ["caltech101", "oxford_pets", "food101", "eurosat", "oxford_flowers"])
def test_class_folders_are_matched_with_the_fields_split(tmp_path, name):
    moved = class_folders(tmp_path, name)
    split = split_json(tmp_path / "split.json", [row for row, _ in moved.values()])
    root = tmp_path / "root"
    prepare(name, tmp_path / "hub", root, split=split)
    data = open_dataset(f"coop:{name}", root=root)
    images = root / CATALOG[name].folder / CATALOG[name].images
    got = {os.path.relpath(i.path, images): Path(i.path).resolve() for i in data.train + data.val + data.test}
    assert got == {path: place.resolve() for path, (_, place) in moved.items()}
    assert prepare(name, tmp_path / "hub", root, split=split).check.complete


def test_a_class_is_not_looked_for_in_one_whose_name_holds_it(tmp_path):
    pictures(tmp_path / "hub" / "crocodile", "image_0001.jpg")
    pictures(tmp_path / "hub" / "crocodile_head", "image_0001.jpg", "image_0002.jpg")
    rows = [["crocodile/image_0001.jpg", 0, "crocodile"], ["crocodile_head/image_0001.jpg", 1, "crocodile_head"]]
    split = split_json(tmp_path / "split.json", rows)
    prepare("caltech101", tmp_path / "hub", tmp_path / "root", split=split)
    rows.append(["crocodile/image_0002.jpg", 0, "crocodile"])  # only the head has a second picture
    with pytest.raises(UserError, match=r"1 of the 3 pictures .*crocodile/image_0002\.jpg"):
        prepare("caltech101", tmp_path / "hub", tmp_path / "more", split=split_json(split, rows))
    assert not (tmp_path / "more").exists()


def test_class_folders_with_a_split_of_our_own(tmp_path):
    for part, count in (("train", 10), ("test", 4)):
        for folder in ("Acura RL Sedan 2012", "BMW M3"):
            pictures(tmp_path / "hub" / part / folder, *(f"{n:05}.jpg" for n in range(count)))
    prepare("stanford_cars", tmp_path / "hub", tmp_path / "root", make_split=1)
    data = open_dataset("coop:stanford_cars", root=tmp_path / "root")
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 8)
    assert data.classnames == ("Acura RL Sedan 2012", "BMW M3")


def parquet(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Rows of (file name, class) as a hub writes them."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import io

    import pyarrow.parquet as pq

    classes = sorted({classname for _, classname in rows})
    images = []
    for number, (name, _) in enumerate(rows):
        buffer = io.BytesIO()
        noise(8, 8, seed=number).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": name})
    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [classes.index(c) for _, c in rows]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_parquet_files(tmp_path):
    rows = [(f"image_{n:04}.jpg", folder) for n in range(10) for folder in ("Faces", "accordion")]
    parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", rows[:14])
    parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", rows[14:])
    names = {"Faces": "face", "accordion": "accordion"}
    split = split_json(tmp_path / "split.json", [[f"{c}/{n}", i % 2, names[c]] for i, (n, c) in enumerate(rows)])
    done = prepare("caltech101", tmp_path / "hub", tmp_path / "root", split=split)
    assert done.check.counts == {"classes": 2, "train": 10, "val": 5, "test": 5}
    data = open_dataset("coop:caltech101", root=tmp_path / "root")
    assert np.array_equal(np.asarray(data.read(data.train[3])), np.asarray(noise(8, 8, seed=3)))
    lost = Path(data.train[3].path)
    whole = lost.read_bytes()
    lost.unlink()  # as after an interruption
    prepare("caltech101", tmp_path / "hub", tmp_path / "root", split=split)
    assert lost.read_bytes() == whole
    prepare("caltech101", tmp_path / "hub", tmp_path / "own", make_split=1)
    data = open_dataset("coop:caltech101", root=tmp_path / "own")
    assert data.classnames == ("face", "accordion") and len(data.test) == 6
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="can't be read as a parquet file"):
        prepare("caltech101", tmp_path / "bad.parquet", tmp_path / "x", make_split=1)
    with pytest.raises(UserError, match="imagenet_a can't be prepared from parquet files"):
        (tmp_path / "names.txt").write_text(NAMES)
        prepare("imagenet_a", tmp_path / "hub", tmp_path / "x", split=tmp_path / "names.txt")


def test_parquet_files_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_text("")
    with pytest.raises(UserError, match="pyarrow, which is not installed; 'pip install pyarrow'"):
        parquet_entries([tmp_path / "a.parquet"])


# --- interruptions and files in the way -------------------------------------------------------------
def test_an_interrupted_copy_goes_on(tmp_path, monkeypatch):
    source, root = download(tmp_path, "dtd"), tmp_path / "root"
    copied = []

    def fails_in_between(done: int, total: int) -> None:
        copied.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("dtd", source, root, copy=True, progress=fails_in_between)
    assert not check_dataset("dtd", root).complete and copied == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"15 of 20 pictures"):
        open_dataset("coop:dtd", root=root)
    assert prepare("dtd", source, root, copy=True).check.complete


def test_files_that_differ_are_never_overwritten(tmp_path):
    source, root = download(tmp_path, "dtd"), tmp_path / "root"
    split = root / "dtd" / CATALOG["dtd"].split_file
    split.parent.mkdir(parents=True)
    split.write_text((source / CATALOG["dtd"].split_file).read_text() + "\n")
    kept = split.read_bytes()
    with pytest.raises(UserError, match="differs; move it away"):
        prepare("dtd", source, root, split=source / CATALOG["dtd"].split_file)
    assert split.read_bytes() == kept and not (root / "dtd" / "images").exists()
    split.unlink()
    mine = save(root / "dtd" / "images" / "banded" / "banded_0.jpg", noise(5, 5))
    kept = mine.read_bytes()
    with pytest.raises(UserError, match=r"banded_0\.jpg is there already and differs"):
        prepare("dtd", source, root, copy=True)
    done = prepare("dtd", source, root)
    assert mine.read_bytes() == kept and any(line.startswith("kept") for line in done.lines)
    assert not done.check.complete


def test_links_that_lead_elsewhere(tmp_path):
    source, root = download(tmp_path, "eurosat"), tmp_path / "root"
    link = root / "eurosat" / "2750"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="which is gone; remove the link"):
        prepare("eurosat", source, root)
    (tmp_path / "gone").mkdir()
    with pytest.raises(UserError, match="gone; remove the link first"):
        prepare("eurosat", source, root)
    assert os.readlink(link) == str(tmp_path / "gone")


def test_a_download_in_its_place_stays(tmp_path):
    source = download(tmp_path, "food101")
    done = prepare("food101", source / "food-101", source, split=source / CATALOG["food101"].split_file)
    assert done.check.complete and not (source / "food-101" / "images").is_symlink()


def test_a_split_of_another_download_leaves_no_trace(tmp_path):
    source, root = download(tmp_path, "dtd"), tmp_path / "root"
    (source / "dtd" / "dtd" / "images" / "dotted" / "dotted_3.jpg").unlink()
    with pytest.raises(UserError, match=r"lacks 1 of the 20 pictures .*dotted_3\.jpg.* Nothing was placed"):
        prepare("dtd", source, root)
    assert not root.exists()


# --- the command line -------------------------------------------------------------------------------
def test_prepare_and_check_from_the_command_line(tmp_path, capsys):
    source, root = download(tmp_path, "dtd"), str(tmp_path / "root")
    assert main(["data", "prepare", "coop:dtd", "--from", str(source), "--root", root]) == 0
    out = capsys.readouterr().out
    assert "linked" in out and "note     not the field's split" in out
    assert main(["data", "prepare", "dtd", "--from", str(source), "--root", root, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    assert main(["data", "check", "dtd", "dtd", "--root", root]) == 0
    assert capsys.readouterr().out.count("coop:dtd") == 1
    assert main(["data", "check", "dtd", "sun397", "--root", root]) == 1
    assert "pytorch/vision/issues/9348" in capsys.readouterr().out
    assert main(["data", "check", "--root", root]) == 0  # nothing was asked for by name
    out, err = capsys.readouterr()
    assert out.count("coop:") == 15 and "14 of 15 data sets incomplete" in err
    assert main(["data", "check", "--root", root, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dtd"]["complete"] and told["dtd"]["expected"]["train"] == 2820 and not told["sun397"]["complete"]
    assert main(["data", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["coop:ucf101"]["counts"]["classes"] == 101 and "embedded:food" in rows


WRONG = {
    "unknown name": (["prepare", "dtt", "--from", "{here}", "--root", "{here}"], "Did you mean 'dtd'"),
    "no name": (["prepare", "--from", "{here}", "--root", "{here}"], "takes one NAME"),
    "two names": (["prepare", "dtd", "dtd", "--from", "{here}", "--root", "{here}"], "takes one NAME"),
    "no download": (["prepare", "dtd", "--root", "{here}"], "needs --from PATH"),
    "no root": (["prepare", "dtd", "--from", "{here}"], "needs --root DIR"),
    "download missing": (["prepare", "dtd", "--from", "{here}/x", "--root", "{here}"], "There is no download"),
    "an archive": (["prepare", "dtd", "--from", "{here}/a.zip", "--root", "{here}"], "unpack it"),
    "a text file": (["prepare", "dtd", "--from", "{here}/a.txt", "--root", "{here}"], "is a file"),
    "NUL": (["prepare", "dtd", "--from", "a\0b", "--root", "{here}"], "There is no download"),
    "split missing": (
        ["prepare", "dtd", "--from", "{here}", "--root", "{here}", "--split-file", "{here}/x.json"],
        "There is no split file",
    ),
    "split broken": (
        ["prepare", "dtd", "--from", "{here}", "--root", "{here}/r", "--split-file", "{here}/a.txt"],
        "not valid JSON",
    ),
    "both splits": (
        [
            "prepare",
            "dtd",
            "--from",
            "{here}",
            "--root",
            "{here}/r",
            "--split-file",
            "{here}/a.txt",
            "--make-split",
            "1",
        ],
        "not both",
    ),
    "seed no number": (["prepare", "dtd", "--make-split", "x"], "whole number"),
    "not this data set": (
        ["prepare", "dtd", "--from", "{here}/empty", "--root", "{here}/r", "--make-split", "1"],
        "does not look like DTD: there is no images",
    ),
    "films": (
        ["prepare", "ucf101", "--from", "{here}/empty", "--root", "{here}/r", "--make-split", "1"],
        "Films won't do",
    ),
    "check with --from": (["check", "dtd", "--from", "x"], "--from belongs to 'data prepare'"),
    "root no folder": (["check", "dtd", "--root", "{here}/x"], "is not a folder"),
    "root NUL": (["check", "dtd", "--root", "a\0b"], "is not a folder"),
    "root a file": (["prepare", "dtd", "--from", "{here}/dl", "--root", "{here}/a.txt", "--make-split", "1"], "a.txt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_one_line(tmp_path, capsys, case):
    words, message = WRONG[case]
    for name in ("a.zip", "a.txt"):
        (tmp_path / name).write_text("{")
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "dl" / "images" / "banded", "1.jpg", "2.jpg")
    code = main(["data", *(word.replace("{here}", str(tmp_path)) for word in words)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name, file", [
    ("oxford_flowers", "flowers-102/imagelabels.mat"), ("oxford_flowers", "flowers-102/cat_to_name.json"),
    ("stanford_cars", "stanford_cars/devkit/cars_meta.mat"),
    ("stanford_cars", "stanford_cars/cars_test_annos_withlabels.mat"),
])  # fmt: skip
def test_lists_that_a_made_split_needs(tmp_path, name, file):
    source = download(tmp_path, name, split=False)
    (source / file).write_bytes(b"\x00\x01 damaged")
    with pytest.raises(UserError, match=f"{Path(file).name}"):
        prepare(name, source, tmp_path / "root", make_split=1)
    (source / file).unlink()
    with pytest.raises(UserError, match=f"{Path(file).name}"):
        prepare(name, source, tmp_path / "root", make_split=1)
    assert not (tmp_path / "root").exists()
