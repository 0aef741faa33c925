"""Deletes the weights of trials that are not among the best, as `--keep best:N` asks.

A trial that is not among the best when it ends never will be, so its weights are not even stored, unless it has reached
the target. Only the weights of one that falls out later are deleted. The journal gets each deletion before the study
notes it, so a killed search deletes again what it may have deleted already.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import optuna

from search.common.direction import Direction
from search.common.workspace import TrainingFiles
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.kept import best_trials, deletable
from search.study.selection.target import Target
from search.tracking.journal import trial_run
from search.tracking.registry.programs import weights_artifact
from search.tracking.tracker import Tracking

WEIGHTS_TAG, GONE = "search.weights", "deleted by --keep"  # a run's tag


class Keeper(Protocol):
    """Decides whose weights stay. Used by one thread."""

    def take_up(self) -> None:
        """Note the trials that have ended, and delete the weights of those that are not among the best."""

    def keeps(self, trial: TrialRecord) -> bool:
        """Whether the weights of a trial that is about to end are stored."""

    def add(self, trial: TrialRecord) -> None:
        """Note a trial whose end is stored, and delete the weights of one that it displaces."""


class KeepAll:
    """Every trial keeps its weights."""

    def take_up(self) -> None:
        """Do nothing."""

    def keeps(self, trial: TrialRecord) -> bool:
        return True

    def add(self, trial: TrialRecord) -> None:
        """Do nothing."""


@dataclass
class KeepBest:
    """The `n` best trials of a study, and those that may win, keep their weights. The study's lock must be held."""

    study: optuna.Study
    tracking: Tracking
    files: TrainingFiles
    n: int
    target: Target | None = None
    shared: Callable[[], Set[int]] = frozenset
    """Returns the trials whose runs another study has too: they keep their weights. The copy may have been made now."""
    _best: list[TrialRecord] = field(default_factory=list, init=False)

    def take_up(self) -> None:
        record = StudyRecord.of(self.study)
        self._best = best_trials(record.trials, self.n, record.direction)
        self.delete(record, deletable(record, self.n, self.target))

    def keeps(self, trial: TrialRecord) -> bool:
        return trial in self._best_with(trial) or (self.target is not None and bool(self.target.reached_by([trial])))

    def add(self, trial: TrialRecord) -> None:
        before, self._best = self._best, self._best_with(trial)
        if displaced := {other.number for other in before if other not in self._best}:
            record = StudyRecord.of(self.study)
            others = deletable(record, self.n, self.target)
            self.delete(record, [other for other in others if other.number in displaced])

    def _best_with(self, trial: TrialRecord) -> list[TrialRecord]:
        return best_trials([*self._best, trial], self.n, self._direction)

    @cached_property
    def _direction(self) -> Direction:
        return Direction.of_study(self.study.direction)

    def delete(self, record: StudyRecord, trials: Sequence[TrialRecord]) -> None:
        """Delete the weights of ended trials. Deleting them again does nothing."""
        shared = self.shared() if trials else frozenset()
        chosen = [trial for trial in trials if trial.number not in shared]
        artifact = weights_artifact(is_function=record.is_function)
        for trial in chosen:
            run = trial_run(trial.number)
            if trial.run_id is not None and not self.tracking.knows(run):  # the journal was lost
                self.tracking.know(run, trial.run_id)
            self.tracking.remove(run, artifact, tags={WEIGHTS_TAG: GONE})
            self.files.weights_of(run).unlink(missing_ok=True)
        if chosen:
            earlier = record.attrs.get(records.DELETED, ())
            self.study.set_user_attr(records.DELETED, sorted({*earlier, *(trial.number for trial in chosen)}))
