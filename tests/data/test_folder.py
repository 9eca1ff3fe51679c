"""Folders as people have them: parts or none, stray files, odd names, links, broken pictures."""

from __future__ import annotations

import os
import shutil

import pytest

from anprompt.data.sources import open_dataset
from anprompt.errors import UserError
from tests.pictures import bomb, class_folders, save, truncated


def test_class_folders_are_divided(tmp_path):
    data = open_dataset(str(class_folders(tmp_path / "pets", {"tabby_cat": 10, "dog": 10})))
    assert data.name == "pets" and data.classnames == ("dog", "tabby_cat")
    assert [len(part) for part in (data.train, data.val, data.test)] == [12, 2, 6]
    assert all(data.classnames[item.label] == item.classname for item in data.train + data.val + data.test)
    assert data.read(data.train[0]).size == (6, 6) and data.skipped == ()
    assert data.template == "a photo of a {}."


def test_a_new_class_or_place_leaves_the_division_alone(tmp_path):
    root = class_folders(tmp_path / "a", {"cat": 9, "dog": 7})
    before = {os.path.relpath(item.path, root) for item in open_dataset(root).test}
    moved = tmp_path / "elsewhere" / "b"
    shutil.copytree(root, moved)
    class_folders(moved, {"ant": 5})
    after = {os.path.relpath(item.path, moved) for item in open_dataset(moved).test}
    assert before == {path for path in after if not path.startswith("ant")}


@pytest.mark.parametrize("val", ["val", "valid", "Validation", None])
def test_parts_are_kept(tmp_path, val):
    class_folders(tmp_path / "Train", {"cat": 3, "dog": 4})
    class_folders(tmp_path / "test", {"cat": 2, "dog": 2, "fox": 1})
    if val:
        class_folders(tmp_path / val, {"dog": 1})
    data = open_dataset(tmp_path)
    assert data.classnames == ("cat", "dog", "fox")
    assert [len(part) for part in (data.train, data.val, data.test)] == [7, 1 if val else 0, 5]
    assert {item.classname for item in data.test} == {"cat", "dog", "fox"}


def test_train_alone_stays_whole_and_others_are_reported(tmp_path):
    class_folders(tmp_path / "train", {"cat": 10, "dog": 10})
    class_folders(tmp_path, {"annotations": 2})
    (tmp_path / "labels.txt").write_text("x")
    data = open_dataset(tmp_path)
    assert [len(part) for part in (data.train, data.val, data.test)] == [20, 0, 0]
    assert len(data.skipped) == 2 and "annotations" in data.skipped[0] and "labels.txt" in data.skipped[1]


def test_a_class_may_be_called_train(tmp_path):
    data = open_dataset(class_folders(tmp_path, {"train": 4, "test": 4, "plane": 4}))
    assert data.classnames == ("plane", "test", "train")


def test_stray_files(tmp_path):
    root = class_folders(tmp_path, {"cat": 4, "dog": 4})
    for hidden in (".DS_Store", "Thumbs.db", "desktop.ini", "cat/.hidden.png", "cat/._0.png"):
        (root / hidden).write_bytes(b"x")
    save(root / ".git" / "x.png")
    save(root / "__MACOSX" / "x.png")
    (root / "cat" / "notes.txt").write_text("fluffy")
    (root / "readme.md").write_text("hello")
    save(root / "loose.png")
    data = open_dataset(root)
    assert data.classnames == ("cat", "dog")
    reasons = {os.path.basename(line.split(": ")[0]): line for line in data.skipped}
    assert set(reasons) == {"notes.txt", "readme.md", "loose.png"}
    assert "not a picture" in reasons["notes.txt"] and "outside the class folders" in reasons["loose.png"]


def test_broken_pictures_are_listed_with_reasons(tmp_path):
    root = class_folders(tmp_path, {"cat": 4, "dog": 4})
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "text.jpg").write_text("no")
    truncated(root / "dog" / "cut.jpg")
    truncated(root / "dog" / "cut.png")
    bomb(root / "dog" / "bomb.png")
    (root / "dog" / "gone.png").symlink_to(root / "nowhere")
    data = open_dataset(root)
    assert len(data.skipped) == 6 and all(len(line.splitlines()) == 1 for line in data.skipped)
    assert len(data.train + data.val + data.test) == 8


def test_nested_folders_count_for_their_class(tmp_path):
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    class_folders(root / "cat" / "2024", {"june": 3})
    data = open_dataset(root)
    assert data.classnames == ("cat", "dog")
    assert sum(item.classname == "cat" for item in data.train + data.val + data.test) == 5


def test_links_are_followed_without_going_round(tmp_path):
    store = class_folders(tmp_path / "store", {"pictures": 3})
    root = class_folders(tmp_path / "root", {"cat": 3})
    (root / "dog").symlink_to(store / "pictures")
    (root / "cat" / "again").symlink_to(root / "cat")
    data = open_dataset(root)
    assert data.classnames == ("cat", "dog")
    assert len(data.train + data.val + data.test) == 6
    assert len(data.skipped) == 1 and "link to a folder above" in data.skipped[0]


def test_two_links_to_each_other_end(tmp_path):
    root = class_folders(tmp_path, {"cat": 1, "dog": 1})
    (root / "cat" / "a").symlink_to(root / "dog")
    (root / "dog" / "b").symlink_to(root / "cat")
    data = open_dataset(root)
    assert len(data.skipped) == 2


def test_odd_class_names(tmp_path):
    data = open_dataset(class_folders(tmp_path, {"猫_cat": 2, "Größe": 2, "a" * 200: 2}))
    assert data.classnames == ("Größe", "a" * 200, "猫_cat")


@pytest.mark.parametrize("pair", [("Cat", "cat"), ("tiger_cat", "tiger cat")])
def test_names_that_cannot_be_told_apart(tmp_path, pair):
    class_folders(tmp_path, {pair[0]: 2, pair[1]: 2})
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system does not tell case apart")
    with pytest.raises(UserError) as caught:
        open_dataset(tmp_path)
    assert all(repr(name) in str(caught.value) for name in pair)


def test_a_name_with_a_newline_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"'two\\nlines'") as caught:
        open_dataset(class_folders(tmp_path, {"two\nlines": 2, "cat": 2}))
    assert "\n" not in str(caught.value)


def test_empty_class_is_left_out_and_named(tmp_path):
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    (root / "fox").mkdir()
    data = open_dataset(root)
    assert data.classnames == ("cat", "dog") and "'fox'" in data.skipped[0]


def test_folders_that_are_no_data_set(tmp_path):
    cases = {"nothing": {}, "one class": {"cat": 3}}
    for name, counts in cases.items():
        (tmp_path / name).mkdir()
        class_folders(tmp_path / name, counts)
    save(tmp_path / "loose" / "a.png")
    (tmp_path / "texts" / "cat").mkdir(parents=True)
    (tmp_path / "texts" / "cat" / "a.txt").write_text("x")
    expected = {
        "nothing": "no class folders",
        "one class": r"one class only \('cat'\)",
        "loose": "no class folders. Put the pictures",
        "texts": "no usable pictures.*a.txt",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            open_dataset(tmp_path / name)
        assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_class_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    root = class_folders(tmp_path, {"cat": 2, "dog": 2})
    listing = type(root).iterdir

    def refuse(self):
        if self.name == "dog":
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(type(root), "iterdir", refuse)
    with pytest.raises(UserError, match="dog can't be listed"):
        open_dataset(root)
