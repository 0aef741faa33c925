"""The winner: its interval, its gains, and why there is none."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from scipy.stats import t

from search.common.errors import SearchError
from search.study import records
from search.study.records import StudyRecord
from search.study.selection.intervals import Noise
from search.study.selection.winner import best_trial, gains
from search.study.storage.storage import quiet_optuna
from search.study.summary import Candidate, Confirmation


def a_record(direction: str, *trials: tuple[TrialState, float | None, dict[str, Any]]) -> StudyRecord:
    quiet_optuna()
    study = optuna.create_study(direction=direction, study_name="toy")
    for state, value, attrs in trials:
        reports = {1: value} if value is not None else {}
        final = value if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=final, intermediate_values=reports, user_attrs=attrs))
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
        by_baseline = {gain.baseline: gain.gain for gain in gains(study, best_trial(study))}
        assert by_baseline == pytest.approx(expected), direction


def test_gains_are_of_confirmed_means_where_there_are_some():
    plain, good = {records.BASELINE: "plain"}, {records.BASELINE: "good"}
    study = a_record("maximize", (COMPLETE, 0.5, plain), (COMPLETE, 0.9, {}), (COMPLETE, 0.8, good))
    confirmed = (Candidate(1, "", 0.9, 5, (0.84, 0.86)), Candidate(2, "", 0.8, 5, (0.77, 0.79)))
    compared = gains(study, study.trials[1], Confirmation(confirmed, 2, 0.0141))
    assert [(gain.baseline, gain.value, gain.seeds) for gain in compared] == [
        ("plain", 0.5, 0),
        ("good", pytest.approx(0.78), 2),
    ]
    assert [gain.gain for gain in compared] == pytest.approx([0.35, 0.07])
    noise = Noise.of(confirmed, None)
    assert (noise.seed, noise.freedom) == (pytest.approx(0.01414, abs=1e-5), 2)
    level = (1 + 0.95**0.5) / 2
    half_widths = [t.ppf(level, 2) * noise.seed * (1 / 2 + 1 / n) ** 0.5 for n in (1, 2)]
    assert [gain.half for gain in compared] == pytest.approx(half_widths)


def test_a_confirmed_mean_may_be_zero():
    study = a_record("minimize", (COMPLETE, 0.4, {records.BASELINE: "plain"}), (COMPLETE, 0.1, {}))
    zero = Confirmation((Candidate(1, "", 0.1, None, (0.0, 0.0)),), 2, 0.0)
    assert [gain.gain for gain in gains(study, study.trials[1], zero)] == [0.4]


def test_without_a_completed_trial_the_error_says_why():
    failed = {records.FAILURE: "diverged", records.FAILURE_MESSAGE: "the loss became nan"}
    study = a_record("maximize", (PRUNED, 0.3, {}), (FAIL, None, failed))
    with pytest.raises(
        SearchError, match="no trial of study 'toy' was completed.*the last failure was diverged: the loss"
    ):
        best_trial(study)
    with pytest.raises(SearchError, match="no trial of study 'toy' was completed, so no winner can be chosen$"):
        best_trial(a_record("maximize"))
