"""Finds images that are in two parts of a dataset.

Prepared images are compared, not files: a file that was saved again without loss gives the same pixels,
and no file is read again. Two images are the same if their pixels and the sizes of their files agree.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def find_duplicates(
    pool: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]],
    test: tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.str_]],
) -> list[str]:
    """Name the test images that the pool has too, each with the first of them: `cat/1.png = dog/7.png`; sorted.

    pool, test: images (n, c, h, w), (h, w) of their files (n, 2), and their names.
    """
    first: dict[bytes, str] = {}
    for digest, name in sorted(_digests(*pool), key=lambda entry: entry[1]):
        first.setdefault(digest, name)
    return sorted(f"{first[digest]} = {name}" for digest, name in _digests(*test) if digest in first)


def _digests(
    images: NDArray[np.uint8], sizes: NDArray[np.int64], names: NDArray[np.str_]
) -> Iterator[tuple[bytes, str]]:
    for image, size, name in zip(images, sizes, names.tolist(), strict=True):
        yield hashlib.blake2b(image.tobytes(), digest_size=16, key=size.tobytes()).digest(), name
