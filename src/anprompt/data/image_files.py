"""What a file is before it is decoded: whether it can be read, which format it has, what is wrong with it in one line."""

from __future__ import annotations

import errno
import importlib.util
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from anprompt.data.reader import Reader, is_heic

# What photographs and drawings come as. Pillow knows more, but EPS would start an external program, and
# TGA or PCX have no real signature, so that a text file could pass for one.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")
JPEG = ("JPEG", "MPO")

# Files that people often take for pictures. (first bytes, what it is, what to do)
_LOOKALIKES = (
    (b"%PDF", "a PDF document", "export its pages as PNG"),
    (b"<svg", "an SVG drawing", "export it as PNG"),
    (b"<?xml", "an XML or SVG file", "export it as PNG"),
    (b"<!doctype", "a web page, most likely a failed download", "download it again"),
    (b"<html", "a web page, most likely a failed download", "download it again"),
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with 'git lfs pull'"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
)

_OVERLOADED = "has a header that is larger than any image's should be; save it again"
EMPTY = "is empty (0 bytes); replace or remove it"

# warnings.catch_warnings swaps a process-wide list; two threads inside it at once could leave it swapped.
_WARNINGS = threading.RLock()


class Unusable(Exception):
    """Why a file can't be used, with what to do about it; without the file's name."""


class NoMemory(Unusable):
    """It may be sound: there is not enough memory for it."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings: what is wrong with a file is told in one line, by a `UserError`."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_file(path: Path) -> None:
    """Whether there is a regular file with bytes that may be read.

    Raises:
        Unusable: there is none.
    """
    try:
        if path.is_dir():
            raise Unusable("is a folder, not a picture")
        if not path.exists():
            broken = path.is_symlink()
            raise Unusable("is a link to a file that does not exist" if broken else "does not exist")
        if not path.is_file():
            raise Unusable("is not a regular file")
        if path.stat().st_size == 0:
            raise Unusable(EMPTY)
        with path.open("rb"):
            pass
    except PermissionError:
        raise Unusable("can't be read; check its permissions") from None
    except (OSError, ValueError) as error:  # names that are too long, hold a NUL, loop through links
        raise Unusable(f"can't be opened ({one_line(error)})") from None


@contextmanager
def opened_image(source: Reader, limit: int) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read, nothing decoded."""
    try:
        start = source.start()
        with quiet():  # the bomb warning: the size is checked here, against our own limit
            try:
                image: ImageFile.ImageFile = Image.open(source, formats=_formats(start))  # type: ignore[arg-type]
            except Image.DecompressionBombError:
                image = _unbounded(source, start)
    except Image.DecompressionBombError:
        raise Unusable(f"has more than {limit:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        if source.exhausted:
            raise Unusable(_OVERLOADED) from None
        raise Unusable(_not_a_picture(start)) from None
    except Exception as error:  # Pillow's plugins raise nearly anything on a damaged header
        raise Unusable(_OVERLOADED) if source.exhausted else unusable(error) from None
    source.decoding()
    with image:
        yield image


def _unbounded(source: Reader, start: bytes) -> ImageFile.ImageFile:
    """Opened without Pillow's own limit on pixels, which is one for all and for the whole process."""
    for name in _formats(start):
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start[:16]) is True:
            source.seek(0)
            return factory(source, "")  # type: ignore[arg-type]
    raise Image.DecompressionBombError


def _formats(start: bytes) -> list[str]:
    Image.init()
    if is_heic(start) and importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        return ["HEIF"]
    return [name for name in FORMATS if name in Image.OPEN]


def _not_a_picture(start: bytes) -> str:
    if is_heic(start):
        return "is a HEIC picture; pip install 'anprompt[heic]' to read it, or export it as JPEG or PNG"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for first, what, remedy in _LOOKALIKES:
        if text.startswith(first.lower()):
            return f"is {what}, not a picture; {remedy}"
    return "is not a picture, or is damaged at its start; remove it or save it as JPEG or PNG"


def verify(image: Image.Image) -> None:
    """Checksums of a PNG, without decoding it."""
    try:
        image.verify()
    except Exception as error:
        raise unusable(error) from None


def has_end_mark(path: str | os.PathLike[str]) -> bool:
    """Whether a JPEG's end-of-image mark stands near the end of the file (cameras append their own data)."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        return b"\xff\xd9" in file.read()


def unusable(error: Exception) -> Unusable:
    """Why a library could not read an image: it is damaged, or memory is short, which is not its fault."""
    told = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if told or "out of memory" in str(error).lower():
        return NoMemory("needs more memory than is free; make it smaller, or do less at a time")
    return Unusable(f"is damaged or cut off ({one_line(error)}); replace or remove it")


def one_line(error: Exception) -> str:
    """What a library says, short and in one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split())[:120] or type(error).__name__
