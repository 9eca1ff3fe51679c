"""Opening any picture file a user may have, as RGB, or saying in one line what is wrong with it."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from anprompt.data.types import Item
from anprompt.errors import UserError

log = logging.getLogger("anprompt")

MAX_PIXELS = 64_000_000

# What photographs and drawings come as. Pillow knows more, but EPS would start an external program, and
# TGA or PCX have no real signature, so that a text file could pass for one.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")

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

_EMPTY = "is empty (0 bytes); replace or remove it"

# warnings.catch_warnings swaps a process-wide list; two threads inside it at once could leave it swapped.
_WARNINGS = threading.Lock()


class _Unusable(Exception):
    """Why a file can't be used, with what to do about it; without the file's name."""


def shown(path: str | os.PathLike[str]) -> str:
    """A file name that fits in one line of a message, whatever characters it holds."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def open_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens a picture as RGB, upright, with transparency laid over white; of an animation the first frame.

    16-bit and floating-point grey levels are scaled to 8 bits. Sizes are read from the header, so a
    decompression bomb is refused before anything is decoded.

    Args:
        path: the file.
        max_pixels: the largest width x height to decode.

    Raises:
        UserError: the file is missing, unreadable, empty, not a picture, damaged or too large. One line
            that names the file and says what to do.
    """
    try:
        with _header(path, max_pixels) as image:
            return _rgb(_decoded(image))
    except _Unusable as reason:
        raise UserError(f"{shown(path)}: {reason}") from None


def decode_picture(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The bytes of a picture file, from anywhere but the disk; opened exactly as `open_picture` does it.

    Args:
        name: what to call the picture in a message.

    Raises:
        UserError: as `open_picture`.
    """
    try:
        if not data:
            raise _Unusable(_EMPTY)
        with _opened(io.BytesIO(data), max_pixels) as image:
            return _rgb(_decoded(image))
    except _Unusable as reason:
        raise UserError(f"{shown(name)}: {reason}") from None


def read_item(item: Item) -> Image.Image:
    """Opens an item whose path is a file; see `open_picture`."""
    return open_picture(item.path)


def check_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why a file can't be used as a picture, or None; much cheaper than opening it where the format allows.

    PNG files are checked by their checksums, JPEG files by their header and end mark. Everything else,
    and a JPEG without an end mark, is decoded. Damage in the middle of a JPEG goes unseen here;
    `Views` reads every picture once before training and drops what fails.
    """
    try:
        with _header(path, max_pixels) as image:
            if image.format == "PNG":
                _verify(image)
            elif image.format not in ("JPEG", "MPO") or not _has_end_mark(path):
                _rgb(_decoded(image))
    except _Unusable as reason:
        return str(reason)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: what is wrong with a file is told in one line, by a `UserError`."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _header(path: str | os.PathLike[str], max_pixels: int) -> Iterator[Image.Image]:
    """The picture with its header read and its size checked, nothing decoded."""
    _check_file(Path(path))
    with _opened(path, max_pixels) as image:
        yield image


@contextmanager
def _opened(source: str | os.PathLike[str] | io.BytesIO, max_pixels: int) -> Iterator[Image.Image]:
    try:
        with _quiet():  # the bomb warning: the size is checked here, against our own limit
            image = Image.open(source, formats=_known_formats())
    except Image.DecompressionBombError:
        raise _Unusable(f"has more than {max_pixels:,} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        raise _Unusable(_not_a_picture(_first_bytes(source))) from None
    except Exception as error:  # Pillow's plugins raise nearly anything on a damaged header
        raise _Unusable(_damaged(error)) from None
    with image:
        width, height = image.size
        if width < 1 or height < 1:
            raise _Unusable(f"has no pixels ({width}x{height}); replace or remove it")
        if width * height > max_pixels:
            raise _Unusable(
                f"has {width}x{height} = {width * height:,} pixels, more than {max_pixels:,}; make it smaller"
            )
        yield image


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise _Unusable("is a folder, not a picture")
        if not path.exists():
            broken = path.is_symlink()
            raise _Unusable("is a link to a file that does not exist" if broken else "does not exist")
        if not path.is_file():
            raise _Unusable("is not a regular file")
        if path.stat().st_size == 0:
            raise _Unusable(_EMPTY)
        with path.open("rb"):
            pass
    except PermissionError:
        raise _Unusable("can't be read; check its permissions") from None
    except (OSError, ValueError) as error:  # names that are too long, hold a NUL, loop through links
        raise _Unusable(f"can't be opened ({_one_line(error)})") from None


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _first_bytes(source: str | os.PathLike[str] | io.BytesIO) -> bytes:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:64]
    with open(source, "rb") as file:
        return file.read(64)


def _not_a_picture(start: bytes) -> str:
    if start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "is a HEIC picture, which can't be read here; export it as JPEG or PNG"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for first, what, remedy in _LOOKALIKES:
        if text.startswith(first.lower()):
            return f"is {what}, not a picture; {remedy}"
    return "is not a picture, or is damaged at its start; remove it or save it as JPEG or PNG"


def _verify(image: Image.Image) -> None:
    try:
        image.verify()
    except Exception as error:
        raise _Unusable(_damaged(error)) from None


def _decoded(image: Image.Image) -> Image.Image:
    """The first frame with its pixels loaded, turned the way its EXIF orientation says."""
    try:
        # TIFF warns while it decodes; the others only while headers are read, and may decode side by side.
        with _quiet() if image.format == "TIFF" else nullcontext():
            image.load()
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise _Unusable(_damaged(error)) from None
    try:
        with _quiet():
            image.getexif()  # kept by the picture, so that the next line only turns it
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # damaged EXIF data is no reason to lose a sound picture
        log.debug("EXIF orientation ignored: %s", _one_line(error))
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded picture of any mode as RGB, exactly as `open_picture` makes it of a file.

    Raises:
        UserError: a colour mode that can't be read.
    """
    try:
        return _rgb(image)
    except _Unusable as error:
        raise UserError(f"A picture {error}.") from None


def _rgb(image: Image.Image) -> Image.Image:
    try:
        if image.mode == "F" or image.mode.startswith("I"):
            image = _eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        converted = image.convert("RGB")
    except (ValueError, OSError, KeyError):
        raise _Unusable(f"has the colour mode {image.mode}, which can't be read; save it as RGB") from None
    # `convert` returns a plain copy unless the mode is RGB already; copying detaches it from the file.
    return converted.copy() if converted is image else converted


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits or floats as 8 bits, by the range their type is used with."""
    levels = np.nan_to_num(np.asarray(image).astype(np.float64))
    low, high = levels.min(), levels.max()
    if image.mode == "F" and low >= 0 and high <= 1:
        scaled = levels * 255
    elif image.mode == "F" and low >= 0 and high <= 255:
        scaled = levels
    elif image.mode != "F" and low >= 0 and high <= 65535:
        scaled = levels / 257  # 65535 = 255 * 257
    else:
        scaled = (levels - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _has_end_mark(path: str | os.PathLike[str]) -> bool:
    """Whether a JPEG's end-of-image mark stands near the end of the file (cameras append their own data)."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        return b"\xff\xd9" in file.read()


def _damaged(error: Exception) -> str:
    return f"is damaged or cut off ({_one_line(error)}); replace or remove it"


def _one_line(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(reason.split())[:120] or type(error).__name__
