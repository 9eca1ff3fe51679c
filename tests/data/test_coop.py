"""The classic data sets in CoOp's layout, made small; and the door to every source."""

from __future__ import annotations

import json
import sys
import types

import pytest

from anprompt.data.classic.catalog import CATALOG
from anprompt.data.sources import check_dataset, open_dataset
from anprompt.errors import UserError
from tests.pictures import save

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


def states(name, root):
    return [finding.state for finding in check_dataset(name, root).findings]


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
    check = check_dataset(name, tmp_path)
    assert check.complete and check.counts == {"classes": 2, "train": 2, "val": 1, "test": 2}
    assert [finding.state for finding in check.findings if finding.state != "found"] == ["note"]


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
    assert check_dataset("fgvc_aircraft", tmp_path).complete


def test_imagenet(tmp_path):
    make_imagenet(tmp_path)
    data = open_dataset("coop:imagenet", root=tmp_path)
    assert data.classnames == ("great white shark", "missile", "missile")  # official names repeat
    assert [item.label for item in data.train] == [0, 0, 1, 2]
    assert data.val == () and [item.label for item in data.test] == [0, 1, 2]
    check = check_dataset("imagenet", tmp_path)  # a part of ImageNet is not ImageNet
    assert not check.complete and check.counts == {"classes": 3, "train": 4, "val": 0, "test": 3}
    assert [finding.what for finding in check.findings if finding.state == "missing"] == [
        "997 of 1000 classes", "1281163 of 1281167 train pictures", "49997 of 50000 test pictures",
    ]  # fmt: skip


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


def make_variant(root, name, folders, names="n01 great white shark\nn02 missile\nn03 missile\n"):
    row = CATALOG[name]
    for folder in folders:
        save(root / row.folder / row.images / folder / "1.jpg")
    (root / row.folder / "classnames.txt").write_text(names)
    return root / row.folder


@pytest.mark.parametrize("name", ["imagenet_sketch", "imagenet_a", "imagenet_r"])
def test_variants_have_the_classes_of_their_folders(tmp_path, name):
    home = make_variant(tmp_path, name, ("n03", "n01"))
    (home / CATALOG[name].images / "README.txt").write_text("about")
    data = open_dataset(f"coop:{name}", root=tmp_path)
    assert data.classnames == ("great white shark", "missile") and not data.train and not data.val
    assert [(item.label, item.classname) for item in data.test] == [(0, "great white shark"), (1, "missile")]
    assert data.test[1].path == str(home / CATALOG[name].images / "n03" / "1.jpg")
    assert data.read(data.test[0]).mode == "RGB"
    save(home / CATALOG[name].images / "n77" / "1.jpg")
    with pytest.raises(UserError, match=r"'n77' is not in classnames\.txt"):
        open_dataset(f"coop:{name}", root=tmp_path)


def test_v2_counts_its_folders_along_the_sorted_synsets(tmp_path):
    home = make_variant(tmp_path, "imagenetv2", ("2", "0"), "n03 missile\nn01 shark\nn02 crane\n")
    data = open_dataset("coop:imagenetv2", root=tmp_path)
    assert data.classnames == ("shark", "crane", "missile")
    assert [item.classname for item in data.test] == ["shark", "missile"]
    for folder, message in (("3", "'3' is not a number below 3"), ("01", "'01' is not a number")):
        save(home / CATALOG["imagenetv2"].images / folder / "1.jpg")
        with pytest.raises(UserError, match=message):
            open_dataset("coop:imagenetv2", root=tmp_path)
        (home / CATALOG["imagenetv2"].images / folder / "1.jpg").unlink()
        (home / CATALOG["imagenetv2"].images / folder).rmdir()


def test_variants_take_the_class_names_that_lie_with_imagenet(tmp_path):
    home = make_variant(tmp_path, "imagenet_a", ("n01",))
    (home / "classnames.txt").unlink()
    with pytest.raises(UserError, match=r"imagenet-adversarial/classnames\.txt is missing"):
        open_dataset("coop:imagenet_a", root=tmp_path)
    make_imagenet(tmp_path)
    assert open_dataset("coop:imagenet_a", root=tmp_path).classnames == ("great white shark",)
    assert open_dataset("coop:imagenet_a", root=home).classnames == ("great white shark",)
    with pytest.raises(UserError, match="imagenet-rendition is missing"):
        open_dataset("coop:imagenet_r", root=tmp_path / "imagenet")


def test_a_synset_with_two_names_is_refused(tmp_path):
    make_variant(tmp_path, "imagenet_r", ("n01",), "n01 shark\nn01 ray\n")
    with pytest.raises(UserError, match=r"line 2: n01 is called 'ray', and 'shark' before"):
        open_dataset("coop:imagenet_r", root=tmp_path)


def test_a_made_split_stands_in_with_a_warning(tmp_path, caplog):
    home = make_split(tmp_path, "dtd")
    official = home / CATALOG["dtd"].split_file
    official.rename(home / "split_made_seed3.json")
    assert len(open_dataset("coop:dtd", root=tmp_path).train) == 2
    assert "split_made_seed3.json, not by the field's split" in caplog.text
    (home / "split_made_seed4.json").write_text((home / "split_made_seed3.json").read_text())
    with pytest.raises(UserError, match="several made splits"):
        open_dataset("coop:dtd", root=tmp_path)
    assert states("dtd", tmp_path) == ["wrong"]
    official.write_text((home / "split_made_seed3.json").read_text())
    caplog.clear()
    assert open_dataset("coop:dtd", root=tmp_path).licence == "research" and not caplog.text


def test_aircraft_lists_stay_inside_their_folder(tmp_path):
    make_aircraft(tmp_path / "fgvc_aircraft")
    (tmp_path / "fgvc_aircraft" / "images_variant_val.txt").write_text("../../x 707-320\n")
    with pytest.raises(UserError, match=r"names '\.\./\.\./x\.jpg'"):
        open_dataset("coop:fgvc_aircraft", root=tmp_path)


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
    missing = [f.what for f in check_dataset("eurosat", tmp_path).findings if f.state == "missing"]
    assert missing == [str(home / "2750" / "SeaLake" / "1.jpg")]


def test_check_says_where_things_should_lie(tmp_path):
    (finding,) = check_dataset("oxford_pets", tmp_path).findings
    assert finding.state == "missing" and str(tmp_path / "oxford_pets") in finding.what
    assert "robots.ox.ac.uk" in finding.todo and "data prepare oxford_pets" in finding.todo
    (tmp_path / "oxford_pets").mkdir()
    check = check_dataset("oxford_pets", tmp_path)
    assert [f.state for f in check.findings] == ["found", "missing", "missing"]
    images, split = (str(finding) for finding in check.findings[1:])
    assert "oxford_pets/images" in images and "robots.ox.ac.uk" in images
    assert "split_zhou_OxfordPets.json" in split and "DATASETS.md" in split
    assert check.next_step in images and check.counts is None
    make_split(tmp_path, "oxford_pets", pictures=False)
    assert states("oxford_pets", tmp_path).count("missing") == 5
    (tmp_path / "oxford_pets" / "split_zhou_OxfordPets.json").write_text("{")
    assert states("oxford_pets", tmp_path)[-1] == "wrong"
    with pytest.raises(UserError, match="Did you mean 'oxford_pets'"):
        check_dataset("oxfordpets", tmp_path)


def test_check_names_other_sources_where_the_home_page_fails(tmp_path):
    assert "pytorch/vision/issues/7545" in check_dataset("stanford_cars", tmp_path).next_step


def test_check_lists_the_first_missing_pictures(tmp_path):
    rows = [[f"{number}.jpg", number % 2, "ab"[number % 2]] for number in range(20)]
    make_split(tmp_path, "dtd", {"train": rows, "val": [], "test": []}, pictures=False)
    findings = check_dataset("dtd", tmp_path).findings
    assert len([finding for finding in findings if finding.what.endswith(".jpg")]) == 5
    assert findings[-1].what == "... and 15 more pictures"


def test_check_notes_pictures_listed_twice(tmp_path):
    rows = [["a.jpg", 0, "a"], ["b.jpg", 1, "b"]]
    make_split(tmp_path, "dtd", {"train": rows, "val": [], "test": rows[:1]})
    check = check_dataset("dtd", tmp_path)
    assert check.complete and check.findings[-1].what == "1 pictures are listed more than once"


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
    "an absolute path": ('{"train": [["/etc/a.jpg", 0, "cat"]], "val": [], "test": []}', "is not a path below"),
    "a path that leads out": (
        '{"train": [["a.jpg", 0, "cat"]], "val": [["x/../../b.jpg", 0, "cat"]], "test": []}',
        "is not a path below",
    ),
    "a Windows path": ('{"train": [["C:\\\\a.jpg", 0, "cat"]], "val": [], "test": []}', "is not a path below"),
    "a folder": ('{"train": [["a/", 0, "cat"]], "val": [], "test": []}', "is not a path below"),
    "names that read alike": (
        '{"train": [["a.jpg", 0, "big cat"], ["b.jpg", 1, "Big_cat"]], "val": [], "test": []}',
        "both read as",
    ),
    "nothing": ('{"train": [], "val": [], "test": []}', "without gaps"),
}


@pytest.mark.parametrize("name", BAD_SPLITS)
def test_bad_split_files(tmp_path, name):
    text, message = BAD_SPLITS[name]
    home = make_split(tmp_path, "dtd")
    save(home / "images" / "a.jpg")
    save(home / "images" / "b.jpg")
    (home / "split_zhou_DescribableTextures.json").write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset("coop:dtd", root=tmp_path)


@pytest.fixture
def embedded(monkeypatch):
    module = types.ModuleType("anprompt.data.embedded")
    module.EMBEDDED_SETS = ("food", "animals")
    module.embedded_dataset = lambda name: types.SimpleNamespace(name=name, reading=None)
    monkeypatch.setitem(sys.modules, "anprompt.data.embedded", module)


def test_embedded_sets_are_asked_for_by_name(embedded):
    assert open_dataset("embedded:food").name == "food"
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
