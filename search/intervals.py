"""How far a figure can be trusted: intervals of proportions, of confirmed means and of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from search.records import Candidate

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
    """How many images a value is an accuracy on; None where values are something else."""

    @classmethod
    def of(cls, candidates: Sequence[Candidate], n_images: int | None) -> Noise:
        """What fresh seeds show of it."""
        tried = [candidate for candidate in candidates if candidate.values]
        freedom = sum(len(candidate.values) - 1 for candidate in tried)
        squares = sum((value - (each.mean or 0.0)) ** 2 for each in tried for value in each.values)
        return cls(math.sqrt(squares / freedom) if freedom else None, freedom, n_images)

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

    def half_interval(self, *means: tuple[float, int], at_once: int = 1) -> float | None:
        """Half of the 95% interval of a mean, or of the difference of two; None when nothing is known of the noise.

        means: each with the number of seeds behind it. With `at_once`, that many intervals hold together with 95%: the
        one that a choice among them picks then holds, too, although it was picked for a good value.
        Sources: Student's t with the degrees of freedom of F. E. Satterthwaite, Biometrics Bulletin 2 (1946), 110-114;
        Z. Sidak, JASA 62 (1967), 626-633, for several at once.
        """
        seeds = (self.seed or 0.0) ** 2 * sum(1 / n for _, n in means)
        variance = seeds + sum(self.of_images(value) for value, _ in means)
        if not variance:
            return None
        from scipy.special import ndtri, stdtrit  # type: ignore[import-untyped, unused-ignore]

        level = (1 + CONFIDENCE ** (1 / at_once)) / 2
        t = stdtrit(self.freedom * (variance / seeds) ** 2, level) if seeds else ndtri(level)
        return float(t) * math.sqrt(variance)
