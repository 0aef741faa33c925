"""Confidence intervals: of proportions, of confirmed means and of their differences."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from objectives.base import ImageClassifier, Objective
from objectives.metrics import metric_of
from search.study.space.objective_calls import metric_range
from search.study.summary import Candidate, Folds

CONFIDENCE = 0.95


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a proportion. Raises ValueError when `n` is not positive."""
    from scipy.stats import binomtest  # type: ignore[import-untyped, unused-ignore]

    interval = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def possible_values(objective: Objective) -> tuple[float | None, float | None] | None:
    """The smallest and the largest value of an objective's metric; None if that is unknown."""
    if (given := metric_range(objective)) is not None or not isinstance(objective, ImageClassifier):
        return given
    metric = metric_of(objective.metric)
    return None if metric is None else (0.0, None if metric == "log_loss" else 1.0)


def images_of(objective: Objective, values: Iterable[float]) -> int | None:
    """The number of validation images if the values are shares of them, otherwise None.

    The values decide, not the metric's name: a share of n images is a whole number of n-ths. A balanced accuracy, a
    macro F1 or a log loss may be one by chance.
    """
    if not isinstance(objective, ImageClassifier) or metric_of(objective.metric) not in ("accuracy", None):
        return None
    n = int(objective.dataset_info()["n_validation"])
    return n if all(0 <= value <= 1 and abs(value * n - round(value * n)) < 0.01 for value in values) else None


class Mean(NamedTuple):
    """A mean of values of one configuration."""

    value: float
    seeds: int
    image_error: float | None = None  # as in `Candidate`
    folds: Folds | None = None  # None: measured on the validation split


@dataclass(frozen=True)
class Noise:
    """Why values of a configuration differ: the seed, which more seeds average out, and the images, which all share.

    Values on folds differ by their images and their training images too, so their `seed` has all three.
    """

    seed: float | None
    """Standard deviation of a value around the mean of its configuration, pooled; None before any has two seeds."""
    freedom: int  # degrees of freedom of `seed`
    n_images: int | None  # number of images in the validation split if values are shares of images; else None
    candidates: int = 1  # number of candidates from which the winner is chosen by its fresh seeds or folds
    trials: int = 1  # number of trials from which the search chose the candidates by these images
    folds: Folds | None = None  # of the candidates' values; None: measured on the validation split

    @classmethod
    def of(
        cls, candidates: Sequence[Candidate], n_images: int | None, trials: int = 1, folds: Folds | None = None
    ) -> Self:
        """Estimate the noise from the values of fresh seeds or folds."""
        samples = [(candidate.values, candidate.mean) for candidate in candidates if candidate.mean is not None]
        freedom = sum(len(values) - 1 for values, _ in samples)
        squares = sum((value - mean) ** 2 for values, mean in samples for value in values)
        seed = math.sqrt(squares / freedom) if freedom else None
        return cls(seed, freedom, n_images, max(1, len(candidates)), max(1, trials), folds)

    def mean_of(self, candidate: Candidate) -> Mean:
        """Return the mean of a candidate that has a value."""
        assert candidate.mean is not None, "the caller has looked"
        return Mean(candidate.mean, len(candidate.values), candidate.image_error, self.folds)

    def image_variance(self, mean: Mean) -> float:
        """Variance of a mean over draws of its images: of an accuracy, at most the binomial one.

        For any other metric, it is the square of its standard error, or 0 if that is unknown. Two right and two
        wrong images are added to an accuracy, so that few mistakes on few images do not look certain.
        Source: A. Agresti, B. A. Coull, The American Statistician 52 (1998), 119-126.
        """
        scored = min(mean.seeds, mean.folds.number) if mean.folds else 1  # folds of one division: others share images
        if not self.n_images:
            return (mean.image_error or 0.0) ** 2 / scored
        n = mean.folds.n_images * scored / mean.folds.number if mean.folds else self.n_images
        share = (min(max(mean.value, 0.0), 1.0) * n + 2) / (n + 4)
        return share * (1 - share) / n

    def seed_factor(self, mean: Mean) -> float:
        """Variance of a mean over seeds and folds, as a multiple of the variance of one value.

        Folds share most of their training images, so their values are correlated. Test images / training images is
        added for that. Source: C. Nadeau, Y. Bengio, https://doi.org/10.1023/A:1024068626366
        """
        return 1 / mean.seeds + (1 / (mean.folds.number - 1) if mean.folds else 0)

    def standard_error(self, a: Candidate, b: Candidate) -> float | None:
        """Standard error of the difference of two confirmed means, for comparing them.

        Shared images cancel an unknown part of the noise. The larger of the two noises counts, so differences that the
        images cannot resolve do not matter.
        """
        means = [self.mean_of(candidate) for candidate in (a, b)]
        images = max(self.image_variance(mean._replace(seeds=1)) for mean in means)
        if self.seed is None and not images:
            return None
        return math.sqrt(max((self.seed or 0.0) ** 2, images) * sum(map(self.seed_factor, means)))

    def significant_difference(self, a: Candidate, b: Candidate) -> float | None:
        """The largest difference of two confirmed means that chance explains; None before any has two seeds.

        Three standard errors, or what is equally unlikely by Student's t: 19 of them with two degrees of freedom.
        """
        error = self.standard_error(a, b)
        if self.seed is None or error is None:
            return None
        from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped, unused-ignore]

        return float(stdtrit(self.freedom, ndtr(3.0))) * error

    def half_width(self, *means: Mean) -> float | None:
        """Half the width of the 95% interval of the winner's mean, or of its difference from another mean.

        Returns None before any configuration has two seeds.
        The squares of two parts are added: t times the standard error of the seeds, z times that of the images. The
        winner is at most the luckiest of `candidates` in its fresh seeds, and of all `trials` in the images. Values on
        folds differ by their images too, so the first part has the second already: the larger one counts.
        Sources: Z. Sidak, https://doi.org/10.1080/01621459.1967.10482935, for the luckiest of several;
        G. Y. Zou, A. Donner, https://doi.org/10.1002/sim.3095, for the sum of the squares.
        """
        if self.seed is None:
            return None
        from scipy.special import ndtri, stdtrit

        seeds = self.seed * math.sqrt(sum(map(self.seed_factor, means)))
        images = math.sqrt(sum(map(self.image_variance, means)))
        t, z = stdtrit(self.freedom, _quantile(self.candidates)), ndtri(_quantile(self.trials))
        parts = float(t) * seeds, float(z) * images
        return (max(parts) if self.folds else math.hypot(*parts)) or None


def _quantile(draws: int) -> float:
    """The quantile that bounds this many independent draws together, on both sides, with 95% confidence."""
    return float(1 + CONFIDENCE ** (1 / draws)) / 2
