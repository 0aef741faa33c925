"""The progress of a search, and the interface of the displays that show it."""

import statistics
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from optuna.trial import TrialState

from search.common.direction import Direction
from search.study.records import TrialRecord

RECENT = 20  # the latest trainings tell how long the next ones take
TRIALS = "trials"  # the unit of a search's own trainings; those that confirm or refit the winner are not trials


@dataclass(frozen=True)
class RunningTrial:
    """A trial that is training."""

    number: int
    label: str
    epoch: float
    epochs: int | None  # None for a function, of which only the steps are known
    curve: tuple[float, ...]
    step: int | None = None  # the last one that a function has reported

    @property
    def position(self) -> str:
        """How far it is, such as `2.5/16` epochs or step `7`."""
        return f"{self.epoch:g}/{self.epochs}" if self.epochs else "-" if self.step is None else str(self.step)


class Standing:
    """Counts of the trials that ended, and the best of them; updated trial by trial, because a study may be long."""

    def __init__(self, target: int, ended: Iterable[TrialRecord], direction: Direction, unit: str = TRIALS) -> None:
        self.target, self.unit = target, unit
        self._direction = direction
        self.counts: Counter[TrialState] = Counter()
        self.best: TrialRecord | None = None
        """The best completed trial within the limits, the first of equal ones; None for other trainings than trials."""
        self.seconds: deque[float] = deque(maxlen=RECENT)  # of the latest trainings that ended
        self.left_s: float | None = None  # estimated seconds that the whole search still takes; None if unknown
        self._trained_s, self._trained_epochs = 0.0, 0.0
        for trial in ended:
            self.add(trial)

    def add(self, trial: TrialRecord) -> None:
        """Count a trial that ended."""
        self.counts[trial.state] += 1
        if trial.seconds:
            self.seconds.append(trial.seconds)
            self._trained_s += trial.seconds
            self._trained_epochs += trial.metrics.get("epochs") or 0.0
        if self.unit == TRIALS and trial.state == TrialState.COMPLETE and trial.value is not None and trial.feasible:
            best = self.best.value if self.best else None
            if best is None or self._direction.better(trial.value, best):
                self.best = trial

    @property
    def mean_s(self) -> float | None:
        """Mean seconds of a training. One that was interrupted for a night counts no more than ten usual ones."""
        if not self.seconds:
            return None
        longest = 10 * statistics.median(self.seconds)
        return statistics.fmean(min(seconds, longest) for seconds in self.seconds)

    @property
    def epoch_s(self) -> float | None:
        """Seconds of an epoch of the best trial; of all trials while none is the best; None if unknown."""
        if self.best is not None and self.best.seconds and (epochs := self.best.metrics.get("epochs")):
            return self.best.seconds / epochs
        return self._trained_s / self._trained_epochs if self._trained_epochs else None

    @property
    def finished(self) -> int:
        """Number of trials that ended."""
        return sum(n for state, n in self.counts.items() if state.is_finished())


@dataclass(frozen=True)
class SearchProgress:
    """The state of a search at one moment."""

    standing: Standing
    running: Sequence[RunningTrial]
    metric: str
    tracking_error: str | None = None  # why nothing can be delivered to MLflow at the moment


class Display(Protocol):
    """Shows the progress of a search."""

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show `text` until the block ends; for steps of several seconds before or after the trials."""

    def begin(self, title: str, target: int, done: int, unit: str = TRIALS) -> None:
        """Begin a series of trainings, of which `done` have ended. `unit` is what they are called."""

    def refresh(self, progress: SearchProgress) -> None:
        """Show the progress; called a few times a second."""

    def trial_ended(self, trial: TrialRecord, standing: Standing) -> None:
        """Show that a trial ended; `standing` already counts it."""

    def notice(self, text: str) -> None:
        """Show a message."""

    def end(self) -> None:
        """End the series of trainings."""
