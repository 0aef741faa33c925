"""Whose weights stay: the rule of `--keep best:N`."""

from collections.abc import Iterable

from optuna.trial import TrialState

from search.common.direction import Direction
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.target import Target
from search.study.summary import Ensemble


def best_trials(trials: Iterable[TrialRecord], n: int, direction: Direction) -> list[TrialRecord]:
    """The `n` best trials that may win, best first.

    A trial that is not among them when it ends can never be: later trials only push others out.
    """
    candidates = [trial for trial in trials if trial.may_win]
    return sorted(candidates, key=lambda trial: (-direction.sign * (trial.value or 0.0), trial.number))[:n]


def deletable(study: StudyRecord, n: int, target: Target | None = None) -> list[TrialRecord]:
    """The ended trials whose weights `--keep best:n` deletes, unless they are deleted already."""
    return [trial for trial in outside(study, n, target) if not trial.weights_deleted]


def outside(study: StudyRecord, n: int, target: Target | None = None) -> list[TrialRecord]:
    """The ended trials that `--keep best:n` does not keep, also those whose weights were deleted after their end.

    A server may have refused that.

    Besides the best, the winner and the members of its ensemble keep their weights, and so does each trial that may
    still win: one that has reached the `target`, and one that was trained again to confirm it, which more trials may
    make the winner.
    """
    kept = {trial.number for trial in best_trials(study.trials, n, study.direction)}
    kept |= {study.summary.number} if study.summary else set()
    if stored := study.attrs.get(records.ENSEMBLE):  # the summary of a start that was killed does not have it yet
        ensemble = Ensemble.from_dict(stored["chosen"])
        kept |= {member.number for member in ensemble.members if ensemble.pays}
    kept |= {int(run.split("-")[1]) for run in study.attrs.get(records.EXTRA_TRAININGS, {})}  # such as confirm-7-1
    kept |= {trial.number for trial in target.reached_by(study.trials)} if target else set()
    return [trial for trial in _once_with_weights(study) if trial.number not in kept]


def why_deleted(study: StudyRecord) -> str:
    """Say that `--keep` deleted the weights of a trial, which trials have some, and how to have them again."""
    trials = [trial for trial in _once_with_weights(study) if not trial.weights_deleted]
    left = [str(trial.number) for trial in study.ranked(trials)]
    others = f"These trials have weights: {', '.join(left[:10])}{' ...' if len(left) > 10 else ''}. " if left else ""
    again = "To train such a network again, type the command of the search with --keep all and a new --study NAME"
    return f"--keep deleted them, in the search or in gc. {others}{again}"


def _once_with_weights(study: StudyRecord) -> list[TrialRecord]:
    """The ended trials whose weights may have been stored. One outside a limit may have ended before its training."""
    if study.is_function and not study.attrs.get(records.MODELS):
        return []
    later = frozenset(study.attrs.get(records.DELETED, ()))  # the weights of others were not even stored
    ended = (trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED))
    stored = (trial for trial in ended if not trial.weights_deleted or trial.number in later)
    return [trial for trial in stored if trial.metrics.get("epochs") != 0]
