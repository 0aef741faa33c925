"""Reads image files that users give, and frames them like the images that a network was trained on.

`read_image` opens a few safe formats and converts every mode to "L" or "RGB". It rejects an image that would not fit
in memory before decoding it. `to_model_input` then frames the image, so that a digit photographed anywhere on a sheet
of paper looks like one of MNIST (see `objectives.data.drawing`).
"""

import contextlib
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from objectives.base import PictureError

# EPS and other formats that Pillow can read are left out: they start programs or have no use here.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
NOTHING_FOUND = "nothing found in the image"
"""The note on an image that seems blank."""
JPEG_MIN_SIDE_PX = 1024
"""JPEG files are decoded at a smaller scale, but not below this size."""

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Framing:
    """How the images of a training set are framed."""

    channels: int
    size: tuple[int, int]
    """(h, w) in pixels."""
    content_fraction: float | None
    """Longest side of the content as a fraction of the image's, centred by mass. None: images are not cropped."""
    dark_background: bool


def read_image(path: Path, *, max_pixels: int = 64_000_000) -> Image.Image:
    """Read the first frame of an image file, upright, on white, in mode "L" or "RGB".

    JPEG files with more than 1024 pixels a side may come back smaller, by a power of two.
    Raises PictureError, with a message of one line, when the file is not an image or has more than `max_pixels`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise PictureError("it is not a file")
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow warns of odd metadata, which is harmless, and of size, which is checked below.
            warnings.simplefilter("ignore")
            return _decode(file, max_pixels)
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on damaged files
        reason = f"{_reason(path, error)}. Give a file in one of {', '.join(FORMATS)}"
        raise PictureError(f"{str(path)!r} cannot be read as an image: {reason}") from None


def _decode(file: BinaryIO, max_pixels: int) -> Image.Image:
    image: Image.Image = Image.open(file, formats=FORMATS)
    progressive = "progressive" in image.info or "progression" in image.info
    width, height = image.size
    if isinstance(image, JpegImageFile) and not progressive:  # a progressive file is held whole before it is scaled
        image.draft(None, (JPEG_MIN_SIDE_PX, JPEG_MIN_SIDE_PX))
    if image.size[0] * image.size[1] > max_pixels:
        raise PictureError(f"{width}x{height} pixels, more than the allowed {max_pixels:,}")
    image.load()
    with contextlib.suppress(Exception):  # a damaged EXIF block does not spoil the pixels
        image = ImageOps.exif_transpose(image)
    return _to_grey_or_rgb(image)


def _to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to "L" or "RGB"; transparent parts become white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image), integers=image.mode != "F"))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _to_8_bit(values: NDArray[np.generic], *, integers: bool) -> NDArray[np.uint8]:
    """Scale 16 or 32 bit integers, or floats, to 0..255, by the smallest usual range that holds them."""
    numbers = np.nan_to_num(values.astype(np.float32), copy=False, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    full_scales = (65535.0,) if integers else (1.0, 255.0, 65535.0)
    full = next((scale for scale in full_scales if low >= 0 and high <= scale), None)
    if full is None:
        numbers -= low
        full = (high - low) or 1.0
    numbers *= 255.0 / full
    return np.rint(numbers, out=numbers).astype(np.uint8)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "it is a broken link" if path.is_symlink() else "the file does not exist"
    if isinstance(error, PermissionError):
        return "you may not read it"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if path.stat().st_size == 0 else "its content has none of these formats"
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels"
    return f"it is damaged or incomplete ({' '.join(str(error).split())[:120] or type(error).__name__})"


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale the whole image to fit into `size` (h, w), and fill the rest with the colour of its border."""
    height, width = size
    if image.size == (width, height):
        return image
    ratio = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    scaled = image.resize(inner, Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC)
    colour = np.median(_border(np.atleast_3d(np.asarray(scaled, dtype=np.float32))), axis=0).astype(int).tolist()
    canvas = Image.new(image.mode, (width, height), tuple(colour))
    canvas.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _border(pixels: Plane) -> Plane:
    """The outermost pixels of (h, w, c), as (n, c)."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def to_model_input(image: Image.Image, framing: Framing) -> tuple[NDArray[np.float32], list[str]]:
    """Frame an image in mode "L" or "RGB" like the training images.

    Returns float32 (c, h, w) in [0, 1], and the changes made to the image, as short phrases for the user.
    """
    notes = []
    if framing.channels == 1 and image.mode != "L":
        image = image.convert("L")
        notes.append("converted to greyscale")
    height, width = framing.size
    if image.size != (width, height):
        notes.append(f"resized from {image.width}x{image.height}")
        if framing.content_fraction is not None:
            plane = _frame_content(image.convert("L"), framing, framing.content_fraction, notes)
            return np.repeat(plane[None], framing.channels, axis=0), notes
    fitted = fit(image if framing.channels == 1 else image.convert("RGB"), framing.size)
    pixels: Plane = np.atleast_3d(np.asarray(fitted, dtype=np.float32) / np.float32(255))
    if framing.dark_background and float(np.median(_border(pixels))) > 0.5:
        pixels = 1 - pixels
        notes.append("inverted (light background)")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), notes


def _frame_content(image: Image.Image, framing: Framing, content_fraction: float, notes: list[str]) -> Plane:
    """Find the drawing in a grey image and frame it: (h, w), with the background of the training images."""
    from objectives.data.drawing import find_drawing, frame  # scipy takes half a second to import

    drawing = find_drawing(image)
    if drawing is None:
        notes.append(NOTHING_FOUND)
        framed = np.zeros(framing.size, np.float32)
    else:
        framed, thickened = frame(drawing.ink, framing.size, content_fraction)
        if thickened:
            notes.append("strokes thickened")
        if drawing.bright != framing.dark_background:
            notes.append(f"inverted ({'dark' if drawing.bright else 'light'} background)")
        notes.append("centred")
    return framed if framing.dark_background else 1 - framed
