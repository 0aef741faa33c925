"""The rules that pick the winner, by the validation metric alone."""

import math
from collections.abc import Sequence

from optuna.trial import TrialState

from search.common.direction import Direction
from search.common.errors import SearchError
from search.common.text import sentence
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.intervals import Mean, Noise
from search.study.space import limits
from search.study.summary import Candidate, Confirmation, Gain


def completed(study: StudyRecord) -> list[TrialRecord]:
    """The completed trials within the limits, best first by the validation metric."""
    return [trial for trial in study.ranked() if trial.may_win]


def best_trial(study: StudyRecord) -> TrialRecord:
    """The best completed trial within the limits, by the validation metric. Raises SearchError when there is none."""
    if trials := completed(study):
        return trials[0]
    if (outside := [trial for trial in study.trials if not trial.feasible]) and not study.count(TrialState.FAIL):
        nearest = min(outside, key=lambda trial: sum(max(0.0, excess) for excess in trial.constraints.values()))
        raise SearchError(
            f"no trial of study {study.name!r} is within its limits, so no winner can be chosen; the nearest, trial "
            f"{nearest.number}, has {limits.describe(nearest.metrics)}. Another limit is another study: type a higher "
            "one, and add --study NAME"
        )
    failures = [trial for trial in study.trials if trial.failure]
    problem = f"no trial of study {study.name!r} was completed, so no winner can be chosen"
    if not failures:
        raise SearchError(problem)
    last, n = failures[-1], study.finished
    why = f"the last failure was {last.failure}: {sentence(last.failure_message or 'nothing')}"
    advice = (
        f"Failed trials count. After you repair the objective, type --trials {2 * n}, or --study NAME for a new study"
    )
    raise SearchError(f"{problem}; {why} {advice}")


def clearly_worse(candidate: Candidate, candidates: Sequence[Candidate], noise: Noise, direction: Direction) -> bool:
    """True if fresh seeds or folds show a candidate significantly worse than the best one.

    A candidate with a failed training counts as worse, unless every measured candidate has one.
    """
    rivals = [rival for rival in candidates if rival.values and not rival.failed]
    if candidate.failed:
        return bool(rivals)
    if not candidate.values or not rivals:
        return False
    best = max(rivals, key=lambda rival: direction.sign * _mean(rival))
    significant = noise.significant_difference(candidate, best)
    return significant is not None and direction.gain(_mean(best), _mean(candidate)) > significant


def choose(candidates: Sequence[Candidate], noise: Noise, direction: Direction) -> Candidate | None:
    """The smallest network within one standard error of the best mean; None if no candidate has a value.

    Source of the rule: Breiman, Friedman, Olshen, Stone, Classification and Regression Trees (1984), section 3.4.3.
    """
    measured = [candidate for candidate in candidates if candidate.values]
    measured = [candidate for candidate in measured if not candidate.failed] or measured
    most_values = max((len(candidate.values) for candidate in measured), default=0)
    # A candidate with fewer values was dropped as clearly worse. Its few values must not win by luck.
    finalists = [candidate for candidate in measured if len(candidate.values) == most_values]
    ranked = sorted(finalists, key=lambda candidate: (-direction.sign * _mean(candidate), candidate.number))
    level = [
        candidate
        for candidate in ranked
        if direction.gain(_mean(ranked[0]), _mean(candidate)) <= (noise.standard_error(candidate, ranked[0]) or 0.0)
    ]
    return min(level, key=lambda c: math.inf if c.parameters is None else c.parameters, default=None)


def _mean(candidate: Candidate) -> float:
    return candidate.mean or 0.0


def gains(study: StudyRecord, winner: TrialRecord, confirmation: Confirmation | None = None) -> tuple[Gain, ...]:
    """How much better the winner is than each completed baseline, by the validation metric.

    Compares confirmed means where there are some. A baseline that was trained once was not selected, partly by bad
    luck, so the gain over it is too large on average. Each interval holds by itself, not all of them jointly.
    """
    candidates = confirmation.candidates if confirmation else ()
    n_images, folds = (confirmation.n_images, confirmation.folds) if confirmation else (None, None)
    noise = Noise.of(candidates, n_images, study.n_eligible, folds)
    confirmed = {candidate.number: noise.mean_of(candidate) for candidate in candidates if candidate.values}
    noun = confirmation.noun if confirmation else "fresh seed"
    winning = confirmed.get(winner.number) or _once(winner)
    compared = []
    for trial in study.trials:
        if trial.baseline is None or trial.number == winner.number or trial.state != TrialState.COMPLETE:
            continue
        other = confirmed.get(trial.number)
        baseline = other or _once(trial)
        half_width = noise.half_width(winning, baseline) if winner.number in confirmed else None
        gain, seeds = study.direction.gain(winning.value, baseline.value), other.seeds if other else 0
        compared.append(Gain(trial.baseline, trial.number, baseline.value, gain, half_width, seeds, noun))
    return tuple(compared)


def _once(trial: TrialRecord) -> Mean:
    """The value of a completed trial, as the mean of its one training."""
    assert trial.value is not None, "a completed trial has a value"
    return Mean(trial.value, 1, trial.image_error)
