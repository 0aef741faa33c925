"""The contract between the coordinator's loop and the work it does: trials, confirmation or refit.

A `Work` is used by one thread, the coordinator's. Each job that `next` returns begins once and ends once; its reports
come in between. The next start of the search gets a training again that an interruption cut short.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from objectives.base import Task
from objectives.worker.messages import Asked
from search.study.records import TrainingResult, TrialRecord


@dataclass(frozen=True)
class Job:
    """One training to do, and its names."""

    run: str  # its run in the journal
    name: str  # its run in MLflow
    label: str
    task: Task
    tags: Mapping[str, str]
    step: int = 0  # the last step that an earlier start of the search has a value of
    value: float | None = None  # the value at `step`


class Work(Protocol):
    """Trainings that a coordinator runs."""

    unit: str  # the word for these trainings that users see, in the plural, such as `trials`

    @property
    def target(self) -> int:
        """Trainings in all, those of earlier starts included."""

    @property
    def remaining(self) -> int:
        """How many are still to begin, as far as is known now."""

    def next(self) -> Job | None:
        """The next training for a free worker; None when none is left."""

    def prepare_next(self) -> None:
        """Sample the next training ahead of time. Called while several train."""

    def begin(self, job: Job, slot: int) -> None:
        """Store that a training begins, right before it does."""

    def report(self, job: Job, step: int, value: float) -> bool:
        """Store a value. Returns whether the training ends here."""

    def answer(self, job: Job, asked: Asked, reported: set[int]) -> Any:
        """Answer what a function asks its trial or study, as Optuna does, with its errors and warnings.

        `reported` holds the steps that this call of the function has reported. The answer to `report` is whether the
        value is new.
        """

    def note(self, attr: str) -> None:
        """Store an attribute of the study that says what its function does."""

    def keeps(self, job: Job, result: TrainingResult) -> bool:
        """Whether the weights of a training that is about to end like this are stored."""

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        """Store how a training ended. The journal has the result already."""

    def records(self) -> Sequence[TrialRecord]:
        """The trainings that earlier starts have begun or ended."""
