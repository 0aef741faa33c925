"""Whose weights stay: the rule of `--keep best:N`."""

from collections.abc import Iterable

from optuna.trial import TrialState

from search.common.direction import Direction
from search.study.records import StudyRecord, TrialRecord


def best_trials(trials: Iterable[TrialRecord], n: int, direction: Direction) -> list[TrialRecord]:
    """The `n` best completed trials within the limits, best first. The winner is chosen among such trials.

    A trial that is not among them when it ends can never be: later trials only push others out.
    """
    valued = [(t.value, t) for t in trials if t.state == TrialState.COMPLETE and t.feasible and t.value is not None]
    ranked = sorted(valued, key=lambda pair: (-direction.sign * pair[0], pair[1].number))
    return [trial for _, trial in ranked[:n]]


def deletable(study: StudyRecord, n: int) -> list[TrialRecord]:
    """The ended trials of a study whose weights `--keep best:n` deletes, unless they are deleted already.

    Besides the best, the winner keeps its weights.
    """
    kept = {trial.number for trial in best_trials(study.trials, n, study.direction)}
    kept |= {study.summary.number} if study.summary else set()
    ended = (trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED))
    return [trial for trial in ended if trial.number not in kept and not trial.weights_deleted]


def why_deleted(study: StudyRecord) -> str:
    """Say that `--keep` deleted the weights of a trial, which trials have some, and how to have them again."""
    left = [str(other.number) for other in study.ranked() if not other.weights_deleted]
    others = f"Trials that have weights: {', '.join(left[:10])}{' ...' if len(left) > 10 else ''}. " if left else ""
    again = "To train it again, add --keep all and --study NAME to the command of the search"
    return f"--keep deleted them. {others}{again}"
