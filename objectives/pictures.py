"""How does a picture file become what a network saw in training?

`read_picture` is the only way in for files that people give: it opens a few safe formats, refuses what would not fit
in memory before decoding it, and turns every mode into "L" or "RGB". `to_model_input` then frames the picture like
the training data, so that a digit photographed anywhere on a sheet of paper looks like one of MNIST.
"""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from objectives.base import PictureError

# EPS and others that Pillow can read are left out: they start programs or have no use here.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
NOTHING_FOUND = "nothing found in the picture"
"""The note of a picture that seems blank."""
_JPEG_ENOUGH_PX = 1024
_WORK_PX = 160
_FAINT = 0.04
_WIDEST_STROKE_PX = 41
_THIN_STROKE_PX = 1.8

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Framing:
    """How the pictures of a training set are framed."""

    channels: int
    size: tuple[int, int]
    """(h, w) in pixels."""
    content_fraction: float | None
    """Longest side of the content as a fraction of the picture's, centred by mass; None: pictures are not cropped."""
    dark_background: bool


def read_picture(path: Path, *, max_pixels: int = 64_000_000) -> Image.Image:
    """Read the first frame of a picture file, upright, on white, in mode "L" or "RGB".

    JPEG files with more than 1024 pixels a side may come back smaller, by a power of two.
    Raises PictureError, with a message of one line, when there is no such picture or it has more than `max_pixels`.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise PictureError(_refusal(path, "it is not a file"))
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow warns of odd metadata and of size; the first is harmless, the second is checked below.
            warnings.simplefilter("ignore")
            return _decode(path, file, max_pixels)
    except PictureError:
        raise
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on damaged files
        raise PictureError(_refusal(path, _reason(path, error))) from None


def _decode(path: Path, file: BinaryIO, max_pixels: int) -> Image.Image:
    image: Image.Image = Image.open(file, formats=FORMATS)
    progressive = "progressive" in image.info or "progression" in image.info
    width, height = image.size
    if isinstance(image, JpegImageFile) and not progressive:  # a progressive file is held whole before it is scaled
        image.draft(None, (_JPEG_ENOUGH_PX, _JPEG_ENOUGH_PX))
    if image.size[0] * image.size[1] > max_pixels:
        raise PictureError(_refusal(path, f"{width}x{height} pixels, more than the allowed {max_pixels:,}"))
    image.load()
    with contextlib.suppress(Exception):  # a damaged EXIF block does not spoil the pixels
        image = ImageOps.exif_transpose(image)
    return _plain_mode(image)


def _plain_mode(image: Image.Image) -> Image.Image:
    """Any mode to "L" or "RGB"; transparent parts become white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image), deep=image.mode != "F"))
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), picture)
    return image.convert("L" if grey else "RGB")


def _to_8_bit(values: NDArray[np.generic], *, deep: bool) -> NDArray[np.uint8]:
    """Scale 16 or 32 bit integers (`deep`), or floats, to 0..255 by the range that they must have been meant for."""
    numbers = np.nan_to_num(values.astype(np.float32), copy=False, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    full_scales = (65535.0,) if deep else (1.0, 255.0, 65535.0)
    full = next((scale for scale in full_scales if low >= 0 and high <= scale), None)
    if full is None:
        numbers -= low
        full = (high - low) or 1.0
    numbers *= 255.0 / full
    return np.rint(numbers, out=numbers).astype(np.uint8)


def _refusal(path: Path, reason: str) -> str:
    return f"{str(path)!r} cannot be read as a picture: {reason}. Give a file in one of {', '.join(FORMATS)}"


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link to nothing" if path.is_symlink() else "there is no such file"
    if isinstance(error, PermissionError):
        return "you may not read it"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty" if path.stat().st_size == 0 else "its content is none of these formats"
    if isinstance(error, Image.DecompressionBombError):
        return "it has too many pixels"
    return f"it is damaged or incomplete ({' '.join(str(error).split())[:120] or type(error).__name__})"


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale the whole picture to fit into `size` (h, w), and fill the rest with the colour of its border."""
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
    """Frame a picture in mode "L" or "RGB" like the training pictures.

    Returns float32 (c, h, w) in [0, 1], and what was done to the picture as short phrases for a person.
    """
    notes = []
    if framing.channels == 1 and image.mode != "L":
        image = image.convert("L")
        notes.append("converted to greyscale")
    height, width = framing.size
    if image.size != (width, height):
        notes.append(f"resized from {image.width}x{image.height}")
        if framing.content_fraction is not None:
            plane = _content(image.convert("L"), framing, notes)
            return np.repeat(plane[None], framing.channels, axis=0), notes
    fitted = fit(image if framing.channels == 1 else image.convert("RGB"), framing.size)
    pixels: Plane = np.atleast_3d(np.asarray(fitted, dtype=np.float32) / np.float32(255))
    if framing.dark_background and float(np.median(_border(pixels))) > 0.5:
        pixels = 1 - pixels
        notes.append("inverted (light background)")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), notes


def _content(image: Image.Image, framing: Framing, notes: list[str]) -> Plane:
    """Find what is drawn in a grey picture and frame it: (h, w), as dark or light as the training pictures are."""
    found = _ink(image, None)
    if found is not None:  # a second, closer look: the drawing may be a small part of a large photo
        found = _ink(image.crop(_around(found, image.size)), found.bright) or found
    if found is None:
        notes.append(NOTHING_FOUND)
        framed = np.zeros(framing.size, np.float32)
    else:
        framed = _centred(found.ink, framing, notes)
        if found.bright != framing.dark_background:
            notes.append(f"inverted ({'dark' if found.bright else 'light'} background)")
        notes.append("centred")
    return framed if framing.dark_background else 1 - framed


@dataclass(frozen=True)
class _Found:
    ink: Plane
    """(h, w) in [0, 1]: 0 paper, 1 ink."""
    bright: bool
    """Whether the ink is brighter than the paper."""


def _ink(image: Image.Image, bright: bool | None) -> _Found | None:
    """Separate ink from paper in a grey picture, at a smaller size; None when there is none."""
    small = image.copy()
    small.thumbnail((_WORK_PX, _WORK_PX), Image.Resampling.BOX)
    difference, noise = _above_background(np.asarray(small, dtype=np.float32) / np.float32(255))
    if bright is None:
        strong = np.where(np.abs(difference) > noise, difference, 0)
        bright = bool((strong * np.abs(strong)).sum() > 0)
    height = difference if bright else -difference
    height = height - _broad(height)
    if not (height > noise).any():
        return None
    peak = float(np.percentile(height[height > noise], 80))
    floor = max(noise, 0.15 * peak) if peak > noise else 0.0
    ink = np.clip((height - floor) / max(0.8 * peak - floor, 1e-6), 0, 1).astype(np.float32)
    return _Found(ink * _without_specks(ink > 0.4), bright)


def _above_background(pixels: Plane) -> tuple[Plane, float]:
    """Brightness of (h, w) above a quadratic surface through the paper, and what of it counts as noise."""
    height, width = pixels.shape
    y, x = (grid.ravel() for grid in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values = pixels.ravel().astype(np.float64)
    paper = np.maximum(abs(x), abs(y)) > 0.85  # whatever is drawn, the rim of a picture is mostly paper
    rest, noise = values - np.median(values[paper]), _FAINT
    paper &= abs(rest) < max(0.25, 3 * float(np.median(abs(rest[paper]))))
    for _ in range(4):
        coefficients, *_ = np.linalg.lstsq(terms[paper], values[paper], rcond=None)
        rest = values - terms @ coefficients
        noise = max(_FAINT, 4.5 * float(np.median(abs(rest[paper]))))
        paper = abs(rest) < noise
    return rest.reshape(pixels.shape).astype(np.float32), noise


def _broad(height: Plane) -> Plane:
    """The part of (h, w) that is wider than any stroke, such as a shadow: a morphological opening."""
    smooth = _slid(height, 3, np.mean)  # or the noise's own depths would count
    return _slid(_slid(smooth, _WIDEST_STROKE_PX, np.min), _WIDEST_STROKE_PX, np.max)


def _slid(plane: Plane, window_px: int, pick: Callable[..., Plane]) -> Plane:
    """Replace each value of (h, w) by what `pick` makes of the square of odd side `window_px` around it."""
    for axis in (0, 1):
        ends = [(0, 0), (0, 0)]
        ends[axis] = (window_px // 2, window_px // 2)
        padded = np.pad(plane, ends, mode="edge")
        plane = pick(np.lib.stride_tricks.sliding_window_view(padded, window_px, axis=axis), axis=-1)
    return plane


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the parts of a mask (h, w) that belong to the drawing, and a little around them: no dust, no edges."""
    parts = sorted(_parts(mask), key=len, reverse=True)
    last_row, last_column = mask.shape[0] - 1, mask.shape[1] - 1
    inner = [p for p in parts if not any(y in (0, last_row) or x in (0, last_column) for y, x in p)]
    if inner and len(inner[0]) >= 0.1 * len(parts[0]):
        parts = inner
    kept = np.zeros(mask.shape, np.uint8)
    for part in parts:
        if len(part) >= 0.04 * len(parts[0]):
            rows, columns = zip(*part, strict=True)
            kept[list(rows), list(columns)] = 1
    return np.asarray(Image.fromarray(kept).filter(ImageFilter.MaxFilter(5))).astype(bool)


def _parts(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The connected parts of a mask (h, w), each as its (row, column) pairs."""
    todo = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    parts = []
    while todo:
        part = [todo.pop()]
        for y, x in part:  # grows while it is walked
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & todo
            todo -= near
            part.extend(near)
        parts.append(part)
    return parts


def _extent(ink: Plane) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the ink in (h, w)."""
    rows, columns = np.flatnonzero((ink > 0.2).any(axis=1)), np.flatnonzero((ink > 0.2).any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _around(found: _Found, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of the ink and some paper around it, in pixels of the picture of `size` (w, h)."""
    left, top, right, bottom = _extent(found.ink)
    margin = 0.3 * max(right - left, bottom - top) + 1
    x_scale, y_scale = size[0] / found.ink.shape[1], size[1] / found.ink.shape[0]
    return (
        max(0, int((left - margin) * x_scale)),
        max(0, int((top - margin) * y_scale)),
        min(size[0], int((right + margin) * x_scale) + 1),
        min(size[1], int((bottom + margin) * y_scale) + 1),
    )


def _centred(ink: Plane, framing: Framing, notes: list[str]) -> Plane:
    """Scale the ink (h, w) to the content's size and put its centre of mass in the middle, as MNIST was made."""
    left, top, right, bottom = _extent(ink)
    height, width = framing.size
    scale = (framing.content_fraction or 1.0) * min(height, width) / max(right - left, bottom - top)
    ink = _thickened(ink, scale, notes)
    mass = ink.sum()
    x = float((ink.sum(axis=0) * (np.arange(ink.shape[1]) + 0.5)).sum() / mass)
    y = float((ink.sum(axis=1) * (np.arange(ink.shape[0]) + 0.5)).sum() / mass)
    half_w, half_h = width / scale / 2, height / scale / 2
    x = float(np.clip(x, right - half_w, left + half_w))  # never push an end out of the frame
    y = float(np.clip(y, bottom - half_h, top + half_h))
    pad = int(2 * max(half_w, half_h)) + 2
    canvas = Image.fromarray(np.pad(ink, pad))
    box = (x + pad - half_w, y + pad - half_h, x + pad + half_w, y + pad + half_h)
    filter_ = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
    framed = np.clip(np.asarray(canvas.resize((width, height), filter_, box=box)), 0, 1)
    return np.asarray(framed / max(float(framed.max()), 1e-6), dtype=np.float32)


def _thickened(ink: Plane, scale: float, notes: list[str]) -> Plane:
    """Widen strokes of ink (h, w) that would be thinner than a pen's after scaling."""
    mask = ink > 0.5
    edge = sum(int((np.diff(np.pad(mask, 1).astype(np.int8), axis=axis) != 0).sum()) for axis in (0, 1))
    stroke_px = 2 * float(mask.sum()) / max(edge * np.pi / 4, 1)
    missing = (_THIN_STROKE_PX / scale - stroke_px) / 2
    if missing < 0.5:
        return ink
    notes.append("strokes thickened")
    whole = Image.fromarray(np.rint(ink * 255).astype(np.uint8))
    widened = whole.filter(ImageFilter.MaxFilter(2 * round(missing) + 1))
    return np.asarray(widened, dtype=np.float32) / np.float32(255)
