"""`embedded:defects`: parts that share no board, crops that can be read, a licence notice, and few bytes."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from anprompt.data.sources import open_dataset
from anprompt.data.types import Item
from anprompt.errors import UserError


def test_boards_are_divided_and_every_crop_is_read() -> None:
    data = open_dataset("embedded:defects")
    assert len(data.classnames) == 6
    boards = [{item.path.split("/")[2] for item in part} for part in (data.train, data.val, data.test)]
    assert not boards[0] & boards[1] and not boards[0] & boards[2] and not boards[1] & boards[2]
    for part in (data.train, data.test):
        held = [sum(item.label == label for item in part) for label in range(6)]
        assert min(held) >= 16, held
    seen = {data.read(item).tobytes() for item in data.test}
    assert len(seen) == len(data.test) and data.read(data.train[0]).size == (64, 64)
    with pytest.raises(UserError, match="no such embedded image"):
        data.read(Item("embedded:defects/spur/x/test/9999", 0, "spur"))


def test_the_notice_is_there_and_the_set_is_small() -> None:
    folder = Path(str(resources.files("anprompt"))) / "assets/defects"
    assert "Copyright (c) 2018 tangsanli5201" in (folder / "LICENSE").read_text()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_500_000
    with pytest.raises(UserError, match="Did you mean 'defects'"):
        open_dataset("embedded:defect")
