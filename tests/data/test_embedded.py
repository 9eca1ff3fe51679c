"""The data sets and the model that ship with the package."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch

from anprompt.data.embedded import (
    EMBEDDED_SETS,
    embedded_dataset,
    embedded_descriptions,
    embedded_model_folder,
    manifest,
    read_embedded,
)
from anprompt.data.types import Item
from anprompt.errors import UserError

# sha256 of composed pictures: if one changes, so has every figure measured on these data sets.
PICTURES = {
    "embedded:food/pizza/twemoji/train/0007": "54f091c1f2fff803",
    "embedded:animals/lion/fluent-emoji/test/0001": "77d7f87beaf0d8bf",
    "embedded:sky/rainbow/fluent-emoji-high-contrast/test/0004": "4c40d25372dc3247",
}


@pytest.fixture(scope="module")
def parts():
    from transformers import AutoTokenizer, CLIPModel

    folder = embedded_model_folder()
    return CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_set_has_distinct_names_and_the_promised_sizes(name):
    data = embedded_dataset(name)
    count = len(data.classnames)
    assert 16 <= count <= 40 and len({c.lower() for c in data.classnames}) == count
    per_class = {"train": 32, "val": 8, "test": 20}
    for split, size in per_class.items():
        labels = Counter(item.label for item in getattr(data, split))
        assert set(labels.values()) == {size} and set(labels) == set(range(count))
    for item in data.train[:40] + data.test[-40:]:
        assert data.classnames[item.label] == item.classname


@pytest.mark.parametrize("name", EMBEDDED_SETS)
def test_test_pictures_are_never_trained_on_and_two_styles_are_test_only(name):
    data = embedded_dataset(name)
    paths = [item.path for item in data.train + data.val + data.test]
    assert len(set(paths)) == len(paths)
    trained, tested = ({item.domain for item in items} for items in (data.train + data.val, data.test))
    assert len(trained) == 2 and len(tested) == 4 and trained < tested
    assert Counter(item.domain for item in data.test).most_common()[0][1] * 4 == len(data.test)


def test_splits_compose_different_pictures_of_one_drawing():
    data = embedded_dataset("food")
    first = {
        split: next(i for i in getattr(data, split) if i.domain == "twemoji") for split in ("train", "val", "test")
    }
    pictures = [np.asarray(read_embedded(item)) for item in first.values()]
    assert len({i.classname for i in first.values()}) == 1
    assert all((a != b).mean() > 0.5 for a, b in itertools.pairwise(pictures))


@pytest.mark.parametrize("path", PICTURES)
def test_a_picture_is_a_pure_function_of_its_name(path):
    np.random.seed(1)
    picture = read_embedded(Item(path, 0, ""))
    np.random.seed(2)
    assert np.array_equal(picture, read_embedded(Item(path, 0, "")))
    assert picture.mode == "RGB" and picture.size == (manifest()["picture"],) * 2
    assert hashlib.sha256(picture.tobytes()).hexdigest()[:16] == PICTURES[path]


def test_every_drawing_is_there():
    for name, rows in manifest()["sets"].items():
        for row in rows:
            for style in manifest()["styles"]:
                picture = np.asarray(read_embedded(Item(f"embedded:{name}/{row['name']}/{style}/test/0000", 0, "")))
                assert picture.std() > 2, (name, row["name"], style)


def test_descriptions_are_clean_sentences_with_the_name():
    for name in EMBEDDED_SETS:
        for classname, sentences in embedded_descriptions(name).items():
            assert len(sentences) >= 2
            assert all(classname in s and s.endswith(".") and "  " not in s for s in sentences)


@pytest.mark.parametrize(
    "call",
    [
        lambda: embedded_dataset("foood"),
        lambda: embedded_descriptions("foood"),
        lambda: read_embedded(Item("embedded:food/pizzza/twemoji/train/0000", 0, "pizzza")),
        lambda: read_embedded(Item("embedded:food/pizza/klingon/train/0000", 0, "pizza")),
        lambda: read_embedded(Item("food", 0, "pizza")),
    ],
)
def test_what_does_not_exist_is_named(call):
    with pytest.raises(UserError, match=r"foood'. Did you mean 'food'|no such embedded picture"):
        call()


def test_the_package_stays_small():
    assets = embedded_model_folder().parent
    assert sum(f.stat().st_size for f in assets.rglob("*") if f.is_file()) < 20e6


def test_licences_are_stated_for_every_style():
    text = (embedded_model_folder().parent / "ATTRIBUTIONS.md").read_text(encoding="utf-8")
    for style, row in manifest()["styles"].items():
        assert f"`{style}`" in text and row["author"] in text and row["licence"]


def test_tokenizer_has_an_encoding_for_everything_and_ends_with_the_highest_number(parts):
    model, tokenizer = parts
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    for text in ("a red apple", "A REd ápple", "zqxj \U0001f355 日本", "a " * 80):
        ids = tokenizer(text, truncation=True)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
        assert ids.count(tokenizer.eos_token_id) == 1 and len(ids) <= 32
    assert tokenizer("PIZZA")["input_ids"] == tokenizer("pizza")["input_ids"]


@torch.no_grad()
def test_zero_shot_is_what_the_model_card_says(parts):
    model, tokenizer = parts
    recorded = json.loads((embedded_model_folder() / "zero_shot.json").read_text())["clothing"]
    data = embedded_dataset("clothing")
    config = json.loads((embedded_model_folder() / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(config[k])[:, None, None] for k in ("image_mean", "image_std"))
    tokens = tokenizer([data.template.format(c) for c in data.classnames], padding=True, return_tensors="pt")
    items = data.test
    pixels = torch.from_numpy(np.stack([np.asarray(data.read(i)) for i in items])).permute(0, 3, 1, 2) / 255
    logits = model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=(pixels - mean) / std
    ).logits_per_image
    hits = logits.argmax(1) == torch.tensor([i.label for i in items])
    assert abs(hits.float().mean().item() - recorded["all"]) < 0.02
