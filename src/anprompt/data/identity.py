"""What an image is: the hash of its file's bytes, and a small copy by which `look_alikes` finds re-encoded ones.

Names say nothing: a replaced file is another image, a moved one is the same. Every file is read once; what
was learned of it is kept in a small database of the user's (`cache_file`) under its path, and holds as long
as the file's size, times and inode are the same. The database is a convenience: where it is missing,
damaged, locked or can't be written, files are read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from anprompt.data.image_files import Unusable
from anprompt.data.image_limits import check_size, pixel_limit
from anprompt.data.images import decode_picture
from anprompt.data.types import Item
from anprompt.utils.files import cache_folder, file_hash

try:
    import sqlite3
except ImportError:  # a Python built without it keeps nothing between runs
    sqlite3 = None  # type: ignore[assignment]

log = logging.getLogger("anprompt")

SIDE, COLOUR_SIDE = 24, 4  # of the small copy: its grey levels, and its two planes of colour
SMALL_BYTES = 8 + SIDE**2 + 2 * COLOUR_SIDE**2
_LARGE = 256 * 2**20  # bytes; a larger file is hashed piece by piece and has no small copy
_REMEMBERED = 200_000  # files whose hashes stay in memory
_READERS = 8  # threads: on a network drive most of the time is waiting
_MANY = 500  # paths that one question to the database may hold
_BUSY_S = 2.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS images (path BLOB PRIMARY KEY, mark TEXT NOT NULL, content BLOB NOT NULL, small BLOB)"
    " WITHOUT ROWID"
)


@dataclass(frozen=True)
class Known:
    """What is known of an image file.

    Attributes:
        content: sha256 of its bytes, in hexadecimal.
        small: the upright image's width and height (4 bytes each), `SIDE` x `SIDE` grey levels of the whole of it,
            and `COLOUR_SIDE` x `COLOUR_SIDE` levels of blue and of red against the grey; empty where it can't be
            decoded; None where nobody asked.
    """

    content: str
    small: bytes | None = None


_memory: dict[str, tuple[str, Known]] = {}  # by absolute path: the file's mark, and what it was found to be


def identities(items: Sequence[Item]) -> list[str]:
    """What makes each image the one it is: its content where it is a file, else the key its source gives it."""
    return contents([item.path for item in items])


def contents(paths: Sequence[str]) -> list[str]:
    """sha256 of each file's bytes; where there is no readable file, the path itself."""
    return [known.content if known else path for path, known in zip(paths, look_up(paths))]


def look_up(paths: Sequence[str], *, small: bool = False) -> list[Known | None]:
    """What is known of each file, read only if it is new or has changed.

    Args:
        paths: of files; anything else gives None.
        small: also the small copies, for which a file is decoded (JPEG at a fraction of its size).
    """
    marks = {path: mark for path in dict.fromkeys(paths) if (mark := _mark(path))}
    found = {path: known for path, mark in marks.items() if (known := _remembered(path, mark, small))}
    missing = [path for path in marks if path not in found]
    if missing:
        cached = _cached(missing, marks, small)
        read = _read_all([path for path in missing if path not in cached], small)
        _keep(read, marks)
        found |= cached | read
        _remember(cached | read, marks)
    return [found.get(path) for path in paths]


def sound(paths: Sequence[str]) -> set[str]:
    """Those of the files that were decoded whole before, have not changed since, and are not too large now.

    They need not be opened to be listed; nothing is read here.
    """
    marks = {path: mark for path in dict.fromkeys(paths) if (mark := _mark(path))}
    known = {path: one for path, mark in marks.items() if (one := _remembered(path, mark, True))}
    cached = _cached([path for path in marks if path not in known], marks, True)
    _remember(cached, marks)
    known |= cached
    return {path for path, one in known.items() if one.small and _fits(one.small)}


def _fits(small: bytes) -> bool:
    try:
        check_size(int.from_bytes(small[:4], "big"), int.from_bytes(small[4:8], "big"), pixel_limit())
    except Unusable:  # for this format it may be sound; its header says
        return False
    return True


def _remembered(path: str, mark: str, small: bool) -> Known | None:
    known = _memory.get(_place(path))
    return known[1] if known and known[0] == mark and (known[1].small is not None or not small) else None


def _remember(found: dict[str, Known], marks: dict[str, str]) -> None:
    if len(_memory) > _REMEMBERED:
        _memory.clear()
    settled = ((path, known) for path, known in found.items() if _settled(marks[path]))
    _memory.update((_place(path), (marks[path], known)) for path, known in settled)


def _place(path: str) -> str:
    return os.path.abspath(path)


def _mark(path: str) -> str | None:
    """Size, times and inode of a regular file: while they stay the same, so do its bytes.

    The modification time alone would miss files that were renamed over each other with their times kept
    (unpacked archives, `cp -p`, `rsync -t`); a change of name or content moves the change time.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # not there, or no possible name
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _settled(mark: str) -> bool:
    """Whether a file changed long enough ago that another change would show in its times."""
    changed = max(int(word) for word in mark.split()[1:3])
    coarse = changed % 10**9 == 0  # a file system that counts in seconds (FAT: every second one)
    return time.time_ns() - changed > (3 * 10**9 if coarse else 10**8)


# --- reading --------------------------------------------------------------------------------------
def _read_all(paths: Sequence[str], small: bool) -> dict[str, Known]:
    """Hashes of files, read side by side; a file that can't be read is left out."""
    if len(paths) < _READERS:
        read = [_read(path, small) for path in paths]
    else:
        log.info("reading %d images to know them by their content", len(paths))
        with ThreadPoolExecutor(_READERS) as pool:
            read = list(pool.map(lambda path: _read(path, small), paths))
    return {path: known for path, known in zip(paths, read) if known}


def _read(path: str, small: bool) -> Known | None:
    try:
        if os.path.getsize(path) > _LARGE:
            return Known(file_hash(Path(path)), b"" if small else None)
        data = Path(path).read_bytes()
    except OSError:
        return None
    return Known(hashlib.sha256(data).hexdigest(), _small(data, path) if small else None)


def _small(data: bytes, name: str) -> bytes:
    """The small copy of an image, upright; empty where it can't be decoded."""
    try:
        image, (width, height), box = _decoded_small(data, name)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1)
        if turned in (5, 6, 7, 8):
            width, height = height, width
        levels = (image if image.mode in ("L", "RGB", "YCbCr") else image.convert("RGB")).convert("YCbCr")
        grey = levels.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box).getchannel("Y")
        colours = levels.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BILINEAR, box=box).split()[1:]
        upright = [_turned(plane, turned).tobytes() for plane in (grey, *colours)]
        return b"".join((width.to_bytes(4, "big"), height.to_bytes(4, "big"), *upright))
    except Exception as error:  # an image that can't be decoded is told where it is used
        log.debug("no small copy of %s: %s", name, error)
        return b""


def _turned(plane: Image.Image, orientation: int) -> Image.Image:
    ways = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
            7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    way = ways.get(orientation)
    return plane.transpose(Image.Transpose[way]) if way else plane


def _decoded_small(
    data: bytes, name: str
) -> tuple[Image.Image, tuple[int, int], tuple[float, float, float, float] | None]:
    """An image, its full size, and which part of it is the picture: a JPEG decoded small has a rim."""
    if data.startswith(b"\xff\xd8"):
        image = Image.open(io.BytesIO(data), formats=("JPEG", "MPO"))
        size = image.size
        mode = {"L": "L", "RGB": "YCbCr"}.get(image.mode)
        drafted = image.draft(mode, (4 * SIDE, 4 * SIDE)) if mode else None
        return image, size, drafted[1] if drafted else None
    whole = decode_picture(data, name)
    return whole, whole.size, None


# --- the database ---------------------------------------------------------------------------------
def cache_file() -> Path | None:
    """Where hashes are kept between runs: `images-2.sqlite` in the cache folder; None where there is no place."""
    folder = cache_folder()
    return folder / "images-2.sqlite" if folder and sqlite3 else None


def _with_database(work: Callable[[sqlite3.Connection], None], *, make: bool = False) -> None:
    """Do something with the database; where it is not there or of no use, nothing is done and nothing is wrong.

    A damaged one is removed, so that the next run starts another.
    """
    file = cache_file()
    if file is None or not (make or file.exists()):
        return
    connection = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=_BUSY_S)
        connection.execute(_TABLE)
        work(connection)
        connection.commit()
    except (sqlite3.OperationalError, OSError) as error:  # locked by another process, or not writable
        log.debug("%s is not used: %s", file, error)
    except sqlite3.Error as error:
        log.debug("%s is damaged and removed: %s", file, error)
        with contextlib.suppress(OSError):
            file.unlink()
    finally:
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _cached(paths: Sequence[str], marks: dict[str, str], small: bool) -> dict[str, Known]:
    """What the database knows of files as they are now."""
    found: dict[str, Known] = {}
    by_place = {os.fsencode(_place(path)): path for path in paths}
    places = list(by_place)

    def ask(connection: sqlite3.Connection) -> None:
        for start in range(0, len(places), _MANY):
            asked = places[start : start + _MANY]
            question = f"SELECT path, mark, content, small FROM images WHERE path IN ({','.join('?' * len(asked))})"
            for place, mark, content, copy in connection.execute(question, asked):
                path = by_place[place]
                sound = _of_length(content, 32) and (copy is None or _of_length(copy, 0, SMALL_BYTES))
                if mark == marks[path] and sound and (copy is not None or not small):
                    found[path] = Known(content.hex(), copy)

    _with_database(ask)
    return found


def _of_length(value: object, *lengths: int) -> bool:
    return isinstance(value, bytes) and len(value) in lengths


def _keep(read: dict[str, Known], marks: dict[str, str]) -> None:
    """Write what was read; a file that changed just now is left out, as its next change might not show."""
    rows = [
        (os.fsencode(_place(path)), marks[path], bytes.fromhex(known.content), known.small)
        for path, known in read.items()
        if _settled(marks[path]) and _mark(path) == marks[path]
    ]
    if rows:
        question = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)"

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(question, rows)

        _with_database(write, make=True)
