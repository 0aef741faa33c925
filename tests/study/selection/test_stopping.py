"""The stopping rule: a search ends after N trials without an improvement of more than one standard error."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from optuna.trial import TrialState

from search.common.direction import Direction
from search.study.records import TrialRecord
from search.study.selection.stopping import standard_error, stopping_reason

START = datetime(2026, 1, 1)
MAXIMIZE = Direction.MAXIMIZE


def ended(
    number: int,
    value: float | None,
    *,
    state: TrialState = TrialState.COMPLETE,
    baseline: str | None = None,
    at: int | None = None,
    above: float = 0.0,
) -> TrialRecord:
    time = START + timedelta(seconds=number if at is None else at)
    return TrialRecord(
        number, state, value, {}, "", baseline, None, None, {}, 0, START, time, None, {}, {"parameters": above}
    )


def trials(*values: float) -> list[TrialRecord]:
    return [ended(number, value) for number, value in enumerate(values)]


@pytest.mark.parametrize("direction", Direction)
def test_it_ends_when_nothing_better_came(direction: Direction):
    done = trials(*(direction.sign * value for value in (0.5, 0.9, 0.8, 0.9, 0.7)))
    assert stopping_reason(done, 4, direction, n_images=None) is None
    value = f"{direction.sign * 0.9:.4f}"
    expected = f"--patience 3: the last 3 trials did not improve on trial 1 ({value})"
    assert stopping_reason(done, 3, direction, n_images=None) == expected


def test_within_one_standard_error_is_no_improvement():
    """At 99% of 10,000 images, the standard error is 0.1 points."""
    assert standard_error(0.99, 10_000) == pytest.approx(0.000995, abs=1e-6)
    creeping = trials(0.99, 0.9905, 0.9909)
    why = stopping_reason(creeping, 2, MAXIMIZE, n_images=10_000)
    assert why is not None
    assert why.endswith("did not improve on trial 0 (0.9900) by more than one standard error (0.00099)")
    assert stopping_reason(creeping, 2, MAXIMIZE, n_images=None) is None
    small_steps_add_up = [*creeping, ended(3, 0.9911)]
    assert stopping_reason(small_steps_add_up, 2, MAXIMIZE, n_images=10_000) is None


@pytest.mark.parametrize("direction", Direction)
def test_other_metrics_have_the_standard_error_that_their_training_measured(direction: Direction):
    first, second = trials(0.5, 0.5 + 0.02 * direction.sign)
    first = replace(first, image_error=0.03)
    why = stopping_reason([first, second], 1, direction, n_images=None)
    assert why is not None
    assert why.endswith("trial 0 (0.5000) by more than one standard error (0.03)")
    assert stopping_reason([replace(first, image_error=0.01), second], 1, direction, n_images=None) is None


def test_the_order_is_that_of_ending():
    done = [ended(0, 0.9, at=9), ended(1, 0.5, at=1), ended(2, 0.5, at=2), ended(3, 0.5, at=3)]
    assert stopping_reason(done, 3, MAXIMIZE, n_images=None) is None
    assert stopping_reason(sorted(done, key=lambda t: -t.number), 3, MAXIMIZE, n_images=None) is None


def test_only_a_completed_trial_within_the_limits_improves_and_baselines_do_not_count():
    done = [
        ended(0, 0.5),
        ended(1, 0.9, state=TrialState.PRUNED),
        ended(2, None, state=TrialState.FAIL),
        ended(3, 0.9, above=0.1),
        ended(4, 0.4, baseline="plain"),
    ]
    assert stopping_reason(done, 3, MAXIMIZE, n_images=None) is not None
    assert stopping_reason(done, 4, MAXIMIZE, n_images=None) is None
    assert stopping_reason(done[1:3], 1, MAXIMIZE, n_images=None) is None


def test_what_ended_before_anything_was_completed_does_not_count():
    early = [ended(number, None, state=TrialState.FAIL) for number in range(5)]
    first = ended(5, 0.5, baseline="plain")
    assert stopping_reason([*early, first], 3, MAXIMIZE, n_images=None) is None
    later = [ended(6 + n, 0.4) for n in range(3)]
    assert stopping_reason([*early, first, *later], 3, MAXIMIZE, n_images=None) is not None
