"""Finds the drawing on a sheet of paper, and frames it as MNIST's digits are framed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

Plane = NDArray[np.float32]

WORK_SIDE_PX = 160
MIN_CONTRAST = 0.04
MAX_STROKE_PX = 41
MIN_STROKE_PX = 1.8


@dataclass(frozen=True)
class Drawing:
    """The ink of an image, separated from its paper."""

    ink: Plane
    """(h, w) in [0, 1]: 0 paper, 1 ink."""
    bright: bool
    """Whether the ink is brighter than the paper."""


def find_drawing(image: Image.Image) -> Drawing | None:
    """Find the drawing in an image of mode "L". None when the image is blank."""
    drawing = _separate(image, None)
    if drawing is None:
        return None
    # A second, closer look, because the drawing may be a small part of a large photo.
    return _separate(image.crop(_around(drawing.ink, image.size)), drawing.bright) or drawing


def frame(ink: Plane, size: tuple[int, int], content_fraction: float) -> tuple[Plane, bool]:
    """Scale ink (h, w) to a fraction of `size` (h, w), and centre it by mass, as MNIST was made.

    Returns the framed ink in [0, 1], and whether its strokes were thickened.
    """
    rows, columns = _extent(ink)
    height, width = size
    scale = content_fraction * min(height, width) / max(rows.stop - rows.start, columns.stop - columns.start)
    ink, thickened = _thickened(ink, scale)
    y, x = (float(centre) + 0.5 for centre in ndimage.center_of_mass(ink))
    half_w, half_h = width / scale / 2, height / scale / 2
    x = float(np.clip(x, columns.stop - half_w, columns.start + half_w))  # never push an end out of the frame
    y = float(np.clip(y, rows.stop - half_h, rows.start + half_h))
    pad = int(2 * max(half_w, half_h)) + 2
    canvas = Image.fromarray(np.pad(ink, pad))
    box = (x + pad - half_w, y + pad - half_h, x + pad + half_w, y + pad + half_h)
    filter_ = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BICUBIC
    framed = np.clip(np.asarray(canvas.resize((width, height), filter_, box=box)), 0, 1)
    return np.asarray(framed / max(float(framed.max()), 1e-6), dtype=np.float32), thickened


def _separate(image: Image.Image, bright: bool | None) -> Drawing | None:
    """Separate ink from paper at a smaller size. `bright` tells whether the ink is bright, if known."""
    small = image.copy()
    small.thumbnail((WORK_SIDE_PX, WORK_SIDE_PX), Image.Resampling.BOX)
    difference, noise = _above_background(np.asarray(small, dtype=np.float32) / np.float32(255))
    if bright is None:
        strong = np.where(np.abs(difference) > noise, difference, 0)
        bright = bool((strong * np.abs(strong)).sum() > 0)
    height = difference if bright else -difference
    smooth = ndimage.uniform_filter(height, 3, mode="nearest")  # so that the lows of the noise do not count
    height = height - ndimage.grey_opening(smooth, MAX_STROKE_PX, mode="nearest")  # no shadows
    if not (height > noise).any():
        return None
    peak = float(np.percentile(height[height > noise], 80))
    floor = max(noise, 0.15 * peak) if peak > noise else 0.0
    ink = np.clip((height - floor) / max(0.8 * peak - floor, 1e-6), 0, 1).astype(np.float32)
    return Drawing(ink * _without_specks(ink > 0.4), bright)


def _above_background(pixels: Plane) -> tuple[Plane, float]:
    """Brightness of (h, w) above a quadratic surface through the paper, and the level of its noise."""
    height, width = pixels.shape
    y, x = (grid.ravel() for grid in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    values = pixels.ravel().astype(np.float64)
    paper = np.maximum(abs(x), abs(y)) > 0.85  # the rim of an image is mostly paper
    rest, noise = values - np.median(values[paper]), MIN_CONTRAST
    paper &= abs(rest) < max(0.25, 3 * float(np.median(abs(rest[paper]))))
    for _ in range(4):
        coefficients, *_ = np.linalg.lstsq(terms[paper], values[paper], rcond=None)
        rest = values - terms @ coefficients
        noise = max(MIN_CONTRAST, 4.5 * float(np.median(abs(rest[paper]))))
        paper = abs(rest) < noise
    return rest.reshape(pixels.shape).astype(np.float32), noise


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Keep the connected parts of a mask (h, w) that belong to the drawing, and 2 pixels around them.

    Dust is too small. Parts that touch the rim are edges of the sheet, unless hardly anything else is there.
    """
    parts, n = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(parts.ravel(), minlength=n + 1)
    sizes[0] = 0  # the paper
    inner = sizes.copy()
    inner[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = 0
    if inner.any() and inner.max() >= 0.1 * sizes.max():
        sizes = inner
    kept = (sizes > 0) & (sizes >= 0.04 * sizes.max())
    return np.asarray(ndimage.binary_dilation(kept[parts], np.ones((5, 5))))


def _extent(ink: Plane) -> tuple[slice, slice]:
    """Rows and columns of (h, w) that hold the ink."""
    rows, columns = ndimage.find_objects((ink > 0.2).astype(np.int8))[0]
    return rows, columns


def _around(ink: Plane, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of the ink and some paper around it, in pixels of the image of `size` (w, h)."""
    rows, columns = _extent(ink)
    margin = 0.3 * max(rows.stop - rows.start, columns.stop - columns.start) + 1
    x_scale, y_scale = size[0] / ink.shape[1], size[1] / ink.shape[0]
    return (
        max(0, int((columns.start - margin) * x_scale)),
        max(0, int((rows.start - margin) * y_scale)),
        min(size[0], int((columns.stop + margin) * x_scale) + 1),
        min(size[1], int((rows.stop + margin) * y_scale) + 1),
    )


def _thickened(ink: Plane, scale: float) -> tuple[Plane, bool]:
    """Widen strokes of ink (h, w) that would be thinner than a pen's after scaling. Also returns whether it did."""
    mask = ink > 0.5
    edge = sum(int((np.diff(np.pad(mask, 1).astype(np.int8), axis=axis) != 0).sum()) for axis in (0, 1))
    stroke_px = 2 * float(mask.sum()) / max(edge * np.pi / 4, 1)
    missing = (MIN_STROKE_PX / scale - stroke_px) / 2
    if missing < 0.5:
        return ink, False
    return np.asarray(ndimage.maximum_filter(ink, 2 * round(missing) + 1)), True
