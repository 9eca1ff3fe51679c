"""Decoding a JPEG and learning what Pillow does not tell: whether its data is cut off or damaged inside.

libjpeg fills what is missing with grey and only warns, and Pillow drops the warning. Whoever hands the
decoder its bytes can see it all the same: a sound picture needs its data to the last byte, and none beyond.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from PIL import Image, ImageFile

MOST_SCANS = 100  # of a progressive picture; encoders write about ten
MOST_SCANNED = 2_000_000_000  # pixels times scans; each scan of a progressive picture visits all of them

_TAIL = 4  # the last bytes of the data, handed out apart: a decoder that ends without them had too many
_AHEAD = b"\xfe" * 8  # what libjpeg looks ahead beyond the data; the longest codes, which a hungry one eats up
_PADDING = bytes((37 * i) % 251 for i in range(256))  # no 0xff, hence no marker
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # ends a scan: neither a stuffed byte nor a restart
_ZEROS = bytes(64)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")

_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2


class BadJpeg(OSError):
    """What is wrong with the data."""


@dataclass(frozen=True)
class Scans:
    """Where the entropy-coded data of the main picture lies.

    Attributes:
        frame: the marker of its frame header (0xc0 baseline, 0xc2 progressive); 0 where there is none.
        spans: (first byte, byte after the last, scan header) of each scan.
        shortest: of each scan, what the shortest code of its tables of AC coefficients stands for.
    """

    frame: int
    spans: tuple[tuple[int, int, bytes], ...]
    shortest: tuple[frozenset[int], ...]

    @property
    def at_once(self) -> bool:
        """Whether one scan holds everything, so that it is decoded as it comes."""
        return self.frame in _SEQUENTIAL and len(self.spans) == 1


def find_scans(data: bytes) -> Scans:
    """The scans up to the end mark; pictures behind it (previews, gain maps, other views) are not of interest."""
    at, frame = 2, 0
    spans: list[tuple[int, int, bytes]] = []
    shortest: list[frozenset[int]] = []
    tables: dict[int, int] = {}
    while at + 4 <= len(data) and data[at] == 0xFF and len(spans) <= MOST_SCANS:
        while at + 3 < len(data) and data[at] == 0xFF:
            at += 1
        marker, length = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        if marker == 0xD9:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker
        header = data[at + 3 : at + 1 + length]
        at += 1 + length
        if marker == 0xC4:
            tables.update(_shortest_codes(header))
        if marker == 0xDA:
            found = _MARKER.search(data, at)
            end = found.start() if found else len(data.rstrip(b"\xff"))  # half a mark would make a whole one
            spans.append((at, end, header))
            used = {0x10 | (pair & 15) for pair in header[2 : 1 + 2 * header[0] : 2]} if header else set()
            shortest.append(frozenset(tables[table] for table in used if table in tables))
            at = end
    return Scans(frame, tuple(spans), tuple(shortest))


def _shortest_codes(tables: bytes) -> dict[int, int]:
    """Of each table of a DHT segment (0x00.. DC, 0x10.. AC) the symbol whose code is all zeros."""
    found, at = {}, 0
    while at + 17 < len(tables):
        found[tables[at]] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def load_jpeg(image: ImageFile.ImageFile, data: bytes) -> None:
    """`image.load()` that fails on data that is cut off or damaged; the pixels of a sound picture are the same.

    A picture in one scan costs nothing extra. A progressive one is decoded a second time, small. Damage
    that leaves the number of decoded blocks as it was stays unseen, as it does in libjpeg.

    Args:
        image: just opened, with or without `draft`.
        data: the whole file.

    Raises:
        BadJpeg: the data is cut off, damaged, or made to keep the decoder busy.
    """
    scans = find_scans(data)
    if len(scans.spans) > MOST_SCANS or len(scans.spans) * _pixels(image) > MOST_SCANNED:
        raise BadJpeg(f"{len(scans.spans)} scans of {_pixels(image):,} pixels")
    _check_zeros(data, scans)
    if not scans.at_once:
        image.load()
        if scans.frame == _PROGRESSIVE:
            _check_progressive(data, scans)
        return
    start, end, _ = scans.spans[0]
    _check_restarts(data, start, end)
    feed = _Feed(data, end)
    image.load_read = feed.read  # type: ignore[attr-defined]
    image.load()
    if feed.left and len(set(data[end - feed.left : end])) > 1:  # some cameras fill up with zeros
        raise BadJpeg("damaged data: the picture is complete before its data ends")


class _Feed:
    """Hands out a file up to the end of its scan, then what the decoder may look ahead, and no more."""

    def __init__(self, data: bytes, end: int) -> None:
        self.data, self.end, self.at, self.ahead = data, end, 0, False

    @property
    def left(self) -> int:
        """Bytes of the scan that were never asked for."""
        return self.end - self.at

    def read(self, size: int) -> bytes:
        body = self.end - _TAIL
        if self.at < self.end:
            stop = min(self.at + size, body if self.at < body else self.end)
            piece = self.data[self.at : stop]
            self.at = stop
            return piece
        if self.ahead:
            raise BadJpeg("its data ends early")
        self.ahead = True
        return _AHEAD


def _check_zeros(data: bytes, scans: Scans) -> None:
    """A lost sector reads as zeros; unless the all-zero code ends a block, no picture has many of them.

    They would mean whole blocks of equal coefficients. (Flat pictures with tables of their own have long
    runs of zeros: there the shortest code ends a block.)
    """
    for (start, end, header), symbols in zip(scans.spans, scans.shortest):
        later_bits = scans.frame == _PROGRESSIVE and header[-1:] > b"\x0f"
        if later_bits or not any(symbol & 15 for symbol in symbols) or header[-2:-1] == b"\0":
            continue
        if data.find(_ZEROS, start, end) >= 0:
            raise BadJpeg("damaged data: a part of it is zeros")


def _check_restarts(data: bytes, start: int, end: int) -> None:
    """Restart marks count 0 to 7 round and round; one that is missing or wrong shows lost data."""
    for number, mark in enumerate(_RESTART.finditer(data, start, end)):
        if mark[1][0] != 0xD0 + number % 8:
            raise BadJpeg("damaged data: a restart mark is missing")


def _check_progressive(data: bytes, scans: Scans) -> None:
    """All coefficients must come, each to its last bit; and no scan may read beyond its data.

    A scan that lacks data reads whatever is put behind it, so the picture changes.
    """
    bits: dict[tuple[int, int], int] = {}
    for _, _, header in scans.spans:
        count = header[0] if header else 0
        if len(header) < 4 + 2 * count:
            raise BadJpeg("damaged data: a scan header is cut off")
        first, last, low = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] & 15
        for part in header[1 : 1 + 2 * count : 2]:
            bits.update({(part, place): low for place in range(first, min(last, 63) + 1)})
    parts = {part for part, _ in bits}
    if any(bits.get((part, place), 1) for part in parts for place in range(64)):
        raise BadJpeg("its data ends early: some scans are missing")
    pieces, at = [], 0
    for _, end, _ in scans.spans:
        pieces += [data[at:end], _PADDING]
        at = end
    if _small(data) != _small(b"".join([*pieces, data[at:]])):
        raise BadJpeg("its data ends early")


def _small(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft("L", (max(1, image.width // 4), max(1, image.height // 4)))
        return image.tobytes()


def _pixels(image: ImageFile.ImageFile) -> int:
    box = (image.tile[0][1] if image.tile else None) or (0, 0, *image.size)
    scale = image.decoderconfig[0] if image.decoderconfig else 1
    return (box[2] - box[0]) * (box[3] - box[1]) * scale * scale
