"""Intervals: against scipy, and against what they promise in simulations."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, t

from search.intervals import Noise, wilson
from search.records import Candidate
from search.winner import choose, is_behind


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipys(case: tuple[int, int]):
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= found.high <= 1


def test_the_interval_of_a_known_case():
    found = wilson(9950, 10_000)
    assert (round(found.low, 4), round(found.high, 4)) == (0.9934, 0.9962)


@pytest.mark.parametrize("n", [0, -1])
def test_nothing_observed_has_no_interval(n: int):
    with pytest.raises(ValueError, match=rf"at least one observation, not {n}"):
        wilson(0, n)


# Confirmed means ----------------------------------------------------------------------------------------------------


def candidates(values: NDArray[np.float64]) -> list[Candidate]:
    """values: (k, r), one row a setting; networks of one size."""
    return [Candidate(i, "", 0.0, None, tuple(map(float, row))) for i, row in enumerate(values)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_of_one_setting_it_is_students(values: list[float]):
    noise = Noise.of(candidates(np.array([values])), None)
    mean, n = statistics.mean(values), len(values)
    error = statistics.stdev(values) / math.sqrt(n)
    half = noise.half_interval((mean, n))
    if error < 1e-12:
        assert half is None or half < 1e-9
    else:
        assert half == pytest.approx(mean - t.interval(0.95, n - 1, mean, error)[0])


def test_images_that_all_seeds_share_do_not_average_away():
    noise = Noise(seed=1e-9, freedom=3, n_images=10_000)
    few, many = noise.half_interval((0.99, 2)), noise.half_interval((0.99, 1000))
    assert few == pytest.approx(many)
    assert many == pytest.approx(1.959964 * math.sqrt(0.99 * 0.01 / 10_000), rel=0.01)
    assert noise.half_interval((1.0, 2)) > 1e-4  # nothing wrong among few is no certainty
    assert Noise(0.001, 3, None).half_interval((0.99, 1000)) == pytest.approx(3.182 * 0.001 / math.sqrt(1000), rel=1e-3)


def test_nothing_known_is_no_interval():
    assert Noise.of([], None) == Noise(None, 0, None)
    single = candidates(np.array([[0.5], [0.7]]))
    assert Noise.of(single, None).half_interval((0.5, 1)) is None
    assert Noise.of(single, None).error(*single) is None
    same = candidates(np.array([[0.5, 0.5], [0.7, 0.7]]))
    assert Noise.of(same, None).half_interval((0.5, 2)) is None
    assert Noise.of(same, None).error(*same) == 0


@pytest.mark.parametrize(("k", "r", "n_images"), [(3, 2, None), (5, 2, None), (3, 3, 300), (1, 2, 2000)])
def test_the_chosen_ones_interval_holds_its_worth_95_times_in_100(k: int, r: int, n_images: int | None):
    """Equal settings, where choosing does most harm; seeds and, where values are accuracies, images are both drawn."""
    rng, held, rounds = np.random.default_rng(k * r), 0, 1500
    for _ in range(rounds):
        shared = 0.0 if n_images is None else rng.binomial(n_images, 0.98) / n_images - 0.98
        tried = candidates(0.98 + shared + rng.normal(0, 0.002, (k, r)))
        noise = Noise.of(tried, n_images)
        chosen = choose(tried, noise, maximize=True)
        assert chosen is not None
        assert chosen.mean is not None
        half = noise.half_interval((chosen.mean, r), at_once=k)
        assert half is not None
        held += abs(chosen.mean - 0.98) <= half
    assert held / rounds >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / rounds)
    if n_images is None and k > 1:  # one at a time, they would hold less often than they say
        assert held / rounds < 0.99


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
        chosen = choose(tried, Noise.of(tried, None), maximize=True)
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
    ids=["best and smaller", "level and smaller", "best and smaller, the first", "level, sizes unknown", "clearly best",
         "a loss", "spared further seeds", "a seed failed", "all had failures", "no noise"],
)  # fmt: skip
def test_the_best_mean_wins_and_ties_go_to_the_smaller_network(given_: list[Candidate], maximize: bool, winner: int):
    chosen = choose(given_, Noise.of(given_, None), maximize=maximize)
    assert chosen is not None
    assert chosen.number == winner


def test_without_values_nobody_is_chosen():
    assert choose([], Noise(None, 0, None), maximize=True) is None
    assert choose([tried(0, failed=2)], Noise(None, 0, None), maximize=True) is None


def test_three_standard_errors_are_clearly_behind():
    best, close, far = tried(0, 0.99, 0.99), tried(1, 0.9845), tried(2, 0.983)
    noise = Noise(0.0015, 3, None)  # the error of a difference of one seed and two: 0.0018
    assert not is_behind(close, [best, close, far], noise, maximize=True)
    assert is_behind(far, [best, close, far], noise, maximize=True)
    assert not is_behind(best, [best, close, far], noise, maximize=True)
    assert is_behind(best, [best, far], noise, maximize=False)
    assert not is_behind(far, [best, far], Noise(None, 0, None), maximize=True)  # nothing is known of the noise
    assert not is_behind(tried(3), [best, tried(3)], noise, maximize=True)  # nor of it
    assert is_behind(tried(3, 0.999, failed=1), [best, tried(3, 0.999, failed=1)], noise, maximize=True)
    assert not is_behind(tried(3, failed=1), [tried(3, failed=1)], noise, maximize=True)  # the only one goes on
