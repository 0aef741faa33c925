"""Intervals: against scipy, and against what they promise in simulations."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import t
from toy import Toy

from search.common.direction import Direction
from search.study.selection.intervals import Mean, Noise, images_of, wilson
from search.study.selection.winner import choose, clearly_worse
from search.study.summary import Candidate, Confirmation

MAXIMIZE = Direction.MAXIMIZE


def test_the_interval_of_a_proportion_is_wilsons():
    low, high = wilson(9950, 10_000)
    assert (round(low, 4), round(high, 4)) == (0.9934, 0.9962)
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)


# Confirmed means ----------------------------------------------------------------------------------------------------


def candidates(values: NDArray[np.float64]) -> list[Candidate]:
    """values: (k, r), one row for each configuration; networks of one size."""
    return [Candidate(i, "", 0.0, None, tuple(map(float, row))) for i, row in enumerate(values)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_interval_of_one_configuration_is_students(values: list[float]):
    noise = Noise.of(candidates(np.array([values])), None)
    mean, n = statistics.mean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(n)
    half_width = noise.half_width(Mean(mean, n))
    if error < 1e-12:
        assert half_width is None or half_width < 1e-9
    else:
        assert half_width == pytest.approx(mean - t.interval(0.95, n - 1, mean, error)[0])


def test_images_that_all_seeds_share_do_not_average_away():
    noise = Noise(seed=1e-9, freedom=3, n_images=10_000)
    few, many = noise.half_width(Mean(0.99, 2)), noise.half_width(Mean(0.99, 1000))
    assert few == pytest.approx(many)
    assert many == pytest.approx(1.959964 * math.sqrt(0.99 * 0.01 / 10_000), rel=0.01)
    widest = Noise(seed=1e-9, freedom=3, n_images=10_000, trials=50).half_width(Mean(0.99, 2))
    assert widest == pytest.approx(3.283 / 1.959964 * many, rel=1e-3)  # of 50 such draws, the luckiest
    assert noise.half_width(Mean(1.0, 2)) > 1e-4  # nothing wrong among few is no certainty
    assert Noise(0.001, 3, None).half_width(Mean(0.99, 1000)) == pytest.approx(
        3.182 * 0.001 / math.sqrt(1000), rel=1e-3
    )


def test_a_known_error_over_images_counts_like_that_of_an_accuracy():
    error = math.sqrt(0.99 * 0.01 / 10_000)
    noise, share = Noise(seed=0.0005, freedom=3, n_images=None), Noise(seed=0.0005, freedom=3, n_images=10_000)
    assert noise.half_width(Mean(0.02, 2, error)) == pytest.approx(share.half_width(Mean(0.99, 2)), rel=0.01)
    assert noise.half_width(Mean(0.02, 2)) < 0.8 * noise.half_width(Mean(0.02, 2, error))
    a, b = (Candidate(number, "", 0.0, None, (0.02, 0.021), image_error=error) for number in (0, 1))
    assert noise.standard_error(a, b) == pytest.approx(error)
    assert noise.standard_error(replace(a, image_error=None), replace(b, image_error=None)) == pytest.approx(0.0005)


def test_the_interval_of_a_share_ends_at_one():
    candidate = Candidate(0, "", 1.0, None, (0.99, 1.0), half=0.02)
    assert Confirmation((candidate,), 2, 0.01, n_images=200).interval(candidate) == pytest.approx((0.975, 1.0))
    assert Confirmation((candidate,), 2, 0.01).interval(candidate) == pytest.approx((0.975, 1.015))


@pytest.mark.parametrize(
    ("mean", "metric_range", "expected"),
    [
        (0.995, (0, 1), (0.975, 1.0)),
        (0.005, (0.0, None), (0.0, 0.025)),
        (99.99, (0, 100), (99.97, 100.0)),
        (-0.99, (-1, 1), (-1.0, -0.97)),
        (0.995, (None, None), (0.975, 1.015)),
        (1.5, (0, 1), (1.48, 1.52)),  # the range is wrong
    ],
)
def test_an_interval_ends_where_the_metric_does(
    mean: float, metric_range: tuple[float | None, float | None], expected: tuple[float, float]
):
    candidate = Candidate(0, "", mean, None, (mean, mean), half=0.02)
    confirmation = Confirmation((candidate,), 2, 0.01, metric_range=metric_range)
    assert confirmation.interval(candidate) == pytest.approx(expected)


def test_without_two_seeds_there_is_no_interval():
    assert Noise.of([], None) == Noise(None, 0, None)
    single = candidates(np.array([[0.5], [0.7]]))
    assert Noise.of(single, None).half_width(Mean(0.5, 1)) is None
    assert Noise.of(single, 10_000).half_width(Mean(0.5, 1)) is None  # the images alone would look too certain
    assert Noise.of(single, None).standard_error(*single) is None
    same = candidates(np.array([[0.5, 0.5], [0.7, 0.7]]))
    assert Noise.of(same, None).half_width(Mean(0.5, 2)) is None
    assert Noise.of(same, None).standard_error(*same) == 0


@dataclass(frozen=True)
class World:
    """Equal configurations, where selection does most harm: k of 50 are confirmed on r seeds each, one is chosen."""

    n: int | None
    """Validation images; None for a value that is no share of images."""
    common: float = 1.0
    """The share of images on which all networks make the same mistakes. On the others, configurations differ."""
    k: int = 3
    r: int = 2
    seed: float = 0.0005
    """Standard deviation between seeds; that of the images is 0.0007 of 10,000 and 0.007 of 288."""

    @property
    def true_value(self) -> float:
        return 0.985 if self.n == 288 else 0.995

    def search(self, rng: np.random.Generator) -> SearchResult:
        """One search, with the code that decides in a real one."""
        here = np.full(50, self.true_value)
        if self.n is not None:
            alike = round(self.common * self.n)
            wrong = rng.binomial(alike, 1 - self.true_value) + rng.binomial(self.n - alike, 1 - self.true_value, 50)
            here = 1 - wrong / self.n
        seen, sizes = here + rng.normal(0, self.seed, 50), rng.permutation(50)
        values: dict[int, tuple[float, ...]] = {int(i): () for i in np.argsort(-seen)[: self.k]}
        for _ in range(self.r):
            for i in values:
                tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in values]
                current = next(candidate for candidate in tried if candidate.number == i)
                if not clearly_worse(current, tried, Noise.of(tried, self.n, 50), MAXIMIZE):
                    values[i] = (*values[i], float(rng.normal(here[i], self.seed)))
        tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in values]
        noise = Noise.of(tried, self.n, 50)
        chosen = choose(tried, noise, MAXIMIZE)
        assert chosen is not None
        return SearchResult(tried, noise, chosen, seen, sum(len(candidate.values) < self.r for candidate in tried))


@dataclass(frozen=True)
class SearchResult:
    candidates: list[Candidate]
    noise: Noise
    chosen: Candidate
    seen: NDArray[np.float64]
    dropped: int
    """Candidates that did not get all of their seeds."""

    def covers(self, true_value: float) -> bool:
        """Whether the chosen one's interval does."""
        assert self.chosen.mean is not None
        half_width = self.noise.half_width(Mean(self.chosen.mean, len(self.chosen.values)))
        assert half_width is not None
        return abs(self.chosen.mean - true_value) <= half_width

    def gain_covers(self, other: int) -> bool:
        """Whether the interval of the gain over another configuration covers the true gain of 0."""
        values = next((candidate.values for candidate in self.candidates if candidate.number == other), None)
        value, n = (self.seen[other], 1) if values is None else (sum(values) / len(values), len(values))
        assert self.chosen.mean is not None
        half_width = self.noise.half_width(Mean(self.chosen.mean, len(self.chosen.values)), Mean(value, n))
        assert half_width is not None
        return abs(self.chosen.mean - value) <= half_width


ROUNDS = 300
NOT_LESS = 0.95 - 2 * math.sqrt(0.95 * 0.05 / ROUNDS)


DIGITS = 0.004  # between seeds, of 288 images


@pytest.mark.parametrize(
    "world",
    [
        World(10_000),
        World(10_000, 0.7),
        World(10_000, 0.5),
        World(10_000, 0.5, k=1),
        World(10_000, 0.5, k=5),
        World(10_000, 0.7, k=5, r=4),
        World(10_000, 0.5, seed=0.0015),
        World(288, 0.5, seed=DIGITS),
        World(288, 0.5, k=1, seed=DIGITS),
        World(288, 0.5, k=5, r=4, seed=DIGITS),
        World(None),
        World(None, k=5, r=4),
    ],
    ids=str,
)
def test_the_winners_interval_covers_its_true_value_95_times_in_100(world: World):
    """From 50 trials to the winner. Without a correction for the 50, it covers 86 to 91 times if half is common."""
    rng = np.random.default_rng(0)
    searches = [world.search(rng) for _ in range(ROUNDS)]
    assert np.mean([search.covers(world.true_value) for search in searches]) >= NOT_LESS
    assert np.mean([search.gain_covers(0) for search in searches]) >= NOT_LESS


def test_the_interval_covers_less_often_if_networks_have_nothing_in_common():
    """Real networks have more in common: they find the same images hard."""
    world, rng = World(10_000, 0.0, k=5, r=4), np.random.default_rng(1)
    assert 0.80 < np.mean([world.search(rng).covers(world.true_value) for _ in range(ROUNDS)]) < 0.94


@pytest.mark.parametrize("world", [World(None), World(None, k=5, r=4), World(10_000, k=5, r=4, seed=0.0015)], ids=str)
def test_of_100_equal_grouphardly_one_is_dropped(world: World):
    """Three standard errors, whatever the degrees of freedom, would drop about 10."""
    rng = np.random.default_rng(2)
    assert np.mean([world.search(rng).dropped / world.k for _ in range(ROUNDS)]) <= 0.015


def test_confirmation_removes_what_luck_added():
    """The best of 50 equal trials: what the search saw is 2.25 standard deviations too good, a confirmed mean is not.

    The rest comes from choosing among three means of two: at most 0.6 deviations, less where ties go by size.
    """
    rng, rounds = np.random.default_rng(1), 2000
    seen, fresh, winners = [], [], []
    for _ in range(rounds):
        searched = np.sort(rng.normal(0, 1, 50))[::-1][:3]
        values = rng.normal(0, 1, (3, 2))
        sizes = rng.permutation(3)
        tried = [Candidate(i, "", searched[i], float(sizes[i]), tuple(map(float, values[i]))) for i in range(3)]
        chosen = choose(tried, Noise.of(tried, None), MAXIMIZE)
        assert chosen is not None
        seen.append(searched[0])
        fresh.append(tried[0].mean or 0.0)
        winners.append(chosen.mean or 0.0)
    assert np.mean(seen) == pytest.approx(2.25, abs=0.05)  # the expected largest of 50 normal draws
    assert np.mean(fresh) == pytest.approx(0.0, abs=0.06)
    assert 0 < np.mean(winners) < 0.5


# What values are ----------------------------------------------------------------------------------------------------


def a_classifier(n_validation: int, metric: str = "score") -> Any:
    methods = ("prepare", "class_names", "load_weights", "validation_images", "refit_epochs", "score_test", "framing")
    return SimpleNamespace(
        metric=metric, **dict.fromkeys(methods, print), dataset_info=lambda: {"n_validation": n_validation}
    )


@pytest.mark.parametrize(
    ("values", "is_share"),
    [
        ([0.995, 0.9951], True),
        ([0.0049], True),
        ([0.0, 1.0], True),
        ([0.020137], False),
        ([99.5, 98.1], False),
        ([0.995, 0.99512], False),
        ([-0.5], False),
    ],
    ids=["accuracies", "an error rate", "none and all", "a loss", "percentages", "a mean of shares", "negative"],
)
def test_a_share_of_images_is_a_whole_number_of_them(values: list[float], is_share: bool):
    assert images_of(a_classifier(10_000), values) == (10_000 if is_share else None)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_every_accuracy_is_a_share_of_images_also_in_single_precision(case: tuple[int, int]):
    right, n = case
    assert images_of(a_classifier(n), [right / n, float(np.float32(right) / np.float32(n))]) == n


@pytest.mark.parametrize("metric", ["val_balanced_accuracy", "val_macro_f1", "log_loss"])
def test_a_metric_that_is_a_share_by_chance_is_none(metric: str):
    assert images_of(a_classifier(200, metric), [0.5]) is None  # a constant answer to two classes


def test_values_of_other_objectives_are_no_shares_of_images():
    assert images_of(Toy(), [0.5]) is None
