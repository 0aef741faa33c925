"""The winner: chosen on the validation split, then scored on the test split, once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from objectives.base import ImageClassifier, Params, TestScore
from search import limits
from search.errors import SearchError
from search.records import Candidate, Confirmation, Gain, StudyRecord, TrialRecord

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
    """The best completed trial within the limits, by the validation metric. Raises SearchError when there is none."""
    ranked = study.ranked(trial for trial in study.trials if trial.state == TrialState.COMPLETE and trial.feasible)
    if ranked:
        return ranked[0]
    if (outside := [trial for trial in study.trials if not trial.feasible]) and not study.count(TrialState.FAIL):
        nearest = min(outside, key=lambda trial: sum(max(0.0, excess) for excess in trial.constraints.values()))
        raise SearchError(
            f"no trial of study {study.name!r} is within its limits, so there is no winner; the nearest, trial "
            f"{nearest.number}, has {limits.describe(nearest.metrics)}. Another limit is another study: type a higher "
            "one, and add --study NAME"
        )
    failures = [trial for trial in study.trials if trial.failure]
    why = f"; the last failure was {failures[-1].failure}: {failures[-1].failure_message}" if failures else ""
    raise SearchError(f"no trial of study {study.name!r} was completed, so there is no winner{why}")


def noise(candidates: Sequence[Candidate], n_validation: int | None) -> float | None:
    """Standard deviation of one value around its setting's mean; None when nothing is known of it.

    Pooled over the candidates' fresh seeds, and no less than what `n_validation` images can resolve, where values are
    accuracies: all candidates are measured on the same images, so seeds alone do not show that part.
    """
    tried = [candidate for candidate in candidates if candidate.values]
    freedom = sum(len(candidate.values) - 1 for candidate in tried)
    squares = sum((value - (each.mean or 0.0)) ** 2 for each in tried for value in each.values)
    parts = [math.sqrt(squares / freedom)] if freedom else []
    if n_validation and tried:
        share = min(max(statistics.mean(each.mean or 0.0 for each in tried), 0.0), 1.0)
        parts.append(math.sqrt(share * (1 - share) / n_validation))
    return max(parts, default=None)


def half_interval(noise: float | None, *seeds: int, freedom: int) -> float | None:
    """Half of the 95% interval of a mean over `seeds` values, or of the difference of two such means.

    Student's t with the degrees of freedom that the noise was estimated with; the normal one where that was not from
    seeds. Source: W. S. Gosset, Biometrika 6 (1908), 1-25.
    """
    if noise is None or not all(seeds):
        return None
    from scipy.special import stdtrit  # type: ignore[import-untyped, unused-ignore]

    t = float(stdtrit(freedom, 0.975)) if freedom else Z_95
    return t * noise * math.sqrt(sum(1 / n for n in seeds))


def freedom(candidates: Sequence[Candidate]) -> int:
    """Degrees of freedom of the noise that fresh seeds show."""
    return sum(len(candidate.values) - 1 for candidate in candidates if candidate.values)


def is_behind(candidate: Candidate, candidates: Sequence[Candidate], noise: float | None, *, maximize: bool) -> bool:
    """Whether fresh seeds show a candidate clearly behind the best: by three standard errors of the difference."""
    if candidate.failed:
        return True
    others = [other for other in candidates if other.mean is not None and not other.failed]
    if noise is None or candidate.mean is None or not others:
        return False
    sign = 1.0 if maximize else -1.0
    best = max(others, key=lambda other: sign * (other.mean or 0.0))
    error = noise * math.sqrt(1 / len(candidate.values) + 1 / len(best.values))
    return sign * ((best.mean or 0.0) - candidate.mean) > 3 * error


def choose(candidates: Sequence[Candidate], noise: float | None, *, maximize: bool) -> Candidate | None:
    """The candidate with the best mean, or the smallest network within one standard error of it; None without any.

    Source of the rule: Breiman, Friedman, Olshen, Stone, Classification and Regression Trees (1984), section 3.4.3.
    """
    sign = 1.0 if maximize else -1.0
    tried = [candidate for candidate in candidates if candidate.values]
    sound = [candidate for candidate in tried if not candidate.failed] or tried
    if not sound:
        return None
    fully = max(len(candidate.values) for candidate in sound)
    best = max(sound, key=lambda each: (len(each.values) == fully, sign * (each.mean or 0.0)))
    level = [
        each for each in sound
        if sign * ((best.mean or 0.0) - (each.mean or 0.0))
        <= (noise or 0.0) * math.sqrt(1 / len(each.values) + 1 / len(best.values))
    ]  # fmt: skip
    return min(level, key=lambda each: (each.parameters or math.inf, -sign * (each.mean or 0.0), each.number))


def gains(study: StudyRecord, winner: TrialRecord, confirmation: Confirmation | None = None) -> tuple[Gain, ...]:
    """How far the winner is ahead of each baseline, by the validation metric.

    A baseline was trained once, and not chosen for its value, so that value stands for it as it is.
    """
    sign = 1.0 if study.maximize else -1.0
    candidates = confirmation.candidates if confirmation else ()
    confirmed = next((each for each in candidates if each.number == winner.number), None)
    value = (confirmed and confirmed.mean) or winner.value or 0.0
    seeds = len(confirmed.values) if confirmed else 0
    half = half_interval(confirmation.noise if confirmation else None, seeds, 1, freedom=freedom(candidates))
    return tuple(
        Gain(trial.baseline, trial.number, trial.value, sign * (value - trial.value) + 0.0, half)
        for trial in study.trials
        if trial.baseline is not None and trial.value is not None and trial.state == TrialState.COMPLETE
        and trial.number != winner.number
    )  # fmt: skip


def score(
    objective: ImageClassifier, params: Params, weights: bytes, device: str
) -> tuple[TestScore, Mapping[str, float]]:
    """Score trained weights on the test split, which is read here and nowhere else."""
    result = objective.score_test(objective.load_weights(params, weights), device)
    n = len(result.labels)
    interval = wilson(int((result.probabilities.argmax(1) == result.labels).sum()), n)
    figures = {"accuracy": result.accuracy, "low": interval.low, "high": interval.high, "loss": result.loss, "n": n}
    return result, figures
