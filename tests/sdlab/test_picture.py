"""Any picture is read upright, opaque, in RGB and at the requested size, or refused in one line."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sdlab.metrics.pictures import size_of
from sdlab.picture import FITS, Fit, from_bytes, read_picture, rounded, to_bytes
from sdlab.system.errors import UsageError

Pixels = NDArray[np.uint8]


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels(path: Path, width: int, height: int, fit: Fit = "crop") -> Pixels:
    picture = read_picture(path, (height, width), fit)
    assert picture.shape == (3, height, width)
    assert picture.abs().max() <= 1
    return to_bytes(picture[None])[0].numpy()


def test_bytes_to_floats_and_back_changes_nothing():
    every = torch.arange(256, dtype=torch.uint8).view(1, 256, 1, 1).expand(1, 256, 1, 3)
    assert torch.equal(to_bytes(from_bytes(every)), every)
    assert (from_bytes(every).min(), from_bytes(every).max()) == (-1, 1)


def test_rounded_survives_conversion_to_bytes():
    images = torch.linspace(-1.2, 1.2, 3 * 8 * 9).view(1, 3, 8, 9)
    assert torch.equal(rounded(images), from_bytes(to_bytes(images)))
    assert (rounded(images) - images.clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-6


@pytest.mark.parametrize("format", ["png", "bmp", "tiff", "webp", "ppm"])
@pytest.mark.parametrize("fit", FITS)
def test_a_picture_of_the_right_size_keeps_every_pixel(format: str, fit: Fit, tmp_path: Path):
    Image.fromarray(noise(24, 40)).save(tmp_path / f"a.{format}", **({"lossless": True} if format == "webp" else {}))
    np.testing.assert_array_equal(pixels(tmp_path / f"a.{format}", 40, 24, fit), noise(24, 40))


# What the EXIF standard (CIPA DC-008, tag 274) says of the stored row 0 and column 0, as the way to undo it.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_exif_orientation_is_applied(orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(noise(24, 40)).save(tmp_path / "a.png", exif=exif)
    upright = UPRIGHT[orientation](noise(24, 40))
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", upright.shape[1], upright.shape[0]), upright)


def with_exif(path: Path, data: bytes) -> Path:
    """The picture with an EXIF block: a chunk of a PNG, or a segment of a JPEG."""
    content = path.read_bytes()
    if path.suffix == ".png":
        chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
        path.write_bytes(content[:-12] + chunk + content[-12:])
    else:
        path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + content[2:])
    return path


def orientation(kind: int, value: int) -> bytes:
    """A TIFF block that has the orientation in a field of that kind."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, kind, 1, value) + bytes(4)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
@pytest.mark.parametrize(
    "data",
    [
        b"", b"b'Exif\\x00\\x00II*'", b"\0\x08\0\x02\x01\x12\0\x03", b"garbage!", b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        orientation(3, 0), orientation(3, 9), orientation(2, 6), orientation(5, 0xFFFFFF), orientation(77, 6),
    ],
)  # fmt: skip
def test_a_whole_picture_with_malformed_exif_is_read_upright(name: str, data: bytes, tmp_path: Path):
    Image.fromarray(noise(24, 16)).save(tmp_path / name)
    plain = pixels(tmp_path / name, 16, 24)
    path = with_exif(tmp_path / name, b"Exif\0\0" + data if name == "a.jpg" else data)
    assert np.array_equal(pixels(path, 16, 24), plain)
    assert size_of(path) == (24, 16)


def test_a_damaged_picture_is_reported_whatever_its_exif_says(tmp_path: Path):
    Image.fromarray(noise(64, 64)).save(tmp_path / "a.png")
    content = with_exif(tmp_path / "a.png", b"garbage!").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:2000])
    with pytest.raises(UsageError, match=r"a\.png: is a damaged picture"):
        read_picture(tmp_path / "a.png", (64, 64))


def test_transparency_is_laid_over_white(tmp_path: Path):
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 4, 8))
    red.paste((255, 0, 0, 51), (4, 0, 6, 8))  # a fifth
    red.save(tmp_path / "a.png")
    [row] = {tuple(map(tuple, row)) for row in pixels(tmp_path / "a.png", 8, 8).tolist()}
    assert row == ((255, 0, 0),) * 4 + ((255, 204, 204),) * 2 + ((255, 255, 255),) * 2


def grey(value: int) -> Image.Image:
    return Image.new("L", (8, 8), value)


def palette(transparency: bool) -> Image.Image:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    if transparency:
        image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (grey(77), "a.png", (77, 77, 77)),
        (Image.merge("LA", (grey(0), grey(51))), "a.png", (204, 204, 204)),
        (Image.new("1", (8, 8), 1), "a.png", (255, 255, 255)),
        (palette(False), "a.png", (10, 20, 30)),
        (palette(False), "a.gif", (10, 20, 30)),
        (palette(True), "a.png", (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 200 * 257, np.uint16)), "a.png", (200, 200, 200)),
        (Image.fromarray(np.full((8, 8), 65535, np.uint16)), "a.tiff", (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 100 * 257, np.int32)), "a.tiff", (100, 100, 100)),
        (Image.fromarray(np.full((8, 8), 0.4, np.float32)), "a.tiff", (102, 102, 102)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.tiff", (255, 0, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image: Image.Image, name: str, colour: tuple[int, ...], tmp_path: Path):
    image.save(tmp_path / name)
    assert {tuple(pixel) for row in pixels(tmp_path / name, 8, 8).tolist() for pixel in row} == {colour}


def test_an_animation_gives_its_first_frame(tmp_path: Path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "a.gif", 8, 8)[0, 0].tolist() == [255, 0, 0]


STRIPES = np.repeat(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8), 64, axis=1).repeat(64, axis=0)


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_crop_keeps_the_middle_and_pad_keeps_all_on_white(turned: bool, tmp_path: Path):
    """Three stripes, 192 × 64, into 48 × 48: the middle one fills it, or all three lie in the middle third."""
    stripes = STRIPES.swapaxes(0, 1) if turned else STRIPES
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.all(pixels(tmp_path / "a.png", 48, 48)[2:-2, 2:-2] == (0, 255, 0))
    padded = pixels(tmp_path / "a.png", 48, 48, "pad")
    padded = padded.swapaxes(0, 1) if turned else padded
    assert np.all(padded[:15] == 255)
    assert np.all(padded[-15:] == 255)
    assert padded[24, [4, 24, 44]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (3, 500), (1000, 7)])
@pytest.mark.parametrize("fit", FITS)
def test_any_size_becomes_the_size_asked_for(size: tuple[int, int], fit: Fit, tmp_path: Path):
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png", 40, 24, fit)
    assert {tuple(p) for p in picture.reshape(-1, 3).tolist()} <= {(10, 20, 30), (255, 255, 255)}
    assert [10, 20, 30] in picture[11:13, 19:21].reshape(-1, 3).tolist()  # however thin it becomes


def spoiled(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path, format="JPEG" if kind == "half a jpeg" else "PNG")
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "text": b"dear diary\n" * 100,
        "half a png": whole[: len(whole) // 2],
        "half a jpeg": whole[: len(whole) // 2],
        "header alone": whole[:30],
        "wrong checksum": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
    }
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "half a png", "half a jpeg", "header alone", "wrong checksum"])
def test_an_incomplete_picture_is_refused_in_one_line(kind: str, tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        read_picture(spoiled(tmp_path, kind), (8, 8))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.png'}: is ")
    assert "picture" in text
    assert "\n" not in text


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.png: no such file or directory$"):
        read_picture(tmp_path / "none.png", (8, 8))
    with pytest.raises(UsageError, match=r": is a directory$"):
        read_picture(tmp_path, (8, 8))
