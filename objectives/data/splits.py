"""Splits: the same on every machine, with each class in proportion; and what folders and npz files say about them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from objectives.base import DatasetError

SPLIT_SEED = 20240601
MIN_IMAGES_PER_CLASS = 5
MAX_NAMES = 10
"""Number of names in a sentence."""

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, c, h, w) and the indices of their classes (n,)."""


def stratified_split(labels: NDArray[np.int64], n_held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices of `labels` (n,) into the kept and the held out, each class in proportion; both sorted.

    Every class with two or more members is on both sides. If that allows, exactly `n_held_out` are held out.
    """
    # numpy guarantees that RandomState always draws the same numbers. Its newer generators may change.
    random = np.random.RandomState(SPLIT_SEED)
    counts = np.bincount(labels)
    quotas = counts * n_held_out / len(labels)
    sizes = np.maximum(np.floor(quotas).astype(int), counts > 1)
    missing = max(0, n_held_out - int(sizes.sum()))
    sizes[np.argsort(sizes - quotas, kind="stable")[:missing]] += 1
    held_out = np.zeros(len(labels), bool)
    for label, size in enumerate(sizes):
        members = np.flatnonzero(labels == label)
        held_out[random.permutation(members)[:size]] = True
    return np.flatnonzero(~held_out).astype(np.int64), np.flatnonzero(held_out).astype(np.int64)


def stratified_folds(labels: NDArray[np.int64], n_folds: int, division: int = 0) -> NDArray[np.int64]:
    """The fold, from 0, of each image with `labels` (n,): every class is spread evenly, and so are all images.

    Numbers of images differ by one at most between folds, in all and of each class. Another `division` is another draw.
    """
    random = np.random.RandomState([SPLIT_SEED, division])
    order = np.lexsort((random.permutation(len(labels)), labels))  # by class, and within a class at random
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % n_folds
    return folds


def split_off_test(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Labelled, Labelled]:
    """Split a dataset without a test split: four fifths are the pool, one fifth is the test part."""
    pool, test = stratified_split(labels, round(len(labels) / 5))
    return (images[pool], labels[pool]), (images[test], labels[test])


def shuffled(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Shuffle indices, always in the same way."""
    return np.random.RandomState(SPLIT_SEED).permutation(index)


def origins(training: str, validation: str | None, test: str | None) -> dict[str, str]:
    """Name the source of each split, for the user. None: the split is a part of the training images."""
    proportion = f"{training}, each class in proportion"
    if test:
        kept = training if validation else f"four fifths of {training}"
        return {"training": kept, "validation": validation or f"a fifth of {proportion}", "test": test}
    return {
        "training": f"four fifths of {training}" if validation else f"64% of {training}",
        "validation": validation or f"16% of {proportion}",
        "test": f"a fifth of {proportion}",
    }


def check_class_sizes(name: str, sizes: Mapping[str, int], place: str, left_out: Mapping[str, str] = {}) -> None:
    """Raise DatasetError for classes with too few training images.

    sizes: number of images in `place` by class. left_out: for some classes, which images are left out.
    """
    small = [
        f"class {class_name!r} has {n} image{'' if n == 1 else 's'}"
        + (f" (left out: {left_out[class_name]})" if left_out.get(class_name) else "")
        for class_name, n in sizes.items()
        if n < MIN_IMAGES_PER_CLASS
    ]
    if small:
        more = f" and {len(small) - 5} more classes have too few" if len(small) > 5 else ""
        raise DatasetError(
            f"{name}: {', '.join(small[:5])}{more}, and every class needs {MIN_IMAGES_PER_CLASS}; add images "
            f"of these classes to {place}, or leave the classes out"
        )


def missing_classes(place: str, missing: Sequence[str]) -> list[str]:
    """A sentence about classes of training that `place` lacks."""
    several = f"{len(missing)} classes: " if len(missing) > 1 else "class "
    return [f"{place} has no images of {several}{listed(missing)}"] if missing else []


def unknown_classes(place: str, sizes: Mapping[str, int], training: str) -> list[str]:
    """A sentence about classes that only `place` has. sizes: its number of images by class."""
    shown = listed([f"{name!r} ({n})" for name, n in sizes.items()], str)
    return [f"images of classes that {training} lacks are left out of {place}: {shown}"] if sizes else []


def listed(names: Sequence[str], show: Callable[[str], str] = repr) -> str:
    """The first of many names, for a sentence."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(show, names[:MAX_NAMES])) + more


def pixel_digest(image: NDArray[np.uint8], key: bytes = b"") -> bytes:
    """A digest of an image's pixels and of a key."""
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=key).digest()


def find_duplicates(pool: Iterable[tuple[bytes, str]], test: Iterable[tuple[bytes, str]]) -> list[str]:
    """Name the test images that the pool has too, each with the first of those: `cat/1.png = dog/7.png`; sorted.

    pool, test: digests and names of images.
    """
    first: dict[bytes, str] = {}
    for digest, name in pool:
        first.setdefault(digest, name)
    return sorted(f"{first[digest]} = {name}" for digest, name in test if digest in first)
