"""Metrics agree with scikit-learn's, also where classes are missing; unequal classes weigh the same when balanced."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight

from objectives.metrics import METRICS, UNEQUAL_RATIO, balanced_weights, direction_of, is_unequal, metric_of, scores


def of_sklearn(labels: NDArray[np.int64], rows: NDArray[np.floating]) -> dict[str, float]:
    predicted = rows.argmax(1)
    with warnings.catch_warnings(action="ignore"):  # about predicted classes that have no images
        return {
            "accuracy": accuracy_score(labels, predicted),
            "balanced_accuracy": balanced_accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro"),
            "log_loss": log_loss(labels, rows, labels=range(rows.shape[1])),
        }


@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 300),
    k=st.integers(2, 12),
    sharpness=st.floats(0, 30),
    present=st.integers(1, 12),
    dtype=st.sampled_from([np.float64, np.float32]),
)
@example(seed=0, n=360, k=10, sharpness=0.3, present=10, dtype=np.float32)
@example(seed=0, n=360, k=10, sharpness=30, present=10, dtype=np.float32)
def test_metrics_agree_with_scikit_learn(
    seed: int, n: int, k: int, sharpness: float, present: int, dtype: type[np.floating]
):
    """`present`: classes from there on have no images, but may be predicted. Sharp rows have exact zeros and ones.

    scikit-learn clips float32 rows, as networks make them, at another epsilon, and computes in float32.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, min(k, present), n)
    logits = sharpness * random.normal(size=(n, k))
    rows = np.exp(logits - logits.max(1, keepdims=True))
    rows = (rows / rows.sum(1, keepdims=True)).astype(dtype)
    assert scores(labels, rows) == pytest.approx(of_sklearn(labels, rows), rel=1e-9, abs=1e-9)


def test_a_classifier_that_calls_every_dog_a_cat_has_half_the_balanced_accuracy():
    labels, rows = np.repeat([0, 1], [950, 50]), np.tile([0.9, 0.1], (1000, 1))
    measured = scores(labels, rows)
    assert measured["accuracy"] == 0.95
    assert measured["balanced_accuracy"] == 0.5
    assert measured["macro_f1"] == pytest.approx(0.95 / 1.95)
    assert measured["log_loss"] == pytest.approx(-0.95 * math.log(0.9) - 0.05 * math.log(0.1))


@pytest.mark.parametrize(("dtype", "loss"), [(np.float64, 36.04), (np.float32, 15.94)])
def test_a_sure_mistake_costs_a_finite_loss(dtype: type[np.floating], loss: float):
    assert scores(np.array([1]), np.array([[1, 0]], dtype))["log_loss"] == pytest.approx(loss, abs=0.01)


def test_metrics_are_known_by_the_names_of_values():
    names = "log_loss", "val_log_loss", "val_accuracy", "val/accuracy", "val_error", "quality"
    assert [metric_of(name) for name in names] == ["log_loss", "log_loss", "accuracy", None, None, None]


def test_every_metric_has_a_direction():
    assert [name for name in METRICS if direction_of(name) == "minimize"] == ["log_loss"]
    assert {*METRICS} == {*scores(np.array([0]), np.array([[0.5, 0.5]]))}


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=20))
@example([950, 50])
def test_balanced_weights_are_scikit_learns(images: list[int]):
    k = len(images)
    expected = compute_class_weight("balanced", classes=np.arange(k), y=np.repeat(np.arange(k), images))
    weights = balanced_weights(images)
    assert weights == pytest.approx(expected)
    assert sum(n * weight for n, weight in zip(images, weights, strict=True)) == pytest.approx(sum(images))


def test_a_class_without_images_has_no_weight_and_makes_no_others_heavier():
    assert balanced_weights([30, 0, 10]) == pytest.approx((40 / 60, 0.0, 40 / 20))


@pytest.mark.parametrize(
    ("images", "unequal"),
    [
        ([950, 50], True),
        ([10, 10 * UNEQUAL_RATIO], False),
        ([10, 10 * UNEQUAL_RATIO + 1], True),
        ([100, 0, 90], False),
        ([7], False),
        ([], False),
    ],
)
def test_classes_are_unequal_above_three_times(images: list[int], unequal: bool):
    assert is_unequal(images) is unequal
    assert is_unequal(np.array(images, dtype=np.int64)) is unequal
    assert is_unequal(dict(enumerate(images)).values()) is unequal
