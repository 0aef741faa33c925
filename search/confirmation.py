"""Is the winner luck? The best trials train again on fresh seeds, and the winner on everything but the test split.

Both are trainings beside the study's trials: Optuna never sees them, so the study's counts stay exact. Their ends are
kept in an attribute of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from objectives.base import ImageClassifier, Objective, Task
from search import records
from search.coordinator import Job
from search.records import Candidate, Confirmation, TrialRecord
from search.sampling import derive_seed
from search.study import Study
from search.tracking import Tracking
from search.winner import freedom, half_interval, is_behind, noise


class Extra:
    """Given trainings, each of them once, whatever ended earlier starts."""

    def __init__(
        self, study: Study, tracking: Tracking, jobs: Sequence[Job], wanted: Callable[[Job], bool] = lambda job: True
    ) -> None:
        self._study, self._tracking, self._jobs, self._wanted = study, tracking, jobs, wanted
        self._began: dict[str, tuple[int, datetime]] = {}
        self._results: dict[str, Mapping[str, Any]] = dict(study.attrs().get(records.EXTRA, {}))
        for job in jobs:  # a search that was killed before it could store an end has it in the journal
            if job.run not in self._results and (verdict := tracking.verdict(job.run)) is not None:
                self._store(job.run, verdict)

    @property
    def target(self) -> int:
        """Trainings that were done, are at work, or still wanted."""
        return sum(job.run in self._results or job.run in self._began or self._wanted(job) for job in self._jobs)

    def result(self, job: Job) -> Mapping[str, Any] | None:
        """`state`, `value` and `attrs` of its end; None when it has not ended."""
        return self._results.get(job.run)

    def next(self) -> Job | None:
        """The first that is wanted."""
        due = (job for job in self._jobs if job.run not in self._results and job.run not in self._began)
        return next((job for job in due if self._wanted(job)), None)

    def prepare(self) -> None:
        """Nothing needs time."""

    def begin(self, job: Job, slot: int) -> None:
        """Note who trains it."""
        self._began[job.run] = (slot, datetime.now())

    def report(self, job: Job, step: int, value: float) -> bool:
        """Train to the end."""
        return False

    def end(self, job: Job, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> TrialRecord:
        """Keep the end."""
        self._store(job.run, {"state": state.name, "value": value, "attrs": dict(attrs)})
        return self._record(job)

    def ended(self) -> list[TrialRecord]:
        """Those of them that have."""
        return [self._record(job) for job in self._jobs if job.run in self._results]

    def _store(self, run: str, result: Mapping[str, Any]) -> None:
        self._results[run] = result
        self._study.set_attr(records.EXTRA, self._results)

    def _record(self, job: Job) -> TrialRecord:
        result = self._results[job.run]
        slot, started = self._began.get(job.run, (None, None))
        attrs = result["attrs"]
        return TrialRecord(
            number=job.task.number, state=TrialState[result["state"]], value=result["value"], params=job.task.params,
            label=job.label, baseline=None, failure=attrs.get(records.FAILURE),
            failure_message=attrs.get(records.FAILURE_MESSAGE), metrics=attrs.get(records.METRICS, {}), slot=slot,
            started=started, ended=datetime.now() if started else None, run_id=self._tracking.mlflow_id(job.run),
            intermediate={},
        )  # fmt: skip


class Confirming:
    """The best completed trials, each on so many fresh seeds; one that is clearly behind is spared the rest of them.

    Every candidate's first seed comes before any second one, so that it shows early who is behind.
    """

    def __init__(self, study: Study, tracking: Tracking, *, top: int, seeds: int, epochs: int, seed: int) -> None:
        self._study, self._seeds = study, seeds
        self._best = [t for t in study.record().ranked() if t.state == TrialState.COMPLETE and t.feasible][:top]
        objective = study.objective
        self._n_validation = (
            int(objective.dataset_info()["n_validation"]) if isinstance(objective, ImageClassifier) else None
        )
        self._jobs = {
            (trial.number, repeat): _job(
                objective, trial, f"confirm-{trial.number}-{repeat}", f"fresh seed {repeat}", "confirm",
                Task(
                    trial.number, study.params_of(trial.params), derive_seed(seed, "confirm", trial.number, repeat),
                    epochs,
                ),
            )
            for repeat in range(1, seeds + 1)
            for trial in self._best
        }  # fmt: skip
        self.work = Extra(study, tracking, list(self._jobs.values()), self._is_open)

    def _is_open(self, job: Job) -> bool:
        found = self.found()
        candidate = next(each for each in found.candidates if each.number == job.task.number)
        return not is_behind(candidate, found.candidates, found.noise, maximize=self._study.maximize)

    def found(self) -> Confirmation:
        """What is known so far."""
        candidates = [self._candidate(trial) for trial in self._best]
        spread = noise(candidates, self._n_validation)
        free = freedom(candidates)
        return Confirmation(
            tuple(
                replace(each, half=half_interval(spread, len(each.values), freedom=free)) for each in candidates
            ),
            self._seeds,
            spread,
        )  # fmt: skip

    def _candidate(self, trial: TrialRecord) -> Candidate:
        results = [self.work.result(job) for (number, _), job in self._jobs.items() if number == trial.number]
        ended = [result for result in results if result is not None]
        return Candidate(
            trial.number, trial.label, trial.value or 0.0, trial.metrics.get("parameters"),
            tuple(result["value"] for result in ended if result["value"] is not None),
            failed=sum(result["value"] is None for result in ended),
        )  # fmt: skip


def refit_job(study: Study, winner: TrialRecord, *, epochs: int, seed: int) -> Job:
    """The winner's setting on training and validation split together, from a fresh seed."""
    params = study.params_of(winner.params)
    task = Task(winner.number, params, derive_seed(seed, "refit", winner.number), epochs, refit=True)
    return _job(study.objective, winner, f"refit-{winner.number}", "all but the test split", "refit", task)


def _job(objective: Objective, trial: TrialRecord, run: str, what: str, kind: str, task: Task) -> Job:
    label = f"{objective.describe(task.params)}, {what}"
    tags = {"kind": kind, "optuna.trial.number": str(trial.number)}
    return Job(run, f"{kind} #{trial.number:03d} {label}", label, task, task.params, tags)
