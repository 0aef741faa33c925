"""How far a figure can be trusted: intervals of proportions, of confirmed means and of their differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from objectives.base import ImageClassifier, Objective
from search.summary import Candidate

CONFIDENCE = 0.95
Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """The Wilson score interval of a proportion.

    Raises ValueError when `n` is not positive.
    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if n <= 0:
        raise ValueError(f"an interval needs at least one observation, not {n}")
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def images_of(objective: Objective, values: Iterable[float]) -> int | None:
    """How many validation images values are shares of; None where they are no shares, so no binomial noise is theirs.

    The values tell, not the metric's name: a share of n images is a whole number of them, right ones or wrong ones. A
    loss or a percentage is not.
    """
    if not isinstance(objective, ImageClassifier):
        return None
    n = int(objective.dataset_info()["n_validation"])
    return n if all(0 <= value <= 1 and abs(value * n - round(value * n)) < 0.01 for value in values) else None


@dataclass(frozen=True)
class Noise:
    """Why a value is not exactly what its setting is worth: the seed, and which images happened to measure it.

    More seeds average the first part away; the second stays, since all of them are measured on the same images.
    """

    seed: float | None
    """Standard deviation of one value around its setting's mean, pooled over settings; None before any has two."""
    freedom: int
    """Degrees of freedom of `seed`."""
    n_images: int | None
    """How many images a value is a share of; None where values are something else."""
    candidates: int = 1
    """Among how many the winner is chosen by its fresh seeds."""
    trials: int = 1
    """Among how many settings it is chosen by these images: by the search, long before the fresh seeds."""

    @classmethod
    def of(cls, candidates: Sequence[Candidate], n_images: int | None, trials: int = 1) -> Noise:
        """What fresh seeds show of it."""
        tried = [candidate for candidate in candidates if candidate.values]
        freedom = sum(len(candidate.values) - 1 for candidate in tried)
        squares = sum((value - (each.mean or 0.0)) ** 2 for each in tried for value in each.values)
        seed = math.sqrt(squares / freedom) if freedom else None
        return cls(seed, freedom, n_images, max(1, len(candidates)), max(1, trials))

    def of_images(self, value: float) -> float:
        """Variance of an accuracy over draws of its images: at most the binomial one.

        Two right and two wrong ones are added: few mistakes, or none, on few images would else look like certainty.
        Source: A. Agresti, B. A. Coull, The American Statistician 52 (1998), 119-126.
        """
        if not self.n_images:
            return 0.0
        share = (min(max(value, 0.0), 1.0) * self.n_images + 2) / (self.n_images + 4)
        return share * (1 - share) / self.n_images

    def error(self, a: Candidate, b: Candidate) -> float | None:
        """Standard error of the difference of two confirmed means, by which settings are told apart.

        Both were measured on the same images, which cancels an unknown part of what those contribute. So this takes
        the larger of the two noises for one value: what the images cannot resolve is not told apart either.
        """
        images = max(self.of_images(a.mean or 0.0), self.of_images(b.mean or 0.0))
        if self.seed is None and not images:
            return None
        return math.sqrt(max((self.seed or 0.0) ** 2, images) * (1 / len(a.values) + 1 / len(b.values)))

    def clear(self, a: Candidate, b: Candidate) -> float | None:
        """The difference of two confirmed means that chance does not make; None before any setting has two seeds.

        Three standard errors where the seeds' part is well known, and as unlikely a difference, by Student's t, where
        it is known from few: 19 of them with two degrees of freedom.
        """
        error = self.error(a, b)
        if self.seed is None or error is None:
            return None
        from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped, unused-ignore]

        return float(stdtrit(self.freedom, ndtr(3.0))) * error

    def half_interval(self, *means: tuple[float, int]) -> float | None:
        """Half of the 95% interval of the winner's mean, or of its distance from another; None without a second seed.

        means: each with the number of seeds behind it. The two parts are added as squares: t times the standard error
        of the seeds, which were fresh, so the winner is the luckiest of the `candidates` in them at most; and z times
        that of the images, in which it may be the luckiest of all `trials`.
        Sources: Z. Sidak, https://doi.org/10.1080/01621459.1967.10482935, for the luckiest of several;
        G. Y. Zou, A. Donner, https://doi.org/10.1002/sim.3095, for the sum of the squares.
        """
        if self.seed is None:
            return None
        from scipy.special import ndtri, stdtrit

        seeds = self.seed * math.sqrt(sum(1 / n for _, n in means))
        images = math.sqrt(sum(self.of_images(value) for value, _ in means))
        t, z = stdtrit(self.freedom, _level(self.candidates)), ndtri(_level(self.trials))
        return math.hypot(float(t) * seeds, float(z) * images) or None


def _level(at_once: int) -> float:
    """The quantile that bounds, on both sides, so many independent draws together with 95%."""
    return float(1 + CONFIDENCE ** (1 / at_once)) / 2
