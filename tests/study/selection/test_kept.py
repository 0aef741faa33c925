"""Whose weights `--keep best:N` deletes: only weights that may exist, and never those of a trial that may win."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from optuna.trial import TrialState
from test_target import a_record, a_trial

from search.common.direction import Direction
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.kept import deletable, outside, why_deleted
from search.study.selection.target import Target
from search.study.summary import Ensemble, Member

FUNCTION = {records.OBJECTIVE: {"direction": "maximize"}}


def numbers(trials: list[TrialRecord]) -> list[int]:
    return [trial.number for trial in trials]


@pytest.fixture
def study() -> StudyRecord:
    """Trial 1 is the best, 2 was not even trained, 4 is above a limit, 5 and 6 have no weights any more."""
    trials = (
        a_trial(0, 0.5),
        a_trial(1, 0.9),
        replace(a_trial(2, None, TrialState.PRUNED, above=0.5), metrics={"latency_ms": 3.0, "epochs": 0}),
        a_trial(3, 0.2, TrialState.FAIL),
        replace(a_trial(4, 0.95, above=0.5), metrics={"epochs": 5.0}),
        replace(a_trial(5, 0.4), weights_deleted=True),
        replace(a_trial(6, 0.3, TrialState.PRUNED), weights_deleted=True),
        a_trial(7, 0.8),
    )
    return replace(a_record(*trials), attrs={records.DELETED: [5]})


def test_only_weights_that_may_exist_are_deleted(study: StudyRecord):
    assert numbers(deletable(study, 1)) == [0, 4, 7]
    assert numbers(outside(study, 1)) == [0, 4, 5, 7]  # of trial 5, a server may have kept them


def test_a_trial_that_may_win_keeps_them(study: StudyRecord):
    assert numbers(deletable(study, 1, Target(0.8, Direction.MAXIMIZE))) == [0, 4]
    seeds = replace(study, attrs={**study.attrs, records.EXTRA_TRAININGS: {"confirm-0-1": {}, "refit-1": {}}})
    assert numbers(deletable(seeds, 1)) == [4, 7]


@pytest.mark.parametrize(("gain", "expected"), [(0.02, [4, 7]), (0.0, [0, 4, 7])])
def test_members_of_an_ensemble_that_pays_keep_them(study: StudyRecord, gain: float, expected: list[int]):
    """Also before the summary has them: the search may be killed after the choice."""
    members = tuple(Member(number, "", f"trial-{number}", 1) for number in (1, 0))
    chosen = asdict(Ensemble(members, gain, 0.01, n_images=100, n_candidates=3))
    attrs = {**study.attrs, records.ENSEMBLE: {"asked": {}, "chosen": chosen}}
    assert numbers(deletable(replace(study, attrs=attrs), 1)) == expected


@pytest.mark.parametrize(("attrs", "expected"), [(FUNCTION, []), ({**FUNCTION, records.MODELS: True}, [0, 4, 7])])
def test_a_function_that_never_logged_a_model_has_none(study: StudyRecord, attrs: dict[str, Any], expected: list[int]):
    assert numbers(deletable(replace(study, attrs={**study.attrs, **attrs}), 1)) == expected


def test_only_trials_with_weights_are_named(study: StudyRecord):
    assert (
        "--keep deleted them, in the search or in gc. These trials have weights: 1, 7, 0, 4. To train"
        in why_deleted(study)
    )
