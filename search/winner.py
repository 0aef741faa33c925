"""The winner: chosen on the validation split, then scored on the test split, once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optuna.trial import TrialState

from objectives.base import ImageClassifier, Params, TestScore
from search import limits
from search.errors import SearchError
from search.intervals import Noise, wilson
from search.records import StudyRecord, TrialRecord
from search.summary import Candidate, Confirmation, Gain


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


def is_behind(candidate: Candidate, candidates: Sequence[Candidate], noise: Noise, *, maximize: bool) -> bool:
    """Whether fresh seeds show a candidate clearly behind the best: by more than chance does.

    One of which a fresh seed came to nothing is out of the race as well, unless it is alone.
    """
    rivals = [other for other in candidates if other.values and not other.failed]
    if candidate.failed:
        return bool(rivals)
    if not candidate.values or not rivals:
        return False
    best = max(rivals, key=lambda rival: _worth(rival, maximize))
    clear = noise.clear(candidate, best)
    return clear is not None and _worth(best, maximize) - _worth(candidate, maximize) > clear


def choose(candidates: Sequence[Candidate], noise: Noise, *, maximize: bool) -> Candidate | None:
    """The candidate with the best mean, or the smallest network within one standard error of it; None without any.

    Source of the rule: Breiman, Friedman, Olshen, Stone, Classification and Regression Trees (1984), section 3.4.3.
    """
    tried = [candidate for candidate in candidates if candidate.values]
    sound = [candidate for candidate in tried if not candidate.failed] or tried
    fully = max((len(candidate.values) for candidate in sound), default=0)
    # One that was spared further seeds was clearly behind: its few values are not to win by luck.
    finalists = [candidate for candidate in sound if len(candidate.values) == fully]
    if not finalists:
        return None
    best = max(finalists, key=lambda each: _worth(each, maximize))
    level = [
        each for each in finalists
        if _worth(best, maximize) - _worth(each, maximize) <= (noise.error(each, best) or 0.0)
    ]  # fmt: skip
    return min(level, key=lambda each: (_size(each), -_worth(each, maximize), each.number))


def _worth(candidate: Candidate, maximize: bool) -> float:
    """Its mean, larger when better."""
    return (1.0 if maximize else -1.0) * (candidate.mean or 0.0)


def _size(candidate: Candidate) -> float:
    return math.inf if candidate.parameters is None else candidate.parameters


def gains(study: StudyRecord, winner: TrialRecord, confirmation: Confirmation | None = None) -> tuple[Gain, ...]:
    """How far the winner is ahead of each baseline, by the validation metric.

    Each is taken at its confirmed mean where it has one. One that was trained once is not among the candidates, because
    others looked better: by its bad luck in part, so its gain is too large on average. Each interval is wide enough for
    that by itself; they do not hold together.
    """
    candidates = confirmation.candidates if confirmation else ()
    noise = Noise.of(candidates, confirmation.n_images if confirmation else None, study.considered)
    confirmed = {each.number: (each.mean, len(each.values)) for each in candidates if each.mean is not None}
    ahead, seeds = confirmed.get(winner.number, (winner.value, 0))
    found = []
    for trial in study.trials:
        if trial.baseline is None or trial.number == winner.number or trial.state != TrialState.COMPLETE:
            continue
        value, n = confirmed.get(trial.number, (trial.value, 0))
        assert ahead is not None
        assert value is not None, "a completed trial has a value"
        half = noise.half_interval((ahead, seeds), (value, n or 1)) if seeds else None
        gain = (ahead - value if study.maximize else value - ahead) + 0.0  # no minus before a zero
        found.append(Gain(trial.baseline, trial.number, value, gain, half, n))
    return tuple(found)


def score(
    objective: ImageClassifier, params: Params, weights: bytes, device: str
) -> tuple[TestScore, Mapping[str, float]]:
    """Score trained weights on the test split, which is read here and nowhere else."""
    result = objective.score_test(objective.load_weights(params, weights), device)
    n = len(result.labels)
    interval = wilson(int((result.probabilities.argmax(1) == result.labels).sum()), n)
    figures = {"accuracy": result.accuracy, "low": interval.low, "high": interval.high, "loss": result.loss, "n": n}
    return result, figures
