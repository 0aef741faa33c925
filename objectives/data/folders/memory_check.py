"""Stops the decoding of a folder whose images would not fit in memory."""

from collections.abc import Iterable
from math import sqrt

from objectives.base import MIN_IMAGE_SIZE, DatasetError
from objectives.data.files.memory import available_bytes
from objectives.data.files.resizing import MAX_SIDE_PX
from objectives.data.folders.decoding import Decoded

MIN_SAMPLE = 256
"""Number of images that tell how large the others are."""


class MemoryCheck:
    """Foresees the memory for all images from those decoded so far, which must be a sample of all."""

    def __init__(self, dataset: str, n_images: int, image_size: int | None) -> None:
        self._dataset, self._n_images, self._image_size = dataset, n_images, image_size
        self._n_decoded = self._decoded_bytes = self._stacked_bytes = 0

    def __call__(self, images: Iterable[Decoded | None]) -> None:
        """Count decoded images. Raises DatasetError when all of them would not fit."""
        for image in images:
            self._n_decoded += 1
            if image is not None:
                side_px = self._image_size or max(image.pixels.shape[:2])
                self._decoded_bytes += image.pixels.nbytes
                self._stacked_bytes += side_px * side_px * (3 if image.is_coloured else 1)
        if self._n_decoded < MIN_SAMPLE or (available := available_bytes()) is None:
            return
        # The allocator keeps much of what is freed while images are stacked, so both are counted. With 2,000 images
        # of 224 pixels, glibc 2.36 used 1.6 times the memory of either.
        needed = (self._decoded_bytes + self._stacked_bytes) * self._n_images / self._n_decoded
        free = available + self._decoded_bytes
        if needed > free:
            raise DatasetError(self._message(needed, free))

    def _message(self, needed: float, free: int) -> str:
        side_px = self._image_size or MAX_SIDE_PX
        fitting_px = int(side_px * sqrt(0.9 * free / needed)) // 4 * 4
        advice = (
            f"type --image-size {fitting_px}" if fitting_px >= MIN_IMAGE_SIZE else "give a folder with fewer images"
        )
        return (
            f"{self._dataset}: {self._n_images:,} images of at most {side_px}x{side_px} pixels need about "
            f"{needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; {advice}"
        )
