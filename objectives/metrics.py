"""Figures of merit of a classifier, as scikit-learn defines them, and what classes of unequal size need.

Source: https://scikit-learn.org/stable/modules/model_evaluation.html
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from objectives.base import METRICS as METRICS
from objectives.base import Direction
from objectives.base import Metric as Metric

UNEQUAL_RATIO = 3
"""Classes are unequal if one has more than this many times the images of another."""


def direction_of(metric: Metric) -> Direction:
    """Return whether larger or smaller values are better."""
    return "minimize" if metric == "log_loss" else "maximize"


def metric_of(name: str) -> Metric | None:
    """Return which of the metrics the value of an objective is, such as `val_log_loss`; None for any other name."""
    return next((metric for metric in METRICS if name in (metric, f"val_{metric}")), None)


def is_unequal(counts: Iterable[int]) -> bool:
    """Return whether a class is so much larger than another that accuracy says little about the small one.

    Classes without images do not count.
    """
    counts = [n for n in counts if n]
    return bool(counts and max(counts) > UNEQUAL_RATIO * min(counts))


def scores(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> dict[Metric, float]:
    """Return all metrics of class probabilities (n, k), n >= 1, for true classes (n,).

    Among equal probabilities, the first class is the predicted one.
    """
    k, predicted = probabilities.shape[1], probabilities.argmax(1)
    counts = (np.bincount(classes, minlength=k) for classes in (labels, predicted, labels[predicted == labels]))
    return {**count_scores(*counts), "log_loss": float(image_losses(labels, probabilities).mean())}


def image_losses(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the loss of each image, (n,), from class probabilities (n, k) and true classes (n,).

    Probabilities are clipped to [eps, 1 - eps], so that the losses are finite. As in scikit-learn, eps is the machine
    epsilon of their type, and float32 stays float32: the largest loss is 15.9, and that of float64 36.0.
    """
    dtype = np.float32 if probabilities.dtype == np.float32 else np.float64
    true_class = probabilities[np.arange(len(labels)), labels].astype(dtype)
    eps = np.finfo(dtype).eps
    losses: NDArray[np.floating] = -np.log(np.clip(true_class, eps, 1 - eps))
    return losses


def count_scores(counts: ArrayLike, predicted: ArrayLike, correct: ArrayLike) -> dict[Metric, float]:
    """Return the metrics that need no probabilities, from numbers of images by class, each of shape (k,).

    `counts`: images of the class, at least one in all; `predicted`: images predicted as it; `correct`: both. A class
    without images has no recall, and one that is neither there nor predicted has no F1 score; they do not count.
    """
    counts, predicted, correct = (np.asarray(numbers, np.float64) for numbers in (counts, predicted, correct))
    present, seen = counts > 0, counts + predicted > 0
    recall = correct[present] / counts[present]
    f1 = 2 * correct[seen] / (counts[seen] + predicted[seen])
    return {
        "accuracy": float(correct.sum() / counts.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
    }


def balanced_weights(counts: Iterable[int]) -> tuple[float, ...]:
    """Return a weight per class, so that all classes together weigh the same, and an image weighs 1 on average.

    `counts`: images of the class. As scikit-learn's class_weight="balanced": n / (k * counts), for n images of k
    classes. A class without images weighs 0, and is not one of the k.
    """
    counts = [*counts]
    n, k = sum(counts), sum(count > 0 for count in counts)
    return tuple(float(n / (k * count)) if count else 0.0 for count in counts)
