"""One temperature for a classifier's probabilities, and how far they are from the shares of right answers.

Logits are divided by the temperature, so the most probable class stays the same.
Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, https://arxiv.org/abs/1706.04599.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

N_BINS = 15
"""Bins of equal width, as in the source."""
LOWEST, HIGHEST = 0.01, 100.0
"""Bounds of a temperature. Networks that are trained with a log loss have one near 1."""

Floats = NDArray[np.floating]
Logits = Sequence[NDArray[np.float32]]
"""Logits (n, k) of several networks for the same images."""


def probabilities_at(temperature: float, logits: Floats) -> NDArray[np.float64]:
    """Return softmax(logits / temperature), of shape (n, k)."""
    from scipy.special import softmax  # type: ignore[import-untyped, unused-ignore]

    scaled: NDArray[np.float64] = softmax(_log_probabilities(logits) / temperature, axis=1)
    return scaled


def fit_temperature(labels: NDArray[np.integer], logits: Logits) -> float:
    """Return the temperature with the smallest log loss of all predictions, for true classes (n,).

    Each network gets one more mistake, spread over all images and their wrong classes in proportion to the
    probabilities that it gives these. Without it, a network that is
    right about all n images would be certain of every answer. With it, it expects about one mistake in n images, as
    Laplace's rule of succession does; among many mistakes, one more changes little.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped, unused-ignore]
    from scipy.special import logsumexp

    parts = [_loss_parts(labels, rows) for rows in logits]

    def loss(log_temperature: float) -> float:
        beta = math.exp(-log_temperature)
        return sum(float(weights @ logsumexp(beta * rows, axis=1)) - beta * linear for rows, weights, linear in parts)

    # The loss is convex in 1 / temperature, so it has one minimum in its logarithm too.
    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(float(found.x))


def is_at_bound(temperature: float) -> bool:
    """Whether a fitted temperature is the highest one: equal probabilities would be better than any predictions."""
    return temperature > 0.99 * HIGHEST


def _loss_parts(labels: NDArray[np.integer], logits: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return rows (n, k) and weights (n,) of log-sum-exps, and the term that is linear in 1 / temperature."""
    from scipy.special import softmax

    rows, truth = _log_probabilities(logits), (np.arange(len(labels)), labels)
    wrong = rows.copy()
    wrong[truth] = -np.inf
    mistake = softmax(wrong)  # one in all, in proportion to the probabilities of all images' wrong classes
    linear = float(rows[truth].sum() + (mistake * np.where(mistake > 0, rows, 0)).sum())
    return rows, 1 + mistake.sum(axis=1), linear


def _log_probabilities(logits: Floats) -> NDArray[np.float64]:
    """Return log(softmax(logits)) of shape (n, k), without a rounding of small probabilities to 0."""
    from scipy.special import log_softmax

    exact: NDArray[np.float64] = log_softmax(logits.astype(np.float64), axis=1)
    return exact


def calibration_error(labels: NDArray[np.integer], probabilities: Floats) -> float:
    """Return the expected calibration error of probabilities (n, k), n >= 1, for true classes (n,).

    It is the mean, weighted by images, of |share of right answers - mean of top probabilities| in 15 bins of the top
    probability. Bin m of M is ((m - 1) / M, m / M].
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    excess = confidence - (probabilities.argmax(axis=1) == labels)
    bins = np.clip(np.ceil(confidence * N_BINS).astype(np.int64) - 1, 0, N_BINS - 1)
    return float(np.abs(np.bincount(bins, excess, N_BINS)).sum() / len(labels))


def halves_by_class(labels: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices of two halves of n images with these true classes (n,), with half of each class."""
    order = np.argsort(labels, kind="stable")
    return order[::2], order[1::2]


def errors_before_and_after(labels: NDArray[np.integer], logits: Logits) -> tuple[float, float]:
    """Return the calibration error of all predictions without a temperature, and with one. n >= 2.

    No image is judged by a temperature that was fitted on it: each half of each class gets that of the other half.
    """
    halves = halves_by_class(labels)
    scaled = [np.empty(rows.shape, np.float64) for rows in logits]
    for fitted, judged in (halves, halves[::-1]):
        temperature = fit_temperature(labels[fitted], [rows[fitted] for rows in logits])
        for whole, rows in zip(scaled, logits, strict=True):
            whole[judged] = probabilities_at(temperature, rows[judged])
    before = np.concatenate([probabilities_at(1, rows) for rows in logits])
    truth = np.tile(labels, len(logits))
    return calibration_error(truth, before), calibration_error(truth, np.concatenate(scaled))
