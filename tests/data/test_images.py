"""Any picture opens as upright RGB; anything else is refused in one line that names the file."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from anprompt.data.images import check_picture, open_picture
from anprompt.errors import UserError
from tests.pictures import bomb, corrupt_data, noise, save, truncated


def colour(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return image.getpixel((x, y))


def make_palette_with_transparency(path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    return save(path, image, transparency=0)


def make_animation(path):
    frames = [Image.new("RGB", (5, 5), name) for name in ("red", "blue")]
    return save(path, frames[0], save_all=True, append_images=frames[1:])


def make_grey16(path):
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    return save(path, Image.fromarray(levels))


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.jpg", {}),
        ("RGB", "a.jpg", {"progressive": True}),
        ("CMYK", "a.jpg", {}),
        ("L", "a.jpg", {}),
        ("1", "a.png", {}),
        ("P", "a.png", {}),
        ("LA", "a.png", {}),
        ("RGBA", "a.png", {}),
        ("RGBA", "a.webp", {}),
        ("RGB", "a.bmp", {}),
        ("RGB", "a.tif", {"compression": "tiff_lzw"}),
        ("RGB", "a.ppm", {}),
        ("RGB", "no_extension_lies.txt", {"format": "png"}),
    ],
)
def test_every_mode_opens_as_rgb(tmp_path, mode, name, options):
    path = save(tmp_path / name, noise().convert(mode), **options)
    picture = open_picture(path)
    assert picture.mode == "RGB" and picture.size == (40, 30)
    assert check_picture(path) is None


def test_cmyk_keeps_its_colour(tmp_path):
    path = save(tmp_path / "a.jpg", Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK"), quality=95)
    assert np.allclose(colour(open_picture(path)), (200, 30, 40), atol=6)


def test_transparency_lies_over_white(tmp_path):
    palette = open_picture(make_palette_with_transparency(tmp_path / "p.png"))
    assert colour(palette) == (255, 255, 255) and colour(palette, 1) == (0, 255, 0)
    rgba = save(tmp_path / "rgba.png", Image.new("RGBA", (3, 3), (0, 0, 0, 0)))
    assert colour(open_picture(rgba)) == (255, 255, 255)
    la = save(tmp_path / "la.png", Image.new("LA", (3, 3), (0, 128)))
    assert colour(open_picture(la)) == (127, 127, 127)
    keyed = save(tmp_path / "keyed.png", Image.new("RGB", (3, 3), (9, 9, 9)), transparency=(9, 9, 9))
    assert colour(open_picture(keyed)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_gives_its_first_frame(tmp_path, name):
    red, green, blue = colour(open_picture(make_animation(tmp_path / name)))
    assert red > 240 and green < 15 and blue < 15


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = np.asarray(open_picture(make_grey16(tmp_path / "a.png")))[..., 0].ravel()
    assert levels[0] == 0 and levels[-1] == 255 and (np.diff(levels.astype(int)) >= 0).all()
    assert len(np.unique(levels)) == 64


@pytest.mark.parametrize("top", [1.0, 255.0, 4000.0])
def test_floating_point_grey_is_scaled(tmp_path, top):
    levels = np.linspace(0, top, 16, dtype=np.float32).reshape(4, 4)
    opened = np.asarray(open_picture(save(tmp_path / "a.tif", Image.fromarray(levels))))
    assert opened.min() == 0 and opened.max() == 255


def test_thirty_two_bit_grey_is_stretched(tmp_path):
    levels = np.array([[-5, 1_000_000]], dtype=np.int32)
    opened = np.asarray(open_picture(save(tmp_path / "a.tif", Image.fromarray(levels))))
    assert opened[0, :, 0].tolist() == [0, 255]


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    image = Image.new("RGB", (30, 10), "white")
    image.paste("red", (0, 0, 10, 10))  # left end
    picture = open_picture(save(tmp_path / "a.png", image, exif=exif))
    assert picture.size == (10, 30)
    assert colour(picture, 5, 2) == (255, 0, 0)  # now on top


def test_damaged_exif_costs_nothing(tmp_path):
    path = save(tmp_path / "a.jpg", noise(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)
    assert open_picture(path).size == (40, 30)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_odd_sizes_open(tmp_path, size):
    assert open_picture(save(tmp_path / "a.png", Image.new("RGB", size))).size == size


NAMES = ["ünï-コード 猫.png", "a" * 250 + ".png", "two\nlines.png", "tab\there.png", "-rf.png", "50%.png", "{}.png"]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_open_and_are_named_in_one_line(tmp_path, name):
    path = save(tmp_path / name)
    assert open_picture(path).mode == "RGB"
    path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        open_picture(path)
    message = str(caught.value)
    assert "\n" not in message and "\t" not in message and "empty" in message
    assert name in message or repr(name)[1:-1] in message


def test_undecodable_names_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    try:
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(UserError) as caught:
        open_picture(os.fsdecode(path))
    str(caught.value).encode()  # no lone surrogates


def text_file(path):
    path.write_text("hello, I am no picture")
    return path


def html_file(path):
    path.write_text("\n <!DOCTYPE html><html><body>404</body></html>")
    return path


def heic_file(path):
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    return path


def svg_file(path):
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return path


def empty_file(path):
    path.write_bytes(b"")
    return path


def postscript_file(path):
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    return path


def folder(path):
    path.mkdir()
    return path


def broken_link(path):
    path.symlink_to(path.parent / "nowhere")
    return path


def link_loop(path):
    path.symlink_to(path)
    return path


def no_pixels(path):
    path.write_bytes(b"P6 0 0 255\n")
    return path


def cut_in_header(path):
    save(path)
    path.write_bytes(path.read_bytes()[:20])
    return path


BAD = {
    "text.jpg": (text_file, "not a picture"),
    "page.jpg": (html_file, "web page"),
    "phone.jpg": (heic_file, "HEIC|damaged"),
    "drawing.png": (svg_file, "SVG"),
    "print.jpg": (postscript_file, "not a picture"),
    "empty.png": (empty_file, "empty"),
    "cut.jpg": (truncated, "cut off"),
    "cut.png": (truncated, "cut off"),
    "cut.gif": (truncated, "cut off"),
    "cut.webp": (truncated, "cut off"),
    "cut.bmp": (truncated, "cut off"),
    "cut.tif": (truncated, "cut off"),
    "header.png": (cut_in_header, "damaged"),
    "bomb.png": (bomb, "2,500,000,000 pixels|more than"),
    "big.png": (lambda path: bomb(path, 10_000, 10_000), "100,000,000 pixels"),
    "none.ppm": (no_pixels, "damaged|no pixels"),
    "folder.jpg": (folder, "folder"),
    "link.jpg": (broken_link, "link"),
    "loop.jpg": (link_loop, "loop|link|levels"),
    "missing.jpg": (lambda path: path, "does not exist"),
    "x" * 300: (lambda path: path, "long"),
    "nul\0.jpg": (lambda path: path, "null|does not exist"),
}


@pytest.mark.parametrize("name", BAD, ids=[name[:20].replace("\0", "0") for name in BAD])
def test_bad_files_are_refused_in_one_line(tmp_path, name):
    make, expected = BAD[name]
    path = make(tmp_path / name)
    with warnings.catch_warnings(), pytest.raises(UserError, match=expected) as caught:
        warnings.simplefilter("error")
        open_picture(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and repr(str(path))[1:-1] in message
    assert check_picture(path) is not None


def test_damage_behind_sound_checksums_is_found_on_opening(tmp_path):
    path = corrupt_data(tmp_path / "a.png")
    with pytest.raises(UserError, match="damaged"):
        open_picture(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_unreadable_file_is_refused(tmp_path):
    path = save(tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(UserError, match="permissions"):
        open_picture(path)


def test_permission_error_is_a_reason(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert "permissions" in check_picture(path)


def test_bombs_are_refused_before_decoding(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", noise(20, 20))

    def fail(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UserError, match="20x20 = 400 pixels, more than 399"):
        open_picture(path, max_pixels=399)


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    paths = [bomb(tmp_path / "b.png", 10_000, 10_000), save(tmp_path / "a.png")]
    threads = [threading.Thread(target=lambda: [check_picture(path) for path in paths * 20]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif", "ppm"])
def test_scrambled_files_open_or_are_refused_quietly(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", noise())
    sound, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(sound)
        for place in rng.integers(0, min(len(data), 200), 4):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reason = check_picture(path)
            try:
                assert open_picture(path).mode == "RGB"
            except UserError as error:
                assert len(str(error).splitlines()) == 1
            else:
                assert reason is None


def test_jpeg_with_a_camera_trailer_is_sound(tmp_path):
    path = save(tmp_path / "a.jpg", noise())
    path.write_bytes(path.read_bytes() + b"\0" * 10_000)
    assert check_picture(path) is None


def test_opened_picture_outlives_its_file(tmp_path):
    path = save(tmp_path / "a.png", noise(seed=4))
    picture = open_picture(path)
    path.unlink()
    assert np.array_equal(np.asarray(picture), np.asarray(noise(seed=4)))
