"""The catalog's facts: complete, consistent, and equal to the field's real split files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from anprompt.data.classic.catalog import BENCHMARKS, CATALOG, IMAGENET_VARIANTS, SPLITS_SOURCE
from anprompt.data.classic.check import check_dataset
from anprompt.data.classic.coop import read_split
from anprompt.data.classic.prepare import prepare
from anprompt.data.splits import clean_classnames
from tests.shared import shared

SPLITS = {
    "caltech101": "split_zhou_Caltech101.json",
    "oxford_pets": "split_zhou_OxfordPets.json",
    "dtd": "split_zhou_DescribableTextures.json",
}


def test_eleven_benchmarks_and_four_variants():
    assert BENCHMARKS == (
        "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft",
        "sun397", "dtd", "eurosat", "ucf101",
    )  # fmt: skip
    assert IMAGENET_VARIANTS == ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
    assert set(CATALOG) == set(BENCHMARKS) | set(IMAGENET_VARIANTS)
    assert len({row.folder for row in CATALOG.values()}) == len(CATALOG) == 15


@pytest.mark.parametrize("row", CATALOG.values(), ids=list(CATALOG))
def test_rows_are_whole(row):
    assert row.template.count("{}") == 1 and row.template.format("cat").endswith(".")
    assert row.title and row.licence
    for address in (row.source, *row.alternatives):
        assert urlsplit(address).scheme == "https" and urlsplit(address).netloc
    assert row.counts.classes >= 10 and row.counts.test >= row.counts.classes
    assert row.test_only == (row.counts.train == 0) and (row.counts.val == 0) == row.listed
    required = [piece for piece in row.pieces if piece.required]
    assert required and all(piece.names for piece in row.pieces)
    if row.images:  # the pictures are among what prepare puts into place
        assert any(piece.to.split("/")[0] == row.images for piece in required)


def test_what_splits_by_class_adds_up():
    """Sets that are known by their whole size: the parts of the field's split hold every picture."""
    whole = {"food101": 101_000, "eurosat": 27_000, "oxford_flowers": 8189, "dtd": 5640, "sun397": 39_700,
             "oxford_pets": 7349, "stanford_cars": 16_185, "fgvc_aircraft": 10_000, "ucf101": 13_320}  # fmt: skip
    for name, total in whole.items():
        counts = CATALOG[name].counts
        assert counts.train + counts.val + counts.test == total, name


@pytest.mark.parametrize("name", SPLITS)
def test_counts_and_names_equal_the_real_split_files(name):
    row = CATALOG[name]
    assert row.split_file == SPLITS[name]
    parts, names = read_split(shared(f"reference/splits/{row.split_file}"))
    assert asdict(row.counts) == {"classes": len(names), **{part: len(items) for part, items in parts.items()}}
    paths = [item.path for items in parts.values() for item in items]
    assert len(set(paths)) == len(paths)
    cleaned = clean_classnames(names)
    assert not any("_" in classname for classname in cleaned)
    # Corrected names are in the published files already, so correcting them again changes nothing.
    assert not set(names) & set(row.renames)
    folders = {path.split("/")[0] for path in paths}
    assert not folders & set(row.ignored)
    if row.renames:
        assert set(row.renames) <= folders and set(row.renames.values()) <= set(names)


def test_the_page_that_links_the_split_files_is_a_project_page():
    assert SPLITS_SOURCE.startswith("https://github.com/KaiyangZhou/CoOp/")


@pytest.mark.parametrize("name", ["oxford_pets", "dtd"])
def test_a_whole_download_under_the_real_split(tmp_path, name):
    """All names of the real split as empty files: placed, counted, and nothing left to say."""
    row = CATALOG[name]
    split = shared(f"reference/splits/{row.split_file}")
    images = tmp_path / "download" / row.pieces[0].names[0]
    rows = [entry for part in json.loads(split.read_text()).values() for entry in part]
    for folder in {path.rpartition("/")[0] for path, *_ in rows}:
        (images / folder).mkdir(parents=True, exist_ok=True)
    for path, *_ in rows:
        (images / path).touch()
    check = prepare(name, tmp_path / "download", tmp_path / "root", split=split).check
    assert check.complete and check.counts == check.expected == asdict(row.counts)
    assert {finding.state for finding in check.findings} == {"found"}
    (images / rows[-1][0]).unlink()
    check = check_dataset(name, tmp_path / "root")
    assert not check.complete and check.next_step.endswith(rows[-1][0])


def test_the_page_on_data_has_every_row():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for row in CATALOG.values():
        counts = [f"{count:,}".replace(",", " ") if count else "-" for count in asdict(row.counts).values()]
        cells = [f"[{row.title}]({row.source})", f"`{row.name}`", *counts, row.template, row.licence]
        assert f"| {' | '.join(cells)} |" in page, row.name
        assert f"| {row.title} | `{row.folder}/`:" in page, row.name
