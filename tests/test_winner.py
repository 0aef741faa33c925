"""The winner: its interval, its gains, and why there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from objectives.base import TestScore
from search import records
from search.errors import SearchError
from search.records import StudyRecord
from search.winner import best_trial, gains, sample


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


def test_gains_over_other_trials_are_positive_when_the_winner_is_better():
    trials = [
        (COMPLETE, 0.5, {records.BASELINE: "plain"}),
        (COMPLETE, 0.7, {}),
        (PRUNED, 0.1, {records.BASELINE: "pruned"}),
        (COMPLETE, 0.2, {records.BASELINE: "small"}),
    ]
    for direction, expected in (("maximize", {"plain": 0.2, "small": 0.5}), ("minimize", {"plain": 0.3})):
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


def test_a_sample_is_fixed_sorted_and_not_of_the_first_images():
    labels = np.zeros(200, np.int64)
    score = TestScore(1.0, 0.0, np.zeros((200, 1, 8, 8), np.uint8), labels, np.zeros((200, 2), np.float32))
    chosen = sample(score)
    assert len(set(chosen.tolist())) == 25
    assert chosen.tolist() == sorted(sample(score).tolist())
    assert chosen.max() > 100
    few = TestScore(1.0, 0.0, np.zeros((3, 1, 8, 8), np.uint8), labels[:3], np.zeros((3, 2), np.float32))
    assert sample(few).tolist() == [0, 1, 2]
