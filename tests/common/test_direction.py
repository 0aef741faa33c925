"""Comparison of values in the direction of the metric."""

from __future__ import annotations

import math

import pytest
from optuna.study import StudyDirection

from search.common.direction import Direction


@pytest.mark.parametrize(("direction", "best"), [(Direction.MAXIMIZE, 0.9), (Direction.MINIMIZE, 0.1)])
def test_a_better_value_is_a_gain(direction: Direction, best: float):
    assert max([0.1, 0.5, 0.9], key=lambda value: direction.sign * value) == best
    assert direction.better(best, 0.5)
    assert not direction.better(0.5, best)
    assert not direction.better(best, best)
    assert direction.gain(best, 0.5) == pytest.approx(0.4)
    assert math.copysign(1, direction.gain(best, best)) == 1


def test_conversion_from_objectives_and_from_optuna():
    assert Direction("maximize") is Direction.of(maximize=True) is Direction.of_study(StudyDirection.MAXIMIZE)
    assert Direction("minimize") is Direction.of(maximize=False) is Direction.of_study(StudyDirection.MINIMIZE)
