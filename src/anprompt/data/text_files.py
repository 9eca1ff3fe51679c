"""Text files as editors and spreadsheets save them: lists of names, tables, metadata."""

from __future__ import annotations

import codecs
import logging
import os
import re
from pathlib import Path

from anprompt.errors import UserError
from anprompt.utils.files import LARGEST_TEXT, check_readable

log = logging.getLogger("anprompt")


def file_text(path: str | os.PathLike[str]) -> str:
    """Text of a list or a table: UTF-8, UTF-16 or UTF-32 with a mark, UTF-16 without one, else Latin-1 (told).

    Raises:
        UserError: no such file, a pipe, a device, or one of binary content.
    """
    try:
        check_readable(Path(path), LARGEST_TEXT)
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} can't be read ({getattr(error, 'strerror', None) or error}).") from None
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        if re.search(rb"[\x00-\x08\x0e-\x1f]", data):
            raise UserError(f"{str(path)!r} is not UTF-8 text; save it as UTF-8.") from None
        log.warning("%s is not UTF-8 text; it was read as Latin-1", path)
        text = data.decode("cp1252", "replace")  # Latin-1 as Windows writes it
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{str(path)!r}, line {line}: holds a NUL, so it is not UTF-8 text; save it as UTF-8.")
    return text


def _encoding(data: bytes) -> str:
    marks = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
             (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
    for mark, name in marks:
        if data.startswith(mark):
            return name
    if data[1:400:2].count(0) > len(data[1:400:2]) // 2:
        return "utf-16-le"
    if data[0:400:2].count(0) > len(data[0:400:2]) // 2:
        return "utf-16-be"
    return "utf-8-sig"
