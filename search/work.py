"""What a coordinator trains: the contract between the loop and what decides what comes next.

A `Work` is used by one thread, the coordinator's. Each job that `next` gives is begun once and ended once; in between
come its reports. A training that an interruption cut short is given again by the next start of the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.trial import TrialState

from objectives.base import Task
from search import records


@dataclass(frozen=True)
class Job:
    """One training to do, and what it is called."""

    run: str
    """Its run in the journal."""
    name: str
    """Its run in MLflow."""
    label: str
    task: Task
    params: Mapping[str, Any]
    """As tracked."""
    tags: Mapping[str, str]
    step: int = 0
    """The last one that an earlier start of the search has a value of."""
    value: float | None = None
    """That value."""


class Work(Protocol):
    """What a coordinator trains."""

    unit: str
    """What people are told that these are: `trials`, or another word for several."""

    @property
    def target(self) -> int:
        """Trainings in all, those of earlier starts included."""
        ...

    @property
    def left(self) -> int:
        """How many are still to begin, as far as is known now."""
        ...

    def next(self) -> Job | None:
        """What a trainer that is free is to do; None when nothing is left for it."""
        ...

    def prepare(self) -> None:
        """Called while several train: think about the next one now."""
        ...

    def begin(self, job: Job, slot: int) -> None:
        """Put it on record; its training starts right afterwards."""
        ...

    def report(self, job: Job, step: int, value: float) -> bool:
        """Put a value on record; returns whether the training is to end here."""
        ...

    def end(self, job: Job, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> records.TrialRecord:
        """Put the end on record. The journal has it already, as the run's verdict."""
        ...

    def ended(self) -> list[records.TrialRecord]:
        """What earlier starts have brought to an end, or begun."""
        ...
