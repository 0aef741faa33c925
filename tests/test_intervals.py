"""Intervals: against scipy, and against what they promise in simulations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from search.intervals import wilson


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
