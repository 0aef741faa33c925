"""The texts of an outcome that the terminal, Markdown and the report share."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search.reports.elements import Unit
from search.study.records import StudyRecord
from search.study.summary import Candidate, Confirmation, Folds, Gain, Summary
from search.study.texts.presenter import Decimals, SearchOutcome, present

WINNER = Candidate(1, "cnn", 0.95, 20_000, (0.94, 0.95), half=0.01)
LARGER = Candidate(2, "mlp", 0.96, 90_000, (0.95, 0.95), half=0.01)
SUMMARY = Summary(number=1, label="cnn", value=0.95, params={"lr": 0.0123456}, run="confirm-1-1")


def presented(*candidates: Candidate, maximize: bool = True, percent: bool = False, seeds: int = 2) -> SearchOutcome:
    summary = replace(SUMMARY, confirmation=Confirmation(candidates, seeds, 0.01, 100))
    study = StudyRecord("s", "val_accuracy", maximize, (), summary, {}, (), {})
    return present(study, summary, Unit("validation accuracy", percent=True) if percent else Decimals())


def verdicts(outcome: SearchOutcome) -> list[str]:
    assert outcome.confirmation is not None
    return [row.verdict for row in outcome.confirmation.rows]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (replace(WINNER, number=2, values=(0.90, 0.91)), ["winner", ""]),
        (replace(WINNER, number=2, values=(0.80, 0.81), behind=True), ["winner", "clearly behind"]),
        (replace(WINNER, number=2, values=(0.80,)), ["winner", "clearly behind, dropped early"]),
        (replace(WINNER, number=2, values=(0.99,), failed=1), ["winner", "1 seed failed"]),
        (LARGER, ["", "winner: level, but smaller"]),
    ],
)
def test_each_candidate_has_its_verdict(other: Candidate, expected: list[str]):
    assert verdicts(presented(WINNER, other)) == expected


@pytest.mark.parametrize(
    ("means", "maximize", "order"),
    [
        ({1: (0.94,), 2: (0.96,), 3: (0.95,)}, True, [2, 3, 1]),
        ({1: (0.94,), 2: (0.96,), 3: (0.95,)}, False, [1, 3, 2]),
        ({1: (), 2: (0.2,), 3: (0.3, 0.1)}, True, [2, 3, 1]),
        ({1: (), 2: (0.2,), 3: ()}, False, [2, 1, 3]),
    ],
)
def test_candidates_are_in_the_order_of_their_confirmed_means(
    means: dict[int, tuple[float, ...]], maximize: bool, order: list[int]
):
    candidates = [replace(WINNER, number=number, values=values) for number, values in means.items()]
    confirmation = presented(*candidates, maximize=maximize).confirmation
    assert confirmation is not None
    assert [row.candidate.number for row in confirmation.rows] == order


def test_a_candidate_with_a_failed_seed_comes_after_those_without():
    failed = replace(WINNER, number=2, values=(0.99,), failed=1)
    confirmation = presented(failed, WINNER).confirmation
    assert confirmation is not None
    assert [row.candidate.number for row in confirmation.rows] == [1, 2]


def test_the_lowest_mean_is_the_best_if_the_metric_is_minimised():
    assert verdicts(presented(WINNER, LARGER, maximize=False)) == ["winner", ""]


def test_a_medium_chooses_the_unit():
    plain, percent = presented(WINNER), presented(WINNER, percent=True)
    assert (plain.score, percent.score) == ("0.9450", "94.50%")
    assert plain.confirmed is not None
    assert percent.confirmed is not None
    assert (plain.confirmed.interval, percent.confirmed.interval) == ("0.9350 to 0.9550", "93.50% to 95.50%")


@pytest.mark.parametrize(
    ("gain", "half", "remark", "doubtful"),
    [
        (0.03, 0.01, "", False),
        (0.01, 0.03, "may be chance", True),
        (-0.03, 0.01, "", True),
        (0.03, None, "", True),
    ],
)
def test_a_gain_that_may_be_chance_is_doubtful(gain: float, half: float | None, remark: str, doubtful: bool):
    summary = replace(SUMMARY, gains=(Gain("base", 0, 0.9, gain, half, 2),))
    (row,) = present(StudyRecord("s", "m", True, (), summary, {}, (), {}), summary, Decimals()).gains
    assert (row.remark, row.is_doubtful, row.measured) == (remark, doubtful, "mean of 2 fresh seeds")


def test_folds_are_named_instead_of_seeds():
    folds = Folds(4, 1438)
    complete, failed = replace(WINNER, values=(0.94,) * 4), replace(LARGER, values=(0.9,), failed=1)
    gain = Gain("base", 0, 0.9, 0.03, None, 4, "fold")
    confirmation = Confirmation((complete, failed), 4, 0.01, 100, folds=folds)
    summary = replace(SUMMARY, run="confirm-1-fold-1", gains=(gain,), confirmation=confirmation)
    assert Summary.from_dict(json.loads(json.dumps(summary.as_dict()))) == summary
    outcome = present(StudyRecord("s", "m", True, (), summary, {}, (), {}), summary, Decimals())
    assert outcome.confirmation is not None
    assert outcome.confirmation.seeds == "up to 4 folds of all 1,438 images but the test split"
    assert outcome.confirmation.split == "folds of all 1,438 images but the test split"
    assert [row.verdict for row in outcome.confirmation.rows] == ["winner", "1 fold failed"]
    assert outcome.gains[0].measured == "mean of 4 folds"
    assert "folds" in outcome.network_text
    assert "fresh seed" not in str(outcome)


def test_with_dropped_candidates_the_number_of_seeds_is_an_upper_bound():
    complete, dropped = presented(WINNER).confirmation, presented(WINNER, replace(LARGER, values=(0.5,))).confirmation
    assert complete is not None
    assert dropped is not None
    assert (complete.seeds, dropped.seeds) == ("2 fresh seeds each", "up to 2 fresh seeds each")
