"""A fixed list of trainings as work for the coordinator: those that are not the study's trials.

Optuna never sees these trainings, so the study's counts stay exact. An attribute of the study keeps their results by
run. When more trials change the best ones, only the new trainings run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from search.coordinator.work import Job
from search.study import records
from search.study.records import TrialRecord
from search.study.study import StoredStudy
from search.study.training_result import TrainingResult
from search.tracking.tracker import Tracking

TRANSIENT_FAILURES = ("out_of_memory", "crashed")  # another start may not meet them, on a machine that is less busy


def is_transient(result: TrainingResult) -> bool:
    """Whether a training failed in a way that another start may not."""
    return result.failure in TRANSIENT_FAILURES


class JobList:
    """Trainings that each run once. A later start repeats those that failed for a transient reason."""

    unit = "trainings"

    def __init__(
        self,
        study: StoredStudy,
        tracking: Tracking,
        jobs: Sequence[Job],
        is_needed: Callable[[Job], bool] = lambda job: True,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`is_needed` decides on each job until it begins."""
        self.jobs, self._study, self._tracking = jobs, study, tracking
        self._is_needed, self._notice = is_needed, notice
        self._begun: dict[str, tuple[int, datetime]] = {}  # by run: the slot and the time
        self._results: dict[str, TrainingResult] = {}

    def resume(self) -> None:
        """Take up the results of earlier starts; call it once, first.

        The journal may have a result that a killed search could not store in the study any more.
        """
        stored = self._stored()
        for job in self.jobs:
            values = self._tracking.verdict(job.run) or stored.get(job.run)
            if values is not None and not is_transient(result := TrainingResult.from_dict(values)):
                self._store(job.run, result)

    def result(self, job: Job) -> TrainingResult | None:
        """How a training ended; None while it has not."""
        return self._results.get(job.run)

    @property
    def target(self) -> int:
        return len(self.jobs) - sum(not self._is_needed(job) for job in self._not_begun())

    @property
    def remaining(self) -> int:
        return len(self._waiting())

    def next(self) -> Job | None:
        return next(iter(self._waiting()), None)

    def prepare_next(self) -> None:
        """Do nothing: there is nothing to sample."""

    def _waiting(self) -> list[Job]:
        return [job for job in self._not_begun() if self._is_needed(job)]

    def _not_begun(self) -> list[Job]:
        return [job for job in self.jobs if job.run not in self._results and job.run not in self._begun]

    def begin(self, job: Job, slot: int) -> None:
        self._begun[job.run] = slot, datetime.now()

    def report(self, job: Job, step: int, value: float) -> bool:
        return False

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        """Store the result, and report which trainings it makes unnecessary."""
        waiting = self._waiting()
        self._store(job.run, result)
        for other in waiting:
            if not self._is_needed(other):
                self._notice(f"{other.name} is not needed any more: its configuration cannot win")
        return self._record(job)

    def records(self) -> list[TrialRecord]:
        return [self._record(job) for job in self.jobs if job.run in self._results]

    def _stored(self) -> dict[str, dict[str, Any]]:
        return dict(self._study.attrs().get(records.EXTRA, {}))

    def _store(self, run: str, result: TrainingResult) -> None:
        self._results[run] = result
        stored = self._stored()
        if stored.get(run) != result.as_dict():
            self._study.set_attr(records.EXTRA, {**stored, run: result.as_dict()})

    def _record(self, job: Job) -> TrialRecord:
        result = self._results[job.run]
        slot, started = self._begun.get(job.run, (None, None))
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
            slot=slot,
            started=started,
            ended=datetime.now() if started else None,
            run_id=self._tracking.mlflow_id(job.run),
            intermediate={},
        )
