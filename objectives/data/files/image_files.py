"""Reads image files that users give, and frames them like the images that a network was trained on.

`read_image` opens the formats of images that Pillow decodes by itself, and converts every mode to "L" or "RGB". It
rejects an image that would not fit in memory before decoding it. `to_model_input` then frames the image, so that a
digit photographed anywhere on a sheet of paper looks like one of MNIST (see `objectives.data.files.drawing`).
"""

import contextlib
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features
from PIL.JpegImagePlugin import JpegImageFile

from objectives.base import PictureError
from objectives.data.files.deep_pixels import Range, is_deep, to_grey

# EPS and other formats that Pillow can read are left out: they start programs or have no use here.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
_SUFFIXES = (
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .pfm .webp "
    ".avif .avifs .jp2 .j2k .j2c .jpc .jpf .jpx"
)
_DECODERS = {"webp": ".webp", "avif": ".avif .avifs", "jpg_2000": ".jp2 .j2k .j2c .jpc .jpf .jpx"}
"""Suffixes by the part of Pillow that decodes them, which a build may lack."""
# Other content can look like these formats, so the suffix decides whether they are tried.
_FORMATS_BY_SUFFIX = (
    {".dib": "DIB", ".ico": "ICO", ".cur": "CUR", ".icns": "ICNS", ".pcx": "PCX", ".psd": "PSD", ".qoi": "QOI"}
    | {".dds": "DDS", ".ras": "SUN", ".msp": "MSP", ".xbm": "XBM", ".xpm": "XPM", ".fits": "FITS", ".fit": "FITS"}
    | dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA")
    | dict.fromkeys((".sgi", ".rgb", ".rgba", ".bw"), "SGI")
)
_BEGINNINGS = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-6]\s|\0\0\0.ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)
_HEIC = re.compile(rb"\0\0\0.ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)
NOTHING_FOUND = "nothing found in the image"
"""The note on an image that seems blank."""
BRIGHT = 192
"""Grey level from which a pixel hardly shows on white."""
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
    value_range: Range | None = None
    """The values of images with more than 8 bits that become 0 and 255. None: no such images, or an older model."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read the fields from a model's metadata, where tuples are lists. Metadata of earlier versions has fewer."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
        return cls(**fields)


class Picture(NamedTuple):
    """A decoded image."""

    image: Image.Image
    """Upright, without transparency, in mode "L" or "RGB"; or grey with more than 8 bits (`deep_pixels`)."""
    size: tuple[int, int]
    """(h, w) of the file in pixels; `image` may be smaller."""
    is_cut: bool
    """Whether the file has colours of 16 bits, of which Pillow reads the upper 8."""


@cache
def readable_suffixes() -> frozenset[str]:
    """Suffixes of the images that can be read with this Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an older Pillow warns of a decoder that it does not know
        missing = {suffix for part, text in _DECODERS.items() if not features.check(part) for suffix in text.split()}
    return frozenset({*_SUFFIXES.split(), *_FORMATS_BY_SUFFIX} - missing)


def changes_warnings(path: Path) -> bool:
    """Whether reading a file of this suffix sets filters of warnings that would disturb other threads."""
    return path.suffix.lower() in _FORMATS_BY_SUFFIX


def begins_like_image(path: Path) -> bool:
    """Whether a file begins like one of `FORMATS`, whatever its name is."""
    return _BEGINNINGS.match(_beginning(path)) is not None


def is_heic(path: Path) -> bool:
    """Whether a file is an image of an iPhone, whatever its name is. Pillow cannot read those."""
    return _HEIC.match(_beginning(path)) is not None


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def read_image(path: Path, *, max_pixels: int = 64_000_000, value_range: Range | None = None) -> Image.Image:
    """Read the first frame of an image file, upright, in mode "L" or "RGB".

    Transparent parts become white, or black if all that is visible is bright.
    Images with more than 8 bits are scaled by `value_range`, or by the smallest usual range that holds them. JPEG
    files with more than 1024 pixels a side may come back smaller, by a power of two.
    Raises PictureError, with a message of one line, when the file is not an image or has more than `max_pixels`.
    """
    image = read_picture(path, max_pixels=max_pixels).image
    return to_grey(image, value_range) if is_deep(image) else image


def read_picture(path: Path, *, max_pixels: int = 64_000_000) -> Picture:
    """Read an image file as `read_image` does, with all its bits. Raises PictureError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise PictureError("it is not a file")
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow warns of odd metadata, which is harmless, and of size, which is checked below.
            warnings.simplefilter("ignore")
            return _decode(file, path.suffix.lower(), max_pixels)
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError and more on damaged files
        reason = f"{_reason(path, error).removesuffix('.')}. Give a file in one of {', '.join(FORMATS)}"
        raise PictureError(f"{str(path)!r} cannot be read as an image: {reason}") from None


def _decode(file: BinaryIO, suffix: str, max_pixels: int) -> Picture:
    formats: tuple[str, ...] = FORMATS
    if suffix in _FORMATS_BY_SUFFIX:
        formats = (*FORMATS, _FORMATS_BY_SUFFIX[suffix])
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # an icon decodes the image inside at once
    image: Image.Image = Image.open(file, formats=formats)
    progressive = "progressive" in image.info or "progression" in image.info
    width, height = image.size
    is_cut = _is_cut(image)
    if isinstance(image, JpegImageFile) and not progressive:  # a progressive file is held whole before it is scaled
        image.draft(None, (JPEG_MIN_SIDE_PX, JPEG_MIN_SIDE_PX))
    if image.size[0] * image.size[1] > max_pixels:
        raise PictureError(f"{width}x{height} pixels, more than the allowed {max_pixels:,}")
    image.load()
    with contextlib.suppress(Exception):  # a damaged EXIF block does not spoil the pixels
        if image.getexif().get(ExifTags.Base.Orientation, 1) > 4:
            width, height = height, width
        image = ImageOps.exif_transpose(image)
    return Picture(_to_usual_mode(image), (height, width), is_cut)


def _is_cut(image: Image.Image) -> bool:
    """Whether Pillow will read only the upper 8 bits of each colour."""
    for *_, arguments in getattr(image, "tile", ())[:1]:
        raw_mode = arguments if isinstance(arguments, str) else (arguments or ("",))[0]
        return re.match(r"(RGB[AXa]*|LA|CMYK);16", str(raw_mode)) is not None
    return False


def _to_usual_mode(image: Image.Image) -> Image.Image:
    """Convert any mode of 8 bits to "L" or "RGB", without transparency."""
    if is_deep(image):
        return image
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = "black" if _is_bright(image) else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("L" if grey else "RGB")


def _is_bright(image: Image.Image) -> bool:
    """Whether all visible pixels of an RGBA image are bright, as white strokes are. On white nobody would see them."""
    brightness = np.asarray(image.convert("RGB").convert("L"))
    visible = brightness[np.asarray(image.getchannel("A")) > 0]
    return visible.size > 0 and int(visible.min()) >= BRIGHT


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, PictureError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "it is a broken link" if path.is_symlink() else "the file does not exist"
    if isinstance(error, PermissionError):
        return "you may not read it"
    if isinstance(error, UnidentifiedImageError):
        if is_heic(path):
            return "it is a HEIC image, which Pillow cannot read; convert it to JPEG or PNG"
        return "it is empty" if path.stat().st_size == 0 else "its content has none of these formats"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
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
    from objectives.data.files.drawing import find_drawing, frame  # scipy takes half a second to import

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
