"""From an open file to RGB, upright: the page, the size, JPEG at a fraction, 16 bits a colour."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import nullcontext

import numpy as np
from PIL import Image, ImageFile, ImageOps

from anprompt.data.image_files import JPEG, Unusable, one_line, quiet, unusable
from anprompt.data.image_limits import check_size
from anprompt.data.jpeg import load_jpeg
from anprompt.data.pixels import LARGE, eight_bit_planes, rgb, scale_down
from anprompt.errors import UserError

log = logging.getLogger("anprompt")

_MOST_PAGES = 64  # looked at for the largest

_LARGE = threading.Lock()  # one large image is decoded at a time, whatever the number of threads


def decoded(image: ImageFile.ImageFile, name: str, limit: int, frame: int | None = None) -> Image.Image:
    """One page as RGB, upright: the size is checked, then its pixels are read."""
    try:
        # TIFF warns while it decodes; the others only while headers are read, and may decode side by side.
        with quiet() if image.format == "TIFF" else nullcontext():
            image.seek(largest_page(image, limit) if frame is None else frame)
            pixels = check_size(*image.size, limit, weight(image))
            with _LARGE if pixels > LARGE else nullcontext():
                return _read(image, name)
    except (Unusable, UserError):
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise unusable(error) from None


def largest_page(image: ImageFile.ImageFile, limit: int) -> int:
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


def _read(image: ImageFile.ImageFile, name: str) -> Image.Image:
    """Pixels read, turned the way the EXIF orientation says, as RGB."""
    if image.format in JPEG and len(image.tile) == 1 and not image.tell():
        factor = scale_down(*image.size)
        if factor > 1:
            image.draft(None, (image.width // factor, image.height // factor))
        load_jpeg(image, image.fp.whole())  # type: ignore[union-attr]
    elif (order := _sixteen_bits(image)) is not None:
        _load_deep(image, order, name)
    else:
        image.load()
    try:
        with quiet():
            image.getexif()  # kept by the image, so that the next line only turns it
            ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # damaged EXIF data is not a reason to lose a sound image
        log.debug("EXIF orientation ignored: %s", one_line(error))
    return as_rgb(image, name)


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


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """`pixels.rgb` of a loaded image.

    Raises:
        Unusable: its colour mode can't be turned into RGB.
    """
    try:
        return rgb(image, name)
    except UserError:
        raise
    except (ValueError, OSError, KeyError):
        raise Unusable(f"has the colour mode {image.mode}, which can't be read; save it as RGB") from None


def weight(image: ImageFile.ImageFile) -> int:
    """How many pixels of the file take the memory of one: a JPEG can be decoded small."""
    if image.format not in JPEG:
        return 1
    return 2 if image.info.get("progressive") else 4
