"""The process that reads one request after another: form or JSON, class list, images.

Whatever a client sends is taken apart here and nowhere else, so that nothing it sends can hold up the service:
the process has a bound on its memory and, for each request, on its processor time, and it can be ended. It holds
neither torch nor the model, writes no file, and answers in JSON and bytes, never in pickle.

One message, either way, is two lengths, a JSON header and bytes. `readers` is the other end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from anprompt.data.crop import centre_view
from anprompt.data.images import decode_picture
from anprompt.errors import OutOfMemory, UserError
from anprompt.serve.forms import Ask, BadType, read_ask
from anprompt.serve.settings import Settings

LENGTHS = struct.Struct("<QQ")
HEADER_MOST = 64_000_000  # bytes of a JSON header; the class list of a request is the most it holds
LEAVE_AT = 0.5  # share of a quick reader's time after which a request with more images is handed on

_SHORT_OF_MEMORY = {"refused": [413, "Reading this request takes more memory than one may have; send smaller images."]}


def pack(
    header: dict[str, Any], body: bytes | bytearray | memoryview = b""
) -> tuple[bytes, bytes | bytearray | memoryview]:
    """A message: its beginning, and the bytes that follow."""
    text = json.dumps(header).encode("ascii")
    return LENGTHS.pack(len(text), len(body)) + text, body


def answer(header: dict[str, Any], body: bytes, settings: Settings, size: int) -> tuple[dict[str, Any], bytes]:
    """What comes of one request.

    Args:
        header: `type` (the content type), `seconds` of processor time, and `quick`: whether a request that
            takes long is handed on.
        size: pixels per side of what the model gets.

    Returns:
        One of `{"ask", "digests"}` with the views [n, size, size, 3] as bytes; `{"refused": [status, line]}`;
        `{"slow": true}`; `{"failed": traceback}`.
    """
    try:
        ask = read_ask(header["type"], body, settings)
        views: list[np.ndarray] = []
        digests: list[str] = []
        for number, data in enumerate(ask.pictures, 1):
            if header["quick"] and views and _spent() > LEAVE_AT * header["seconds"]:
                return {"slow": True}, b""
            views.append(centre_view(decode_picture(data, f"picture {number}", max_pixels=settings.pixels), size))
            digests.append(hashlib.sha256(data).hexdigest())
        kept = dataclasses.replace(ask, pictures=())
        return {"ask": dataclasses.asdict(kept), "digests": digests}, np.stack(views).tobytes()
    except OutOfMemory:
        return _SHORT_OF_MEMORY, b""
    except UserError as error:
        return {"refused": [400, str(error)]}, b""
    except BadType as error:
        return {"refused": [415, str(error)]}, b""
    except MemoryError:
        return _SHORT_OF_MEMORY, b""
    except Exception:
        return {"failed": traceback.format_exc()}, b""


def ask_of(header: dict[str, Any]) -> Ask:
    """The request in an answer, as `forms` checked it."""
    values = dict(header)
    for key in ("classes", "noise"):
        if values[key] is not None:
            values[key] = tuple(values[key])
    return Ask(**{**values, "pictures": ()})


# --- the process ----------------------------------------------------------------------------------
def main() -> None:
    """Read requests from standard input until it ends."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends this process, not the terminal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    start = json.loads(sys.argv[1])
    settings = Settings(**start["settings"])
    source, sink = _own_pipes()
    answer({"type": "application/json", "seconds": 60.0, "quick": False}, _WARM, settings, start["size"])
    _bound(start["memory"], start["nice"])
    _send(sink, {"ready": True})
    while (message := _receive(source)) is not None:
        _timer(message[0]["seconds"])
        reply = answer(*message, settings, start["size"])
        _timer(0.0)
        del message
        _send(sink, *reply)
        del reply


_WARM = (  # an image of one pixel: its way loads all that is loaded late
    b'{"pictures": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="]}'
)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under numbers of their own; a library that prints must not end up in an answer."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    return source, sink


def _receive(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    lengths = source.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        return None
    header, body = LENGTHS.unpack(lengths)
    return json.loads(source.read(header)), source.read(body)


def _send(sink: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    for part in pack(header, body):
        sink.write(part)
    sink.flush()


def _timer(seconds: float) -> None:
    """The kernel ends this process after so much processor time; Python alone could not interrupt a decoder."""
    global _began
    _began = time.process_time()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


_began = 0.0


def _spent() -> float:
    return time.process_time() - _began


def _bound(memory: int, nice: int) -> None:
    """`memory` bytes beside what is there already, no files, no core, and behind others where it is slow."""
    if nice and hasattr(os, "nice"):
        os.nice(nice)
    try:
        import resource
    except ImportError:  # not on this system: the bounds on pixels and on time hold
        return
    pages = 0
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limits = [(resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)]
    if pages:
        limits.append((resource.RLIMIT_AS, pages * resource.getpagesize() + memory))
    for kind, most in limits:
        with contextlib.suppress(OSError, ValueError):
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


if __name__ == "__main__":
    main()
