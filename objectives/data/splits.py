"""Splits: the same on every machine, with each class in proportion."""

import numpy as np
from numpy.typing import NDArray

SPLIT_SEED = 20240601

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


def split_off_test(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Labelled, Labelled]:
    """Split a dataset without a test split: four fifths are the pool, one fifth is the test part."""
    pool, test = stratified_split(labels, round(len(labels) / 5))
    return (images[pool], labels[pool]), (images[test], labels[test])


def shuffled(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Shuffle indices, always in the same way."""
    return np.random.RandomState(SPLIT_SEED).permutation(index)
