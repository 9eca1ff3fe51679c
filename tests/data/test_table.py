"""Tables of pictures: delimiters, encodings, splits, and one line with the number of the bad row."""

from __future__ import annotations

import pytest

from anprompt.data.sources import open_dataset
from anprompt.errors import UserError
from tests.pictures import noise, save, truncated


@pytest.fixture
def folder(tmp_path):
    for number in range(10):
        save(tmp_path / "pics" / f"{number}.png", noise(12, 12, seed=number))
    save(tmp_path / "pics" / "a, b.png")
    return tmp_path


def write(folder, text, name="data.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def rows(delimiter=",", end="\n"):
    return end.join(
        [delimiter.join(("path", "label"))]
        + [delimiter.join((f"pics/{number}.png", "cat" if number < 5 else "dog")) for number in range(10)]
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_encodings_and_line_ends(folder, delimiter, encoding, end):
    data = open_dataset(write(folder, rows(delimiter, end), encoding=encoding))
    assert data.name == "data" and data.classnames == ("cat", "dog")
    assert [len(part) for part in (data.train, data.val, data.test)] == [6, 2, 2]
    assert data.read(data.test[0]).mode == "RGB"


def test_split_column_other_columns_and_quotes(folder):
    text = (
        "id;Path;LABEL;Split\n"
        '1;"pics/a, b.png";"tiger_cat";train\n'
        "\n"
        "2; pics/0.png ;dog;Validation\n"
        '3;./pics/1.png;"a ""big"" dog";test\n'
    )
    data = open_dataset(write(folder, text))
    assert data.classnames == ('a "big" dog', "dog", "tiger_cat")
    assert [item.classname for item in data.train + data.val + data.test] == ["tiger_cat", "dog", 'a "big" dog']


def test_row_order_does_not_matter(folder):
    lines = rows().split("\n")
    first = open_dataset(write(folder, "\n".join(lines)))
    second = open_dataset(write(folder, "\n".join([lines[0], *reversed(lines[1:])])))
    assert (first.train, first.val, first.test) == (second.train, second.val, second.test)


def test_absolute_and_windows_paths(folder):
    text = f"path,label\n{folder / 'pics' / '0.png'},cat\npics\\1.png,dog\n"
    data = open_dataset(write(folder, text))
    assert len(data.train + data.val + data.test) == 2


def test_relative_table_under_a_root(folder):
    write(folder, rows())
    assert open_dataset("data.csv", root=folder).classnames == ("cat", "dog")


def test_only_a_test_part(folder):
    data = open_dataset(write(folder, "path,label,split\npics/0.png,cat,test\npics/1.png,dog,test\n"))
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 2)


def test_broken_pictures_are_listed_with_their_line(folder):
    truncated(folder / "pics" / "cut.jpg")
    data = open_dataset(write(folder, rows() + "\npics/cut.jpg,dog"))
    assert len(data.skipped) == 1
    assert "cut.jpg" in data.skipped[0] and "line 12 of data.csv" in data.skipped[0]


GOOD = "path,label\npics/0.png,cat\npics/1.png,dog\n"
BAD = {
    "missing file": (GOOD + "pics/none.png,cat\n", r"line 4: there is no file .*none\.png"),
    "empty label": (GOOD + "pics/2.png,\n", "line 4: the label is empty"),
    "short row": (GOOD + "pics/2.png\n", "line 4: the label is empty"),
    "empty path": (GOOD + ",cat\n", "line 4: the path is empty"),
    "duplicate": (GOOD + "./pics/0.png,cat\n", r"line 4: './pics/0.png' repeats line 2"),
    "two labels": (GOOD + "pics/0.png,dog\n", r"line 4: 'pics/0.png' says 'dog' and contradicts line 2 \('cat'\)"),
    "several": (GOOD + "pics/2.png,\npics/3.png,\n,x\n", r"line 4: .* \(and 2 more bad lines\)"),
    "long row": (GOOD + "pics/a, b.png,cat\n", "line 4: 3 cells under 2 columns; put quotes"),
    "open quote": (GOOD + '"pics/2.png,cat\n', "line 4: unexpected end of data"),
    "nul": (GOOD + "pics/\0.png,cat\n", "line 4: holds a NUL"),
    "web address": (GOOD + "https://example.org/a.png,cat\n", "line 4: .* web address; download"),
    "bad split": (
        "path,label,split\npics/0.png,cat,middle\n",
        "line 2: the split 'middle' is none of train, val, test",
    ),
    "no split": ("path,label,split\npics/0.png,cat,\n", "line 2: the split '' is none of"),
    "no label column": ("path,class\npics/0.png,cat\n", "no column 'label'; its first line is 'path,class'"),
    "no header": ("pics/0.png,cat\n", "no column 'path'"),
    "two columns": ("path,label,label\npics/0.png,cat,dog\n", "two columns 'label'"),
    "nothing": ("", "is empty; its first line should be"),
    "header only": ("path,label\n\n", "header but no rows"),
    "one class": ("path,label\npics/0.png,cat\n", "one class only"),
    "equal names": ("path,label\npics/0.png,cat\npics/1.png,Cat\n", "'Cat' and 'cat' both read as 'cat'"),
    "folder": ("path,label\npics,cat\npics/1.png,dog\n", "one class only.*folder, not a picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_in_one_line(folder, name):
    text, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(write(folder, text))
    assert len(str(caught.value).splitlines()) == 1 and ("data.csv" in str(caught.value) or name == "equal names")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-32"])
def test_tables_are_decoded_as_lists_are(folder, encoding, caplog):
    data = open_dataset(write(folder, GOOD.replace("cat", "größe"), encoding=encoding))
    assert "größe" in data.classnames
    assert ("read as Latin-1" in caplog.text) == (encoding in ("latin-1", "cp1252"))


def test_a_picture_called_csv(folder):
    save(folder / "x.csv", format="png")
    with pytest.raises(UserError, match="not UTF-8"):
        open_dataset(folder / "x.csv")


def test_a_quote_before_a_tab_is_one_printable_line(tmp_path):
    """The reader's own message holds the separator as it is."""
    (tmp_path / "t.tsv").write_text('path\tlabel\na.png\t"cat" x\n')
    with pytest.raises(UserError) as told:
        open_dataset(tmp_path / "t.tsv")
    assert str(told.value).isprintable()
