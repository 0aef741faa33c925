"""A fixed list of trainings as work for the coordinator: those that are not the study's trials.

Optuna never sees these trainings, so the study's counts stay exact. Their results are kept in an attribute of the
study, by run: when more trials change the best ones, only what is new trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from search.coordinator.work import Job
from search.study import records
from search.study.records import TrialRecord
from search.study.study import StoredStudy
from search.study.training_result import TrainingResult
from search.tracking.tracker import Tracking

TRANSIENT = ("out_of_memory", "crashed")
"""Failures that another start may not meet, on a machine that does less else."""


def is_transient(result: TrainingResult) -> bool:
    """Whether a training failed in a way that another start may not."""
    return result.failure in TRANSIENT


@dataclass(frozen=True)
class _Begun:
    """Where and when a training of this start began."""

    slot: int
    started: datetime


class JobList:
    """Trainings that each run once. A later start repeats those that failed for a transient reason."""

    unit = "trainings"

    def __init__(
        self,
        study: StoredStudy,
        tracking: Tracking,
        jobs: Sequence[Job],
        wanted: Callable[[Job], bool] = lambda job: True,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`wanted` says whether a job that has not begun is still to be done."""
        self._study, self._tracking, self._jobs = study, tracking, jobs
        self._wanted, self._notice = wanted, notice
        self._begun: dict[str, _Begun] = {}
        self._results: dict[str, TrainingResult] = {}

    def resume(self) -> None:
        """Take up the results of earlier starts; call it once, first.

        The journal may have a result that a killed search could not store in the study any more.
        """
        stored = self._stored()
        for job in self._jobs:
            found = self._tracking.verdict(job.run) or stored.get(job.run)
            if found is not None and not is_transient(result := TrainingResult.from_dict(found)):
                self._store(job.run, result)

    def result(self, job: Job) -> TrainingResult | None:
        """How a training ended; None while it has not."""
        return self._results.get(job.run)

    # ---- what to train

    @property
    def target(self) -> int:
        """Trainings that have ended, are running, or are still wanted."""
        return sum(job.run in self._results or job.run in self._begun or self._wanted(job) for job in self._jobs)

    @property
    def remaining(self) -> int:
        """How many are wanted and have not begun."""
        return sum(1 for _ in self._waiting())

    def next(self) -> Job | None:
        """The first that is wanted."""
        return next(self._waiting(), None)

    def prepare_next(self) -> None:
        """Do nothing: there is nothing to sample."""

    def _waiting(self) -> Iterator[Job]:
        waiting = (job for job in self._jobs if job.run not in self._results and job.run not in self._begun)
        return (job for job in waiting if self._wanted(job))

    # ---- what became of it

    def begin(self, job: Job, slot: int) -> None:
        """Note which slot trains it."""
        self._begun[job.run] = _Begun(slot, datetime.now())

    def report(self, job: Job, step: int, value: float) -> bool:
        """Train to the end."""
        return False

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        """Store the result, and report which trainings it makes unnecessary."""
        waiting = list(self._waiting())
        self._store(job.run, result)
        still_waiting = {other.run for other in self._waiting()}
        for other in waiting:
            if other.run not in still_waiting:
                self._notice(f"{other.name} is not needed any more: its configuration cannot win")
        return self._record(job)

    def records(self) -> list[TrialRecord]:
        """The trainings that have ended."""
        return [self._record(job) for job in self._jobs if job.run in self._results]

    def _stored(self) -> dict[str, dict[str, object]]:
        return dict(self._study.attrs().get(records.EXTRA_TRAININGS, {}))

    def _store(self, run: str, result: TrainingResult) -> None:
        self._results[run] = result
        stored = self._stored()
        if stored.get(run) != result.as_dict():
            self._study.set_attr(records.EXTRA_TRAININGS, {**stored, run: result.as_dict()})

    def _record(self, job: Job) -> TrialRecord:
        result, begun = self._results[job.run], self._begun.get(job.run)
        return TrialRecord(
            number=job.task.number,
            state=result.state,
            value=result.value,
            params=job.task.params,
            label=job.label,
            baseline=None,
            failure=result.failure,
            failure_message=result.failure_message,
            metrics=result.metrics,
            slot=begun.slot if begun else None,
            started=begun.started if begun else None,
            ended=datetime.now() if begun else None,
            run_id=self._tracking.mlflow_id(job.run),
            intermediate={},
        )
