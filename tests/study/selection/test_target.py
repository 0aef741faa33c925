"""The target: which values reach it, which values it may have, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from optuna.trial import TrialState
from toy import Toy

from objectives.images.objective import ImageClassification
from search.common.direction import Direction
from search.common.errors import UsageError
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.target import Target
from search.study.summary import Candidate, Confirmation, Folds, Summary


def a_trial(number: int, value: float | None, state: TrialState = TrialState.COMPLETE, above: float = 0) -> TrialRecord:
    limits = {"parameters": above}
    return TrialRecord(number, state, value, {}, "", None, None, None, {}, 0, None, None, None, {}, limits)


def a_record(*trials: TrialRecord) -> StudyRecord:
    return StudyRecord("toy", "score", True, trials, None, {}, (), {})


def a_summary(searched: float, *fresh: float, failed: int = 0) -> Summary:
    candidates = (Candidate(1, "", searched, None, fresh, failed),)
    return Summary(1, "", searched, {}, "trial-1", confirmation=Confirmation(candidates, 2, None))


def on_folds(summary: Summary) -> Summary:
    assert summary.confirmation is not None
    return replace(summary, confirmation=replace(summary.confirmation, folds=Folds(4, 1438)))


@pytest.mark.parametrize("direction", Direction)
def test_only_completed_trials_within_the_limits_reach_it(direction: Direction):
    target = Target(direction.sign * 0.9, direction, 2)
    trials = [
        a_trial(0, direction.sign * 0.8),
        a_trial(1, direction.sign * 0.9),
        a_trial(2, direction.sign * 0.95, TrialState.PRUNED),
        a_trial(3, None, TrialState.FAIL),
        a_trial(4, direction.sign * 0.95, above=0.1),
        a_trial(5, direction.sign * 0.95),
    ]
    assert [trial.number for trial in target.reached_by(trials)] == [1, 5]
    refuted = {records.REFUTED: target.with_refuted([5], {})}
    assert [trial.number for trial in target.waiting(trials, refuted)] == [1]
    assert target.with_refuted([1], refuted)["trials"] == [1, 5]
    assert [t.number for t in Target(direction.sign * 0.91, direction, 2).waiting(trials, refuted)] == [5]
    for seeds in (0, 3):  # one trial is enough, or other seeds decide
        assert [trial.number for trial in replace(target, seeds=seeds).waiting(trials, refuted)] == [1, 5]


def test_rounding_alone_does_not_miss_it():
    target = Target(0.3, Direction.MAXIMIZE)
    assert target.is_reached(sum([0.1] * 3 * 3) / 3 - 2e-16)
    assert not target.is_reached(0.299999)


@pytest.mark.parametrize(
    ("summary", "outcome"),
    [
        (a_summary(0.92, 0.91, 0.89), " is confirmed: trial 1 has a mean of 0.9 on 2 fresh seeds"),
        (
            a_summary(0.92, 0.91, 0.87),
            " was not confirmed: 1 trial reached it, but the best mean on fresh seeds is 0.89",
        ),
        (a_summary(0.92, 0.95, failed=1), " was not confirmed: 1 trial reached it, but fresh seeds failed"),
        (a_summary(0.92), " was not confirmed: 1 trial reached it, but fresh seeds failed"),
        (on_folds(a_summary(0.92, 0.91, 0.89)), " is confirmed: trial 1 has a mean of 0.9 on 2 folds"),
        (on_folds(a_summary(0.92, 0.89)), " 1 trial reached it, but the best mean on folds is 0.89"),
        (
            replace(a_summary(0.92), confirmation=None),
            " is reached, but not confirmed: trial 1 has 0.92",
        ),
    ],
)
def test_the_mean_on_fresh_seeds_decides(summary: Summary, outcome: str):
    target, study = Target(0.9, Direction.MAXIMIZE), a_record(a_trial(1, 0.92))
    assert target.is_confirmed(summary) == ("reached it, but" not in outcome)
    assert target.describe(study, summary).endswith(outcome)


def test_a_search_that_never_reached_it_names_its_best_trial():
    study = a_record(a_trial(0, 0.7), a_trial(1, 0.85))
    outcome = Target(0.9, Direction.MAXIMIZE).describe(study, a_summary(0.7, 0.7))
    assert outcome == "--target 0.9 was not reached: the best trial has 0.85"


def bounded(low: float | None, high: float | None) -> Toy:
    toy = Toy()
    toy.metric_range = low, high  # type: ignore[attr-defined]
    return toy


@pytest.mark.parametrize(
    ("value", "objective", "message"),
    [
        (
            99.5,
            ImageClassification("digits"),
            r"val_accuracy is at least 0 and at most 1. Did you mean --target 0.995\?",
        ),
        (1.5, ImageClassification("digits"), r"val_accuracy is at least 0 and at most 1\.$"),
        (101, ImageClassification("digits"), r"val_accuracy is at least 0 and at most 1\.$"),
        (-0.1, ImageClassification("digits", metric="log_loss"), r"val_log_loss is at least 0\.$"),
        (99.5, bounded(None, 1), r"score is at most 1\.$"),
    ],
)
def test_a_value_that_the_metric_cannot_have_is_refused(value: float, objective: Toy, message: str):
    with pytest.raises(UsageError, match=f"^--target {value:g}: {message}"):
        Target.of(value, objective)


def test_any_value_is_allowed_where_the_range_is_unknown():
    assert Target.of(-99.5, Toy("minimize")) == Target(-99.5, Direction.MINIMIZE)
    assert Target.of(1.0, ImageClassification("digits")) == Target(1.0, Direction.MAXIMIZE)
