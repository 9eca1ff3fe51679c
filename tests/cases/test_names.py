"""Class names: labels come back as they were given, one comparison, lists and names as people write them."""

from __future__ import annotations

import gc
import itertools
import json
import logging
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import anprompt
from anprompt.backbones import Backbone
from anprompt.classifier import PromptClassifier
from anprompt.commands.main import main
from anprompt.data.inputs import targets
from anprompt.data.label_names import codes, names_for
from anprompt.data.name_lists import read_class_list, split_names
from anprompt.data.names import check_classnames, class_key, spoken
from anprompt.errors import UserError
from anprompt.experiments.records import read_records
from anprompt.methods import Classifier, build_method
from anprompt.report.collect import open_same

QUICK = ("--method", "coop", "--shots", "2", "--set", "epochs=1", "--json")


def images(root: Path, names: list[str], count: int = 6) -> Path:
    """A folder of class folders with `count` images each."""
    rng = np.random.default_rng(0)
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 90, (32, 32, 3)) + 40 * place
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def run_json(capsys: pytest.CaptureFixture[str], *argv: object) -> dict:
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


# --- the comparison -------------------------------------------------------------------------------
SAME = [
    ("apple", "Apple"), ("red_apple", "red apple"), ("red__apple", " red   apple "), ("caf\u00e9", "cafe\u0301"),
    ("caf\u00e9", "CAFE\u0301"), ("ＡＰＰＬＥ", "apple"), ("ﾘﾝｺﾞ", "リンゴ"), ("app\u200ble", "apple"), ("\ufeffapple", "apple"),
    ("ap\u00adple", "apple"), ("apple\u200e", "apple"), ("ap\u2060ple", "apple"), ("re\u200cd", "red"), ("Straße", "STRASSE"),
    ("no\u00a0break", "no break"), ("ideographic\u3000space", "ideographic space"), ("❤\ufe0f", "❤"),
]  # fmt: skip
OTHERS = [
    ("A", "A-"), ("A+", "A-"), ("-1", "1"), ("0", "00"), ("F-16", "F16"), ("t-shirt", "t shirt"), ("apple", "apples"),
    ("a.b", "ab"), ("cafe", "café"), ("C", "C#"), ("red apple", "redapple"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_class(one: str, other: str) -> None:
    assert class_key(one) == class_key(other)
    with pytest.raises(UserError, match="rename or merge"):
        check_classnames(["else", one, other])


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_names_that_differ(one: str, other: str) -> None:
    assert class_key(one) != class_key(other)
    assert check_classnames([one, other]) == [one, other]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_the_key_is_a_fixed_point_and_agrees_with_the_words(name: str) -> None:
    key = class_key(name)
    assert class_key(key) == key
    assert class_key(f" {name}_") == key
    for form in ("NFC", "NFD"):
        assert class_key(unicodedata.normalize(form, name)) == key
    try:
        words = spoken(name)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert spoken(words) == words and class_key(words) == key


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aAéＡ_ \u0301\u200b-", min_size=1, max_size=6), max_size=4))
def test_names_that_pass_have_keys_of_their_own(names: list[str]) -> None:
    try:
        kept = check_classnames(names)
    except UserError:
        return
    assert kept == names and len({class_key(name) for name in names}) == len(names)


def seconds(work: Callable[[int], object], size: int) -> float:
    """Least processor time of a few tries."""
    gc.collect()
    best = float("inf")
    for _ in range(4):
        start = time.process_time()
        work(size)
        best = min(best, time.process_time() - start)
    return best


def _refused(name: str, where: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="at most 300 fit"):
        where(name)


def accents(count: int) -> str:
    return "a" + "\u0301" * count + "\u0327" * count


DOORS: dict[str, Callable[[int], object]] = {
    "spoken": lambda n: _refused(accents(n), spoken),
    "check_classnames": lambda n: _refused(accents(n), lambda name: check_classnames([name, "b"])),
    "class_key": lambda n: class_key(accents(n)),
    "split_names": lambda n: split_names(accents(n) + ",b"),
    "labels": lambda n: targets([accents(n), "b"]),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_doubled_name_takes_at_most_thrice_the_time(door: str) -> None:
    """Normalising a run of accents takes quadratic time, so lengths come first: 150,000 took 14 seconds."""
    work = DOORS[door]
    work(1000)
    times = [seconds(work, 15_000 * 2**step) for step in range(3)]
    for smaller, larger in itertools.pairwise(times):
        assert larger <= 3 * smaller + 0.02, times  # 0.02 s: what a clock or a collection may add


def test_a_list_of_long_names_is_refused_one_by_one_in_time(tmp_path: Path, caplog) -> None:
    file = tmp_path / "list.txt"
    file.write_text("\n".join(["apple", *[accents(40_000)] * 5, "banana"]), encoding="utf-8")
    start = time.process_time()
    assert read_class_list(file) == ["apple", "banana"]
    assert time.process_time() - start < 2
    assert [record.getMessage().split(" left out")[0][-6:] for record in caplog.records] == [
        f"line {n}" for n in range(2, 7)
    ]


def test_an_adapter_with_a_long_name_is_refused_at_once(adapter_folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(adapter_folder, tmp_path / "adapter")
    config = json.loads((copy / "config.json").read_text())
    config["classnames"][0] = accents(60_000)
    (copy / "config.json").write_text(json.dumps(config))
    start = time.process_time()
    with pytest.raises(UserError, match="at most 300 fit"):
        anprompt.load(copy)
    assert time.process_time() - start < 3


# --- which head -----------------------------------------------------------------------------------
@pytest.mark.parametrize("spelling", ["Red_Apple", "RED APPLE", "red\u200b apple", "ｒｅｄ apple", "red  apple"])
def test_another_spelling_has_the_trained_head_and_equal_answers(tiny_backbone: Backbone, spelling: str) -> None:
    import torch

    method = build_method("anprompt", tiny_backbone, ["red_apple", "plum"], settings={"token_width": 16, "draws": 2})
    pixels = torch.rand(2, 3, tiny_backbone.dims.image_size, tiny_backbone.dims.image_size)
    asked = Classifier(method, [spelling, "PLUM"])
    assert asked.head == "trained" and asked.classnames == (spelling, "PLUM")
    assert torch.equal(asked.logits(pixels), Classifier(method).logits(pixels))
    assert Classifier(method, [spelling, "lynx"]).head == "unseen"


# --- labels come back -----------------------------------------------------------------------------
SPELLED = ["Red_Apple", "caf\u00e9_noir", "ripe__banana", "x y"]


def test_labels_of_a_folder_come_back_everywhere(tmp_path: Path, capsys, monkeypatch) -> None:
    folder = images(tmp_path / "data", SPELLED)
    out = tmp_path / "adapter"
    run_json(capsys, "fit", "--data", folder, *QUICK, "--out", out)
    names = sorted(SPELLED)
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["classnames"] == names
    clf = anprompt.load(out)
    paths = sorted(folder.glob("*/*.png"))
    assert clf.classes_.tolist() == names and set(clf.predict(paths)) <= set(names)
    assert clf.method_.sentences(names)[0].endswith("Red Apple.")
    truth = [path.parent.name for path in paths]
    assert clf.score(paths, truth) == np.mean(clf.predict(paths) == np.array(truth))
    found = run_json(capsys, "predict", out, *paths[:2], "--top", "9", "--json")
    assert found["classes"] == names and found["head"] == "trained"
    assert {row["class"] for answer in found["predictions"] for row in answer["top"]} == set(names)
    tested = run_json(capsys, "eval", out, "--data", folder, "--per-class", "--json")
    assert list(tested["per_class"]) == names and tested["head"] == "trained"


def test_labels_of_a_table_and_of_lists_come_back(tmp_path: Path, tiny_backbone: Backbone) -> None:
    folder = images(tmp_path / "data", ["a", "b"])
    rows = [f"data/{name}/{n}.png,{label}" for name, label in (("a", "Red_Apple"), ("b", "x y")) for n in range(6)]
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    quick = {"method": "coop", "shots": 2, "train": {"epochs": 1}}
    assert PromptClassifier(tiny_backbone, **quick).fit(tmp_path / "t.csv").classes_.tolist() == ["Red_Apple", "x y"]
    paths = sorted(folder.glob("*/*.png"))
    clf = PromptClassifier(tiny_backbone, **quick).fit(paths, ["Red_Apple"] * 6 + ["x y"] * 6)
    assert set(clf.predict(paths)) <= {"Red_Apple", "x y"}
    assert set(clf.predict(paths, classes=["Snow_Leopard", "lynx"])) <= {"Snow_Leopard", "lynx"}


def test_an_older_adapter_knows_the_folder_it_was_trained_on(tmp_path: Path, capsys) -> None:
    """Its class names were cleaned before they were written."""
    folder = images(tmp_path / "data", ["red_apple", "ripe_banana"])
    run_json(capsys, "fit", "--data", folder, *QUICK, "--out", tmp_path / "new")
    new = run_json(capsys, "eval", tmp_path / "new", "--data", folder, "--json")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    config["classnames"] = ["red apple", "ripe banana"]
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    old = run_json(capsys, "eval", tmp_path / "new", "--data", folder, "--json")
    assert (old["head"], old["accuracy"], old["calibration_error"]) == (
        "trained",
        new["accuracy"],
        new["calibration_error"],
    )


# --- numbers and codes ----------------------------------------------------------------------------
@pytest.mark.parametrize("names", [["0", "1"], ["001", "002"], ["n07739125", "n07753592"], ["class_1", "class_2"],
                                   ["1.5", "-2"], ["cat", "7"], ["c01", "c02"], ["id 3", "id 4"]])  # fmt: skip
def test_codes_are_seen(names: list[str]) -> None:
    assert codes(names)


@pytest.mark.parametrize(
    "names", [["cat", "dog"], ["707-320", "A300B4"], ["model T", "beetle"], ["猫", "犬"], ["a1", "b2"]]
)
def test_words_are_no_codes(names: list[str]) -> None:
    assert not codes(names)


WNIDS = ["n07739125", "n07753592"]
NAMES_FILES = {
    "names.json": '{"n07753592": "ripe_banana", "n07739125": "apple"}',
    "names.csv": "label,name\nn07753592,ripe_banana\nn07739125,apple\n",
    "plain.csv": "n07739125,apple\nn07753592,ripe_banana\n",
    "turned.csv": "name;wnid\napple;n07739125\nripe_banana;n07753592\n",
    "names.tsv": "n07739125\tapple\nn07753592\tripe_banana\n",
    "classnames.txt": "# ImageNet's way\nn01440764 tench\nn07739125 apple\nn07753592 ripe_banana\n",
    "lines.txt": "apple\nripe_banana\n",
    "list.json": '["apple", "ripe_banana"]',
}


@pytest.mark.parametrize("name", NAMES_FILES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_of_a_names_file(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(NAMES_FILES[name], encoding=encoding)
    assert names_for(WNIDS, tmp_path / name) == ["apple", "ripe_banana"]


@pytest.mark.parametrize(("labels", "given", "found"), [
    (["0", "1", "10", "2"], list("abcdefghijk"), ["a", "b", "k", "c"]),  # sorted as texts, counted as numbers
    (["01", "02"], ["a", "b"], ["a", "b"]), ([0, 1], ["a", "b"], ["a", "b"]), ([3, 7], {7: "x", 3: "y"}, ["y", "x"]),
    ([3, 7], {"7": "x", "3": "y"}, ["y", "x"]), (["007"], {7: "bond"}, ["bond"]), (["Red_X"], {"red x": "apple"}, ["apple"]),
])  # fmt: skip
def test_labels_find_their_names(labels: list, given: object, found: list[str]) -> None:
    assert names_for(labels, given) == found


@pytest.mark.parametrize("given", [{0: "a"}, ["a"], ["a", "b", "c"]])
def test_a_label_without_a_name_is_named(given: object) -> None:
    with pytest.raises(UserError, match=r"label|classes"):
        names_for(["0", "x"], given)


def test_names_for_codes_in_every_command(tmp_path: Path, capsys) -> None:
    folder, out = images(tmp_path / "data", WNIDS), tmp_path / "adapter"
    (tmp_path / "names.json").write_text(NAMES_FILES["names.json"])
    main(["fit", "--data", str(folder), *QUICK, "--out", str(tmp_path / "codes")])
    assert "--names FILE" in capsys.readouterr().err
    main(["fit", "--data", str(folder), *QUICK, "--out", str(out), "--names", str(tmp_path / "names.json")])
    assert "--names" not in capsys.readouterr().err
    config = json.loads((out / "config.json").read_text())
    assert config["classnames"] == ["apple", "ripe_banana"] and config["record"]["labels"] == WNIDS
    plain = run_json(capsys, "eval", out, "--data", folder, "--json")
    given = run_json(capsys, "eval", out, "--data", folder, "--names", tmp_path / "names.json", "--json")
    assert plain == given and plain["head"] == "trained"
    answer = run_json(capsys, "predict", out, folder / WNIDS[0] / "0.png", "--json")["predictions"][0]["top"]
    assert {(row["class"], row["label"]) for row in answer} == {("apple", WNIDS[0]), ("ripe_banana", WNIDS[1])}
    asked = run_json(capsys, "predict", out, folder / WNIDS[0] / "0.png", "--classes", ",".join(WNIDS), "--json")
    assert asked["head"] == "trained"
    assert anprompt.load(out).classes_.tolist() == WNIDS
    assert set(anprompt.load(out).predict(sorted(folder.glob("*/*.png")))) <= set(WNIDS)
    assert main(["calibrate", str(out), "--data", str(folder)]) == 0


def test_predict_tells_codes_by_their_names(tmp_path: Path, capsys) -> None:
    folder, out = images(tmp_path / "data", WNIDS), tmp_path / "codes"
    file = tmp_path / "names.json"
    file.write_text(NAMES_FILES["names.json"])
    assert main(["fit", "--data", str(folder), *QUICK, "--out", str(out), "--quiet"]) == 0
    capsys.readouterr()
    image, named = folder / WNIDS[0] / "0.png", ("--names", file, "--json")
    codes = run_json(capsys, "predict", out, image, "--json")
    words = run_json(capsys, "predict", out, image, *named)
    assert words["head"] == codes["head"] == "trained" and words["classes"] == ["apple", "ripe_banana"]
    shares = {row["class"]: row["probability"] for row in codes["predictions"][0]["top"]}
    for row in words["predictions"][0]["top"]:  # the same answers, called otherwise
        assert (
            row["probability"] == shares[row["label"]]
            and row["class"] == dict(zip(WNIDS, words["classes"]))[row["label"]]
        )
    asked = ("predict", "zeroshot", image, "--classes")
    given = run_json(capsys, *asked, ",".join(WNIDS), *named)["predictions"][0]["top"]
    plain = run_json(capsys, *asked, "apple,ripe_banana", "--json")["predictions"][0]["top"]
    assert [(row["class"], row["probability"]) for row in given] == [
        (row["class"], row["probability"]) for row in plain
    ]
    assert {row["label"] for row in given} == set(WNIDS)
    assert main(["predict", str(out), str(image), "--classes", "n00000001,n00000002", "--names", str(file)]) == 2
    assert "no class name for the label 'n00000001'" in capsys.readouterr().err


def test_bench_reads_names_and_a_report_finds_them_again(tmp_path: Path, capsys) -> None:
    folder, file = images(tmp_path / "data", ["0", "1"]), tmp_path / "names.csv"
    file.write_text("0,apple\n1,plum\n")
    bench = ["bench", "few-shot", "--methods", "zeroshot", "--seeds", "1", "--shots", "1", "--jobs", "1"]
    command = [*bench, "--data", str(folder), "--runs", str(tmp_path / "runs")]
    assert main([*command, "--names", str(file), "--quiet"]) == 0
    assert "numbers or codes" not in capsys.readouterr().err
    (record,) = read_records(tmp_path / "runs")
    assert record["spec"]["names"] == str(file)
    assert open_same(record, None).classnames == ("apple", "plum")
    assert main([*command, "--quiet"]) == 0  # without names it is another run
    assert len(read_records(tmp_path / "runs")) == 2
    assert main([*bench, "--data", f"{folder},embedded:sky", "--names", str(file), "--runs", str(tmp_path / "no")]) == 2
    assert "--names" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_names_in_python(tmp_path: Path, tiny_backbone: Backbone, caplog) -> None:
    folder = images(tmp_path / "data", ["0", "1"])
    quick = {"method": "coop", "shots": 2, "train": {"epochs": 1}}
    with caplog.at_level(logging.WARNING, "anprompt"):
        PromptClassifier(tiny_backbone, **quick).fit(sorted(folder.glob("*/*.png")), [0] * 6 + [1] * 6)
        assert "names={...}" in caplog.text
        caplog.clear()
        for names in ({0: "apple", 1: "plum"}, ["apple", "plum"]):
            clf = PromptClassifier(tiny_backbone, names=names, **quick).fit(folder)
            assert clf.classes_.tolist() == ["0", "1"] and clf.method_.trained_classnames == ("apple", "plum")
        assert "names" not in caplog.text


# --- class lists ----------------------------------------------------------------------------------
LINES = {
    "a,b": ["a", "b"], " a , b ": ["a", "b"], '"a, b",c': ["a, b", "c"], '["a", "b, c"]': ["a", "b, c"], "a,b,": ["a", "b"],
    "[red],[blue]": ["[red]", "[blue]"], "l'eau,d": ["l'eau", "d"], 'a "b" c,d': ['a "b" c', "d"], "": [], " , ": [],
    "red_apple,X": ["red_apple", "X"], '"say ""hi""",b': ['say "hi"', "b"],
}  # fmt: skip


@pytest.mark.parametrize("text", LINES)
def test_a_line_of_names(text: str) -> None:
    assert split_names(text) == LINES[text]


@pytest.mark.parametrize("text", ['"a', 'a,"b', "[1, 2]", '["a", null]'])
def test_lines_that_are_no_list(text: str) -> None:
    with pytest.raises(UserError) as caught:
        split_names(text)
    assert len(str(caught.value).splitlines()) == 1


AB = ["apple", "banana"]
LISTS = {
    "lines.txt": ("apple\nbanana\n", AB), "blank.txt": ("\n apple \n\n banana\n\n", AB), "windows.txt": ("apple\r\nbanana\r\n", AB),
    "mac.txt": ("apple\rbanana", AB), "numbered.csv": ("0,apple\n1,banana\n", AB), "turned.csv": ("1,banana\n0,apple\n", AB),
    "points.txt": ("1. apple\n2. banana\n", AB), "brackets.txt": ("1) apple\n2) banana\n", AB), "tab.tsv": ("0\tapple\n1\tbanana\n", AB),
    "colon.txt": ("0: apple\n1: banana\n", AB), "comments.txt": ("# my list\napple\nbanana  # yellow\n", AB),
    "header.csv": ("name\napple\nbanana\n", AB), "id.csv": ("id,name\n5,apple\n9,banana\n", AB),
    "label.csv": ("label,name\nn07739125,apple\nn07753592,banana\n", AB), "more.csv": ('class,what\napple,"red, round"\nbanana,x\n', AB),
    "semicolon.csv": ("index;class\n0;apple\n1;banana\n", AB), "wordnet.csv": ("n07739125,apple\nn07753592,banana\n", AB),
    "quoted.csv": ('"apple"\n"banana"\n', AB), "row.txt": ("apple,banana", AB), "list.json": ('["apple", "banana"]', AB),
    "id2label.json": ('{"1": "banana", "0": "apple"}', AB), "label2id.json": ('{"banana": 1, "apple": 0}', AB),
    "again.txt": ("apple\nApple\nbanana\n", AB), "empty.txt": ("apple\n__\nbanana\n", AB),
    "long.txt": ("apple\n" + "x" * 400 + "\nbanana\n", AB), "marks.txt": ("apple\na\u202eb\nbanana\n", AB),
    "commas.txt": ("tench, Tinca tinca\ngoldfish, Carassius auratus\n", ["tench, Tinca tinca", "goldfish, Carassius auratus"]),
    "signs.txt": ("size #5\nC #\n[red]x[/]\n", ["size #5", "C #", "[red]x[/]"]), "coins.txt": ("1 euro\n2 euro\n", ["1 euro", "2 euro"]),
    "umlauts.txt": ("Äpfel\nKüche\n", ["Äpfel", "Küche"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_form_of_a_list_file(name: str, encoding: str, tmp_path: Path) -> None:
    text, names = LISTS[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_class_list(tmp_path / name) == names


def test_latin_1_is_read_and_told(tmp_path: Path, caplog) -> None:
    (tmp_path / "l.txt").write_bytes("Äpfel\nKüche\n".encode("latin-1"))
    assert read_class_list(tmp_path / "l.txt") == ["Äpfel", "Küche"] and "Latin-1" in caplog.text


@pytest.mark.parametrize("name", ["again.txt", "empty.txt", "long.txt", "marks.txt"])
def test_the_line_that_is_left_out_is_named(name: str, tmp_path: Path, caplog) -> None:
    (tmp_path / name).write_text(LISTS[name][0], encoding="utf-8")
    read_class_list(tmp_path / name)
    assert "line 2 left out" in caplog.text and "\n" not in caplog.records[0].getMessage()
    if name != "again.txt":  # where places matter every line must be usable
        with pytest.raises(UserError, match="line 2"):
            read_class_list(tmp_path / name, whole=True)


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\x89PNG\r\n\x1a\n\x00\xff", b"[1, 2]"])
def test_files_that_hold_no_list(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(UserError):
        read_class_list(tmp_path / "f.json")


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", ".", "nowhere.txt"])
def test_devices_and_folders_are_no_lists(path: str) -> None:
    with pytest.raises(UserError, match="can't be read"):
        read_class_list(path)


@pytest.mark.parametrize("name", ["", " ", "\t"])
def test_an_empty_image_name_is_not_this_folder(name: str, adapter_folder: Path, capsys) -> None:
    assert main(["predict", str(adapter_folder), name]) == 2
    assert "empty" in capsys.readouterr().err


# --- y --------------------------------------------------------------------------------------------
NAN = float("nan")


@pytest.mark.parametrize("y", [
    ["a", "a", NAN, "b"], ["a", "a", None, "b"], ["a", "a", "", "b"], ["a", "a", " ", "b"], [1, 1, NAN, 2],
    [["a"], ["a"], [None], ["b"]], ["a", "a", np.datetime64("NaT"), "b"], ["a", "a", np.float64("nan"), "b"],
])  # fmt: skip
@pytest.mark.parametrize(
    "form", [list, tuple, iter, lambda y: np.array(y, dtype=object)], ids=["list", "tuple", "iterator", "array"]
)
def test_a_row_without_a_label_is_named(y: list, form: Callable) -> None:
    with pytest.raises(UserError, match="y must hold one class per picture: row 2 has none"):
        targets(form(y))


def test_a_missing_value_of_pandas_is_named() -> None:
    class NAType:  # as pandas' NA: neither true nor false
        def __eq__(self, other: object) -> object:
            return self

        def __ne__(self, other: object) -> object:
            return self

        def __bool__(self) -> bool:
            raise TypeError("boolean value of NA is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(UserError, match="row 1 has none"):
        targets(["a", NAType()])


@pytest.mark.parametrize(
    "y", ["ab", b"ab", {"a": 1}, 3, None, ["a", 1], [["a", "b"], ["c"]], [b"a", b"b"], [0.5, 1.0], [object(), "a"]]
)
def test_what_is_no_column_of_labels_is_one_line(y: object) -> None:
    with pytest.raises(UserError) as caught:
        targets(y)
    assert str(caught.value).startswith("y must hold") and "\n" not in str(caught.value)


@pytest.mark.parametrize(("y", "kind"), [(["b", "a"], "U"), ([1, 0], "i"), ([True, False], "b"), (np.array(["b", "a"], dtype=object), "U"),
                                         (np.array([1, 0], dtype=object), "i"), ([["b"], ["a"]], "U"), ([], "f")])  # fmt: skip
def test_labels_keep_their_kind(y: object, kind: str) -> None:
    assert targets(y).dtype.kind == kind and targets(y).ndim == 1


# --- a request's fields ---------------------------------------------------------------------------
def asked(body: object, files: dict[str, int] | None = None, fields: list[tuple[str, str]] | None = None):
    """What the service reads from a JSON body, or from a form of files (field: how many) and text fields."""
    from anprompt.serve.forms import read_ask
    from anprompt.serve.settings import Settings

    if files is None:
        return read_ask("application/json", json.dumps(body).encode(), Settings())
    parts = [
        f'name="{key}"; filename="x.jpg"\r\nContent-Type: image/jpeg' for key, n in files.items() for _ in range(n)
    ]
    parts = [f"{part}\r\n\r\nimage" for part in parts]
    parts += [f'name="{key}"\r\n\r\n{value}' for key, value in fields or []]
    text = "".join(f"--cut\r\nContent-Disposition: form-data; {part}\r\n" for part in parts) + "--cut--\r\n"
    return read_ask("multipart/form-data; boundary=cut", text.encode(), Settings())


IMAGE_FIELDS = ["pictures", "picture", "images", "image", "file", "files", "File", "photo", "img", "images[]", "upload"]


@pytest.mark.parametrize("field", IMAGE_FIELDS)
def test_the_images_under_every_usual_name(field: str) -> None:
    pytest.importorskip("fastapi")
    assert asked(None, {field: 2}).pictures == (b"image", b"image")
    assert asked({field: ["aW1hZ2U="]}).pictures == asked({field: "aW1hZ2U="}).pictures == (b"image",)
    assert asked({field: "data:image/png;base64,aW1hZ2U="}).pictures == (b"image",)


@pytest.mark.parametrize(("body", "files", "fields", "message"), [
    (None, {"document": 1}, [], "call the field pictures"), (None, {}, [("file", "x.jpg")], "send pictures as files"),
    ({"image": ["aW1hZ2U="], "file": "aW1hZ2U="}, None, [], "call the field pictures"), ({"pic": "x"}, None, [], "Unknown field"),
    ({"file": "aW1hZ2U=", "classes": "apple"}, None, [], "at least two names"), (None, {"file": 1}, [("classes", '"a,b')], "quotes"),
])  # fmt: skip
def test_other_fields_are_answered_with_what_to_do(body, files, fields, message: str) -> None:
    pytest.importorskip("fastapi")
    with pytest.raises(UserError, match=message):
        asked(body, files, fields)


@pytest.mark.parametrize(("texts", "names"), [
    (["apple,plum"], ("apple", "plum")), ([" Red_Apple , plum "], ("Red_Apple", "plum")), (['"a, b",c'], ("a, b", "c")),
    (["a, b\nc"], ("a, b", "c")), (['["a, b", "c"]'], ("a, b", "c")), (["a, b", "c"], ("a, b", "c")),
])  # fmt: skip
def test_class_lists_of_a_request(texts: list[str], names: tuple[str, ...]) -> None:
    pytest.importorskip("fastapi")
    assert asked(None, {"file": 1}, [("classes", text) for text in texts]).classes == names
    if len(texts) == 1:
        assert asked({"image": "aW1hZ2U=", "classes": texts[0]}).classes == names
    assert asked({"image": "aW1hZ2U=", "classes": list(names)}).classes == names


def test_a_long_class_name_of_a_request_is_refused_in_time() -> None:
    pytest.importorskip("fastapi")
    start = time.process_time()
    for classes in ([accents(60_000), "b"], accents(60_000) + ",b"):
        with pytest.raises(UserError, match="at most 300 fit"):
            asked({"image": "aW1hZ2U=", "classes": classes})
    assert time.process_time() - start < 2
