"""Intervals: against scipy, and against what they promise in simulations."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
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
from search.study.selection.intervals import Noise, images_of, wilson
from search.study.selection.winner import choose, clearly_worse
from search.study.summary import Candidate, Confirmation

MAXIMIZE, MINIMIZE = Direction.MAXIMIZE, Direction.MINIMIZE


def test_the_interval_of_a_proportion_is_wilsons():
    low, high = wilson(9950, 10_000)
    assert (round(low, 4), round(high, 4)) == (0.9934, 0.9962)
    assert wilson(10, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)


# Confirmed means ----------------------------------------------------------------------------------------------------


def candidates(values: NDArray[np.float64]) -> list[Candidate]:
    """values: (k, r), one row a setting; networks of one size."""
    return [Candidate(i, "", 0.0, None, tuple(map(float, row))) for i, row in enumerate(values)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_of_one_setting_it_is_students(values: list[float]):
    noise = Noise.of(candidates(np.array([values])), None)
    mean, n = statistics.mean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(n)
    half = noise.half_width((mean, n))
    if error < 1e-12:
        assert half is None or half < 1e-9
    else:
        assert half == pytest.approx(mean - t.interval(0.95, n - 1, mean, error)[0])


def test_images_that_all_seeds_share_do_not_average_away():
    noise = Noise(seed=1e-9, freedom=3, n_images=10_000)
    few, many = noise.half_width((0.99, 2)), noise.half_width((0.99, 1000))
    assert few == pytest.approx(many)
    assert many == pytest.approx(1.959964 * math.sqrt(0.99 * 0.01 / 10_000), rel=0.01)
    widest = Noise(seed=1e-9, freedom=3, n_images=10_000, trials=50).half_width((0.99, 2))
    assert widest == pytest.approx(3.283 / 1.959964 * many, rel=1e-3)  # of 50 such draws, the luckiest
    assert noise.half_width((1.0, 2)) > 1e-4  # nothing wrong among few is no certainty
    assert Noise(0.001, 3, None).half_width((0.99, 1000)) == pytest.approx(3.182 * 0.001 / math.sqrt(1000), rel=1e-3)


def test_the_interval_of_a_share_ends_at_one():
    candidate = Candidate(0, "", 1.0, None, (0.99, 1.0), half=0.02)
    assert Confirmation((candidate,), 2, 0.01, n_images=200).interval(candidate) == pytest.approx((0.975, 1.0))
    assert Confirmation((candidate,), 2, 0.01).interval(candidate) == pytest.approx((0.975, 1.015))


def test_nothing_known_is_no_interval():
    assert Noise.of([], None) == Noise(None, 0, None)
    single = candidates(np.array([[0.5], [0.7]]))
    assert Noise.of(single, None).half_width((0.5, 1)) is None
    assert Noise.of(single, 10_000).half_width((0.5, 1)) is None  # the images alone would look too certain
    assert Noise.of(single, None).standard_error(*single) is None
    same = candidates(np.array([[0.5, 0.5], [0.7, 0.7]]))
    assert Noise.of(same, None).half_width((0.5, 2)) is None
    assert Noise.of(same, None).standard_error(*same) == 0


@dataclass(frozen=True)
class World:
    """Equal settings, where choosing does most harm: 50 are tried, k confirmed on r seeds each, one is chosen."""

    n: int | None
    """Validation images; None for a value that is no share of images."""
    common: float = 1.0
    """The share of images in whose luck all networks share; that of the others is each setting's own, on all its seeds.

    Networks of one setting with different seeds have in common what two settings have, and hardly more (README).
    """
    k: int = 3
    r: int = 2
    seed: float = 0.0005
    """Standard deviation between seeds; that of the images is 0.0007 of 10,000 and 0.007 of 288."""

    @property
    def worth(self) -> float:
        return 0.985 if self.n == 288 else 0.995

    def search(self, rng: np.random.Generator) -> Found:
        """One search, with the code that decides in a real one."""
        here = np.full(50, self.worth)
        if self.n is not None:
            alike = round(self.common * self.n)
            wrong = rng.binomial(alike, 1 - self.worth) + rng.binomial(self.n - alike, 1 - self.worth, 50)
            here = 1 - wrong / self.n
        seen, sizes = here + rng.normal(0, self.seed, 50), rng.permutation(50)
        values: dict[int, tuple[float, ...]] = {int(i): () for i in np.argsort(-seen)[: self.k]}
        for _ in range(self.r):
            for i in values:
                tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in values]
                me = next(each for each in tried if each.number == i)
                if not clearly_worse(me, tried, Noise.of(tried, self.n, 50), MAXIMIZE):
                    values[i] = (*values[i], float(rng.normal(here[i], self.seed)))
        tried = [Candidate(j, "", seen[j], float(sizes[j]), values[j]) for j in values]
        noise = Noise.of(tried, self.n, 50)
        chosen = choose(tried, noise, MAXIMIZE)
        assert chosen is not None
        return Found(tried, noise, chosen, seen, sum(len(each.values) < self.r for each in tried))


@dataclass(frozen=True)
class Found:
    candidates: list[Candidate]
    noise: Noise
    chosen: Candidate
    seen: NDArray[np.float64]
    spared: int
    """Candidates that did not get all of their seeds."""

    def covers(self, worth: float) -> bool:
        """Whether the chosen one's interval does."""
        assert self.chosen.mean is not None
        half = self.noise.half_width((self.chosen.mean, len(self.chosen.values)))
        assert half is not None
        return abs(self.chosen.mean - worth) <= half

    def gain_covers(self, other: int) -> bool:
        """Whether the interval of the gain over another setting covers the truth, which is none."""
        values = next((each.values for each in self.candidates if each.number == other), None)
        value, n = (self.seen[other], 1) if values is None else (sum(values) / len(values), len(values))
        assert self.chosen.mean is not None
        half = self.noise.half_width((self.chosen.mean, len(self.chosen.values)), (value, n))
        assert half is not None
        return abs(self.chosen.mean - value) <= half


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
def test_the_chosen_ones_interval_holds_its_worth_95_times_in_100(world: World):
    """From 50 trials to the winner; intervals that forget the 50 hold 86 to 91 times where half is common."""
    rng = np.random.default_rng(0)
    found = [world.search(rng) for _ in range(ROUNDS)]
    assert np.mean([each.covers(world.worth) for each in found]) >= NOT_LESS
    assert np.mean([each.gain_covers(0) for each in found]) >= NOT_LESS


def test_nothing_common_is_where_it_holds_less():
    """As the README says. Real networks have more in common: they find the same images hard."""
    world, rng = World(10_000, 0.0, k=5, r=4), np.random.default_rng(1)
    assert 0.80 < np.mean([world.search(rng).covers(world.worth) for _ in range(ROUNDS)]) < 0.94


@pytest.mark.parametrize("world", [World(None), World(None, k=5, r=4), World(10_000, k=5, r=4, seed=0.0015)], ids=str)
def test_of_100_equal_candidates_hardly_one_is_spared_seeds(world: World):
    """Three standard errors, whatever the degrees of freedom, would spare about 10."""
    rng = np.random.default_rng(2)
    assert np.mean([world.search(rng).spared / world.k for _ in range(ROUNDS)]) <= 0.015


def test_confirmation_removes_what_luck_added():
    """The best of 50 equal trials: what the search saw is 2.25 standard deviations too good, a confirmed mean is not.

    What is left comes from choosing among three means of two: at most 0.6 deviations, less where ties go by size.
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


# Choosing -----------------------------------------------------------------------------------------------------------


def tried(number: int, *values: float, size: float | None = None, failed: int = 0) -> Candidate:
    return Candidate(number, "", 0.0, size, values, failed)


@pytest.mark.parametrize(
    ("given_", "maximize", "winner"),
    [
        ([tried(0, 0.90, 0.92, size=9), tried(1, 0.91, 0.93, size=5)], True, 1),
        ([tried(0, 0.91, 0.93, size=9), tried(1, 0.90, 0.92, size=5)], True, 1),
        ([tried(0, 0.91, 0.93, size=5), tried(1, 0.90, 0.92, size=9)], True, 0),
        ([tried(0, 0.90, 0.92), tried(1, 0.91, 0.93)], True, 1),
        ([tried(0, 0.99, 0.991, size=9), tried(1, 0.90, 0.901, size=5)], True, 0),
        ([tried(0, 0.99, 0.991, size=5), tried(1, 0.90, 0.901, size=9)], False, 1),
        ([tried(0, 0.99, size=1), tried(1, 0.90, 0.98, size=5)], True, 1),
        ([tried(0, 0.99, size=1, failed=1), tried(1, 0.90, 0.92, size=5)], True, 1),
        ([tried(0, 0.99, size=1, failed=1), tried(1, failed=2)], True, 0),
        ([tried(0, -1.0, -1.0), tried(1, 0.0, 0.0)], False, 0),
    ],
    ids=[
        "best and smaller",
        "level and smaller",
        "best and smaller, the first",
        "level, sizes unknown",
        "clearly best",
        "a loss",
        "spared further seeds",
        "a seed failed",
        "all had failures",
        "no noise",
    ],
)
def test_the_best_mean_wins_and_ties_go_to_the_smaller_network(given_: list[Candidate], maximize: bool, winner: int):
    chosen = choose(given_, Noise.of(given_, None), Direction.of(maximize=maximize))
    assert chosen is not None
    assert chosen.number == winner


def test_without_values_nobody_is_chosen():
    assert choose([], Noise(None, 0, None), MAXIMIZE) is None
    assert choose([tried(0, failed=2)], Noise(None, 0, None), MAXIMIZE) is None


def test_clearly_behind_is_what_chance_does_not_do():
    best, close, far = tried(0, 0.99, 0.99), tried(1, 0.9845), tried(2, 0.983)
    noise = Noise(0.0015, 1_000, None)  # the error of a difference of one seed and two: 0.0018
    assert not clearly_worse(close, [best, close, far], noise, MAXIMIZE)
    assert clearly_worse(far, [best, close, far], noise, MAXIMIZE)
    assert not clearly_worse(best, [best, close, far], noise, MAXIMIZE)
    assert clearly_worse(best, [best, far], noise, MINIMIZE)
    assert clearly_worse(tried(3, 0.999, failed=1), [best, tried(3, 0.999, failed=1)], noise, MAXIMIZE)
    assert not clearly_worse(tried(3, failed=1), [tried(3, failed=1)], noise, MAXIMIZE)  # the only one goes on
    assert not clearly_worse(tried(3), [best, tried(3)], noise, MAXIMIZE)  # nothing is known of it


@pytest.mark.parametrize(("freedom", "errors"), [(1, 235.8), (2, 19.21), (3, 9.219), (10, 3.957), (1_000_000, 3.0)])
def test_few_degrees_of_freedom_ask_for_more(freedom: int, errors: float):
    best = tried(0, 0.0, 0.0)
    for times, behind in ((0.999, False), (1.001, True)):
        far = tried(1, *[-times * errors] * 2)
        assert clearly_worse(far, [best, far], Noise(1.0, freedom, None), MAXIMIZE) is behind


@pytest.mark.parametrize("n_images", [None, 10_000])
def test_before_any_setting_has_two_seeds_nobody_clearly_worse(n_images: int | None):
    best, far = tried(0, 0.99), tried(1, 0.5)
    assert not clearly_worse(far, [best, far], Noise.of([best, far], n_images), MAXIMIZE)


# What values are ----------------------------------------------------------------------------------------------------


def a_classifier(n_validation: int) -> Any:
    methods = ("prepare", "class_names", "load_weights", "validation_images", "refit_epochs", "score_test", "framing")
    return SimpleNamespace(**dict.fromkeys(methods, print), dataset_info=lambda: {"n_validation": n_validation})


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
def test_every_accuracy_is_one_also_in_single_precision(case: tuple[int, int]):
    right, n = case
    assert images_of(a_classifier(n), [right / n, float(np.float32(right) / np.float32(n))]) == n


def test_of_what_is_no_classifier_nothing_is_a_share():
    assert images_of(Toy(), [0.5]) is None
