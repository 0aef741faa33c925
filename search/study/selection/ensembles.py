"""Which networks' probabilities are averaged, and whether that is better than the winner alone.

Source: R. Caruana, A. Niculescu-Mizil, G. Crew, A. Ksikes, Ensemble Selection from Libraries of Models, ICML 2004,
https://doi.org/10.1145/1015330.1015432.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.base import ImageClassifier, Objective
from objectives.metrics import METRICS, Metric, count_scores, direction_of, image_losses, metric_of, scores
from search.common.direction import Direction
from search.study.selection.calibration import halves_by_class

N_RESAMPLES = 1_000
"""Bootstrap samples. The standard error of a standard error is then 2% of it."""

Labels = NDArray[np.integer]
Floats = NDArray[np.floating]


def why_no_ensemble(objective: Objective) -> str | None:
    """Say why networks of the objective cannot be averaged and compared; None if they can."""
    if not isinstance(objective, ImageClassifier):
        return "only networks that classify images are averaged"
    if metric_of(objective.metric) is None:
        return f"an ensemble's {objective.metric} is unknown, as it is none of {', '.join(METRICS)}"
    return None


def weighted_mean(probabilities: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Return the mean of several networks' probabilities (n, k)."""
    return np.asarray(np.average(probabilities, axis=0, weights=weights))


@dataclass(frozen=True)
class Selection:
    """Takes one network after the other: the one that makes the mean probabilities best. The first is the winner's.

    A network may be taken again, so weights arise. Ties are decided by the log loss, then by the order of the networks.
    """

    metric: Metric
    at_most: int  # picks in all, the winner's among them
    allows: Callable[[Set[int]], bool] = lambda members: True  # whether such networks together are within the limits

    def picks(self, labels: Labels, probabilities: Sequence[Floats]) -> list[int]:
        """Return indices of networks, in the order in which they were taken.

        labels: (n,). probabilities: (n, k) of each network, float32. Of all ensembles on the way, from the winner alone
        to `at_most` picks, it is the best on these images, and the smallest of equal ones.
        """
        total, picks = probabilities[0].astype(np.float64), [0]
        best, chosen = self._quality(labels, total), [0]
        while len(picks) < self.at_most:
            allowed = [index for index in range(len(probabilities)) if self.allows({*picks, index})]
            n = len(picks) + 1
            qualities = [self._quality(labels, (total + probabilities[index]) / n) for index in allowed]
            if not allowed:
                break
            place = max(range(len(allowed)), key=lambda position: qualities[position])
            picks.append(allowed[place])
            total += probabilities[allowed[place]]
            if qualities[place] > best:
                best, chosen = qualities[place], [*picks]
        return chosen

    def _quality(self, labels: Labels, probabilities: Floats) -> tuple[float, float]:
        """The metric and the log loss, both larger for a better ensemble."""
        values = scores(labels, probabilities.astype(np.float32))  # as those of a training
        return Direction(direction_of(self.metric)).sign * values[self.metric], -values["log_loss"]

    def gain(self, labels: Labels, probabilities: Sequence[Floats]) -> tuple[float, float]:
        """Return how much better an ensemble is than the winner alone, and the standard error of that.

        No image judges an ensemble that was selected on it: each half of each class gets that of the other half.
        """
        halves, whole = halves_by_class(labels), np.empty_like(probabilities[0])
        for selected, judged in (halves, halves[::-1]):
            picks = self.picks(labels[selected], [rows[selected] for rows in probabilities])
            whole[judged] = np.mean([probabilities[index][judged] for index in picks], axis=0)
        return paired_gain(self.metric, labels, whole, probabilities[0])


def paired_gain(metric: Metric, labels: Labels, ours: Floats, theirs: Floats) -> tuple[float, float]:
    """Return how much better our probabilities (n, k) are than theirs for the same images, and its standard error.

    It is positive when ours are better, whatever the direction of the metric.
    """
    sign = Direction(direction_of(metric)).sign
    gain = sign * (scores(labels, ours)[metric] - scores(labels, theirs)[metric])
    if metric == "log_loss":
        differences = image_losses(labels, theirs).astype(np.float64) - image_losses(labels, ours)
        return gain, float(differences.std(ddof=1)) / math.sqrt(len(labels))
    predicted = ours.argmax(1), theirs.argmax(1)
    if metric == "accuracy":
        return gain, _accuracy_error(*(classes == labels for classes in predicted))
    return gain, _bootstrap_error(metric, labels, *predicted)


def _accuracy_error(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Standard error of the difference of two accuracies on the same images, from who is right about each of them.

    Half an image is added to each of the four cases, so that one image makes no certain gain.
    Source: A. Agresti, Y. Min, Statistics in Medicine 24 (2005), 729-740.
    """
    n, better, worse = len(ours) + 2, (ours & ~theirs).sum() + 0.5, (theirs & ~ours).sum() + 0.5
    return math.sqrt(better + worse - (better - worse) ** 2 / n) / n


def _bootstrap_error(metric: Metric, labels: Labels, ours: Labels, theirs: Labels) -> float:
    """Standard error of the difference of a metric of predicted classes (n,), over draws of images of each class."""
    random, k = np.random.default_rng(0), int(max(labels.max(), ours.max(), theirs.max())) + 1
    cells, counts = np.unique(np.stack((labels, ours, theirs)), axis=1, return_counts=True)
    draws = np.empty((N_RESAMPLES, len(counts)))
    for label in np.unique(cells[0]):
        place = cells[0] == label
        n = counts[place].sum()
        draws[:, place] = random.multinomial(n, counts[place] / n, N_RESAMPLES)
    images = np.bincount(labels, minlength=k)
    values = [[_score(metric, images, cells[0], predicted, draw) for predicted in cells[1:]] for draw in draws]
    ours_then, theirs_then = np.array(values).T
    return float((ours_then - theirs_then).std(ddof=1))


def _score(metric: Metric, images: Labels, labels: Labels, predicted: Labels, weights: Floats) -> float:
    """A metric of cells, each with a true class, a predicted one and a number of images; `images`: (k,) by class."""
    right, k = predicted == labels, len(images)
    counts = np.bincount(predicted, weights, k), np.bincount(labels[right], weights[right], k)
    return count_scores(images, *counts)[metric]
