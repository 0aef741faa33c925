"""Resizes arrays of images, in the way in which `image_files.fit` resizes one."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from objectives.base import MIN_IMAGE_SIZE, DatasetError
from objectives.data.files.image_files import fit
from objectives.data.files.memory import available_bytes

MAX_SIDE_PX = 64
"""Default limit of an image's sides."""


def usual_size(size: tuple[int, int], image_size: int | None) -> tuple[int, int]:
    """The size (h, w) of a dataset's images. `image_size`: pixels a side; None: `size`, shrunk to fit 64 x 64."""
    if image_size is not None:
        return image_size, image_size
    ratio = MAX_SIDE_PX / max(size)
    step, ratio = (1, 1.0) if ratio >= 1 else (4, ratio)  # networks may pool twice
    height, width = (max(MIN_IMAGE_SIZE, step * round(side * ratio / step)) for side in size)
    return height, width


def resize(images: NDArray[np.uint8], image_size: int | None) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
    """Resize images (n, c, h, w) to `usual_size`. Also returns their size before, or None if it was that one."""
    original: tuple[int, int] = images.shape[2], images.shape[3]
    size = usual_size(original, image_size)
    return (images, None) if size == original else (fit_all(images, size), original)


def empty_images(n: int, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an array (n, c, h, w) to fill. Raises DatasetError if it would not fit in memory."""
    needed, available = n * channels * size[0] * size[1], available_bytes()
    if available is not None and needed > available:
        pixels = f"{n:,} images of {size[1]}x{size[0]} pixels"
        raise DatasetError(
            f"{pixels} need {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are free; type a smaller "
            "--image-size"
        )
    return np.empty((n, channels, *size), np.uint8)


def fit_all(images: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fit whole images (n, c, h, w) into `size` (h, w). Of another shape, they are filled up like their border."""
    if images.shape[2:] == size:
        return images
    resized = empty_images(len(images), images.shape[1], size)
    for i, image in enumerate(_pillow_images(images)):
        pixels = np.atleast_3d(np.asarray(_fitted(image, size)))
        resized[i] = pixels.transpose(2, 0, 1)
    return resized


def _pillow_images(images: NDArray[np.uint8]) -> Iterator[Image.Image]:
    for image in images:
        yield Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Do what `fit` does, without the time for the colour of a border that an image of the same shape lacks."""
    height, width = size
    if image.width * height != image.height * width:
        return fit(image, size)
    is_smaller = width < image.width
    return image.resize((width, height), Image.Resampling.LANCZOS if is_smaller else Image.Resampling.BICUBIC)
