"""Splits: disjoint, complete, each class in proportion, and the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from objectives.data.splits import split_off_test, stratified_folds, stratified_split


@given(st.lists(st.integers(2, 60), min_size=2, max_size=12), st.sampled_from([5, 6]))
def test_split_is_disjoint_complete_stratified_and_repeatable(counts: list[int], share: int) -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    held_out = round(len(labels) / share)
    kept, held = stratified_split(labels, held_out)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    per_class = np.bincount(labels[held], minlength=len(counts))
    assert np.all(per_class >= 1)
    assert np.all(per_class < counts)
    assert np.all(np.abs(per_class - np.array(counts) * held_out / len(labels)) <= 1)
    again = stratified_split(labels, held_out)
    assert np.array_equal(again[0], kept)
    assert np.array_equal(again[1], held)


@given(st.lists(st.integers(2, 60), min_size=2, max_size=12), st.integers(2, 6), st.integers(0, 3))
def test_folds_divide_all_images_and_every_class_evenly(counts: list[int], n_folds: int, division: int) -> None:
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    folds = stratified_folds(labels, n_folds, division)
    assert np.ptp(np.bincount(folds, minlength=n_folds)) <= 1
    assert all(np.ptp(np.bincount(folds[labels == label], minlength=n_folds)) <= 1 for label in range(len(counts)))
    assert np.array_equal(stratified_folds(labels, n_folds, division), folds)


def test_split_never_changes() -> None:
    """Studies of earlier versions were trained on this one."""
    labels = np.arange(20, dtype=np.int64) % 2
    assert stratified_split(labels, 4)[1].tolist() == [5, 6, 10, 11]
    assert stratified_folds(labels[:12], 3).tolist() == [0, 1, 0, 2, 1, 1, 1, 2, 2, 0, 2, 0]
    assert stratified_folds(labels[:12], 3, 1).tolist() == [1, 2, 0, 2, 1, 1, 2, 1, 0, 0, 2, 0]
    images = labels.astype(np.uint8).reshape(20, 1, 1, 1)
    pool, test = split_off_test(images, labels)
    assert (len(pool[0]), len(test[0])) == (16, 4)
    assert test[0].ravel().tolist() == test[1].tolist()
