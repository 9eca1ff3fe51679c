"""The classic data sets in CoOp's layout, made small; and the door to every source."""

from __future__ import annotations

import json
import sys
import types

import pytest

from anprompt.data.catalog import CATALOG
from anprompt.data.sources import check_dataset, open_dataset
from anprompt.errors import UserError
from tests.pictures import save
from tests.shared import shared

SPLIT = {
    "train": [["AnnualCrop/0.jpg", 0, "AnnualCrop"], ["SeaLake/0.jpg", 1, "Sea_or Lake"]],
    "val": [["AnnualCrop/1.jpg", 0, "AnnualCrop"]],
    "test": [["SeaLake/1.jpg", 1, "Sea_or Lake"], ["AnnualCrop/2.jpg", 0, "AnnualCrop"]],
}


def make_split(root, name, split=SPLIT, pictures=True):
    row = CATALOG[name]
    home = root / row.folder
    (home / row.images).mkdir(parents=True, exist_ok=True)
    (home / row.split_file).write_text(json.dumps(split))
    if pictures:
        for part in split.values():
            for path, *_ in part:
                save(home / row.images / path)
    return home


def make_aircraft(home):
    (home / "images").mkdir(parents=True)
    (home / "variants.txt").write_text("707-320\nF-16A/B\n")
    for number, part in enumerate(("train", "val", "test")):
        lines = [f"00{number}0 F-16A/B", f"00{number}1 707-320"]
        (home / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            save(home / "images" / f"{line.split()[0]}.jpg")


def make_imagenet(root):
    home = root / "imagenet"
    for number, wnid in enumerate(("n02", "n01", "n03")):
        for part in ("train", "val"):
            save(home / "images" / part / wnid / f"{number}.JPEG")
    save(home / "images" / "train" / "n01" / "0a.JPEG")
    (home / "images" / "train" / ".listing").write_text("")
    (home / "classnames.txt").write_text("n03 missile\nn01 great white shark\nn02 missile\nn99 unused\n")
    return home


def test_the_catalog_is_complete():
    assert set(CATALOG) == {
        "imagenet",
        "caltech101",
        "oxford_pets",
        "stanford_cars",
        "oxford_flowers",
        "food101",
        "fgvc_aircraft",
        "sun397",
        "dtd",
        "eurosat",
        "ucf101",
    }
    assert all(row.template.count("{}") == 1 for row in CATALOG.values())
    assert len({row.folder for row in CATALOG.values()}) == 11


@pytest.mark.parametrize("name", [name for name, row in CATALOG.items() if row.layout == "split"])
def test_split_files_are_read_in_their_order(tmp_path, name):
    home = make_split(tmp_path, name)
    data = open_dataset(f"coop:{name}", root=tmp_path)
    assert data.name == name and data.template == CATALOG[name].template
    first = "Annual Crop Land" if name == "eurosat" else "AnnualCrop"
    assert data.classnames == (first, "Sea or Lake")
    assert [item.label for item in data.train + data.val + data.test] == [0, 1, 0, 1, 0]
    assert data.train[0].path == str(home / CATALOG[name].images / "AnnualCrop" / "0.jpg")
    assert data.train[0].classname == first and data.read(data.train[0]).mode == "RGB"
    assert all(line.startswith("found") for line in check_dataset(name, tmp_path))


def test_the_folder_itself_may_be_the_root(tmp_path):
    home = make_split(tmp_path, "dtd")
    assert open_dataset("coop:dtd", root=home).name == "dtd"


@pytest.mark.parametrize("below", ["fgvc_aircraft", "fgvc_aircraft/data"])
def test_aircraft(tmp_path, below):
    make_aircraft(tmp_path / below)
    data = open_dataset("coop:fgvc_aircraft", root=tmp_path)
    assert data.classnames == ("707-320", "F-16A/B")
    assert [item.label for item in data.train] == [1, 0]
    assert (len(data.val), len(data.test)) == (2, 2)
    assert all(line.startswith("found") for line in check_dataset("fgvc_aircraft", tmp_path))


def test_imagenet(tmp_path):
    make_imagenet(tmp_path)
    data = open_dataset("coop:imagenet", root=tmp_path)
    assert data.classnames == ("great white shark", "missile", "missile")  # official names repeat
    assert [item.label for item in data.train] == [0, 0, 1, 2]
    assert data.val == () and [item.label for item in data.test] == [0, 1, 2]
    assert all(line.startswith("found") for line in check_dataset("imagenet", tmp_path))


def test_imagenet_mistakes(tmp_path):
    home = make_imagenet(tmp_path)
    save(home / "images" / "val" / "n99" / "0.JPEG")
    with pytest.raises(UserError, match="'n99' has no train folder"):
        open_dataset("coop:imagenet", root=tmp_path)
    save(home / "images" / "train" / "n98" / "0.JPEG")
    with pytest.raises(UserError, match=r"'n98' is not in classnames\.txt"):
        open_dataset("coop:imagenet", root=tmp_path)
    flat = tmp_path / "flat" / "imagenet"
    save(flat / "images" / "train" / "n01" / "0.JPEG")
    save(flat / "images" / "val" / "0.JPEG")
    (flat / "classnames.txt").write_text("n01 shark\n")
    with pytest.raises(UserError, match="needs a folder per class"):
        open_dataset("coop:imagenet", root=tmp_path / "flat")


def test_aircraft_with_an_unknown_variant(tmp_path):
    make_aircraft(tmp_path / "fgvc_aircraft")
    (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").write_text("0010 707-320\n0011 Zeppelin\n")
    with pytest.raises(UserError, match=r"images_variant_val.txt, line 2: 'Zeppelin' is not in"):
        open_dataset("coop:fgvc_aircraft", root=tmp_path)


def test_missing_pictures_are_refused_because_the_draws_need_them(tmp_path):
    home = make_split(tmp_path, "eurosat")
    (home / "2750" / "SeaLake" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 5 pictures .* SeaLake/1\.jpg|1 of 5 pictures"):
        open_dataset("coop:eurosat", root=tmp_path)
    lines = check_dataset("eurosat", tmp_path)
    assert [line for line in lines if line.startswith("missing")] == [
        f"missing  {home / '2750' / 'SeaLake' / '1.jpg'}"
    ]


def test_check_says_where_things_should_lie(tmp_path):
    (line,) = check_dataset("oxford_pets", tmp_path)
    assert line.startswith("missing") and str(tmp_path / "oxford_pets") in line and "DATASETS.md" in line
    (tmp_path / "oxford_pets").mkdir()
    lines = check_dataset("oxford_pets", tmp_path)
    assert [line.split()[0] for line in lines] == ["found", "missing", "missing"]
    assert "images" in lines[1] and "robots.ox.ac.uk" in lines[1] and "split_zhou_OxfordPets.json" in lines[2]
    make_split(tmp_path, "oxford_pets", pictures=False)
    lines = check_dataset("oxford_pets", tmp_path)
    assert sum(line.startswith("missing") for line in lines) == 5
    (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json").write_text("{")
    assert check_dataset("oxford_pets", tmp_path)[-1].startswith("wrong")
    with pytest.raises(UserError, match="Did you mean 'oxford_pets'"):
        check_dataset("oxfordpets", tmp_path)


def test_check_lists_the_first_missing_pictures(tmp_path):
    rows = [[f"{number}.jpg", number % 2, "ab"[number % 2]] for number in range(20)]
    make_split(tmp_path, "dtd", {"train": rows, "val": [], "test": []}, pictures=False)
    lines = check_dataset("dtd", tmp_path)
    assert len([line for line in lines if line.endswith(".jpg")]) == 5
    assert lines[-1].startswith("missing  ... and 15 more pictures")


def test_damaged_or_missing_lists(tmp_path):
    home = tmp_path / "fgvc_aircraft"
    make_aircraft(home)
    (home / "images_variant_val.txt").write_bytes(b"0010 Citro\xebn\n")
    with pytest.raises(UserError, match=r"images_variant_val.txt is not a UTF-8 text"):
        open_dataset("coop:fgvc_aircraft", root=tmp_path)
    (home / "images_variant_val.txt").unlink()
    with pytest.raises(UserError, match=r"images_variant_val.txt is missing"):
        open_dataset("coop:fgvc_aircraft", root=tmp_path)
    (home / "images_variant_val.txt").mkdir()
    with pytest.raises(UserError, match=r"images_variant_val.txt can't be read"):
        open_dataset("coop:fgvc_aircraft", root=tmp_path)
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "classnames.txt").write_text("n01 shark\n")
    with pytest.raises(UserError, match="train can't be listed"):
        open_dataset("coop:imagenet", root=tmp_path)


BAD_SPLITS = {
    "no json": ("{", "not valid JSON"),
    "a list": ("[]", "not a split file"),
    "no test": ('{"train": [], "val": []}', "not a split file"),
    "short rows": ('{"train": [["a.jpg", 0]], "val": [], "test": []}', "not a split file"),
    "no label": ('{"train": [["a.jpg", "x", "cat"]], "val": [], "test": []}', "not a split file"),
    "two names": (
        '{"train": [["a.jpg", 0, "cat"], ["b.jpg", 0, "dog"]], "val": [], "test": []}',
        "label 0 is called 'cat' and 'dog'",
    ),
    "a gap": ('{"train": [["a.jpg", 0, "cat"], ["b.jpg", 2, "dog"]], "val": [], "test": []}', "without gaps"),
    "nothing": ('{"train": [], "val": [], "test": []}', "without gaps"),
}


@pytest.mark.parametrize("name", BAD_SPLITS)
def test_bad_split_files(tmp_path, name):
    text, message = BAD_SPLITS[name]
    (make_split(tmp_path, "dtd") / "split_zhou_DescribableTextures.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset("coop:dtd", root=tmp_path)


@pytest.mark.parametrize("name", ["caltech101", "oxford_pets", "dtd"])
def test_official_splits_have_clean_names(tmp_path, monkeypatch, name):
    split = json.loads(shared(f"reference/splits/{CATALOG[name].split_file}").read_text())
    make_split(tmp_path, name, split, pictures=False)
    monkeypatch.setattr("anprompt.data.coop._missing", lambda parts: [])  # only names are looked at
    data = open_dataset(f"coop:{name}", root=tmp_path)
    assert len(data.classnames) == {"caltech101": 100, "oxford_pets": 37, "dtd": 47}[name]
    assert not any("_" in classname for classname in data.classnames)


@pytest.fixture
def embedded(monkeypatch):
    module = types.ModuleType("anprompt.data.embedded")
    module.EMBEDDED_SETS = ("food", "animals")
    module.embedded_dataset = lambda name: f"the {name} set"
    monkeypatch.setitem(sys.modules, "anprompt.data.embedded", module)


def test_embedded_sets_are_asked_for_by_name(embedded):
    assert open_dataset("embedded:food") == "the food set"
    for spec in ("embedded", "embedded:"):
        with pytest.raises(UserError, match="Available: food, animals"):
            open_dataset(spec)
    with pytest.raises(UserError, match=r"Unknown embedded data set 'foot'\. Did you mean 'food'"):
        open_dataset("embedded:foot")


UNKNOWN = {
    "": "No data set given",
    "  ": "No data set given",
    "/nowhere/at/all": "There is no data set '/nowhere/at/all'. A data set is a folder",
    "food": "Did you mean 'embedded:food'",
    "dtd": "Did you mean 'coop:dtd'",
    "embeded:food": "Unknown kind of data set 'embeded'. Did you mean 'embedded'",
    "coop": "Say which classic data set",
    "coop:": "Say which classic data set",
    "coop:dtt": "Unknown classic data set 'dtt'. Did you mean 'dtd'",
    "coop:dtd": "needs the folder that holds dtd/",
    "nul\0": "There is no data set",
    "x" * 5000: "There is no data set",
    "two\nlines": "There is no data set",
}


@pytest.mark.parametrize("spec", UNKNOWN, ids=[spec[:20].replace("\0", "0") for spec in UNKNOWN])
def test_unknown_specs_say_the_next_step(embedded, spec):
    with pytest.raises(UserError) as caught:
        open_dataset(spec)
    assert UNKNOWN[spec] in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_missing_root_says_where_it_looked(tmp_path, embedded):
    with pytest.raises(UserError, match="dtd is missing: coop:dtd lies there"):
        open_dataset("coop:dtd", root=tmp_path)
    picture = save(tmp_path / "cat.jpg")
    with pytest.raises(UserError, match="is a file, but no table"):
        open_dataset(picture)
