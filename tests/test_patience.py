"""When a search has seen enough: improvements that are noise do not keep it going."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pytest
from optuna.trial import TrialState

from search.patience import noise, run_out
from search.records import TrialRecord

START = datetime(2026, 1, 1)


def ended(
    number: int, value: float | None, *, state: TrialState = TrialState.COMPLETE, baseline: str | None = None,
    curve: Sequence[float] = (), at: int | None = None, above: float = 0.0,
) -> TrialRecord:  # fmt: skip
    return TrialRecord(
        number, state, value, {}, "", baseline, None, None, {}, 0, START,
        START + timedelta(seconds=number if at is None else at), None, dict(enumerate(curve, 1)),
        {"parameters": above},
    )  # fmt: skip


def trials(*values: float) -> list[TrialRecord]:
    return [ended(number, value) for number, value in enumerate(values)]


@pytest.mark.parametrize("sign", [1, -1], ids=["maximize", "minimize"])
def test_it_ends_when_nothing_better_came(sign: int):
    found = trials(*(sign * value for value in (0.5, 0.9, 0.8, 0.9, 0.7)))
    assert run_out(found, 4, maximize=sign > 0, n_images=None) is None
    why = run_out(found, 3, maximize=sign > 0, n_images=None)
    assert why is not None
    assert why.startswith(f"--patience 3: of 3 trials that ended after trial 1 ({sign * 0.9:.4f}), none was better (")
    assert why.endswith("(nothing tells the noise of a value, so any improvement counts)")


def test_what_the_validation_images_cannot_resolve_is_no_improvement():
    """At 99% of 10,000 images a standard deviation is 0.1 points, so two standard errors of a difference are 0.27."""
    creeping = trials(0.99, 0.9905, 0.9909)
    why = run_out(creeping, 2, maximize=True, n_images=10_000)
    assert why is not None
    assert "none was better than it by more than 0.0027, two standard errors of a difference (what 10,000 val" in why
    assert run_out(creeping, 2, maximize=True, n_images=10_000_000) is None
    assert run_out([*creeping, ended(3, 0.9924)], 2, maximize=True, n_images=10_000) is not None
    assert run_out([*creeping, ended(3, 0.9929)], 2, maximize=True, n_images=10_000) is None  # small steps add up


def test_equal_trials_seldom_look_like_an_improvement():
    """50 draws of one accuracy: with one standard deviation for `BEYOND`, 9 searches of 10 would see an improvement.

    A third still does, mostly because the first value was a bad one.
    """
    rng, searches, improvements = np.random.default_rng(0), 200, 0
    for _ in range(searches):
        values = rng.binomial(10_000, 0.99, 50) / 10_000
        found = trials(*map(float, values))
        # A search that waits for all that came after its first trial goes on only when something was better.
        improvements += run_out(found, 49, maximize=True, n_images=10_000) is None
    assert improvements / searches < 0.45


def test_the_order_is_that_of_ending():
    found = [ended(0, 0.9, at=9), ended(1, 0.5, at=1), ended(2, 0.5, at=2), ended(3, 0.5, at=3)]
    assert run_out(found, 3, maximize=True, n_images=None) is None
    assert run_out(sorted(found, key=lambda t: -t.number), 3, maximize=True, n_images=None) is None


def test_only_a_completed_trial_within_the_limits_improves_and_baselines_do_not_count():
    found = [
        ended(0, 0.5), ended(1, 0.9, state=TrialState.PRUNED), ended(2, None, state=TrialState.FAIL),
        ended(3, 0.9, above=0.1), ended(4, 0.4, baseline="plain"),
    ]  # fmt: skip
    assert run_out(found, 3, maximize=True, n_images=None) is not None
    assert run_out(found, 4, maximize=True, n_images=None) is None
    assert run_out(found[1:3], 1, maximize=True, n_images=None) is None


def test_what_ended_before_anything_was_completed_does_not_count():
    early = [ended(number, None, state=TrialState.FAIL) for number in range(5)]
    first = ended(5, 0.5, baseline="plain")
    assert run_out([*early, first], 3, maximize=True, n_images=None) is None
    assert run_out([*early, first, *(ended(6 + n, 0.4) for n in range(3))], 3, maximize=True, n_images=None) is not None


def test_noise_is_seen_in_curves_and_progress_is_not():
    draw = random.Random(0)
    steady = [ended(number, 1.0, curve=[math.sqrt(step) for step in range(30)]) for number in range(9)]
    assert noise(steady, steady[0], None).deviation < 0.002
    noisy = [ended(n, 1.0, curve=[s / 30 + draw.gauss(0, 0.05) for s in range(60)]) for n in range(25)]
    found = noise(noisy, noisy[0], None)
    assert found.deviation == pytest.approx(0.05, rel=0.2)
    assert found.source == "how values scatter at the end of 25 trainings"
