"""95% intervals and standard errors of a classifier's metrics over draws of its images.

The intervals treat the class sizes of a split as fixed, because splits are stratified. docs/statistics.md has their
measured coverage.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.metrics import METRICS, Metric, image_losses, scores
from search.study.selection.intervals import CONFIDENCE, wilson
from search.study.summary import Score

PSEUDO_IMAGES = 0.5
"""Right ones, and as many wrong ones, that are added to all classes together."""

Floats = NDArray[np.float64]


def score_intervals(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> tuple[Score, ...]:
    """Return every metric of class probabilities (n, k) for true classes (n,), with its 95% interval.

    A metric without a finite value, because a probability is NaN, is left out.
    """
    values, confusion = scores(labels, probabilities), confusion_matrix(labels, probabilities)
    intervals = {
        "accuracy": wilson(int(np.trace(confusion)), len(labels)),
        "balanced_accuracy": _recalls(confusion).interval(values["balanced_accuracy"]),
        "macro_f1": _f1_scores(confusion).interval(values["macro_f1"]),
        "log_loss": mean_interval(image_losses(labels, probabilities).astype(np.float64)),
    }
    return tuple(Score(name, values[name], *intervals[name]) for name in METRICS if math.isfinite(values[name]))


def image_error(metric: Metric, labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> float | None:
    """Return the standard error of a metric over draws of its images; None for accuracy, which has a formula."""
    match metric:
        case "balanced_accuracy":
            return math.sqrt(_recalls(confusion_matrix(labels, probabilities)).variance)
        case "macro_f1":
            return math.sqrt(_f1_scores(confusion_matrix(labels, probabilities)).variance)
        case "log_loss":
            losses = _with_worst(image_losses(labels, probabilities).astype(np.float64))
            return float(losses.std(ddof=1)) / math.sqrt(len(losses))
    return None


def confusion_matrix(labels: NDArray[np.int64], probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the images by true class (k rows) and predicted class (k columns)."""
    k = probabilities.shape[1]
    return np.bincount(labels.astype(np.int64) * k + probabilities.argmax(1), minlength=k * k).reshape(k, k)


# A mean over classes, each with a share of its images ---------------------------------------------------------------


@dataclass(frozen=True)
class _MeanShare:
    """A mean over classes of figures between 0 and 1."""

    parts: Floats
    """Each true class's part of the variance, (k,)."""
    images: Floats
    """Images of these classes, (k,)."""
    middle: float
    """The mean after the pseudo-images, so it is never 0 or 1."""

    @property
    def variance(self) -> float:
        return float(self.parts.sum())

    def interval(self, value: float) -> tuple[float, float]:
        """Wilson's interval for as many images as have the same variance, with Student's quantile.

        Few images of one class may decide on the variance, so the degrees of freedom are Satterthwaite's.
        Sources: E. L. Korn, B. I. Graubard, Survey Methodology 24 (1998), 193-201, for the number of images;
        F. E. Satterthwaite, https://doi.org/10.2307/3002019, for the degrees of freedom.
        """
        from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

        freedom = self.variance**2 / float((self.parts**2 / np.maximum(self.images - 1, 1)).sum())
        square = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) ** 2
        n = self.middle * (1 - self.middle) / self.variance
        centre = (value + square / (2 * n)) / (1 + square / n)
        half_width = math.sqrt(square * (value * (1 - value) / n + square / (4 * n * n))) / (1 + square / n)
        return max(0.0, centre - half_width), min(1.0, centre + half_width)


def _recalls(confusion: NDArray[np.int64]) -> _MeanShare:
    """Balanced accuracy: the mean recall of the classes that have images."""
    present = confusion.sum(1) > 0
    images, correct = confusion.sum(1)[present].astype(np.float64), np.diag(confusion)[present]
    added = _pseudo_images(images)
    recalls = (correct + added) / (images + 2 * added)
    parts = recalls * (1 - recalls) / np.maximum(images - 1, 1) / len(images) ** 2
    return _MeanShare(parts, images, float(recalls.mean()))


def _f1_scores(confusion: NDArray[np.int64]) -> _MeanShare:
    """Macro F1: the variance is that of its linear approximation in the cells of the confusion matrix."""
    seen = confusion.sum(0) + confusion.sum(1) > 0  # other classes have no score
    seen[:2] |= seen.sum() < 2  # the pseudo-images need a class to be wrong about
    confusion = confusion[np.ix_(seen, seen)]
    present = confusion.sum(1) > 0
    images, k = confusion.sum(1).astype(np.float64), len(confusion)
    added = np.zeros(k)
    added[present] = _pseudo_images(images[present])
    cells = confusion + added[:, None] * np.where(np.eye(k, dtype=bool), 1, 1 / max(1, k - 1))
    halves = 1 / (cells.sum(0) + cells.sum(1))
    f1 = 2 * np.diag(cells) * halves
    # An additional image of class i that is predicted as j changes the sum of the scores by slopes[i, j].
    slopes = np.diag(2 * halves) - (f1 * halves)[:, None] - (f1 * halves)[None, :]
    parts = (cells * slopes**2).sum(1)[present] / k**2
    counts = images[present]
    return _MeanShare(parts * counts / np.maximum(counts - 1, 1), counts, float(f1.mean()))


def _pseudo_images(images: Floats) -> Floats:
    """Divide `PSEUDO_IMAGES` among the classes: most go to small classes, on which the variance depends most.

    With them, few images without a mistake do not look certain. Source of the idea: A. Agresti, B. A. Coull, The
    American Statistician 52 (1998), 119-126.
    """
    return PSEUDO_IMAGES / images / float((1 / images).sum())


# A mean of losses ---------------------------------------------------------------------------------------------------


def mean_interval(losses: Floats) -> tuple[float, float]:
    """The 95% interval of the mean of skewed values (n,).

    Hall's transformation of Student's t removes the skewness: the interval is longer towards large losses. One more
    image as bad as the worst counts for the spread and the skewness, as a split may lack the rare worst images.
    Source: P. Hall, https://doi.org/10.1111/j.2517-6161.1992.tb01872.x, the transformation g2.
    """
    from scipy.special import stdtrit

    n, mean, sample = len(losses), float(losses.mean()), _with_worst(losses)
    spread = float(sample.std())
    if spread == 0:
        return mean, mean
    skewness = float(((sample - sample.mean()) ** 3).mean()) / spread**3
    quantile = float(stdtrit(max(1, n - 1), (1 + CONFIDENCE) / 2)) / math.sqrt(n)

    def inverse(deviation: float) -> float:
        if abs(skewness) < 1e-6:
            return deviation
        return 3 / skewness * (math.cbrt(1 + skewness * (deviation - skewness / (6 * n))) - 1)

    return max(0.0, mean - spread * inverse(quantile)), mean - spread * inverse(-quantile)


def _with_worst(losses: Floats) -> Floats:
    return np.append(losses, losses.max())
