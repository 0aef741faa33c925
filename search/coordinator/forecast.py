"""Estimates how long the rest of a search takes: its trials, the confirmation and the refit, from measured times."""

from collections.abc import Sequence
from datetime import datetime

from search.coordinator.progress import Standing
from search.study.state import Phase

ENOUGH_TRIALS = 3
"""Ended trials before an estimate is shown; fewer in a search of fewer than six."""


def seconds_left(
    phase: Phase, standing: Standing, trials: Standing, elapsed_s: Sequence[float], now: datetime
) -> float | None:
    """Estimate the wall seconds until the last training of a search ends; None while too little is known.

    `standing` counts the trainings of the present phase, `trials` the trials of the study. `elapsed_s` are the seconds
    for which the running trainings have trained. Scoring and registering, some seconds, are not included.
    """
    epoch_s, n_left = trials.epoch_s, max(0, standing.target - standing.finished)
    if phase.kind == "finish":
        return 0.0
    if phase.kind == "trials":
        each_s = standing.mean_s if len(standing.seconds) >= min(ENOUGH_TRIALS, max(1, standing.target // 2)) else None
    else:
        each_s = standing.mean_s or (epoch_s and epoch_s * phase.epochs)
    if (n_left and each_s is None) or ((phase.confirmations or phase.refit_epochs) and epoch_s is None):
        return None
    left_s = _wall_s(n_left, each_s or 0.0, phase.slots, elapsed_s)
    if phase.until is not None:  # trials that have begun by then come to their end
        left_s = min(left_s, max(0.0, (datetime.fromisoformat(phase.until) - now).total_seconds()) + (each_s or 0.0))
    confirming_s = _wall_s(phase.confirmations, phase.epochs * (epoch_s or 0.0), phase.slots)
    return left_s + confirming_s + phase.refit_epochs * (epoch_s or 0.0)


def _wall_s(n: int, each_s: float, slots: int, elapsed_s: Sequence[float] = ()) -> float:
    """The wall seconds of `n` trainings on `slots` workers, of which some have trained for `elapsed_s` already."""
    return max(0.0, n * each_s - sum(min(seconds, each_s) for seconds in elapsed_s)) / max(1, min(slots, n))
