"""The winner's choice: ties go to the smaller network, and only the clearly worse are dropped."""

from __future__ import annotations

import pytest

from search.common.direction import Direction
from search.study.selection.intervals import Noise
from search.study.selection.winner import choose, clearly_worse
from search.study.summary import Candidate

MAXIMIZE, MINIMIZE = Direction.MAXIMIZE, Direction.MINIMIZE


def tried(
    number: int, *values: float, size: float | None = None, failed: int = 0, error: float | None = None
) -> Candidate:
    return Candidate(number, "", 0.0, size, values, failed, image_error=error)


@pytest.mark.parametrize(
    ("group", "maximize", "winner"),
    [
        ([tried(0, 0.90, 0.92, size=9), tried(1, 0.91, 0.93, size=5)], True, 1),
        ([tried(0, 0.91, 0.93, size=9), tried(1, 0.90, 0.92, size=5)], True, 1),
        ([tried(0, 0.91, 0.93, size=5), tried(1, 0.90, 0.92, size=9)], True, 0),
        ([tried(0, 0.90, 0.92), tried(1, 0.91, 0.93)], True, 1),
        ([tried(0, 0.99, 0.991, size=9), tried(1, 0.90, 0.901, size=5)], True, 0),
        ([tried(0, 0.99, 0.991, size=5), tried(1, 0.90, 0.901, size=9)], False, 1),
        ([tried(0, 0.99, 0.991, size=5, error=0.1), tried(1, 0.90, 0.901, size=9, error=0.1)], False, 0),
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
        "a loss on few images",
        "dropped early",
        "a seed failed",
        "all had failures",
        "no noise",
    ],
)
def test_the_best_mean_wins_and_ties_go_to_the_smaller_network(group: list[Candidate], maximize: bool, winner: int):
    chosen = choose(group, Noise.of(group, None), Direction.of(maximize=maximize))
    assert chosen is not None
    assert chosen.number == winner


def test_without_values_no_candidate_is_chosen():
    assert choose([], Noise(None, 0, None), MAXIMIZE) is None
    assert choose([tried(0, failed=2)], Noise(None, 0, None), MAXIMIZE) is None


def test_clearly_worse_means_more_than_chance():
    best, close, far = tried(0, 0.99, 0.99), tried(1, 0.9845), tried(2, 0.983)
    noise = Noise(0.0015, 1_000, None)  # the error of a difference of one seed and two: 0.0018
    assert not clearly_worse(close, [best, close, far], noise, MAXIMIZE)
    assert clearly_worse(far, [best, close, far], noise, MAXIMIZE)
    assert not clearly_worse(best, [best, close, far], noise, MAXIMIZE)
    assert clearly_worse(best, [best, far], noise, MINIMIZE)
    assert clearly_worse(tried(3, 0.999, failed=1), [best, tried(3, 0.999, failed=1)], noise, MAXIMIZE)
    assert not clearly_worse(tried(3, failed=1), [tried(3, failed=1)], noise, MAXIMIZE)  # the only one goes on
    assert not clearly_worse(tried(3), [best, tried(3)], noise, MAXIMIZE)  # it has no values


@pytest.mark.parametrize(("freedom", "errors"), [(1, 235.8), (2, 19.21), (3, 9.219), (10, 3.957), (1_000_000, 3.0)])
def test_few_degrees_of_freedom_need_a_larger_difference(freedom: int, errors: float):
    best = tried(0, 0.0, 0.0)
    for times, worse in ((0.999, False), (1.001, True)):
        far = tried(1, *[-times * errors] * 2)
        assert clearly_worse(far, [best, far], Noise(1.0, freedom, None), MAXIMIZE) is worse


@pytest.mark.parametrize("n_images", [None, 10_000])
def test_no_candidate_is_clearly_worse_before_one_has_two_seeds(n_images: int | None):
    best, far = tried(0, 0.99), tried(1, 0.5)
    assert not clearly_worse(far, [best, far], Noise.of([best, far], n_images), MAXIMIZE)
