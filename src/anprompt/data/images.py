"""Opening any picture file a user may have, as RGB, or saying in one line what is wrong with it."""

from __future__ import annotations

import importlib.util
import io
import logging
import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL._util import DeferredError

from anprompt.data.jpeg import load_jpeg
from anprompt.data.pixels import LARGE, eight_bit_planes, rgb, rgb_of_levels, scale_down
from anprompt.data.reader import LARGEST_FILE, Reader, is_heic
from anprompt.data.types import Item
from anprompt.errors import UserError

log = logging.getLogger("anprompt")

MAX_PIXELS = 80_000_000
MAX_SIDE = 250_000  # pixels; Pillow keeps a pointer and a call for every row
LIMIT_VARIABLE = "ANPROMPT_MAX_MEGAPIXELS"

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

_JPEG = ("JPEG", "MPO")
_MOST_PAGES = 64  # looked at for the largest
_OVERLOADED = "has a header that is larger than any image's should be; save it again"
_EMPTY = "is empty (0 bytes); replace or remove it"

# warnings.catch_warnings swaps a process-wide list; two threads inside it at once could leave it swapped.
_WARNINGS = threading.RLock()

_LARGE = threading.Lock()  # one large image is decoded at a time, whatever the number of threads


class _Unusable(Exception):
    """Why a file can't be used, with what to do about it; without the file's name."""


def shown(path: str | os.PathLike[str]) -> str:
    """A file name that fits in one line of a message, whatever characters it holds."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


def open_image(source: Any, *, name: str | None = None, max_pixels: int | None = None) -> Image.Image:
    """One image of any form as RGB, upright; equal images give equal pixels whatever form they come in.

    A file of several pages gives its largest, an animation its first frame. Levels of 16 or 32 bits and
    floating-point ones are scaled by what the file uses, transparency is laid over white (black where white
    hides the drawing), and an image of more than `pixels.LARGE` is taken at a half, a quarter or an eighth of
    its sides. Sizes are read from the header, so a decompression bomb is refused before it is decoded.

    Args:
        source: a path, the bytes of a file, an open binary file, a Pillow image (loaded or not), an array
            [H, W] or [H, W, 1 to 4] of any levels, or a tensor [3, H, W] of uint8 or floating-point levels.
        name: what to call an image that is not a path in messages.
        max_pixels: most pixels to decode, see `check_size`; None takes `pixel_limit()`.

    Raises:
        UserError: it is missing, unreadable, empty, no image, damaged, cut off, closed or too large. One
            line that names it and says what to do.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    path = isinstance(source, (str, os.PathLike))
    called = shown(source) if path else name or "The image"
    try:
        if path:
            _check_file(Path(source))
            with Path(source).open("rb") as file:
                return _from_file(file, called, limit)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _from_file(io.BytesIO(source), called, limit)
        if isinstance(source, Image.Image):
            return _from_pillow(source, called, limit)
        if callable(getattr(source, "read", None)):
            return _from_file(_binary(source), called, limit)
        return rgb_of_levels(_levels(source, called), called)
    except _Unusable as reason:
        raise UserError(f"{called}: {reason}") from None
    except OSError as error:  # gone or changed since it was looked at
        raise UserError(f"{called}: can't be read ({_one_line(error)})") from None


def open_picture(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Image.Image:
    """`open_image` of a file."""
    return open_image(path, max_pixels=max_pixels)


def decode_picture(data: bytes, name: str, *, max_pixels: int | None = None) -> Image.Image:
    """`open_image` of the bytes of a file, from anywhere but the disk; `name` is what messages call it."""
    return open_image(data, name=name, max_pixels=max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """`open_image` of a Pillow image."""
    return open_image(image)


def pixel_limit() -> int:
    """Most pixels to decode where nobody says: `ANPROMPT_MAX_MEGAPIXELS` million, else `MAX_PIXELS`.

    A variable of the environment, so that the processes of a sweep know what their command was told.

    Raises:
        UserError: the variable is not a number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return MAX_PIXELS
    return megapixels(text, LIMIT_VARIABLE)


def megapixels(value: Any, what: str) -> int:
    """Millions of pixels as a number of pixels.

    Raises:
        UserError: no number above 0 and at most 10,000.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number <= 10_000:
        raise UserError(f"{what} must be a number of megapixels above 0 and up to 10000, not {str(value)[:40]!r}.")
    return max(1, round(number * 1_000_000))


@contextmanager
def limited(max_megapixels: float | None) -> Iterator[None]:
    """Within this block, `pixel_limit()` is this, in this process and in those it starts; None changes nothing."""
    if max_megapixels is None:
        yield
        return
    megapixels(max_megapixels, "max_megapixels")
    before = os.environ.get(LIMIT_VARIABLE)
    os.environ[LIMIT_VARIABLE] = f"{max_megapixels:g}"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(LIMIT_VARIABLE, None)
        else:
            os.environ[LIMIT_VARIABLE] = before


def read_item(item: Item) -> Image.Image:
    """Opens an item whose path is a file; see `open_picture`."""
    return open_picture(item.path)


def check_picture(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> str | None:
    """Why a file can't be used as an image, or None; much cheaper than opening it where the format allows.

    PNG files are checked by their checksums, JPEG files by their header and end mark. Everything else,
    and a JPEG without an end mark, is decoded. Damage in the middle of a JPEG goes unseen here;
    `Views` reads every image once before training and drops what fails.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    try:
        _check_file(Path(path))
        with Path(path).open("rb") as file, _opened(Reader(file), limit) as image:
            if image.format == "PNG":
                check_size(*image.size, limit)
                _verify(image)
            elif image.format in _JPEG and _has_end_mark(path):
                check_size(*image.size, limit, _weight(image))
            else:
                _decoded(image, shown(path), limit)
    except _Unusable as reason:
        return str(reason)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: what is wrong with a file is told in one line, by a `UserError`."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _from_file(file: BinaryIO, name: str, limit: int, frame: int | None = None) -> Image.Image:
    """The image in a file, from its beginning; the page `frame`, None for the one `_page` chooses."""
    file.seek(0)
    if not file.read(1):
        raise _Unusable(_EMPTY)
    with _opened(Reader(file), limit) as image:
        return _decoded(image, name, limit, frame)


def _from_pillow(image: Image.Image, name: str, limit: int) -> Image.Image:
    """A Pillow image; one that has not read its file yet is read as the file would be, and stays as it was.

    One that is loaded is taken as it is, since it may have been drawn on.
    """
    core = image._im if hasattr(image, "_im") else image.im  # Pillow before 11 has the latter alone
    tiles: list[Any] = getattr(image, "tile", [])
    file: Any = getattr(image, "fp", None) or getattr(image, "_fp", None)
    if isinstance(file, DeferredError):
        file = None
    closed = not callable(getattr(file, "seek", None)) or getattr(file, "closed", False)
    if isinstance(core, DeferredError) or (core is None and closed):
        raise _Unusable("is closed; open it again, or call its load() before it is closed")
    if image.width < 1 or image.height < 1:
        raise _Unusable("has no pixels")
    if not closed and image.format in (*_FORMATS, "MPO", "HEIF"):
        page = image.tell() or None
        if tiles or core is None or (image.format == "TIFF" and page is None and _other_page(file, image, limit)):
            place = file.tell()
            try:
                return _from_file(file, name, limit, page)
            finally:
                file.seek(place)
    try:
        with _quiet():
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:
        try:  # damaged EXIF data is not a reason to lose a sound image
            image.load()
        except Exception:
            raise _Unusable(_damaged(error)) from None
        upright = image
    return _rgb(upright, name)


def _other_page(file: BinaryIO, image: Image.Image, limit: int) -> bool:
    """Whether the file of a loaded image has a larger page."""
    place = file.tell()
    try:
        file.seek(0)
        with _opened(Reader(file), limit) as again:
            return again.size == image.size and _page(again, limit) > 0
    except _Unusable:
        return False
    finally:
        file.seek(place)


def _binary(source: Any) -> BinaryIO:
    """An open file with its bytes; what can't be sought is read first."""
    try:
        if callable(getattr(source, "seekable", None)) and source.seekable():
            source.seek(0)
            if isinstance(source.read(0), bytes):
                return source
        data = source.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise _Unusable(f"can't be read ({_one_line(error)})") from None
    if not isinstance(data, bytes):
        raise _Unusable("is a text file; open it in binary mode ('rb')")
    if len(data) > LARGEST_FILE:
        raise _Unusable(f"has more than {LARGEST_FILE:,} bytes")
    return io.BytesIO(data)


def _levels(source: Any, name: str) -> np.ndarray:
    """An array, or a tensor [3, H, W] turned into one; torch is not imported for it."""
    if callable(getattr(source, "detach", None)) and callable(getattr(source, "permute", None)):
        if source.ndim != 3 or source.shape[0] != 3 or not source.numel():
            raise UserError(
                f"{name}: a tensor must be [3, height, width], not {list(source.shape)}; permute(2, 0, 1) may help."
            )
        if not source.is_floating_point() and str(source.dtype) != "torch.uint8":
            kind = str(source.dtype).removeprefix("torch.")
            raise UserError(f"{name}: a tensor must be of uint8 or floating point, not {kind}.")
        source = source.detach().to("cpu")
        return (source.float() if source.is_floating_point() else source).permute(1, 2, 0).numpy()
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return np.asarray(source)
    raise UserError(
        f"{name}: an image is a path, bytes, an open file, a Pillow image, an array or a tensor, not "
        f"{type(source).__name__!r}."
    )


@contextmanager
def _opened(source: Reader, limit: int) -> Iterator[ImageFile.ImageFile]:
    """The image with its header read, nothing decoded."""
    try:
        start = source.start()
        with _quiet():  # the bomb warning: the size is checked here, against our own limit
            try:
                image: ImageFile.ImageFile = Image.open(source, formats=_formats(start))  # type: ignore[arg-type]
            except Image.DecompressionBombError:
                image = _unbounded(source, start)
    except Image.DecompressionBombError:
        raise _Unusable(f"has more than {limit:,} pixels; make it smaller") from None
    except Image.UnidentifiedImageError:
        if source.exhausted:
            raise _Unusable(_OVERLOADED) from None
        raise _Unusable(_not_a_picture(start)) from None
    except Exception as error:  # Pillow's plugins raise nearly anything on a damaged header
        raise _Unusable(_OVERLOADED if source.exhausted else _damaged(error)) from None
    source.decoding()
    with image:
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


def _unbounded(source: Reader, start: bytes) -> ImageFile.ImageFile:
    """Opened without Pillow's own limit on pixels, which is one for all and for the whole process."""
    for name in _formats(start):
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start[:16]) is True:
            source.seek(0)
            return factory(source, "")  # type: ignore[return-value,arg-type]
    raise Image.DecompressionBombError


def _formats(start: bytes) -> list[str]:
    Image.init()
    if is_heic(start) and importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        return ["HEIF"]
    return [name for name in _FORMATS if name in Image.OPEN]


def _not_a_picture(start: bytes) -> str:
    if is_heic(start):
        return "is a HEIC picture; pip install 'anprompt[heic]' to read it, or export it as JPEG or PNG"
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


def _page(image: ImageFile.ImageFile, limit: int) -> int:
    """The largest page that may be decoded, the first among equals; only TIFF has pages, others have frames."""
    if image.format != "TIFF":
        return 0
    best, area = 0, 0
    for page in range(_MOST_PAGES):
        try:
            image.seek(page)
        except Exception:  # no more pages, or damaged ones: those before are sound
            break
        if area < image.width * image.height <= limit:
            best, area = page, image.width * image.height
    image.seek(best)
    return best


def _decoded(image: ImageFile.ImageFile, name: str, limit: int, frame: int | None = None) -> Image.Image:
    """One page as RGB, upright: the size is checked, then its pixels are read."""
    try:
        # TIFF warns while it decodes; the others only while headers are read, and may decode side by side.
        with _quiet() if image.format == "TIFF" else nullcontext():
            image.seek(_page(image, limit) if frame is None else frame)
            pixels = check_size(*image.size, limit, _weight(image))
            with _LARGE if pixels > LARGE else nullcontext():
                return _read(image, name)
    except (_Unusable, UserError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise _Unusable(_damaged(error)) from None


def _read(image: ImageFile.ImageFile, name: str) -> Image.Image:
    """Pixels read, turned the way the EXIF orientation says, as RGB."""
    if image.format in _JPEG and len(image.tile) == 1 and not image.tell():
        factor = scale_down(*image.size)
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        load_jpeg(image, image.fp.whole())  # type: ignore[union-attr]
    elif (order := _sixteen_bits(image)) is not None:
        _load_deep(image, order, name)
    else:
        image.load()
    try:
        with _quiet():
            image.getexif()  # kept by the image, so that the next line only turns it
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # damaged EXIF data is not a reason to lose a sound image
        log.debug("EXIF orientation ignored: %s", _one_line(error))
    return _rgb(image, name)


def _sixteen_bits(image: ImageFile.ImageFile) -> str | None:
    """How the colours of 16 bits lie in the file ("RGB;16B"); None where they are not of 16 bits."""
    if image.mode not in ("RGB", "RGBA") or image.width * image.height > LARGE:
        return None
    orders = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]}
    known = orders & {f"{image.mode};16{end}" for end in "BLN"}
    return known.pop() if known == orders and len(orders) == 1 else None


def _load_deep(image: ImageFile.ImageFile, order: str, name: str) -> None:
    """Colours of 16 bits, scaled as grey levels of 16 bits are.

    Pillow keeps the upper byte of each colour. Told that the bytes come in the other order, it keeps the lower.
    """
    little = order.endswith("L") or (order.endswith("N") and sys.byteorder == "little")
    swapped = order[:-1] + ("B" if little else "L")
    file, page = image.fp, image.tell()
    image.load()
    upper = np.asarray(image).astype(np.uint16)
    with Image.open(file, formats=[str(image.format)]) as again:  # type: ignore[arg-type]
        again.seek(page)
        again.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in again.tile
        ]
        again.load()
        levels = upper * 256 + np.asarray(again)
    image.paste(Image.fromarray(eight_bit_planes(levels, name)))


def _rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        return rgb(image, name)
    except UserError:
        raise
    except (ValueError, OSError, KeyError):
        raise _Unusable(f"has the colour mode {image.mode}, which can't be read; save it as RGB") from None


def _weight(image: ImageFile.ImageFile) -> int:
    """How many pixels of the file take the memory of one: a JPEG can be decoded small."""
    if image.format not in _JPEG:
        return 1
    return 2 if image.info.get("progressive") else 4


def check_size(width: int, height: int, limit: int, weight: int = 1) -> int:
    """Refuse sizes whose decoding takes too much memory or time.

    Args:
        limit: most pixels. A JPEG, which is decoded small, may have four times as many, a progressive one,
            whose coefficients are all held, twice as many.
        weight: 4 and 2 for these.

    Returns:
        The number of pixels decoded at full size.

    Raises:
        _Unusable: too large, or without pixels.
    """
    count = width * height
    if width < 1 or height < 1:
        raise _Unusable(f"has no pixels ({width}x{height}); replace or remove it")
    if count > limit * weight:
        raise _Unusable(
            f"has {width}x{height} = {count:,} pixels, more than {limit * weight:,}; make it smaller, or raise the "
            f"limit (--max-megapixels {math.ceil(count / weight / 1e6)})"
        )
    if max(width, height) > MAX_SIDE:
        raise _Unusable(f"is {width}x{height}; no side may have more than {MAX_SIDE:,} pixels; cut it into parts")
    return count


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
