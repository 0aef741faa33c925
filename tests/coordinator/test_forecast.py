"""The time that a whole search still takes: its trials, the confirmation and the refit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from optuna.trial import TrialState

from search.common.direction import Direction
from search.coordinator.forecast import seconds_left
from search.coordinator.progress import Standing
from search.study.records import TrialRecord
from search.study.state import Phase

NOW = datetime(2026, 1, 1, 12)


def trial(seconds: float | None, *, epochs: float = 10, value: float | None = 0.5, number: int = 0) -> TrialRecord:
    state = TrialState.PRUNED if value is None else TrialState.COMPLETE
    ended = NOW + timedelta(seconds=seconds) if seconds is not None else None
    return TrialRecord(
        number, state, value, {}, "", None, None, None, {"epochs": epochs}, 0, NOW, ended, None, {1: 0.1}
    )


def left_s(
    phase: Phase, target: int, ended: Sequence[TrialRecord], *, elapsed_s: Sequence[float] = (), **other: Any
) -> float | None:
    trials = Standing(target, ended, Direction.MAXIMIZE)
    return seconds_left(phase, other.get("standing", trials), trials, elapsed_s, NOW)


THREE = [trial(20, epochs=10, value=0.9), trial(4, epochs=2, value=None), trial(6, epochs=3, value=None)]
"""Their mean is 10 s; the best takes 2 s an epoch."""


@pytest.mark.parametrize(
    ("fields", "elapsed_s", "expected"),
    [
        ({}, [], 70.0),  # seven of 10 s
        ({"slots": 2}, [], 35.0),
        ({"slots": 100}, [], 10.0),  # no more workers than trials
        ({"slots": 2}, [6.0, 4.0], 30.0),  # 10 s of two running ones are done
        ({"slots": 2}, [1000.0, 0.0], 30.0),  # one that takes long is about to end
        ({"epochs": 10, "confirmations": 6}, [], 70.0 + 6 * 20),
        ({"epochs": 10, "confirmations": 6, "slots": 3}, [], 70 / 3 + 2 * 20),
        ({"epochs": 10, "confirmations": 1, "slots": 3}, [], 70 / 3 + 20),
        ({"epochs": 10, "refit_epochs": 12, "slots": 2}, [], 35 + 12 * 2),
        ({"epochs": 10, "confirmations": 6, "refit_epochs": 12, "slots": 2}, [], 35 + 3 * 20 + 24),
        ({"until": (NOW + timedelta(seconds=25)).isoformat()}, [], 35.0),  # --timeout: then the last one ends
        ({"until": (NOW - timedelta(seconds=25)).isoformat()}, [], 10.0),
    ],
)
def test_the_time_left_of_a_search_in_its_trials(fields: dict[str, Any], elapsed_s: list[float], expected: float):
    phase = Phase("trials", "study mnist", **fields)
    assert left_s(phase, 10, THREE, elapsed_s=elapsed_s) == pytest.approx(expected)


def test_the_time_left_of_a_confirmation_and_a_refit():
    trials = Standing(3, THREE, Direction.MAXIMIZE)
    confirm = Phase("confirm", "", epochs=10, refit_epochs=12, slots=2)
    fresh = Standing(6, [], Direction.MAXIMIZE, "trainings")
    assert seconds_left(confirm, fresh, trials, [], NOW) == pytest.approx(6 * 20 / 2 + 24)  # as the best trial took
    fresh.add(trial(30))
    assert seconds_left(confirm, fresh, trials, [], NOW) == pytest.approx(5 * 30 / 2 + 24)  # as measured
    refit = Phase("refit", "", epochs=12, slots=2)
    assert seconds_left(refit, Standing(1, [], Direction.MAXIMIZE, "trainings"), trials, [4.0], NOW) == 20
    assert seconds_left(Phase("finish", ""), fresh, trials, [], NOW) == 0


@pytest.mark.parametrize(
    ("target", "ended"),
    [(10, []), (10, THREE[:2]), (2, []), (4, THREE[:1]), (10, [trial(None)] * 5)],
    ids=["no trial", "two of ten", "none of two", "one of four", "trials without times"],
)
def test_nothing_is_estimated_from_too_little(target: int, ended: list[TrialRecord]):
    assert left_s(Phase("trials", ""), target, ended) is None


@pytest.mark.parametrize(("target", "n"), [(10, 3), (2, 1), (3, 1), (4, 2)])
def test_a_short_search_is_estimated_earlier(target: int, n: int):
    assert left_s(Phase("trials", ""), target, THREE[:n]) is not None


def test_a_night_between_two_starts_does_not_count():
    night = [*(trial(10, number=number) for number in range(9)), trial(40_000, number=9)]
    estimate = left_s(Phase("trials", ""), 20, night)
    assert estimate is not None
    assert estimate <= 10 * 19 + 1


def test_a_finished_search_takes_no_time():
    assert left_s(Phase("trials", ""), 3, THREE) == 0
