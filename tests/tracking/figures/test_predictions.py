"""What a trial's images are drawn from: the right ones, the same for every trial."""

from __future__ import annotations

import io

import numpy as np
import pytest

from search.tracking.figures import figures
from search.tracking.figures.predictions import pack, sample


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def test_a_sample_is_fixed_sorted_and_not_of_the_first_images():
    chosen = sample(200)
    assert len(set(chosen.tolist())) == 25
    assert chosen.tolist() == sorted(sample(200).tolist())
    assert chosen.max() > 100
    assert sample(3).tolist() == [0, 1, 2]


def test_the_surest_mistakes_are_kept_surest_first():
    n = 100
    labels = np.zeros(n, np.int64)
    share = np.linspace(0, 1, n, dtype=np.float32)  # the probability of class 1, which is never true
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    packed = unpacked(pack(images, labels, np.stack((1 - share, share), axis=1)))
    assert packed["wrong_images"].ravel().tolist() == list(range(99, 74, -1))
    assert packed["wrong"].tolist() == [[1] * 25, [0] * 25]
    assert packed["wrong_sure"][:2] == pytest.approx(share[:-3:-1])
    assert packed["sample_images"].ravel().tolist() == sample(n).tolist()
    assert packed["predicted"].sum() == 50


def test_a_perfect_model_has_a_sample_and_no_grid_of_mistakes():
    images = np.zeros((4, 1, 8, 8), np.uint8)
    labels = np.array([0, 1, 0, 1])
    images_by_name = figures.draw_trial(pack(images, labels, np.eye(2, dtype=np.float32)[labels]), ["a", "b"])
    assert images_by_name.keys() == {"confusion_matrix.png", "sample_predictions.png"}
