"""Runs, records and noise know images by what is in their files, not by their names."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest

from anprompt.data import assemble, identity
from anprompt.data.identity import contents
from anprompt.data.image_limits import limited
from anprompt.data.sources import open_dataset
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.records import data_hash, dataset_hash
from anprompt.training.job import plan
from anprompt.utils.files import file_hash
from tests.pictures import noise, save


def folder_of(root: Path, shift: int = 0) -> Path:
    for kind, start in (("cat", 0), ("dog", 100)):
        for number in range(12):
            save(root / kind / f"{number:03}.png", noise(12, 12, seed=number + start + shift))
    return root


def key(root: Path, backbone) -> str:
    return plan(open_dataset(str(root)), backbone, method="coop", shots=4).key


def swap(root: Path) -> None:
    (root / "cat").rename(root / "other")
    (root / "dog").rename(root / "cat")
    (root / "other").rename(root / "dog")


def rotate(root: Path) -> None:
    """Every name gets the file of the next one; the files keep their own times."""
    for folder in (root / "cat", root / "dog"):
        files = sorted(folder.iterdir())
        for file in files:
            file.rename(file.with_name("x" + file.name))
        for file, target in zip(sorted(folder.iterdir()), [*files[1:], files[0]]):
            file.rename(target)


def rewrite(root: Path) -> None:
    for file in root.rglob("*.png"):
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        save(file, noise(12, 12, seed=int(file.stem) + 7000))
        os.utime(file, ns=times)


@pytest.mark.parametrize("change", [swap, rotate, rewrite])
def test_replaced_images_under_the_same_names_are_another_run(tmp_path, tiny_backbone, change):
    root = folder_of(tmp_path / "photos")
    before, data = key(root, tiny_backbone), dataset_hash(open_dataset(str(root)))
    assert key(root, tiny_backbone) == before
    change(root)
    assert key(root, tiny_backbone) != before and dataset_hash(open_dataset(str(root))) != data


def test_the_same_images_elsewhere_are_the_same_run(tmp_path, tiny_backbone, monkeypatch):
    root = folder_of(tmp_path / "photos")
    before, data = key(root, tiny_backbone), dataset_hash(open_dataset(str(root)))
    shutil.copytree(root, tmp_path / "new drive" / "my photos")
    (tmp_path / "link").symlink_to(root)
    for place in (tmp_path / "new drive" / "my photos", tmp_path / "link"):
        assert key(place, tiny_backbone) == before and dataset_hash(open_dataset(str(place))) == data
    monkeypatch.chdir(tmp_path)
    assert key(Path("photos"), tiny_backbone) == before


def test_noise_on_a_test_image_is_the_same_elsewhere(tmp_path):
    root = folder_of(tmp_path / "photos")
    shutil.copytree(root, tmp_path / "elsewhere")
    condition = Condition.parse("image:gaussian_noise:3")
    views = []
    for place in (root, tmp_path / "elsewhere"):
        data = open_dataset(str(place))
        views.append(condition.reader(data.read, 32)(data.test[0]).tobytes())
    assert views[0] == views[1]


def test_official_lists_are_known_by_their_paths_and_need_no_file(tmp_path):
    data = open_dataset(str(folder_of(tmp_path / "photos")))
    listed = [replace(item, listed=True) for item in data.train]
    before = data_hash(listed)
    rewrite(tmp_path / "photos")
    assert data_hash(listed) == before
    moved = [replace(item, path=item.path.replace("photos", "nowhere")) for item in listed]
    assert data_hash(moved) == before


# --- the cache ------------------------------------------------------------------------------------
@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ANPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "_memory", {})
    monkeypatch.setattr(identity, "_settled", lambda mark: True)
    return tmp_path / "cache"


def counted(monkeypatch) -> list[str]:
    read: list[str] = []
    whole = identity._read
    monkeypatch.setattr(identity, "_read", lambda path, small: read.append(path) or whole(path, small))
    return read


def test_a_file_is_read_once_and_then_known_to_other_processes(tmp_path, cache, monkeypatch):
    paths = [str(path) for path in sorted(folder_of(tmp_path / "photos").rglob("*.png"))]
    read = counted(monkeypatch)
    first = contents(paths)
    assert first == [file_hash(Path(path)) for path in paths] and sorted(read) == paths
    monkeypatch.setattr(identity, "_memory", {})  # as in another process
    assert contents(paths) == first and len(read) == len(paths)
    save(Path(paths[3]), noise(12, 12, seed=999))
    monkeypatch.setattr(identity, "_memory", {})
    assert contents(paths)[3] == file_hash(Path(paths[3])) and read[len(paths) :] == [paths[3]]


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "other table", "wrong values", "folder"])
def test_a_damaged_cache_is_no_error_and_no_wrong_hash(tmp_path, cache, damage, monkeypatch):
    paths = [str(path) for path in sorted(folder_of(tmp_path / "photos").rglob("*.png"))]
    right = contents(paths)
    file = identity.cache_file()
    assert file is not None and file.is_file()
    if damage == "text":
        file.write_text("no database\n" * 500)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        with sqlite3.connect(file) as connection:
            if damage == "other table":
                connection.execute("DROP TABLE images")
                connection.execute("CREATE TABLE images (x)")
            else:
                connection.execute("UPDATE images SET content = 'abc'")
    for _ in range(3):
        monkeypatch.setattr(identity, "_memory", {})
        assert contents(paths) == right


@pytest.mark.parametrize("place", ["off", "file", "locked"])
def test_a_cache_that_cannot_be_used_is_no_error(tmp_path, cache, place, monkeypatch):
    paths = [str(path) for path in sorted(folder_of(tmp_path / "photos").rglob("*.png"))]
    right = [file_hash(Path(path)) for path in paths]
    if place == "off":
        monkeypatch.setenv("ANPROMPT_CACHE", "off")
    elif place == "file":
        cache.write_text("in the way")
    else:
        monkeypatch.setattr(identity, "_BUSY_S", 0.05)
        contents(paths[:1])
        holder = sqlite3.connect(cache / "images-2.sqlite", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
    assert contents(paths) == right


def test_files_that_were_decoded_before_are_not_opened_to_be_listed(tmp_path, cache, monkeypatch):
    root = folder_of(tmp_path / "photos")
    first = open_dataset(str(root))
    time.sleep(0.2)  # files of the last moment are not believed
    first = open_dataset(str(root))
    opened: list[str] = []
    real = assemble.check_picture
    monkeypatch.setattr(assemble, "check_picture", lambda path: opened.append(str(path)) or real(path))
    identity._memory.clear()
    again = open_dataset(str(root))
    assert opened == [] and again.train == first.train and again.test == first.test
    (root / "cat/003.png").write_bytes((root / "cat/003.png").read_bytes()[:200])
    changed = open_dataset(str(root))
    assert opened == [str(root / "cat/003.png")]
    assert len(changed.skipped) == 1 and "003.png" in changed.skipped[0]
    with limited(0.0001), pytest.raises(UserError, match="max-megapixels"):
        open_dataset(str(root))


def test_what_is_no_file_is_known_by_its_key(tmp_path):
    assert contents(["embedded:food/x", "#3", str(tmp_path), str(tmp_path / "gone"), "a\0b"]) == [
        "embedded:food/x", "#3", str(tmp_path), str(tmp_path / "gone"), "a\0b",
    ]  # fmt: skip


def _hash_all(paths: list[str]) -> list[str]:
    return contents(paths)


def test_several_processes_share_the_cache(tmp_path, cache):
    paths = [str(path) for path in sorted(folder_of(tmp_path / "photos").rglob("*.png"))]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_hash_all, [paths] * 8) == [[file_hash(Path(path)) for path in paths]] * 8


# --- the command line -----------------------------------------------------------------------------
def fit_words(*words: str) -> list[str]:
    """A short `fit`."""
    return ["fit", "--method", "coop", "--epochs", "1", *words]


def test_fit_trains_again_or_refuses_when_the_images_were_replaced(tmp_path, capsys):
    from anprompt.commands.main import main

    root = folder_of(tmp_path / "photos")
    command = fit_words("--data", str(root), "--shots", "2", "--out", str(tmp_path / "ad"))
    assert main(command) == 0
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    shutil.copytree(root, tmp_path / "copy")
    assert main([str(tmp_path / "copy") if word == str(root) else word for word in command]) == 0
    assert "nothing to do" in capsys.readouterr().out
    swap(root)
    assert main(command) == 2
    assert "another run" in capsys.readouterr().err


def test_adapters_of_official_lists_made_before_are_still_recognised(tmp_path, capsys):
    """Their runs were known by the images' paths."""
    from anprompt.commands.main import main
    from tests.data.test_coop import make_split

    make_split(tmp_path, "dtd")
    command = fit_words("--data", "coop:dtd", "--root", str(tmp_path), "--shots", "1", "--out", str(tmp_path / "ad"))
    with pytest.MonkeyPatch.context() as patch:  # as it was made before
        patch.setattr("anprompt.training.job.identities", lambda items: [item.path for item in items])
        assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0 and "nothing to do" in capsys.readouterr().out
    assert main([*command, "--seed", "2"]) == 2 and "another run" in capsys.readouterr().err


def test_adapters_of_folders_made_before_are_not_taken_for_another_content(tmp_path, capsys):
    from anprompt.commands.main import main

    root = folder_of(tmp_path / "photos")
    command = fit_words("--data", str(root), "--shots", "2", "--out", str(tmp_path / "ad"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anprompt.training.job.identities", lambda items: [item.path for item in items])
        assert main(command) == 0
    assert main(command) == 2 and "another run" in capsys.readouterr().err


# --- copies are told ------------------------------------------------------------------------------
def told_of(root: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What opening a folder says, and that the reading holds the same lines."""
    caplog.clear()
    with caplog.at_level("WARNING", logger="anprompt"):
        data = open_dataset(root)
    assert data.reading is not None and all(line in caplog.text for line in data.reading.warnings)
    return "\n".join(data.reading.warnings)


def test_an_image_under_two_classes_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("apple", "banana"):
        for index in range(4):
            save(tmp_path / name / f"{index}.png", noise(seed=hash_free_seed(name, index)))
    assert "two classes" not in told_of(tmp_path, caplog)
    for index in range(2):
        shutil.copy(tmp_path / "apple" / f"{index}.png", tmp_path / "banana" / f"other{index}.png")
    line = told_of(tmp_path, caplog)
    assert "2 images stand under two classes" in line and "(apple)" in line and "(banana)" in line


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_copy_on_the_other_side_is_told(tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("train", part):
        for name in ("apple", "banana"):
            for index in range(3):
                save(tmp_path / place / name / f"{index}.png", noise(seed=hash_free_seed(place + name, index)))
    assert "trained on" not in told_of(tmp_path, caplog)
    shutil.copy(tmp_path / "train/apple/0.png", tmp_path / part / "apple" / "copied under another name.png")
    assert "1 image is trained on and tested or validated on" in told_of(tmp_path, caplog)


def hash_free_seed(name: str, index: int) -> int:
    """A seed that is the same in every process."""
    return sum(name.encode()) * 100 + index
