"""`PromptClassifier`: the manners of scikit-learn, open class lists, and every form a picture comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone

import anprompt
from anprompt.backbones import Backbone
from anprompt.classifier import PromptClassifier, as_rgb
from anprompt.data.sources import open_dataset
from anprompt.errors import UserError

SMALL = {"token_width": 16, "draws": 2}
QUICK = {"epochs": 4, "warmup_epochs": 0, "lr": 5e-3}


def small(backbone: Backbone, **changes) -> PromptClassifier:
    return PromptClassifier(backbone, **{"shots": 4, "settings": SMALL, "train": QUICK, **changes})


@pytest.fixture(scope="module")
def fitted(tiny_backbone: Backbone, photo_folder: Path) -> PromptClassifier:
    return small(tiny_backbone).fit(photo_folder)


def test_learns_colours(fitted: PromptClassifier, photo_folder: Path) -> None:
    assert list(fitted.classes_) == ["blue_square", "green square", "red_square", "yellow square"]
    assert fitted.score(photo_folder) >= 0.75
    assert len(fitted.log_.epochs) == 4 and fitted.log_.epochs[-1]["loss"] < fitted.log_.epochs[0]["loss"]


def test_answers_are_names_and_shares(fitted: PromptClassifier, photo_folder: Path) -> None:
    paths = [photo_folder / name / "3.png" for name in ("red_square", "blue_square")]
    shares = fitted.predict_proba(paths)
    assert shares.shape == (2, 4) and np.allclose(shares.sum(axis=1), 1, atol=1e-5)
    assert list(fitted.predict(paths)) == [fitted.classes_[i] for i in shares.argmax(axis=1)]


def test_every_form_of_a_picture_gives_the_same_answer(fitted: PromptClassifier, photo_folder: Path) -> None:
    path = photo_folder / "green square" / "0.png"
    image = Image.open(path)
    array = np.asarray(image.convert("RGB"))
    forms = [path, str(path), image, array, image.convert("RGBA")]
    rows = fitted.predict_proba(forms)
    assert np.abs(rows - rows[0]).max() < 1e-6
    for single in (path, str(path), image, array):
        assert np.allclose(fitted.predict_proba(single), rows[:1], atol=1e-6)
    assert np.allclose(fitted.predict_proba(np.stack([array, array])), rows[:2], atol=1e-6)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for some in (tensor, tensor.float() / 255, [tensor], tensor[None], (p for p in [path]), np.array([[str(path)]])):
        assert np.allclose(fitted.predict_proba(some), rows[:1], atol=1e-6)
    inside = fitted.predict_proba(path.parent)  # a folder: its files, sorted
    assert len(inside) == 10 and np.allclose(inside[:1], rows[:1], atol=1e-5)


def test_any_class_list(fitted: PromptClassifier, photo_folder: Path) -> None:
    path = photo_folder / "red_square" / "0.png"
    names = ["lynx", "puma", "red square"]
    assert fitted.predict_proba([path], classes=names).shape == (1, 3)
    assert fitted.predict([path], classes=iter(names))[0] in names
    assert fitted.classifier(names).head == "unseen" and fitted.classifier().head == "trained"
    assert fitted.predict_proba([], classes=names).shape == (0, 3)


def test_batches_change_nothing(fitted: PromptClassifier, photo_folder: Path, monkeypatch) -> None:
    paths = sorted(photo_folder.glob("*/*.png"))[:7]
    whole = fitted.predict_proba(paths)
    monkeypatch.setattr("anprompt.classifier.BATCH", 3)
    assert np.abs(fitted.predict_proba(paths) - whole).max() < 1e-5


def test_pictures_and_names(tiny_backbone: Backbone, photo_folder: Path) -> None:
    paths = sorted(photo_folder.glob("*/[0-4].png"))
    names = [path.parent.name for path in paths]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    by_path, by_array = (small(tiny_backbone).fit(X, names) for X in (paths, arrays))
    assert list(by_path.classes_) == sorted(set(names))  # labels as given, as scikit-learn's metrics compare them
    assert by_path.method_.trained_classnames == ("blue_square", "green square", "red_square", "yellow square")
    assert np.abs(by_path.predict_proba(paths) - by_array.predict_proba(arrays)).max() < 1e-6
    assert by_path.score(paths, names) >= 0.75  # names as given: "red_square" is "red square"


def test_a_data_set_object_and_half_of_its_classes(tiny_backbone: Backbone, photo_folder: Path) -> None:
    data = open_dataset(photo_folder)
    base = small(tiny_backbone, subset="base", shots="all").fit(data)
    assert list(base.classes_) == ["blue_square", "green square"]
    assert 0 <= base.score(data) <= 1


def test_save_and_load(fitted: PromptClassifier, photo_folder: Path, tmp_path: Path) -> None:
    paths = sorted(photo_folder.glob("*/1.png"))
    opened = anprompt.load(fitted.save(tmp_path / "a"))
    assert np.abs(opened.predict_proba(paths) - fitted.predict_proba(paths)).max() <= 1e-6
    assert list(opened.classes_) == list(fitted.classes_)
    names = ["a", "b"]
    assert np.abs(opened.predict_proba(paths, names) - fitted.predict_proba(paths, names)).max() <= 1e-6
    backbone = fitted.method_.backbone
    assert anprompt.load(tmp_path / "a", backbone=backbone).method_.backbone is backbone


def test_same_seed_same_classifier(tiny_backbone: Backbone, photo_folder: Path) -> None:
    path = [photo_folder / "red_square" / "0.png"]
    one, two, other = (
        small(tiny_backbone, shots=2, seed=seed, train={**QUICK, "epochs": 1}).fit(photo_folder).predict_proba(path)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_manners_of_an_estimator(tiny_folder: Path) -> None:
    made = PromptClassifier(str(tiny_folder), shots=4, settings=SMALL)
    assert made.get_params()["shots"] == 4
    copy = clone(made).set_params(shots=2)
    assert copy.shots == 2 and copy.settings == SMALL
    assert "PromptClassifier" in repr(made)


def test_what_cannot_be_done_is_said(fitted: PromptClassifier, tiny_backbone: Backbone, photo_folder: Path) -> None:
    path = photo_folder / "red_square" / "0.png"
    cases = [
        (lambda: PromptClassifier().predict([path]), "not trained"),
        (lambda: PromptClassifier().save("x"), "not trained"),
        (lambda: fitted.predict([path], classes="a,b"), "list of names"),
        (lambda: fitted.predict([path], classes=[]), "empty"),
        (lambda: fitted.predict(3), "list of paths"),
        (lambda: fitted.predict([3]), "int"),
        (lambda: fitted.predict({"a": path}), "dict"),
        (lambda: fitted.predict(np.zeros((4, 7))), "no pictures"),
        (lambda: fitted.predict(torch.zeros(1, 8, 8)), r"\[3, height"),
        (lambda: fitted.predict(torch.full((3, 8, 8), 2.0)), "normalised"),
        (lambda: fitted.predict(torch.zeros(3, 8, 8, dtype=torch.int64)), "int64"),
        (lambda: fitted.predict([path], none_of_these=True), "No threshold"),
        (lambda: fitted.predict([path], none_of_these=1.5), "0 to 1"),
        (lambda: small(tiny_backbone, calibrate="isotonic").fit(photo_folder), "temperature"),
        (lambda: small(tiny_backbone, accept=1.5).fit(photo_folder), "share"),
        (lambda: small(tiny_backbone, accept=0.9).fit([path, path], ["a", "b"]), "validation"),
        (lambda: small(tiny_backbone).fit([path, path], [0.5, 1.5]), "one class per picture"),
        (lambda: small(tiny_backbone, names={0: "red"}).fit([path, path], [0, 1]), "label 1"),
        (lambda: fitted.predict([np.zeros((3, 8, 8), np.uint8)]), r"\[3, 8, 8\]"),
        (lambda: fitted.predict([np.full((8, 8, 3), -1.0)]), "normalised"),
        (lambda: fitted.predict([np.zeros((8, 8, 3), complex)]), "complex"),
        (lambda: fitted.predict([photo_folder / "no.png"]), "no.png"),
        (lambda: fitted.score([path], ["a", "b"]), "1 pictures but 2"),
        (lambda: small(tiny_backbone).fit([path], ["a", "b"]), "1 pictures but 2"),
        (lambda: small(tiny_backbone).fit([], []), "No pictures"),
        (lambda: small(tiny_backbone).fit([path, path], ["a", "a"]), "two classes"),
        (lambda: small(tiny_backbone).fit([path]), "pictures and their names"),
        (lambda: small(tiny_backbone, shots=0).fit(photo_folder), "shots"),
        (lambda: small(tiny_backbone, shots=2.5).fit(photo_folder), "shots"),
        (lambda: small(tiny_backbone, settings={"rnk": 2}).fit(photo_folder), "rank"),
    ]
    for call, words in cases:
        with pytest.raises(UserError, match=words):
            call()


def test_modes_of_pillow_images() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert as_rgb(clear).getpixel((0, 0)) == (255, 255, 255)  # transparent parts lie over white, as in files
    assert as_rgb(Image.new("L", (4, 4), 7)).mode == "RGB"
    deep = Image.fromarray(np.full((4, 4), 257 * 100, np.uint16))
    assert as_rgb(deep).getpixel((0, 0)) == (100, 100, 100)  # 16 bits are scaled, not cut off, as in files


def test_public_names() -> None:
    for name in anprompt.__all__:
        assert getattr(anprompt, name) is not None and name in dir(anprompt)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = anprompt.nothing_like_it


def test_the_former_name_of_subset_works_with_a_warning(
    tiny_backbone: Backbone, photo_folder: Path, tmp_path: Path
) -> None:
    with pytest.warns(DeprecationWarning, match="classes= is now subset="):
        former = small(tiny_backbone, classes="base").fit(photo_folder)
    today = small(tiny_backbone, subset="base").fit(photo_folder)
    assert list(former.classes_) == list(today.classes_) and len(today.classes_) == 2
    again = anprompt.load(former.save(tmp_path / "former"), backbone=tiny_backbone)
    assert again.subset == "base" and again.classes is None
