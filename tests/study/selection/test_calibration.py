"""One temperature for probabilities: what it does to over- and underconfident ones, and how the error is counted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from search.study.selection.calibration import (
    calibration_error,
    errors_before_and_after,
    fit_temperature,
    is_at_bound,
    probabilities_at,
)

Arrays = tuple[NDArray[np.int64], NDArray[np.float32]]


def honest(n: int, k: int = 10, seed: int = 0) -> Arrays:
    """Labels, and logits whose softmax is the probability of each label."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k)).astype(np.float32)
    labels = (probabilities_at(1, logits).cumsum(1) < rng.random((n, 1))).sum(1)
    return np.minimum(labels, k - 1), logits


@pytest.mark.parametrize("factor", [0.2, 0.5, 1, 3, 30])
def test_the_temperature_undoes_a_factor_of_the_logits(factor: float):
    labels, logits = honest(4_000)
    assert fit_temperature(labels, [logits * np.float32(factor)]) == pytest.approx(factor, rel=0.05)


def test_overconfident_predictions_get_a_high_temperature_and_a_smaller_error():
    labels, logits = honest(2_000)
    before, after = errors_before_and_after(labels, [3 * logits, 3 * logits])
    assert fit_temperature(labels, [3 * logits]) > 2
    assert before == pytest.approx(calibration_error(labels, probabilities_at(1, 3 * logits)))
    assert before > 0.1
    assert after < before / 3


def test_among_many_mistakes_it_is_the_smallest_log_loss():
    labels, logits = honest(5_000)
    found = fit_temperature(labels, [2 * logits])
    losses = {t: log_loss(labels, probabilities_at(t, 2 * logits)) for t in (found, 0.97 * found, 1.03 * found)}
    assert min(losses, key=losses.__getitem__) == found


def test_the_temperature_is_at_its_bound_if_equal_probabilities_are_better_than_the_predictions():
    labels, logits = honest(2_000, k=2)
    assert not is_at_bound(fit_temperature(labels, [30 * logits]))
    assert is_at_bound(fit_temperature(labels, [-logits]))
    rare = np.repeat([0, 1], [60, 12])
    wrong = np.tile(np.array([0, 4], np.float32), (72, 1))  # certain of the class that is rare
    assert is_at_bound(fit_temperature(rare, [wrong]))
    balanced = np.where(np.arange(2) == rare[:, None], np.float32(0.5), np.float32(0))  # a weak sign of the class
    assert not is_at_bound(fit_temperature(rare, [balanced]))


@pytest.mark.parametrize("n", [50, 1_000, 20_000])
def test_without_a_mistake_no_answer_is_certain(n: int):
    """The smallest log loss would be that of certain answers. About one mistake in n images is expected instead."""
    labels = np.random.default_rng(0).integers(0, 10, n)
    logits = 8 * np.eye(10, dtype=np.float32)[labels]
    probabilities = probabilities_at(fit_temperature(labels, [logits]), logits)
    assert (1 - probabilities.max(1)).sum() == pytest.approx(1, rel=0.05)


def test_the_mistake_is_spread_in_proportion_to_the_probabilities_of_wrong_classes():
    """Its share of an uncertain image counts the probability itself, not its ratio to the top one."""
    probabilities = np.array([[0.4, 0.3, 0.3], [0.9, 0.06, 0.04], [0.98, 0.01, 0.01]])
    labels, logits = np.zeros(3, np.int64), np.log(probabilities).astype(np.float32) + np.float32([[5], [0], [-7]])
    mistake = np.where(np.arange(3) == 0, 0, probabilities) / (0.6 + 0.1 + 0.02)
    counts = mistake + np.eye(3)[labels]

    def loss(temperature: float) -> float:
        return -float((counts * np.log(probabilities_at(temperature, logits))).sum())

    best = min(np.geomspace(0.1, 10, 20_001), key=loss)
    assert fit_temperature(labels, [logits]) == pytest.approx(best, rel=1e-3)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 12), st.floats(-3, 3))
def test_classes_never_change(seed: int, n: int, k: int, log_scale: float):
    labels, logits = honest(n, k, seed)
    logits *= np.float32(math.exp(log_scale))
    temperature = fit_temperature(labels, [logits])
    assert 0.01 <= temperature <= 100
    assert np.array_equal(probabilities_at(temperature, logits).argmax(1), logits.argmax(1))
    assert all(0 <= error <= 1 for error in errors_before_and_after(labels, [logits]))


def test_the_error_is_the_gap_in_each_bin_weighted_by_its_images():
    labels = np.array([0, 0, 0, 1, 1])
    top = np.array([0.9, 0.9, 0.9, 0.9, 0.6])  # three of four right in one bin; one wrong in another
    assert calibration_error(labels, np.stack((top, 1 - top), 1)) == pytest.approx((4 * 0.15 + 0.6) / 5)
    certain = np.eye(2)[labels]
    assert calibration_error(labels, certain) == 0
    assert calibration_error(1 - labels, certain) == 1
    edge = np.full((4, 3), 1 / 3)  # 5/15 is the upper end of the fifth bin
    assert calibration_error(np.array([0, 1, 2, 0]), edge) == pytest.approx(1 / 6)


def test_the_error_after_is_not_measured_where_the_temperature_was_fitted():
    """Of pure noise, no temperature helps on other images, though one fits these."""
    rng = np.random.default_rng(1)
    errors = []
    for _ in range(20):
        labels, logits = rng.integers(0, 10, 60), rng.normal(0, 1, (60, 10)).astype(np.float32)
        fitted = calibration_error(labels, probabilities_at(fit_temperature(labels, [logits]), logits))
        errors.append(errors_before_and_after(labels, [logits])[1] - fitted)
    assert np.mean(errors) > 0
