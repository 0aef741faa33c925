"""Pictures: any file is read or refused in one line; a drawing anywhere comes out framed like a training picture."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from objectives.base import PictureError
from objectives.data.files.image_files import Framing, read_image, to_model_input

ROOT = Path(__file__).parents[3]
MNIST = Framing(channels=1, size=(28, 28), content_fraction=20 / 28, dark_background=True)
CLOTHES = Framing(channels=1, size=(28, 28), content_fraction=None, dark_background=True)
COLOUR = Framing(channels=3, size=(32, 32), content_fraction=None, dark_background=False)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def seven(
    size: tuple[int, int] = (400, 300), at: tuple[int, int] = (250, 90), paper: int = 225, ink: int = 30, pen: int = 16
) -> Image.Image:
    image = Image.new("L", size, paper)
    points = [(at[0] + x, at[1] + y) for x, y in ((-30, -50), (32, -52), (-8, 55))]
    ImageDraw.Draw(image).line(points, fill=ink, width=pen, joint="curve")
    return image


# --- reading ---


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("L", "png", "L"),
        ("1", "png", "L"),
        ("LA", "png", "L"),
        ("RGB", "png", "RGB"),
        ("RGBA", "png", "RGB"),
        ("P", "gif", "RGB"),
        ("CMYK", "jpg", "RGB"),
        ("L", "jpg", "L"),
        ("RGB", "bmp", "RGB"),
        ("RGB", "webp", "RGB"),
        ("CMYK", "tif", "RGB"),
        ("L", "pgm", "L"),
    ],
)
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, suffix: str, expected: str) -> None:
    path = saved(Image.new("RGB", (9, 7), (200, 200, 200)).convert(mode), tmp_path / f"x.{suffix}")
    picture = read_image(path)
    assert (picture.mode, picture.size) == (expected, (9, 7))


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    for name, image, options in (
        ("rgba", clear, {}),
        ("la", clear.convert("LA"), {}),
        ("l", Image.fromarray(np.array([[7, 0]], np.uint8)), {"transparency": 7}),
    ):
        picture = read_image(saved(image, tmp_path / f"{name}.png", **options)).convert("L")
        assert np.asarray(picture).tolist() == [[255, 0]], name


@pytest.mark.parametrize("suffix", ["png", "webp", "gif"])
@pytest.mark.parametrize("level", [255, 220])
def test_bright_strokes_on_a_transparent_background_are_seen(tmp_path: Path, suffix: str, level: int) -> None:
    strokes = Image.new("RGBA", (300, 300), (level, level, level, 0))
    strokes.putalpha(seven((300, 300), (150, 150), paper=0, ink=255))
    picture = read_image(saved(strokes, tmp_path / f"x.{suffix}")).convert("L")
    assert picture.getextrema()[0] < 10 < 200 < picture.getextrema()[1]
    framed, notes = to_model_input(picture, MNIST)
    assert framed.max() > 0.9
    assert "centred" in notes


@pytest.mark.parametrize(
    ("colour", "alpha", "expected"), [(255, 255, 255), (255, 0, 255), (120, 0, 255), (90, 255, 90)]
)
def test_what_shows_on_white_stays_on_white(tmp_path: Path, colour: int, alpha: int, expected: int) -> None:
    plain = Image.new("RGBA", (4, 4), (colour, colour, colour, alpha))
    assert read_image(saved(plain, tmp_path / "x.png")).convert("L").getextrema() == (expected, expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32896, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 100, 200]], np.uint16), [0, 0, 1]),
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100000, 0, 100000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 127.6, 255.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, -3.0, -3.0]], np.float32), [255, 0, 0]),
        (np.array([[-3.0, -3.0, -3.0]], np.float32), [0, 0, 0]),
    ],
)
def test_deep_pictures_are_scaled(tmp_path: Path, values: NDArray[np.generic], expected: list[int]) -> None:
    picture = read_image(saved(Image.fromarray(values), tmp_path / "deep.tif"))
    assert np.asarray(picture).tolist() == [expected]


def test_first_frame_and_upright(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    moving = saved(frames[0], tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(moving).getpixel((0, 0)) == (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(Image.new("RGB", (40, 20)), tmp_path / "turned.jpg", exif=exif)
    assert read_image(turned).size == (20, 40)


def test_large_photo_is_decoded_small(tmp_path: Path) -> None:
    path = saved(Image.new("L", (9000, 8000), 90), tmp_path / "photo.jpg")
    assert max(read_image(path).size) < 3000


def png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    framed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize("side", [30_000, 9_000])
def test_bombs_are_refused_from_their_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(side, side))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError, match="pixels"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
    with pytest.raises(PictureError, match=r"100x100 pixels, more than the allowed 9,999"):
        read_image(saved(Image.new("L", (100, 100)), tmp_path / "x.png"), max_pixels=9_999)


def test_a_bomb_in_an_icon_is_refused(tmp_path: Path) -> None:
    picture = png_header(12_000, 12_000)
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture
    (tmp_path / "bomb.ico").write_bytes(icon)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PictureError, match="too many pixels"):
        read_image(tmp_path / "bomb.ico")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_what_is_no_picture_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    whole = saved(seven(), tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "a 'b'\n\"c\".png").write_text("hello")
    (tmp_path / "phone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "text.tga").write_text("hello")
    os.mkfifo(tmp_path / "pipe.png")
    for name, says in {
        "folder.png": "not a file",
        "text.png": "none of these formats",
        "empty.png": "it is empty",
        "link.png": "a broken link",
        "absent.png": "does not exist",
        "cut.jpg": "damaged or incomplete",
        "page.png": "none of these formats",
        "a 'b'\n\"c\".png": r"\\n",
        "nul\0.png": "damaged|null",
        "pipe.png": "not a file",
        "phone.jpg": "it is a HEIC image, which Pillow cannot read; convert it to JPEG or PNG",
        "text.tga": "none of these formats|damaged or incomplete",
    }.items():
        with pytest.raises(PictureError, match=says) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert "PNG, JPEG, GIF" in str(caught.value)


def sample(kind: str) -> bytes:
    buffer = io.BytesIO()
    seven(size=(40, 30), at=(20, 15)).save(buffer, kind)
    return buffer.getvalue()


SAMPLES = [sample(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")]


@st.composite
def harmed(draw: st.DrawFn) -> bytes:
    """A real picture with some bytes changed and its end cut off."""
    content = bytearray(draw(st.sampled_from(SAMPLES)))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)):
        content[at % len(content)] = value
    return bytes(content[: draw(st.integers(0, len(content)))])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | harmed())
def test_any_bytes_are_a_picture_or_a_picture_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.png"
    path.write_bytes(content)
    try:
        picture = read_image(path, max_pixels=1_000_000)
    except PictureError:
        return
    assert picture.mode in ("L", "RGB")
    pixels, _ = to_model_input(picture, MNIST)
    assert pixels.shape == (1, 28, 28)


# --- framing ---


def centre_and_extent(plane: NDArray[np.float32]) -> tuple[float, float, int]:
    """Centre of mass (x, y) and the longest side of what is brighter than a quarter."""
    x, y = (float((plane.sum(axis) * (np.arange(28) + 0.5)).sum() / plane.sum()) for axis in (0, 1))
    rows, columns = np.flatnonzero((plane > 0.25).any(1)), np.flatnonzero((plane > 0.25).any(0))
    return x, y, int(max(np.ptp(rows), np.ptp(columns))) + 1


def uneven(image: Image.Image) -> Image.Image:
    """Light from one side, noise and dust, as in a photograph."""
    random = np.random.RandomState(0)
    pixels = np.asarray(image, dtype=float)
    pixels = pixels * np.linspace(0.5, 1.0, pixels.shape[1]) + random.normal(0, 5, pixels.shape)
    for y, x in random.randint(0, 290, (12, 2)):
        pixels[y : y + 2, x : x + 2] = 20
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [
        seven(),
        seven(at=(60, 220), ink=90, paper=200),
        seven(ink=250, paper=10),
        seven(size=(1600, 1200), at=(1300, 900)),
        uneven(seven()),
        uneven(seven(at=(80, 200), ink=70)),
        seven(size=(90, 130), at=(45, 65)),
        seven(pen=2),
    ],
    ids=["plain", "faint", "white on black", "far away", "uneven", "uneven dark side", "fills", "thin pen"],
)
def test_a_drawing_anywhere_looks_like_mnist(image: Image.Image) -> None:
    pixels, notes = to_model_input(image, MNIST)
    plane = pixels[0]
    x, y, longest = centre_and_extent(plane)
    assert (pixels.dtype, pixels.shape) == (np.float32, (1, 28, 28))
    assert abs(x - 14) < 0.6
    assert abs(y - 14) < 0.6
    assert 19 <= longest <= 22
    assert plane.max() == 1
    assert float(plane[:3].max()) == 0
    assert 0.04 < float(plane.mean()) < 0.25
    top, bottom = np.flatnonzero((plane > 0.25).any(1))[[0, -1]]
    assert plane[top : top + 3, 9:19].max(0).min() > 0.4  # the bar
    assert (plane[bottom - 4] > 0.25).sum() <= 5  # the foot
    assert f"resized from {image.width}x{image.height}" in notes
    assert "centred" in notes


def test_notes_tell_what_was_done() -> None:
    _, notes = to_model_input(seven().convert("RGB"), MNIST)
    assert notes == ["converted to greyscale", "resized from 400x300", "inverted (light background)", "centred"]


def test_a_shadow_across_the_sheet_is_no_drawing() -> None:
    pixels = np.asarray(seven(), dtype=float).copy()
    pixels[:, 300:] *= 0.7
    shaded, _ = to_model_input(Image.fromarray(pixels.astype(np.uint8)), MNIST)
    plain, _ = to_model_input(seven(), MNIST)
    assert float(np.abs(shaded - plain).mean()) < 0.05


def test_native_pictures_stay_as_they_are() -> None:
    native = seven(size=(28, 28), at=(14, 14), paper=0, ink=255, pen=3)
    pixels, notes = to_model_input(native, MNIST)
    assert np.array_equal(pixels[0], np.asarray(native, dtype=np.float32) / 255)
    assert notes == []
    inverted, notes = to_model_input(Image.fromarray(255 - np.asarray(native)), MNIST)
    assert np.allclose(inverted, pixels)
    assert notes == ["inverted (light background)"]


def test_uncropped_framings_keep_proportions_and_colours() -> None:
    wide = Image.new("RGB", (64, 32), (255, 0, 0))
    pixels, notes = to_model_input(wide, COLOUR)
    assert pixels.shape == (3, 32, 32)
    assert notes == ["resized from 64x32"]
    assert np.allclose(pixels[:, 0, 0], [1, 0, 0])
    clothes, notes = to_model_input(Image.new("L", (56, 56), 255), CLOTHES)
    assert clothes.max() == 0
    assert "inverted (light background)" in notes
    assert to_model_input(Image.new("L", (3, 3), 9), COLOUR)[0].shape == (3, 32, 32)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2, 2), (28, 28), (300, 200)])
@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("framing", [MNIST, CLOTHES, COLOUR])
def test_blank_pictures_work(size: tuple[int, int], grey: int, framing: Framing) -> None:
    pixels, notes = to_model_input(Image.new("L", size, grey), framing)
    assert pixels.shape == (framing.channels, *framing.size)
    assert np.isfinite(pixels).all()
    assert float(np.ptp(pixels)) == 0
    assert ("nothing found in the image" in notes) == (framing is MNIST and size != (28, 28))


def test_reading_pictures_needs_no_torch() -> None:
    heavy = "{'torch', 'torchvision', 'search', 'scipy'}"
    program = f"import sys, objectives.data.files.image_files; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)
