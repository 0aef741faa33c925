"""The winner: its interval, its gains, and why there is none."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from scipy.stats import binomtest

from search import records
from search.errors import SearchError
from search.records import StudyRecord
from search.winner import best_trial, gains, wilson


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


def a_record(direction: str, *trials: tuple[TrialState, float | None, dict[str, Any]]) -> StudyRecord:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction=direction, study_name="toy")
    for state, value, attrs in trials:
        reports = {1: value} if value is not None else {}
        told = value if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=told, intermediate_values=reports, user_attrs=attrs))
    return StudyRecord.of(study)


COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def test_the_best_completed_trial_wins_whatever_a_pruned_one_reached():
    trials = [(COMPLETE, 0.8, {}), (PRUNED, 0.99, {}), (COMPLETE, 0.9, {}), (COMPLETE, 0.9, {}), (FAIL, None, {})]
    assert best_trial(a_record("maximize", *trials)).number == 2
    assert best_trial(a_record("minimize", *trials)).number == 0


def test_gains_are_positive_when_the_winner_is_better():
    trials = [
        (COMPLETE, 0.5, {records.BASELINE: "plain"}),
        (COMPLETE, 0.7, {}),
        (PRUNED, 0.1, {records.BASELINE: "pruned"}),
        (COMPLETE, 0.2, {records.BASELINE: "small"}),
    ]
    for direction, expected in (("maximize", {"plain": 0.2, "small": 0.5}), ("minimize", {"plain": 0.3, "small": 0.0})):
        study = a_record(direction, *trials)
        found = {gain.baseline: gain.gain for gain in gains(study, best_trial(study))}
        assert found == pytest.approx(expected), direction


def test_without_a_completed_trial_the_reason_is_said():
    failed = {records.FAILURE: "diverged", records.FAILURE_MESSAGE: "the loss became nan"}
    study = a_record("maximize", (PRUNED, 0.3, {}), (FAIL, None, failed))
    with pytest.raises(
        SearchError, match="no trial of study 'toy' was completed.*the last failure was diverged: the loss"
    ):
        best_trial(study)
    with pytest.raises(SearchError, match="no trial of study 'toy' was completed, so there is no winner$"):
        best_trial(a_record("maximize"))
