"""Decoding: every form of image becomes RGB of the input size, and damaged ones are refused by name or left out."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from peftbench.common.errors import UserError
from peftbench.data.base import Split
from peftbench.data.decoding import decode_image
from peftbench.data.images import Images, Indices, Transform
from peftbench.tasks.detection.scenes import SceneTransform
from support.datasets import noise, write

SQUARE = Transform(16, "bicubic", (0.5,) * 3, (0.5,) * 3)
SCENE = SceneTransform((16, 16), (16,), 16, "bilinear", (0.5,) * 3, (0.5,) * 3)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(width: int = 8, height: int = 4) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def pixel(path: Path, x: int, y: int, size: int = 8) -> tuple[int, ...]:
    return tuple(int(v) for v in decode_image(path, size, "nearest")[:, y, x])


@pytest.mark.parametrize(
    ("orientation", "red", "blue"),
    [(1, (0, 4), (7, 4)), (2, (7, 4), (0, 4)), (3, (7, 4), (0, 4)), (6, (4, 0), (4, 7)), (8, (4, 7), (4, 0))],
)
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation, red, blue):
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().save(tmp_path / "x.png", exif=exif)
    assert (pixel(tmp_path / "x.png", *red), pixel(tmp_path / "x.png", *blue)) == (RED, BLUE)


@pytest.mark.parametrize("kind", [5, 12])
@pytest.mark.parametrize("tag", [0x010E, 0xA005])
def test_damaged_exif_does_not_stop_an_image_whose_pixels_are_whole(tmp_path, tag, kind):
    entries = [(0x0112, 3, 1, b"\6\0\0\0"), (tag, kind, 1, b"\0\0\0\0")]
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + body + b"\0" * 4
    halves(16, 16).save(tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    made = decode_image(tmp_path / "x.jpg", 16, "nearest").astype(int)
    assert np.abs(made[:, 2, 8] - RED).max() < 30
    assert np.abs(made[:, 13, 8] - BLUE).max() < 30


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_images_become_three_equal_channels(tmp_path):
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    for made in (ramp, saved(tmp_path / "l.png", Image.fromarray(ramp))):
        assert (decode_image(made, 8, "bicubic") == ramp).all()
    both = Image.merge("LA", [Image.fromarray(ramp), Image.new("L", (8, 8), 7)])
    assert (decode_image(saved(tmp_path / "la.png", both), 8, "bicubic") == ramp).all()
    bits = Image.fromarray(ramp > 100)
    assert set(np.unique(decode_image(saved(tmp_path / "1.png", bits), 8, "nearest"))) == {0, 255}


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path, name):
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    path = saved(tmp_path / name, Image.fromarray(shades * 257))
    assert (decode_image(path, 8, "nearest") == shades).all()


def test_sixteen_bit_grey_of_the_other_byte_order_keeps_its_shades(tmp_path):
    shades = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
    rows = (shades * 257).astype(">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535\n" + rows)
    assert (decode_image(tmp_path / "x.pgm", 8, "nearest") == shades).all()


@pytest.mark.parametrize("name", ["x.jpg", "x.tif"])
def test_cmyk_becomes_rgb(tmp_path, name):
    path = saved(tmp_path / name, Image.new("RGB", (8, 8), RED).convert("CMYK"))
    assert np.abs(decode_image(path, 8, "nearest")[:, 4, 4].astype(int) - RED).max() < 10


def test_palettes_become_rgb_with_transparency_or_without(tmp_path):
    paletted = halves().quantize(4)
    assert pixel(saved(tmp_path / "p.png", paletted), 0, 0) == RED
    for name, transparency in (("index.png", 0), ("alpha.png", bytes([0, 128, 255]))):
        path = saved(tmp_path / name, paletted, transparency=transparency)
        assert {pixel(path, 0, 0), pixel(path, 7, 0)} == {RED, BLUE}


def test_transparency_is_dropped_from_rgba(tmp_path):
    path = saved(tmp_path / "x.png", Image.new("RGBA", (8, 8), (*RED, 40)))
    assert pixel(path, 3, 3) == RED


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for name in ("x.gif", "x.webp", "x.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(np.subtract(pixel(tmp_path / name, 4, 4), RED)).max() < 10


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_an_image_is_squashed_to_a_square_without_a_crop(tmp_path, interpolation):
    path = saved(tmp_path / "x.png", halves(30, 10))
    made = decode_image(path, 8, interpolation)
    assert (made.shape, made.dtype) == ((3, 8, 8), np.uint8)
    assert (tuple(made[:, 4, 0]), tuple(made[:, 4, 7])) == (RED, BLUE)


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 24)[0]).convert("P" if form == "GIF" else "RGB").save(buffer, form)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_cut_off_anywhere_is_read_or_refused_by_name(tmp_path, form):
    whole = encoded(form)
    path = tmp_path / "cut.png"
    refused = 0
    for length in [*range(0, len(whole), 29), len(whole) - 1]:
        path.write_bytes(whole[:length])
        try:
            images(path)
        except UserError as refusal:
            refused += str(refusal).startswith(f"{path}: cannot be read as an image")
    assert refused > 10


@given(form=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP"]), data=st.data())
@settings(deadline=None, max_examples=60)
def test_an_image_with_a_wrong_byte_is_read_or_refused(tmp_path_factory, form, data):
    content = bytearray(encoded(form))
    place = data.draw(st.integers(32, len(content) - 1))  # behind the width and height, which may ask for gigabytes
    content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "wrong.img"
    path.write_bytes(content)
    with suppress(UserError):
        images(path)


def images(*paths: Path, on_error: str = "refuse", memory_gb: float = 1.0) -> Images:
    split = Split(list(paths), np.arange(len(paths)), [p.name for p in paths])
    plain = Transform(16, "bicubic", (0.5,) * 3, (0.5,) * 3)
    made = Images(split, plain, on_error, memory_gb, lambda done, of: None)
    made.load()
    return made


@pytest.fixture
def damaged(tmp_path) -> list[Path]:
    """Four images, the second a text file and the third cut off."""
    paths = [write(tmp_path / f"{i}.png", pixels) for i, pixels in enumerate(noise(4, 32))]
    paths[1].write_text("<html>not found</html>")
    paths[2].write_bytes(paths[2].read_bytes()[:500])
    return paths


def test_damaged_images_are_refused_by_name(damaged):
    with pytest.raises(UserError) as refusal:
        images(*damaged)
    assert str(refusal.value).startswith(f"{damaged[1]}: cannot be read as an image")
    assert "data.on_error=skip" in str(refusal.value)


def test_a_damaged_image_that_is_read_from_disk_each_time_is_refused_when_its_turn_comes(damaged):
    made = images(*damaged, memory_gb=0.0)
    with pytest.raises(UserError, match=r"2\.png: cannot be read"):
        made.__getitems__(Indices([0, 2], None))


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_damaged_images_are_left_out_and_named(damaged, memory_gb):
    made = images(*damaged, on_error="skip", memory_gb=memory_gb)
    assert made.skipped == [str(damaged[1]), str(damaged[2])]
    assert len(made) == 2
    pixels, labels, _ = made.__getitems__(Indices([0, 1], None))
    assert labels.tolist() == [0, 3]
    assert (pixels[1].numpy() == decode_image(damaged[3], 16, "bicubic")).all()


def test_a_split_of_nothing_but_damaged_images_is_refused(damaged):
    with pytest.raises(UserError, match="none of the 2 images can be read"):
        images(*damaged[1:3], on_error="skip")


def test_a_file_that_went_away_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png"):
        images(tmp_path / "gone.png")


@pytest.mark.parametrize("path", [str, Path])
def test_a_transform_finds_the_home_of_a_path(tmp_path, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    halves().save(tmp_path / "x.png")
    for transform in (SQUARE, SCENE):
        torch.testing.assert_close(transform(path("~/x.png")), transform(tmp_path / "x.png"))
        with pytest.raises(UserError, match=r"^~nobody-here/x\.png: there is no user 'nobody-here'"):
            transform(path("~nobody-here/x.png"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").rename("~x.png")
    assert SQUARE(path("~x.png")).shape == (3, 16, 16)


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (0, 0), (0,)])
def test_pixels_that_are_none_are_refused(shape):
    for transform in (SQUARE, SCENE):
        with pytest.raises(UserError, match="hold no pixel; expected"):
            transform(np.zeros(shape, np.uint8))
        with pytest.raises(UserError, match=r"^this image: holds no pixel; it is 0 wide and 5 high"):
            transform(Image.new("RGB", (0, 5)))
