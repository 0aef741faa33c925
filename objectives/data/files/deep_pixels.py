"""Scales images of 16 or 32 bits, or of floats, to 8 bits.

Such images rarely use their whole range: a microscope or an X-ray detector fills 12 bits of 16. One range for a
whole set keeps its images comparable.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Range = tuple[float, float]
"""The values that become 0 and 255."""

PERCENTILES = (0.1, 99.9)
"""Percentiles of the pixels of a set: dead and hot pixels do not count. ImageJ's contrast leaves out 0.35%."""
SAMPLE = 2_000
"""Number of images from which the range is measured."""


def is_deep(image: Image.Image) -> bool:
    """Whether the pixels of a grey image have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def to_float(image: Image.Image) -> Image.Image:
    """Convert a deep image to mode "F", which can be resized. Values that are not finite become the smallest."""
    values = np.asarray(image).astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        values[~finite] = values[finite].min() if finite.any() else 0.0
    return Image.fromarray(values)


def range_in_use(images: Sequence[NDArray[np.float32]]) -> Range | None:
    """The range that the pixels of a set of deep images (h, w) fill; None for an empty set."""
    if not images:
        return None
    sample = images[:: -(-len(images) // SAMPLE)]
    pixels = np.concatenate([image.ravel() for image in sample])
    low, high = (float(value) for value in np.percentile(pixels, PERCENTILES, method="nearest"))
    return low, high


def to_grey(image: Image.Image, value_range: Range | None) -> Image.Image:
    """Scale a deep image to mode "L", by a range or, without one, by the smallest usual range that holds it."""
    if value_range is None:
        return Image.fromarray(_by_usual_range(np.asarray(image), integers=image.mode != "F"))
    low, high = value_range
    values = np.asarray(to_float(image))
    scaled = np.clip((values - low) * (255.0 / ((high - low) or 1.0)), 0, 255)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _by_usual_range(values: NDArray[np.generic], *, integers: bool) -> NDArray[np.uint8]:
    numbers = np.nan_to_num(values.astype(np.float32), copy=False, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    full_scales = (65535.0,) if integers else (1.0, 255.0, 65535.0)
    full = next((scale for scale in full_scales if low >= 0 and high <= scale), None)
    if full is None:
        numbers -= low
        full = (high - low) or 1.0
    numbers *= 255.0 / full
    return np.rint(numbers, out=numbers).astype(np.uint8)
