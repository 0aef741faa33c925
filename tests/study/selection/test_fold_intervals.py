"""Means over folds: what images and shared training images add to their noise, and how often intervals hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from search.common.direction import Direction
from search.study.selection.intervals import Mean, Noise
from search.study.selection.winner import choose, clearly_worse
from search.study.summary import Candidate, Folds

FOLDS = Folds(4, 1440)


def test_the_folds_of_a_division_have_all_images_and_a_second_division_adds_none():
    noise = Noise(seed=0.001, freedom=9, n_images=288, folds=FOLDS)
    one, two, four, eight = (noise.image_variance(Mean(0.9, n, None, FOLDS)) for n in (1, 2, 4, 8))
    assert one == pytest.approx(0.09 / 360, rel=0.05)
    assert two == pytest.approx(0.09 / 720, rel=0.05)
    assert four == eight == pytest.approx(0.09 / 1440, rel=0.05)
    assert noise.image_variance(Mean(0.9, 1)) == pytest.approx(0.09 / 288, rel=0.05)  # once, on the validation split
    loss = Noise(seed=0.001, freedom=9, n_images=None, folds=FOLDS)
    assert loss.image_variance(Mean(0.2, 4, 0.02, FOLDS)) == pytest.approx(0.02**2 / 4)


def test_shared_training_images_keep_more_folds_from_averaging_the_noise_away():
    noise = Noise(seed=0.01, freedom=9, n_images=None, folds=FOLDS)
    assert noise.seed_factor(Mean(0.9, 4)) == 1 / 4
    assert noise.seed_factor(Mean(0.9, 4, None, FOLDS)) == pytest.approx(1 / 4 + 1 / 3)
    a, b = (Candidate(number, "", 0.0, None, (0.9,) * 4) for number in (0, 1))
    assert noise.standard_error(a, b) == pytest.approx(0.01 * math.sqrt(2 * (1 / 4 + 1 / 3)))


def test_few_mistakes_on_all_folds_are_no_certainty():
    noise = Noise(seed=0.0, freedom=9, n_images=288, folds=FOLDS)
    assert (noise.half_width(Mean(1.0, 4, None, FOLDS)) or 0) > 0.001


@dataclass(frozen=True)
class World:
    """Equal configurations, where selection does most harm: k of 50 are confirmed by r folds each, one is chosen."""

    common: float = 0.5
    """The share of images on which all networks make the same mistakes."""
    k: int = 3
    r: int = 4
    seed: float = 0.004
    """Standard deviation between trainings. A quarter of its variance is common to the folds of a configuration."""

    true_value = 0.985
    n = FOLDS.n_images

    def covers(self, rng: np.random.Generator) -> bool:
        """Search, and return whether the winner's interval has its true value."""
        size, wrong = self.n // 20, 1 - self.true_value  # twenty parts: four for validation, one of them in each fold
        alike = round(self.common * size)
        mistakes = rng.binomial(alike, wrong, 20) + rng.binomial(size - alike, wrong, (50, 20))
        parts = 1 - mistakes / size
        folds, here = parts.reshape(50, 4, 5).mean(2), parts[:, ::5].mean(1)
        seen, sizes = here + rng.normal(0, self.seed, 50), rng.permutation(50)
        best = [int(i) for i in np.argsort(-seen)[: self.k]]
        shared = {i: rng.normal(0, self.seed / 2) for i in best}
        values: dict[int, tuple[float, ...]] = {i: () for i in best}
        for training in range(self.r):
            for i in best:
                tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in best]
                noise = Noise.of(tried, self.n // 5, 50, FOLDS)
                if not clearly_worse(tried[best.index(i)], tried, noise, Direction.MAXIMIZE):
                    own = shared[i] + rng.normal(0, self.seed * math.sqrt(3 / 4))
                    values[i] = (*values[i], float(folds[i, training % 4] + own))
        tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in best]
        noise = Noise.of(tried, self.n // 5, 50, FOLDS)
        chosen = choose(tried, noise, Direction.MAXIMIZE)
        assert chosen is not None
        assert chosen.mean is not None
        half_width = noise.half_width(noise.mean_of(chosen))
        assert half_width is not None
        return abs(chosen.mean - self.true_value) <= half_width


ROUNDS = 300
NOT_LESS = 0.95 - 2 * math.sqrt(0.95 * 0.05 / ROUNDS)


@pytest.mark.parametrize(
    "world",
    [World(), World(0.0), World(1.0), World(k=1), World(k=5, r=8), World(seed=0.0), World(0.0, 5, 8, seed=0.015)],
    ids=str,
)
def test_the_winners_interval_covers_its_true_value_95_times_in_100(world: World):
    """Without the correction for shared training images, the last one covers it 65 times."""
    rng = np.random.default_rng(0)
    assert np.mean([world.covers(rng) for _ in range(ROUNDS)]) >= NOT_LESS
