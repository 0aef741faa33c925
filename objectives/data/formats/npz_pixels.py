"""Turns arrays of images into bytes: grey or colour, channels first or last, bytes, floats or 16 bits.

The training and validation images alone decide the scale. It is then the same for the test images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError
from objectives.data.files.deep_pixels import PERCENTILES, SAMPLE, Range

CHUNK = 512
"""Number of images that are converted at a time."""
TOLERANCE = 1e-6
"""How far floats may lie outside [0, 1], because of rounding."""

Values = NDArray[np.generic]


@dataclass(frozen=True)
class Selected:
    """Images of an array that are in a split."""

    key: str
    values: Values
    """The whole array."""
    index: NDArray[np.int64]

    def chunks(self) -> Iterator[Values]:
        """The images, some at a time: (n, c, h, w)."""
        for start in range(0, len(self.index), CHUNK):
            yield channels_first(self.values[self.index[start : start + CHUNK]])


class Shape(NamedTuple):
    """Channels, height and width of the images of an array."""

    channels: int
    height: int
    width: int


def shape_of(where: str, key: str, shape: tuple[int, ...]) -> Shape:
    """Find the axes of images from the shape of an array. Raises DatasetError."""
    head = f"{where}: {key} has the shape {shape}"
    if 0 in shape[1:]:
        raise DatasetError(f"{head}, so its images are empty")
    if len(shape) == 3:
        return Shape(1, shape[1], shape[2])
    if len(shape) == 4:
        if shape[3] in (1, 3):
            return Shape(shape[3], shape[1], shape[2])
        if shape[1] in (1, 3):
            return Shape(*shape[1:])
        if shape[3] == 4 or shape[1] == 4:
            alpha = f"{key}[..., :3]" if shape[3] == 4 else f"{key}[:, :3]"
            raise DatasetError(f"{head}: four channels, the last perhaps transparency; save {alpha} instead")
    advice = "they must have the shape (n, h, w), (n, h, w, 3) or (n, 3, h, w)"
    if len(shape) == 2:
        side = isqrt(shape[1])
        height, width = (side, side) if side * side == shape[1] else ("h", "w")
        advice += f"; for rows of pixels, save {key}.reshape(-1, {height}, {width})"
    raise DatasetError(f"{head}, which is not that of images; {advice}")


def channels_first(images: Values) -> Values:
    """Bring images of any allowed shape to (n, c, h, w)."""
    if images.ndim == 3:
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if images.shape[3] in (1, 3) else images


@dataclass(frozen=True)
class ValueLimits:
    """The smallest and the largest value of images."""

    low: float
    high: float
    is_whole: bool


def measure(where: str, selected: Selected) -> ValueLimits:
    """Find the smallest and the largest value. Raises DatasetError for values that cannot be pixels."""
    key, kind = selected.key, selected.values.dtype.kind
    if kind not in "buif":
        raise DatasetError(f"{where}: {key} holds {selected.values.dtype}; save it as uint8, with pixels from 0 to 255")
    low, high, is_whole = np.inf, -np.inf, True
    for chunk in selected.chunks():
        low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        if not np.isfinite((low, high)).all():
            raise DatasetError(
                f"{where}: {key} holds values that are not finite; save numpy.nan_to_num({key}), or leave out images "
                "with such values"
            )
        is_whole = is_whole and (kind != "f" or bool((chunk == np.rint(chunk)).all()))
    return ValueLimits(low, high, is_whole)


@dataclass(frozen=True)
class Scale:
    """How values become bytes."""

    kind: Literal["unit", "bytes", "deep"]
    """From [0, 1]; as they are; or from the range in use of images of more than 8 bits."""
    value_range: Range | None = None
    """The values that become 0 and 255, for deep images."""

    @classmethod
    def of(cls, where: str, pool: Sequence[Selected]) -> "Scale":
        """Find the scale of a pool of images. Raises DatasetError."""
        limits = [measure(where, part) for part in pool]
        low, high = min(part.low for part in limits), max(part.high for part in limits)
        if low >= -TOLERANCE and high <= 1 + TOLERANCE:
            return cls("unit")
        is_whole = all(part.is_whole for part in limits)
        if is_whole and low >= 0 and high <= 255:
            return cls("bytes")
        if low >= 0 and all(part.values.dtype.kind in "ui" for part in pool):
            return cls("deep", _range_in_use(pool))
        key = pool[0].key
        from_zero = f"({key} {'+' if low < 0 else '-'} {abs(low):g})"
        raise DatasetError(
            f"{where}: {key} holds values from {low:g} to {high:g}, and pixels are whole numbers from 0 to 255 or "
            f"floats from 0 to 1. Scale all images alike and save them as uint8, for example "
            f"({from_zero} * (255 / {high - low:g})).round().astype('uint8')"
        )

    def check(self, where: str, test: Selected, training_key: str) -> None:
        """Raise DatasetError if test images cannot have this scale."""
        limits = measure(where, test)
        top = {"unit": 1 + TOLERANCE, "bytes": 255.0, "deep": np.inf}[self.kind]
        if limits.low < -TOLERANCE or limits.high > top or (self.kind != "unit" and not limits.is_whole):
            allowed = {
                "unit": "values from 0 to 1",
                "bytes": "whole numbers from 0 to 255",
                "deep": "whole numbers from 0",
            }[self.kind]
            is_part = test.key == training_key
            place, others = (f"the test part of {test.key}", "the rest") if is_part else (test.key, training_key)
            raise DatasetError(
                f"{where}: {place} holds values from {limits.low:g} to {limits.high:g}, but {others} holds "
                f"{allowed}; scale both alike and save them as uint8"
            )

    def to_bytes(self, images: Values) -> NDArray[np.uint8]:
        """Scale images of any shape."""
        if self.kind == "bytes":
            return np.ascontiguousarray(images.astype(np.uint8))
        low, high = self.value_range or (0.0, 1.0)
        scaled = (images.astype(np.float32) - low) * (255.0 / ((high - low) or 1.0))
        return np.ascontiguousarray(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))


def _range_in_use(pool: Sequence[Selected]) -> Range:
    """As `objectives.data.files.deep_pixels.range_in_use`, of images in arrays."""
    step = -(-sum(len(part.index) for part in pool) // SAMPLE)
    pixels = np.concatenate([part.values[part.index[::step]].ravel() for part in pool])
    low, high = (float(value) for value in np.percentile(pixels, PERCENTILES, method="nearest"))
    return low, high
