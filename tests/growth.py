"""How the time of every parser grows with its input: shapes that cost much elsewhere, at doubling sizes.

`tests/test_growth.py` fails where twice the input takes more than thrice the time, `benchmarks/fuzz.py --growth` too.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

from anprompt.errors import UserError
from anprompt.serve.settings import known_host, same_origin

from .fuzzing import DESCRIPTIONS, PRESET, RECORD, SPLIT, TARGETS, Target, World, sound_images

SIZES = tuple(2**power for power in range(11, 19))  # characters: 2 thousand to 262 thousand
NOTICED = 0.03  # seconds of processor time; from what part of it growth is told, `floor` says
MOST = 3.0  # times the time for twice the input

TEXTS: dict[str, Callable[[int], str]] = {
    "marks": lambda n: "a" + "\u0301" * (n // 2) + "\u0327" * (n // 2),
    "ligatures": lambda n: "\ufdfa" * n,
    "letters": lambda n: "a" * n,
    "spaces": lambda n: "_ " * (n // 2),
    "blanks then a letter": lambda n: " " * n + "x",
    "lines": lambda n: "\n".join(f"n{i}" for i in range(n // 6)),
    "rows": lambda n: "\n".join(f"a.png,n{i}" for i in range(n // 12)),
    "commas": lambda n: "," * n,
    "quotes": lambda n: '"' * n,
    "backslashes": lambda n: "\\" * n,
    "braces": lambda n: "{" * n,
    "pairs": lambda n: "{}" * (n // 2),
    "brackets": lambda n: "[" * n,
    "digits": lambda n: "9" * n,
    "colons": lambda n: ":" * n,
    "dots": lambda n: "a." * (n // 2),
    "equals": lambda n: "a=" * (n // 2),
    "escapes": lambda n: "\x1b[31m" * (n // 5),
    "slashes": lambda n: "../" * (n // 3),
}


def _json_places(sound: Any, place: Callable[[Any, str], Any]) -> Callable[[str], str]:
    def made(text: str) -> str:
        value = json.loads(json.dumps(sound))
        return json.dumps(place(value, text))

    return made


def _put(*keys: Any) -> Callable[[Any, str], Any]:
    def put(value: Any, text: str) -> Any:
        inner = value
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = text
        return value

    return put


def places(world: World) -> dict[str, tuple[str, Callable[[str], Any]]]:
    """Where in which target's input a text is put."""
    config = {key: value for key, value in world.config.items() if key != "tensors_sha256"}
    named = _json_places(
        config, lambda v, t: {**v, "classnames": [t, *v["classnames"][1:]]} if "classnames" in v else {**v, t: 1}
    )
    request = {"pictures": ["aGVsbG8="], "classes": ["cat", "dog"], "noise": "fog:3"}
    return {
        "class list": ("class list", str),
        "config, whole": ("adapter config", str),
        "config, class": ("adapter config", named),
        "config, template": ("adapter config", _json_places(config, _put("template"))),
        "config, a field": ("adapter config", _json_places(config, lambda v, t: {**v, t: 1})),
        "table, label": ("table", lambda text: f"path,label,split\na.png,{text},train\nb.png,y,test\n"),
        "table, quoted": ("table", lambda text: f'path,label\na.png,"{text}"\nb.png,y\n'),
        "table, head": ("table", lambda text: f"path,label,{text}\na.png,x\nb.png,y\n"),
        "table, rows": ("table", lambda text: f"path,label\n{text}\n"),
        "split, class": ("split", _json_places(SPLIT, _put("train", 0, 2))),
        "split, path": ("split", _json_places(SPLIT, _put("train", 0, 0))),
        "synset names": ("synset names", lambda text: f"n01 {text}\nn02 x\n"),
        "descriptions": ("descriptions", _json_places(DESCRIPTIONS, _put("dog", 0))),
        "descriptions, class": ("descriptions", _json_places(DESCRIPTIONS, lambda v, t: {**v, t: ["x"]})),
        "preset": ("preset", lambda text: PRESET + text),
        "condition": ("condition", str),
        "--set": ("--set", lambda text: "n_tokens=" + text),
        "template": ("template", str),
        "record, set": ("record", _json_places(RECORD, lambda v, t: {**v, t: t})),
        "request, whole": ("request", lambda text: text.encode()),
        "request, class": ("request", lambda text: _json_places(request, _put("classes", 0))(text).encode()),
        "request, noise": ("request", lambda text: _json_places(request, _put("noise"))(text).encode()),
        "request, picture": ("request", lambda text: _json_places(request, _put("pictures", 0))(text).encode()),
        "form": ("form", lambda text: text.encode()),
        "form, class": ("form", lambda text: b'--x\r\nContent-Disposition: form-data; name="classes"\r\n\r\n' + text.encode() + b"\r\n--x--"),
        "form, name": ("form", lambda text: b'--x\r\nContent-Disposition: form-data; name="' + text.encode() + b'"\r\n\r\n1\r\n--x--'),
        "form, header": ("form", lambda text: b"--x\r\nA: " + text.encode() + b"\r\n\r\n1\r\n--x--"),
        "content type": ("content type", str),
        "terminal": ("terminal", str),
        "host": ("host", str),
    }  # fmt: skip


def _host(world: World, text: str) -> None:
    known_host(text, ("box",))
    same_origin(text, text)
    same_origin("http://" + text, "localhost")


EXTRA = {"host": Target(lambda w: None, _host)}  # type: ignore[arg-type,return-value]


# --- images -----------------------------------------------------------------------------------------
def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def images() -> dict[str, Callable[[int], bytes]]:
    """Sound images with n bytes of what is not image in them."""
    sound = dict(sound_images())
    png, jpeg, gif = sound["PNG"], sound["JPEG"], sound["GIF"]

    def segments(n: int, mark: bytes) -> bytes:
        full = mark + struct.pack(">H", 2 + 1000) + bytes(1000)
        return jpeg[:2] + full * (n // 1004) + jpeg[2:]

    return {
        "PNG, text": lambda n: png[:33] + _png_chunk(b"tEXt", b"k\0" + b"x" * n) + png[33:],
        "PNG, texts": lambda n: png[:33] + _png_chunk(b"tEXt", b"k\0x") * (n // 15) + png[33:],
        "PNG, packed text": lambda n: png[:33] + _png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50 * n))) + png[33:],
        "PNG, profile": lambda n: png[:33] + _png_chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(50 * n))) + png[33:],
        "PNG, empty pieces": lambda n: png[:33] + _png_chunk(b"IDAT", b"") * (n // 12) + png[33:],
        "PNG, tail": lambda n: png + bytes(n),
        "JPEG, comments": lambda n: segments(n, b"\xff\xfe"),
        "JPEG, profiles": lambda n: segments(n, b"\xff\xe2"),
        "JPEG, EXIF": lambda n: segments(n, b"\xff\xe1"),
        "JPEG, fill": lambda n: jpeg[:2] + b"\xff" * n + jpeg[2:],
        "JPEG, tail": lambda n: jpeg + bytes(n),
        "GIF, comments": lambda n: gif[:-1] + b"\x21\xfe" + (b"\xff" + b"x" * 255) * (n // 256) + b"\0" + gif[-1:],
        "GIF, blocks": lambda n: gif[:13] + b"\x21\xfe\x01x\0" * (n // 5) + gif[13:],
        "BMP, tail": lambda n: sound["BMP"] + bytes(n),
        "PPM, comment": lambda n: b"P6\n#" + b"x" * n + b"\n2 2\n255\n" + bytes(12),
        "PPM, blanks": lambda n: b"P6\n" + b" " * n + b"2 2\n255\n" + bytes(12),
        "PPM, plain": lambda n: b"P3\n2 2\n255\n" + b"9 " * (n // 2),
        "TIFF, tail": lambda n: sound["TIFF"] + bytes(n),
        "WEBP, tail": lambda n: sound["WEBP"] + bytes(n),
        "text": lambda n: b"<" * n,
    }  # fmt: skip


# --- measuring --------------------------------------------------------------------------------------
def seconds(call: Callable[[Any], Any], value: Any, tries: int = 3) -> float:
    """Processor time of one call, the least of a few."""
    best = float("inf")
    for _ in range(tries):
        begun = time.process_time()
        with contextlib.suppress(UserError):
            call(value)
        best = min(best, time.process_time() - begun)
        if best < NOTICED:
            break
    return best


def floor(factor: float) -> float:
    """Seconds that count as no time: the farther two sizes are apart, the less a busy machine's moods weigh.

    Between 8,192 and 65,536 characters it is 1.3 ms, so that a square of 36 ms at the larger size is told.
    """
    return NOTICED / factor**1.5


def growth(call: Callable[[Any], Any], make: Callable[[int], Any], sizes: tuple[int, ...] = SIZES) -> tuple[float, str]:
    """The worst growth of time per doubling of the input, and at which sizes; 0 where none takes noticeable time."""
    worst, at, before, size_before = 0.0, "", None, 0
    for size in sizes:
        taken = seconds(call, make(size))
        if before is not None:
            least = floor(size / size_before)
            before = max(before, least)
            power = 1 / math.log2(size / size_before)
            ratio = (taken / before) ** power
            if ratio > MOST:  # once more, both: a busy machine has its moods
                ratio = (seconds(call, make(size), 5) / max(seconds(call, make(size_before), 5), least)) ** power
            if ratio > worst:
                worst, at = ratio, f"{size_before:,} to {size:,}: {taken:.2f} s"
        before, size_before = taken, size
        if taken > 2.0:
            break
    return worst, at


def cases(world: World) -> dict[str, tuple[Callable[[Any], Any], Callable[[int], Any]]]:
    """All (parser, maker of inputs) by name."""
    targets = {**TARGETS, **EXTRA}
    made: dict[str, tuple[Callable[[Any], Any], Callable[[int], Any]]] = {}
    for place, (name, put) in places(world).items():
        for shape, text in TEXTS.items():
            made[f"{place}: {shape}"] = (
                lambda value, target=targets[name]: target.parse(world, value),
                lambda n, put=put, text=text: put(text(n)),
            )  # fmt: skip
    for shape, image in images().items():
        made[f"image: {shape}"] = (lambda value: TARGETS["picture"].parse(world, value), image)
    return made
