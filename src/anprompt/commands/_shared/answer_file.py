"""Answers in a file, a batch at a time: CSV or JSON lines, gone on with where a run was stopped.

    answers.csv                     a row a picture, in the order they were asked for
    .answers.csv.state/done.json    what was asked, and how many bytes of the file are whole

A batch counts when `done.json` says so; what a kill leaves behind its bytes is cut off. So no picture stands there
twice and none is missing, and a file that another request wrote is never touched.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anprompt.errors import UserError, choices
from anprompt.utils.files import check_output, read_json, write_json

FORMS = (".csv", ".jsonl")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets run cells that begin so


def answer_path(text: str) -> Path:
    """A path for `AnswerFile`, for argparse."""
    path = Path(text)
    if path.suffix.lower() not in FORMS:
        raise argparse.ArgumentTypeError(str(choices("ending of a file of answers", path.suffix or text, FORMS)))
    return path


class AnswerFile:
    """Rows of pictures in a file.

    Args:
        path: ends in .csv or .jsonl.
        request: what the answers depend on, as JSON values.
        top: answers a picture.

    Attributes:
        done: pictures that stand in it already.
    """

    def __init__(self, path: Path, request: Mapping[str, Any], top: int) -> None:
        self.path, self.top = path, top
        self.request = json.loads(json.dumps(request))  # as it will be read again
        self.json = path.suffix.lower() == ".jsonl"
        self.state = path.with_name(f".{path.name}.state") / "done.json"
        self.done: set[str] = set()
        self.bytes = 0

    @contextlib.contextmanager
    def opened(self) -> Iterator[AnswerFile]:
        """Within: rows may be added; no other process adds any.

        Raises:
            UserError: the file is another's, of another request, or can't be written.
        """
        from anprompt.utils.locks import hold

        if not self.state.is_file():
            check_output(self.path)
        with hold(self.state.parent, "wait until it has finished, or choose another --out"):
            self._go_on()
            yield self

    def _go_on(self) -> None:
        kept: dict[str, Any] = {"request": self.request, "bytes": 0}
        if self.state.is_file():
            kept = read_json(self.state)
        if kept.get("request") != self.request:
            raise UserError(
                f"{str(self.path)!r} holds answers to another request (adapter, classes, threshold or answers a "
                "picture); choose another --out, or remove it and its '.state' folder."
            )
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < int(kept["bytes"]):
            raise UserError(
                f"{str(self.path)!r} is shorter than it was written; remove it and its '.state' folder to start anew."
            )
        self.bytes = int(kept["bytes"])
        if there:
            os.truncate(self.path, self.bytes)
            with self.path.open(encoding="utf-8", newline="") as file:
                if self.json:
                    self.done = {json.loads(line)["picture"] for line in file}
                else:
                    self.done = {_unguarded(row["picture"]) for row in csv.DictReader(file)}
        if not self.bytes:
            self._append("" if self.json else _line(self._head()))

    def _head(self) -> list[str]:
        further = [name for i in range(2, self.top + 1) for name in (f"class_{i}", f"probability_{i}")]
        return ["picture", "class", "probability", "label", "none_of_these", *further, "error"]

    def add(self, answers: Sequence[Mapping[str, Any]], failed: Sequence[tuple[Path, str]]) -> None:
        """A batch: answers, and files that can't be read with the reason."""
        rows = [*answers, *({"picture": str(path), "error": reason} for path, reason in failed)]
        if self.json:
            self._append("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows))
        else:
            self._append("".join(_line(self._cells(row)) for row in rows))

    def _cells(self, row: Mapping[str, Any]) -> list[Any]:
        top = [*row.get("top", ()), *({} for _ in range(self.top - len(row.get("top", ()))))]
        further = [cell for one in top[1:] for cell in (_guarded(one.get("class", "")), one.get("probability", ""))]
        return [
            _guarded(row["picture"]), _guarded(top[0].get("class", "")), top[0].get("probability", ""),
            _guarded(top[0].get("label", "")), row.get("none_of_these", ""), *further, row.get("error", ""),
        ]  # fmt: skip

    def _append(self, text: str) -> None:
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            self.bytes = self.path.stat().st_size
        except OSError as error:
            raise UserError(f"{str(self.path)!r} can't be written: {error.strerror or error}.") from None
        write_json(self.state, {"request": self.request, "bytes": self.bytes})


def _line(cells: Sequence[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue().encode("utf-8", "backslashreplace").decode()


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") else text
