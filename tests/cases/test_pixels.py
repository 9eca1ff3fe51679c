"""One way from any form of image to pixels: form x kind, equal pixels; what is damaged or too large is named."""

from __future__ import annotations

import functools
import io
import logging
import runpy
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFile, features

from anprompt.data.image_limits import MAX_PIXELS, MAX_SIDE, limited
from anprompt.data.images import check_picture, decode_picture, open_image, open_picture
from anprompt.data.inputs import as_rgb
from anprompt.data.jpeg import find_scans
from anprompt.data.pixels import LARGE
from anprompt.errors import OutOfMemory, UserError

ROOT = Path(__file__).parents[2]


def photo(width: int = 96, height: int = 72, seed: int = 0) -> Image.Image:
    """A gradient with a disc and some noise, which compresses as photos do."""
    rng = np.random.default_rng(seed)
    levels = np.linspace(40, 200, height)[:, None, None] + rng.normal(0, 10, (height, width, 3))
    image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(image).ellipse([width // 4, height // 4, width // 2, height // 2], fill=(200, 30, 40))
    return image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(photo(), kind, exif=exif)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(levels: np.ndarray, *more: bytes) -> bytes:
    """Levels [H, W, 3 or 4] of 16 bits as a PNG, which Pillow can't write."""
    height, width, channels = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    body = b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def tiff(levels: np.ndarray, *, order: str = "<") -> bytes:
    """Levels [H, W, 3] of 16 bits as an uncompressed TIFF."""
    height, width, channels = levels.shape
    data = levels.astype(f"{order}u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, 1, 14), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(data))]  # fmt: skip
    bits = struct.pack(f"{order}HHH", 16, 16, 16)
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        table += struct.pack(f"{order}HHI", tag, kind, count)
        table += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}I", 14 + len(data)) + bits + data + table + bytes(4)


GREY = np.asarray(photo().convert("L"))
RGB = np.asarray(photo())


def grey(levels: np.ndarray, kind: str = "TIFF") -> bytes:
    return encoded(Image.fromarray(levels), kind)


def pages() -> bytes:
    small, large = photo(30, 20), photo(90, 60, seed=1)
    return encoded(small, "TIFF", save_all=True, append_images=[large, photo(90, 60, seed=2), small])


def logo(mode: str) -> bytes:
    image = Image.new("RGBA", (100, 100), (255, 255, 255, 0))
    ImageDraw.Draw(image).rectangle([20, 20, 80, 80], fill=(255, 255, 255, 255))
    return encoded(image if mode == "RGBA" else image.convert(mode), "PNG")


def palette() -> bytes:
    image = photo().quantize(16)
    return encoded(image, "PNG", transparency=3)


KINDS = {
    "jpeg": lambda: encoded(photo(), "JPEG"),
    "jpeg turned": lambda: turned("JPEG"),
    "png turned": lambda: turned("PNG"),
    "webp turned": lambda: turned("WEBP"),
    "tiff turned": lambda: turned("TIFF"),
    "jpeg progressive": lambda: encoded(photo(), "JPEG", progressive=True),
    "jpeg cmyk": lambda: encoded(photo().convert("CMYK"), "JPEG"),
    "mpo": lambda: encoded(photo(), "MPO", save_all=True, append_images=[photo(seed=4)]),
    "one bit": lambda: encoded(photo().convert("1"), "PNG"),
    "grey 8": lambda: grey(GREY, "PNG"),
    "grey 16": lambda: grey(GREY.astype(np.uint16) * 257, "PNG"),
    "grey 12 in 16": lambda: grey(GREY.astype(np.uint16) * 16, "PNG"),
    "grey 12 in 16, tiff": lambda: grey(GREY.astype(np.uint16) * 16),
    "grey 8 in 16": lambda: grey(GREY.astype(np.uint16)),
    "grey 32": lambda: grey(GREY.astype(np.int32) * 100_000),
    "grey 0..1": lambda: grey(GREY.astype(np.float32) / 255),
    "grey 0..255": lambda: grey(GREY.astype(np.float32)),
    "grey below zero": lambda: grey(GREY.astype(np.float32) * 20 - 1000),
    "colours 16": lambda: png(RGB.astype(np.uint16) * 257),
    "colours 12 in 16": lambda: png(RGB.astype(np.uint16) * 16),
    "colours 12 in 16, tiff": lambda: tiff(RGB.astype(np.uint16) * 16),
    "colours 16, big-endian tiff": lambda: tiff(RGB.astype(np.uint16) * 257, order=">"),
    "colours and alpha 16": lambda: png(np.dstack([RGB, GREY]).astype(np.uint16) * 257),
    "palette with transparency": palette,
    "grey and alpha": lambda: logo("LA"),
    "white on transparent": lambda: logo("RGBA"),
    "pages": pages,
    "animation": lambda: encoded(photo(), "GIF", save_all=True, append_images=[photo(seed=3)]),
    "icon": lambda: encoded(photo(64, 64), "ICO", sizes=[(16, 16), (64, 64)]),
    **({"avif": lambda: encoded(photo(), "AVIF")} if features.check("avif") else {}),
}  # fmt: skip


def loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


FORMS = {
    "str": lambda path, data: open_picture(str(path)),
    "bytes": lambda path, data: open_image(data),
    "upload": lambda path, data: decode_picture(data, "picture 1"),
    "memoryview": lambda path, data: open_image(memoryview(data)),
    "buffer": lambda path, data: as_rgb(io.BytesIO(data)),
    "pillow": lambda path, data: as_rgb(Image.open(path)),
    "pillow of bytes": lambda path, data: as_rgb(Image.open(io.BytesIO(data))),
    "pillow, loaded": lambda path, data: as_rgb(loaded(data)),
    "example": lambda path, data: example()["read_picture"](str(path)),
}


@functools.cache
def example() -> dict:
    """The names of the example that uses an exported file."""
    pytest.importorskip("onnxruntime")
    return runpy.run_path(str(ROOT / "examples/onnx_predict.py"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_every_kind_gives_equal_pixels(tmp_path: Path, kind: str, form: str) -> None:
    data = KINDS[kind]()
    path = tmp_path / "image"
    path.write_bytes(data)
    if form == "pillow, loaded" and kind.startswith("colours 12"):
        pytest.skip("Pillow has thrown the lower bytes away")
    wanted, given = open_image(path), FORMS[form](path, data)
    assert given.mode == wanted.mode == "RGB" and given.size == wanted.size
    assert np.array_equal(np.asarray(given), np.asarray(wanted))


def test_an_open_file_is_read_from_its_start_and_may_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo().save(path)
    with path.open("rb") as file:
        file.read(10)
        assert as_rgb(file).tobytes() == as_rgb(file).tobytes() == photo().tobytes()
    with path.open(encoding="latin-1") as file, pytest.raises(UserError, match="binary"):
        as_rgb(file)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "factor"), [
    (np.uint8, 1), (np.uint16, 257), (np.uint16, 16), (np.uint16, 1), (np.int64, 1), (np.float64, 1 / 255),
    (np.float32, 1), (np.float16, 1), (">u2", 257),
])  # fmt: skip
@pytest.mark.parametrize("shape", ["grey", "one channel", "colours", "with alpha"])
def test_arrays_of_any_levels_are_scaled_alike(dtype, factor: float, shape: str) -> None:
    source = {"grey": GREY, "one channel": GREY[..., None], "colours": RGB, "with alpha": np.dstack([RGB, GREY | 255])}
    levels = (source[shape].astype(np.float64) * factor).astype(dtype)
    opened = np.asarray(as_rgb(levels))
    expected = RGB if opened.shape == RGB.shape and shape in ("colours", "with alpha") else np.dstack([GREY] * 3)
    # 16 bits are told from 12 by their largest level, so a brighter scale may fit tighter: 255 * 16 = 4080 of 4095.
    assert np.abs(opened.astype(int) - expected).max() <= (1 if factor in (16, 1 / 255) or dtype is np.float16 else 0)


@pytest.mark.parametrize("factor", [1, 255])
def test_tensors_hold_0_to_1_or_0_to_255(factor: int) -> None:
    colours = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
    assert np.array_equal(np.asarray(as_rgb(colours)), RGB)
    assert np.array_equal(np.asarray(as_rgb(colours.float() / 255 * factor)), RGB)


@pytest.mark.parametrize(("levels", "words"), [
    (np.zeros((3, 8, 8), np.uint8), "transpose"),
    (np.zeros((2, 8, 8, 3), np.uint8), "height"),
    (np.zeros((0, 8, 3), np.uint8), "height"),
    (np.zeros((8, 8, 3), complex), "complex"),
    (np.array([None, 3], object), "object"),
    (np.full((8, 8, 3), -1.5), "normalised"),
    (np.full((8, 8, 3), np.nan), "finite"),
    (object(), "object"),
    ({"path": "a"}, "dict"),
    (3, "int"),
])  # fmt: skip
def test_what_is_no_image_is_named(levels, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        as_rgb(levels, "image 7")
    assert str(caught.value).startswith("image 7") and "\n" not in str(caught.value)


# --- levels -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind", ["grey 16", "grey 12 in 16", "grey 12 in 16, tiff", "grey 8 in 16", "grey 0..1", "grey 0..255"]
)
def test_grey_of_any_depth_shows_the_same(kind: str) -> None:
    opened = np.asarray(open_image(KINDS[kind]()))[..., 0].astype(int)
    assert np.abs(opened - GREY).max() <= 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("colours 1")])
def test_colours_of_any_depth_show_the_same(kind: str) -> None:
    assert np.abs(np.asarray(open_image(KINDS[kind]())).astype(int) - RGB).max() <= 1


@pytest.mark.parametrize(
    ("bits", "dtype"), [(10, np.uint16), (12, np.uint16), (14, np.uint16), (16, np.uint16), (12, np.int32)]
)
def test_the_largest_level_becomes_white_and_a_guess_is_told(
    bits: int, dtype, caplog: pytest.LogCaptureFixture
) -> None:
    ramp = np.linspace(0, 2**bits - 1, 256).astype(dtype).reshape(16, 16)
    with caplog.at_level(logging.INFO, "anprompt"):
        opened = np.asarray(open_image(grey(ramp), name="ramp"))
    assert opened.min() == 0 and opened.max() == 255 and len(np.unique(opened)) >= 250
    assert (f"read as {bits} bits" in caplog.text) == (bits < 16)


def test_values_that_are_not_finite_do_not_spoil_the_rest() -> None:
    levels = GREY.astype(np.float32) / 255
    levels[0, :3] = np.nan, np.inf, -np.inf
    opened = np.asarray(open_image(grey(levels)))[..., 0]
    assert np.array_equal(opened[1:], GREY[1:])


def test_unsigned_32_bits_keep_their_order(tmp_path: Path) -> None:
    levels = np.linspace(0, 2**32 - 1, 64).astype(np.uint32).reshape(8, 8)
    data = bytearray(grey(levels.view(np.int32)))
    at = data.find(struct.pack("<HHI", 339, 3, 1))
    data[at + 8 : at + 12] = struct.pack("<HH", 1, 0)  # signed to unsigned
    opened = np.asarray(open_image(bytes(data)))[..., 0].ravel().astype(int)
    assert opened[0] == 0 and opened[-1] == 255 and (np.diff(opened) >= 0).all()


def test_an_image_that_is_nearly_black_is_told(caplog: pytest.LogCaptureFixture) -> None:
    open_image(grey(np.full((20, 20), 3, np.uint16)), name="night")
    assert "night: nearly black" in caplog.text


# --- transparency -----------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_white_on_transparent_can_be_seen(mode: str) -> None:
    opened = np.asarray(open_image(logo(mode)))
    assert opened[50, 50].tolist() == [255, 255, 255] and opened[5, 5].tolist() == [0, 0, 0]


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 30, 40), (240, 230, 80), (128, 128, 128)])
def test_other_drawings_lie_over_white(colour: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle([20, 20, 40, 40], fill=(*colour, 255))
    opened = np.asarray(as_rgb(image))
    assert opened[30, 30].tolist() == list(colour) and opened[0, 0].tolist() == [255, 255, 255]


def test_a_blank_image_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert as_rgb(Image.new("RGBA", (9, 9), (7, 7, 7, 0)), "empty one").getpixel((0, 0)) == (255, 255, 255)
    assert "empty one: wholly transparent" in caplog.text


def test_opaque_alpha_changes_nothing() -> None:
    assert as_rgb(photo().convert("RGBA")).tobytes() == photo().tobytes()


# --- memory -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["load", "convert", "decoder"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_short_memory_is_not_called_damage(kind: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photo(), kind)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError("out of memory when reading image file") if where == "decoder" else MemoryError

    monkeypatch.setattr(Image.Image if where == "convert" else ImageFile.ImageFile, "load", fails)
    with pytest.raises(OutOfMemory, match="needs more memory than is free") as caught:
        decode_picture(data, "photo")
    assert "damaged" not in str(caught.value) and isinstance(caught.value, UserError)


# --- pages and Pillow images ------------------------------------------------------------------------
def test_the_largest_page_is_taken_and_a_chosen_one_kept() -> None:
    data = pages()
    assert open_image(data).tobytes() == photo(90, 60, seed=1).tobytes()
    image = Image.open(io.BytesIO(data))
    image.seek(2)
    assert as_rgb(image).tobytes() == photo(90, 60, seed=2).tobytes() and image.tell() == 2


def test_a_pillow_image_stays_as_it_was() -> None:
    image = Image.open(io.BytesIO(turned("JPEG")))
    as_rgb(image)
    assert image.size == (96, 72) and image.tile and image.getexif()[0x0112] == 6
    drawn = loaded(encoded(photo(), "PNG"))
    ImageDraw.Draw(drawn).rectangle([0, 0, 96, 72], fill="blue")
    assert as_rgb(drawn).getpixel((3, 3)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("read", [False, True])
def test_a_closed_image_is_named(tmp_path: Path, kind: str, read: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(photo(), kind))
    image = Image.open(path)
    if read:
        image.load()
    image.close()
    with Image.open(path) as other:
        pass
    for gone in (image, other):
        with pytest.raises(UserError, match="image 3: is closed"):
            as_rgb(gone, "image 3")


# --- damage -----------------------------------------------------------------------------------------
JPEGS = {
    "plain": {}, "fine": {"quality": 95}, "whole colours": {"subsampling": 0}, "tables": {"optimize": True},
    "restarts": {"restart_marker_rows": 1}, "progressive": {"progressive": True},
}  # fmt: skip


def both(data: bytes, path: Path, words: str) -> None:
    path.write_bytes(data)
    for form in (path, data):
        with pytest.raises(UserError, match=words):
            as_rgb(form)
    try:
        image = Image.open(path)
    except OSError:  # WebP is read whole when it is opened
        return
    with image, pytest.raises(UserError, match=words):
        as_rgb(image)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_cut_off_is_found_with_an_end_mark_too(tmp_path: Path, kind: str, grey: bool) -> None:
    image = photo(320, 240).convert("L") if grey else photo(320, 240)
    data = encoded(image, "JPEG", **JPEGS[kind])
    for keep in (0.3, 0.6, 0.9):
        both(data[: int(len(data) * keep)] + b"\xff\xd9", tmp_path / "cut.jpg", "damaged or cut off")
        both(data[: int(len(data) * keep)], tmp_path / "cut.jpg", "damaged or cut off")


@pytest.mark.parametrize("kind", [kind for kind in JPEGS if kind != "progressive"])
def test_a_lost_sector_in_a_jpeg_is_found(tmp_path: Path, kind: str) -> None:
    for seed in range(5):
        data = bytearray(encoded(photo(320, 240, seed), "JPEG", **JPEGS[kind]))
        start, end, _ = find_scans(bytes(data)).spans[0]
        middle = start + (end - start) * (seed + 2) // 8
        data[middle : middle + 200] = bytes(200)
        both(bytes(data), tmp_path / "zeroed.jpg", "damaged")


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("what", ["photo", "white", "grey", "grey below", "noise", "text", "tiny"])
def test_sound_jpegs_pass_with_what_cameras_add(kind: str, what: str) -> None:
    image = {
        "photo": photo, "white": lambda: Image.new("RGB", (400, 300), "white"),
        "grey": lambda: Image.new("RGB", (400, 300), (128, 128, 128)), "tiny": lambda: photo(1, 1),
        "noise": lambda: Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)),
        "grey below": photo, "text": lambda: Image.new("L", (300, 200), 255),
    }[what]()  # fmt: skip
    if what == "grey below":
        image.paste((128, 128, 128), (0, 20, 96, 72))
    if what == "text":
        ImageDraw.Draw(image).text((9, 9), "hello, world", fill=0)
    for quality in (10, 100):
        data = encoded(image, "JPEG", **{**JPEGS[kind], "quality": quality})
        pixels = Image.open(io.BytesIO(data)).convert("RGB").tobytes()
        for added in (b"", bytes(9000), data, b"MotionPhoto_Data" + bytes(range(256)) * 20):
            assert open_image(data + added).tobytes() == pixels


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_other_formats_cut_off_are_found(tmp_path: Path, kind: str) -> None:
    data = encoded(photo(200, 160), kind)
    for keep in (0.5, 0.9):
        both(data[: int(len(data) * keep)], tmp_path / "cut", "damaged|cut off")


# --- size -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [(9248, 6936), (12000, 9000)])
def test_large_phone_photos_are_read_small_in_every_form(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size, (200, 30, 40)).save(path, quality=60, exif=exif)
    opened = open_image(path)
    assert opened.width * opened.height <= LARGE and opened.height > opened.width > 1000
    for form in (path.read_bytes(), Image.open(path)):
        assert open_image(form).tobytes() == opened.tobytes()
    assert check_picture(path) is None
    with pytest.raises(UserError, match=r"phone\.jpg: has .* more than .*--max-megapixels"):
        open_image(path, max_pixels=10_000_000)


def test_photos_beyond_the_own_limit_of_pillow_are_read(tmp_path: Path) -> None:
    path = tmp_path / "phone.jpg"
    Image.new("L", (16_320, 12_240), 128).save(path, quality=30)
    opened = open_image(path)
    assert opened.size == (4080, 3060) and np.unique(np.asarray(opened)).tolist() == [128]
    assert check_picture(path) is None and open_image(path.read_bytes()).tobytes() == opened.tobytes()


def test_the_limit_can_be_set_and_is_named() -> None:
    data = encoded(Image.new("L", (4000, 3000)), "PNG")
    with limited(10), pytest.raises(UserError, match=r"12,000,000 pixels, more than 10,000,000.*--max-megapixels 12"):
        open_image(data)
    with limited(12):
        assert open_image(data).size == (4000, 3000)
    for wrong in (0, -3, float("nan"), float("inf"), 1e308):
        with pytest.raises(UserError, match="max_megapixels"), limited(wrong):
            pass


def column(height: int) -> bytes:
    body = zlib.compress(bytes(2 * height), 9)
    header = struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def segments(count: int, body: bytes = b"") -> bytes:
    data = encoded(photo(), "JPEG")
    return data[:2] + (b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body) * count + data[2:]


def gif_comment(count: int) -> bytes:
    data = encoded(photo().convert("L").quantize(4), "GIF")
    at = data.index(b"\x2c")
    return data[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * count + b"\0" + data[at:]


def scans(count: int) -> bytes:
    data = encoded(photo(640, 480), "JPEG", progressive=True)
    start, end, header = find_scans(data).spans[-1]
    last = b"\xff\xda" + struct.pack(">H", len(header) + 2) + header + data[start:end]
    return data[:end] + last * count + data[end:]


HOSTILE = {
    "a column of 64 million": lambda: column(64_000_000),
    "a column": lambda: column(MAX_SIDE + 1),
    "a million empty comments": lambda: segments(1_000_000),
    "megabytes of comments": lambda: segments(400, bytes(60_000)),
    "a long GIF comment": lambda: gif_comment(30_000),
    "a long PPM comment": lambda: b"P6\n#" + b"x" * 5_000_000 + b"\n1 1 255\n\0\0\0",
    "a thousand scans": lambda: scans(1000),
    "tiny PNG chunks": lambda: column(5)[:33] + chunk(b"tEXt", b"a\0b") * 400_000 + column(5)[33:],
}

PEAK = """
import resource, sys, time
from anprompt.data.images import open_image, check_picture
from anprompt.errors import UserError
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    open_image(sys.argv[1])
    word = "opened"
except UserError as error:
    word = str(error)
check_picture(sys.argv[1])
print(time.process_time() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, word)
"""


def cost(path: Path) -> tuple[float, int, str]:
    """CPU seconds and MiB of opening a file, and what came of it; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, timeout=120, check=True
    )
    seconds, mib, word = done.stdout.strip().split(" ", 2)
    return float(seconds), int(mib), word


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_cost_little(tmp_path: Path, what: str) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[what]())
    seconds, mib, word = cost(path)
    assert word != "opened" and seconds < 3 and mib < 200, (seconds, mib, word)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.parametrize(("kind", "mode", "most"), [("JPEG", "RGB", 250), ("PNG", "L", 900), ("PNG", "RGBA", 1200)])
def test_large_images_take_bounded_memory(tmp_path: Path, kind: str, mode: str, most: int) -> None:
    path = tmp_path / "large"
    size = (12_000, 9_000) if kind == "JPEG" else (10_000, 7_900)
    Image.new(mode, size).save(path, kind, **({"compress_level": 1} if kind == "PNG" else {}))
    seconds, mib, word = cost(path)
    assert word == "opened" and mib < most, (seconds, mib, word)


# --- HEIC -------------------------------------------------------------------------------------------
def test_heic_is_read_with_its_extra_and_named_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(photo()).save(buffer, quality=95)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(buffer.getvalue())
    opened = np.asarray(open_image(path)).astype(int)
    assert np.abs(opened - RGB).mean() < 10 and check_picture(path) is None
    assert np.array_equal(opened, np.asarray(open_image(path.read_bytes())))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"IMG_0001\.HEIC: is a HEIC picture; pip install 'anprompt\[heic\]'"):
        open_image(path)


# --- the classifier and the commands ------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seeds in (("apple", (0, 1, 2)), ("plum", (3, 4, 5))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for seed in seeds:
            photo(64, 64, seed).save(tmp_path / "photos" / name / f"{seed}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def zeroshot():
    import anprompt

    photos = [photo(64, 64, seed) for seed in range(4)]
    classifier = anprompt.PromptClassifier(method="coop", shots=1, train={"epochs": 1})
    return classifier.fit(photos, ["apple", "apple", "plum", "plum"])


def test_a_folder_is_answered_but_for_what_cannot_be_read(zeroshot, folder: Path) -> None:
    whole = zeroshot.predict_proba(folder)
    names = [Path(path).name for path in zeroshot.paths_]
    assert names == ["0.png", "1.png", "2.png", "3.png", "4.png", "5.png"] and zeroshot.skipped_ == ()
    (folder / "apple" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    (folder / "apple" / "1.png").write_bytes(b"")
    (folder / "plum" / "cut.jpg").write_bytes(encoded(photo(200, 200), "JPEG")[:3000] + b"\xff\xd9")
    rest = zeroshot.predict_proba(str(folder))
    assert [Path(path).name for path in zeroshot.paths_] == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    assert np.allclose(rest, np.delete(whole, 1, axis=0), atol=1e-6)
    assert len(zeroshot.predict(folder)) == 5 and len(zeroshot.skipped_) == 2
    assert "1.png: is empty" in zeroshot.skipped_[0] and "cut.jpg: is damaged" in zeroshot.skipped_[1]


def test_a_folder_of_nothing_readable_is_refused(zeroshot, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"None of the 1 files .*a\.jpg: is empty"):
        zeroshot.predict(tmp_path)


def test_messages_say_which_image_of_a_list(zeroshot, folder: Path) -> None:
    cut = encoded(photo(200, 200), "JPEG")[:3000]
    good = photo()
    for bad, words in ((cut, "image 3: is damaged or cut off"), (np.zeros((2, 2, 9)), "image 3: an array")):
        with pytest.raises(UserError, match=words):
            zeroshot.predict([good, good, bad])
    with pytest.raises(UserError, match=r"gone\.png: does not exist"):
        zeroshot.predict([good, folder / "gone.png"])


def test_the_limit_is_an_option_everywhere(zeroshot, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from anprompt.commands.main import main

    path = tmp_path / "a.png"
    photo(1000, 600).save(path)
    command = ["predict", "zeroshot", str(path), "--classes", "apple,plum", "--quiet"]
    assert main([*command, "--max-megapixels", "0.5"]) == 2
    assert "600,000 pixels, more than 500,000" in capsys.readouterr().err
    assert main([*command, "--max-megapixels", "0.6"]) == 0 and main(command) == 0
    for wrong in ("0", "-1", "nan", "1e308", "many"):
        assert main([*command, "--max-megapixels", wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    from sklearn.base import clone

    small = clone(zeroshot).set_params(max_megapixels=0.5)
    with pytest.raises(UserError, match="600,000 pixels"):
        small.fit([path, path], ["a", "b"])
    zeroshot.set_params(max_megapixels=0.5)
    try:
        with pytest.raises(UserError, match="600,000 pixels"):
            zeroshot.predict([path])
    finally:
        zeroshot.set_params(max_megapixels=None)


def test_the_service_has_the_same_limit() -> None:
    settings = pytest.importorskip("anprompt.serve.settings")
    assert settings.Settings().pixels == MAX_PIXELS


def test_an_image_that_is_only_opened_and_cut_off_is_named_by_its_place(zeroshot, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(encoded(photo(320, 240), "JPEG")[:4000])
    with Image.open(tmp_path / "cut.jpg") as cut, pytest.raises(UserError, match=r"image 2.* is damaged or cut off"):
        zeroshot.predict([photo(), cut])
