"""What Pillow may read of a foreign file: bytes and calls have an end before an image is decoded."""

from __future__ import annotations

from typing import BinaryIO

LARGEST_FILE = 1 << 30  # bytes

_CALLS = 50_000  # of a header; every chunk, tag or comment takes a few
_HEADER = 16 << 20  # bytes; phones put depth maps and previews before the image
_HEADERS = {b"GIF": 1 << 20, b"P": 1 << 16, b"BM": 1 << 20}  # Pillow joins GIF comments piece by piece
_WHOLE = (b"RIFF", b"\0\0\0")  # WebP, AVIF, HEIC and JPEG 2000 are read whole when they are opened


class Overloaded(OSError):
    """More of a header than any image has."""


class Reader:
    """A file that ends with an error where its header takes too many bytes or calls.

    Args:
        file: binary, sought to anywhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._calls, self._bytes = _CALLS, _HEADER
        self.exhausted = False
        self.closed = False

    def start(self) -> bytes:
        """The first bytes, and the budget that goes with them; back at the beginning."""
        self._file.seek(0)
        start = self._file.read(64)
        self._file.seek(0)
        if start.startswith(_WHOLE):
            self._bytes = LARGEST_FILE
        else:
            self._bytes = next((most for first, most in _HEADERS.items() if start.startswith(first)), _HEADER)
        return start

    def decoding(self) -> None:
        """From here on a large file may be read, still in pieces of a sound size."""
        self._file.seek(0, 2)
        size = self._file.tell()
        self._file.seek(0)
        self._calls, self._bytes = _CALLS + size // 256, 4 * LARGEST_FILE

    def whole(self) -> bytes:
        """All bytes of the file."""
        self._file.seek(0)
        data = self._file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise Overloaded(f"more than {LARGEST_FILE:,} bytes")
        self._file.seek(0)
        return data

    def read(self, size: int = -1) -> bytes:
        """As a file's; raises `Overloaded` where the budget ends."""
        if size is None or size < 0 or size > LARGEST_FILE:
            size = LARGEST_FILE
        data = self._file.read(size)
        self._calls -= 1
        self._bytes -= len(data)
        if self._calls < 0 or self._bytes < 0:
            self.exhausted = True
            raise Overloaded("its header is too large")
        return data

    def readline(self, size: int = -1) -> bytes:
        """As a file's."""
        line = self._file.readline(min(size, _HEADER) if size >= 0 else _HEADER)
        self._calls -= 1
        self._bytes -= len(line)
        if self._calls < 0 or self._bytes < 0:
            self.exhausted = True
            raise Overloaded("its header is too large")
        return line

    def seek(self, offset: int, whence: int = 0) -> int:
        """As a file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As a file's."""
        return self._file.tell()

    def close(self) -> None:
        """The file belongs to whoever opened it."""
        self.closed = True


def is_heic(start: bytes) -> bool:
    """Whether a file that starts so is a HEIC picture (AVIF is another brand of the same container)."""
    return start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"hev", b"mif", b"msf")
