"""Opening any picture file a user may have, as RGB, or saying in one line what is wrong with it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL._util import DeferredError

from anprompt.data.image_decoding import as_rgb, decoded, largest_page, weight
from anprompt.data.image_files import (
    EMPTY,
    FORMATS,
    JPEG,
    NoMemory,
    Unusable,
    check_file,
    has_end_mark,
    one_line,
    opened_image,
    quiet,
    unusable,
    verify,
)
from anprompt.data.image_limits import check_size, pixel_limit
from anprompt.data.pixels import rgb_of_levels
from anprompt.data.reader import LARGEST_FILE, Reader
from anprompt.data.types import Item
from anprompt.errors import OutOfMemory, UserError


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
        UserError: it is missing, unreadable, empty, no image, cut off, closed or too large. One
            line that names it and says what to do.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    path = isinstance(source, (str, os.PathLike))
    called = shown(source) if path else name or "The image"
    try:
        if path:
            check_file(Path(source))
            with Path(source).open("rb") as file:
                return _from_file(file, called, limit)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return _from_file(io.BytesIO(source), called, limit)
        if isinstance(source, Image.Image):
            return _from_pillow(source, called, limit)
        if callable(getattr(source, "read", None)):
            return _from_file(_binary(source), called, limit)
        return rgb_of_levels(_levels(source, called), called)
    except NoMemory as reason:
        raise OutOfMemory(f"{called}: {reason}") from None
    except Unusable as reason:
        raise UserError(f"{called}: {reason}") from None
    except OSError as error:  # gone or changed since it was looked at
        raise UserError(f"{called}: can't be read ({one_line(error)})") from None


def open_picture(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Image.Image:
    """`open_image` of a file."""
    return open_image(path, max_pixels=max_pixels)


def decode_picture(data: bytes, name: str, *, max_pixels: int | None = None) -> Image.Image:
    """`open_image` of the bytes of a file, from anywhere but the disk; `name` is what messages call it."""
    return open_image(data, name=name, max_pixels=max_pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """`open_image` of a Pillow image."""
    return open_image(image)


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
        check_file(Path(path))
        with Path(path).open("rb") as file, opened_image(Reader(file), limit) as image:
            if image.format == "PNG":
                check_size(*image.size, limit)
                verify(image)
            elif image.format in JPEG and has_end_mark(path):
                check_size(*image.size, limit, weight(image))
            else:
                decoded(image, shown(path), limit)
    except Unusable as reason:
        return str(reason)
    return None


def _from_file(file: BinaryIO, name: str, limit: int, frame: int | None = None) -> Image.Image:
    """The image in a file, from its beginning; the page `frame`, None for the one `largest_page` chooses."""
    file.seek(0)
    if not file.read(1):
        raise Unusable(EMPTY)
    with opened_image(Reader(file), limit) as image:
        return decoded(image, name, limit, frame)


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
        raise Unusable("is closed; open it again, or call its load() before it is closed")
    if image.width < 1 or image.height < 1:
        raise Unusable("has no pixels")
    if not closed and image.format in (*FORMATS, "MPO", "HEIF"):
        page = image.tell() or None
        if tiles or core is None or (image.format == "TIFF" and page is None and _other_page(file, image, limit)):
            place = file.tell()
            try:
                return _from_file(file, name, limit, page)
            finally:
                file.seek(place)
    try:
        with quiet():
            image.load()
            upright = ImageOps.exif_transpose(image)
    except Exception as error:
        try:  # damaged EXIF data is not a reason to lose a sound image
            image.load()
        except Exception:
            raise unusable(error) from None
        upright = image
    return as_rgb(upright, name)


def _other_page(file: BinaryIO, image: Image.Image, limit: int) -> bool:
    """Whether the file of a loaded image has a larger page."""
    place = file.tell()
    try:
        file.seek(0)
        with opened_image(Reader(file), limit) as again:
            return again.size == image.size and largest_page(again, limit) > 0
    except Unusable:
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
        raise Unusable(f"can't be read ({one_line(error)})") from None
    if not isinstance(data, bytes):
        raise Unusable("is a text file; open it in binary mode ('rb')")
    if len(data) > LARGEST_FILE:
        raise Unusable(f"has more than {LARGEST_FILE:,} bytes")
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
