"""The winner: chosen on the validation split, then scored on the test split, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import TrialState

from objectives.base import ImageClassifier, Params, TestScore
from search.errors import SearchError
from search.records import Gain, StudyRecord, TrialRecord

Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval."""

    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """The Wilson score interval of a proportion.

    Raises ValueError when `n` is not positive.
    Source: E. B. Wilson, JASA 22 (1927), 209-212.
    """
    if n <= 0:
        raise ValueError(f"an interval needs at least one observation, not {n}")
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def best_trial(study: StudyRecord) -> TrialRecord:
    """The best completed trial by the validation metric. Raises SearchError when none completed."""
    ranked = study.ranked(trial for trial in study.trials if trial.state == TrialState.COMPLETE)
    if ranked:
        return ranked[0]
    failures = [trial for trial in study.trials if trial.failure]
    why = f"; the last failure was {failures[-1].failure}: {failures[-1].failure_message}" if failures else ""
    raise SearchError(f"no trial of study {study.name!r} was completed, so there is no winner{why}")


def gains(study: StudyRecord, winner: TrialRecord) -> tuple[Gain, ...]:
    """How far the winner is ahead of each baseline, by the validation metric."""
    sign = 1.0 if study.maximize else -1.0
    return tuple(
        Gain(trial.baseline, trial.number, trial.value, sign * ((winner.value or 0.0) - trial.value) + 0.0)
        for trial in study.trials
        if trial.baseline is not None and trial.value is not None and trial.state == TrialState.COMPLETE
    )


def score(
    objective: ImageClassifier, params: Params, weights: bytes, device: str
) -> tuple[TestScore, Mapping[str, float]]:
    """Score trained weights on the test split, which is read here and nowhere else."""
    result = objective.score_test(objective.load_weights(params, weights), device)
    n = len(result.labels)
    interval = wilson(int((result.probabilities.argmax(1) == result.labels).sum()), n)
    figures = {"accuracy": result.accuracy, "low": interval.low, "high": interval.high, "loss": result.loss, "n": n}
    return result, figures
