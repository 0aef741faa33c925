"""Decodes images on all cores, and stacks them to one array."""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.base import PictureError
from objectives.data.files.deep_pixels import Range, is_deep, to_float, to_grey
from objectives.data.files.image_files import changes_warnings, fit, read_picture

CHUNK = 32
"""Number of images that a thread decodes at a time."""
MAX_THREADS = 8
"""Small images keep Python's lock busy: on 2 cores, 4 threads needed twice the time of 2 for those of 32 pixels."""
MAX_COLOURED = 0.05
"""Share of the images that may be coloured in a set of grey ones."""


class Decoded(NamedTuple):
    """An image, shrunk but not yet square."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    """Grey (h, w) or colour (h, w, 3). Float if the image has more than 8 bits, then always grey."""
    size: tuple[int, int]
    """(h, w) of the file."""
    is_cut: bool
    """As in `objectives.data.files.image_files.Picture`."""
    is_coloured: bool

    @property
    def deep_pixels(self) -> NDArray[np.float32] | None:
        """The pixels if the image has more than 8 bits."""
        return self.pixels if self.pixels.dtype == np.float32 else None  # type: ignore[return-value]


def decode(
    paths: Sequence[Path], max_side_px: int, check: Callable[[Iterable[Decoded | None]], None]
) -> list[Decoded | None]:
    """Decode images and shrink them to at most `max_side_px` a side. None: a file that is not an image.

    Opens every file once. Threads are enough: Pillow decodes and resizes without holding Python's lock.
    check: called with some images at a time, spread over all; an error that it raises ends the decoding.
    """
    decoded: list[Decoded | None] = [None] * len(paths)
    together = [at for at, path in enumerate(paths) if not changes_warnings(path)]
    n_chunks = -(-len(together) // CHUNK)
    chunks = [together[start::n_chunks] for start in range(n_chunks)]

    def decode_chunk(chunk: Sequence[int]) -> Sequence[int]:
        for at in chunk:
            decoded[at] = _decode(paths[at], max_side_px)
        return chunk

    # Filters of warnings belong to the process. While threads decode, all of them set this one.
    with warnings.catch_warnings(), ThreadPoolExecutor(_n_threads()) as pool:
        warnings.simplefilter("ignore")
        try:
            for chunk in pool.map(decode_chunk, chunks):
                check(decoded[at] for at in chunk)
        finally:
            pool.shutdown(cancel_futures=True)
    decode_chunk(sorted({*range(len(paths))} - {*together}))
    return decoded


def _n_threads() -> int:
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(n_cores, MAX_THREADS)


def _decode(path: Path, max_side_px: int) -> Decoded | None:
    try:
        image, size, is_cut = read_picture(path)
    except PictureError:
        return None
    image = to_float(image) if is_deep(image) else image
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    # JPEG files of grey images are a few levels off.
    is_coloured = image.mode == "RGB" and bool((pixels.max(axis=2) - pixels.min(axis=2)).max() > 12)
    return Decoded(pixels, size, is_cut, is_coloured)


def common_side_px(sizes: NDArray[np.int64], max_side_px: int) -> int:
    """The median side, rounded to a multiple of 4 so that networks may pool twice, from 16 to `max_side_px`."""
    return int(np.clip(4 * round(float(np.median(sizes)) / 4), 16, max_side_px))


def stack(
    images: dict[int, Decoded], index: NDArray[np.int64], channels: int, side_px: int, value_range: Range | None
) -> NDArray[np.uint8]:
    """Stack the images at `index` to (n, c, h, w), and remove them from `images`: memory holds each only once."""
    stacked = np.empty((len(index), channels, side_px, side_px), np.uint8)
    for row, at in enumerate(index.tolist()):
        image = Image.fromarray(images.pop(at).pixels)
        image = to_grey(image, value_range) if is_deep(image) else image
        fitted = np.asarray(fit(image.convert("RGB" if channels == 3 else "L"), (side_px, side_px)))
        stacked[row] = np.atleast_3d(fitted).transpose(2, 0, 1)
    return stacked
