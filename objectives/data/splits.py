"""Splits: the same on every machine, with each class in proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPLIT_SEED = 20240601

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, c, h, w) and the indices of their classes (n,)."""


def stratified(labels: NDArray[np.int64], held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split indices of `labels` (n,) into the kept and the held out, each class in proportion; both sorted.

    Every class with two or more members is on both sides. Beyond that, the second part has exactly `held_out` members.
    """
    # numpy guarantees that RandomState always draws the same numbers. Its newer generators may change.
    random = np.random.RandomState(SPLIT_SEED)
    counts = np.bincount(labels)
    quota = counts * held_out / len(labels)
    take = np.maximum(np.floor(quota).astype(int), counts > 1)
    missing = max(0, held_out - int(take.sum()))
    take[np.argsort(take - quota, kind="stable")[:missing]] += 1
    chosen = np.zeros(len(labels), bool)
    for label, number in enumerate(take):
        members = np.flatnonzero(labels == label)
        chosen[random.permutation(members)[:number]] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def split_off_test(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[Labelled, Labelled]:
    """Split images that come without a test split: four fifths are the pool, one fifth is the test part."""
    pool, test = stratified(labels, round(len(labels) / 5))
    return (images[pool], labels[pool]), (images[test], labels[test])
