"""Confirms the winner: the best trials train again on fresh seeds, then the winner on all but the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from optuna.trial import TrialState

from objectives.base import Objective, Task
from search.coordinator.job_list import JobList, is_transient
from search.coordinator.work import Job
from search.study import records
from search.study.records import TrialRecord
from search.study.sampling.samplers import derive_seed
from search.study.selection.intervals import Noise, images_of
from search.study.selection.winner import choose, clearly_worse
from search.study.space.objective_calls import described
from search.study.study import StoredStudy
from search.study.summary import Candidate, Confirmation, Summary
from search.study.training_result import TrainingResult
from search.tracking.journal import confirm_run, refit_run
from search.tracking.tracker import Tracking


@dataclass
class Confirmer:
    """Trains the best completed trials on fresh seeds. A candidate that is clearly behind skips its remaining seeds.

    Every candidate's first seed comes before any second one, so that it shows early who is behind.
    """

    study: StoredStudy
    tracking: Tracking
    top: int  # how many trials are confirmed
    seeds: int  # fresh seeds for each
    epochs: int
    seed: int  # from which the fresh ones are derived
    notice: Callable[[str], None]

    @cached_property
    def work(self) -> JobList:
        """The trainings, for the coordinator, with the results of earlier starts."""
        trials, _, _ = self._selection
        jobs = [self._job(trial, repeat) for repeat in range(1, self.seeds + 1) for trial in trials]
        work = JobList(self.study, self.tracking, jobs, self._may_win, self.notice)
        work.resume()
        return work

    @cached_property
    def _selection(self) -> tuple[list[TrialRecord], int | None, int]:
        """The candidates' trials, best first; the images that values are shares of; how many trials were considered."""
        record = self.study.record()
        complete = [trial for trial in record.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
        n_images = images_of(self.study.objective, (trial.value for trial in complete if trial.value is not None))
        return complete[: self.top], n_images, record.considered

    def _job(self, trial: TrialRecord, repeat: int) -> Job:
        seed = derive_seed(self.seed, "confirm", trial.number, repeat)
        task = Task(trial.number, self.study.params_of(trial.params), seed, self.epochs)
        return _job(self.study.objective, confirm_run(trial.number, repeat), f"fresh seed {repeat}", "confirm", task)

    def confirmation(self) -> Confirmation:
        """The candidates' figures as far as their trainings have ended."""
        candidates, noise = self._candidates()
        judged = []
        for candidate in candidates:
            if candidate.mean is not None:
                half_width = noise.half_width((candidate.mean, len(candidate.values)))
                behind = clearly_worse(candidate, candidates, noise, self.study.direction)
                candidate = replace(candidate, half=half_width, behind=behind)
            judged.append(candidate)
        return Confirmation(tuple(judged), self.seeds, noise.seed, noise.n_images)

    def winner(self) -> Candidate | None:
        """The winner; None when no fresh seed of any candidate came to its end."""
        return choose(*self._candidates(), self.study.direction)

    def run_of(self, number: int) -> str | None:
        """A candidate's first run that came to its end. Its network was not chosen for its value."""
        completed = (job.run for job, result in self._results(number) if result.value is not None)
        return next(completed, None)

    def _may_win(self, job: Job) -> bool:
        """Whether a job's configuration may still win. A training that an interruption cut short is finished anyway."""
        if self.tracking.knows(job.run):
            return True
        candidates, noise = self._candidates()
        candidate = next(other for other in candidates if other.number == job.task.number)
        return not clearly_worse(candidate, candidates, noise, self.study.direction)

    def _candidates(self) -> tuple[list[Candidate], Noise]:
        trials, n_images, n_considered = self._selection
        candidates = [self._candidate(trial) for trial in trials]
        return candidates, Noise.of(candidates, n_images, n_considered)

    def _candidate(self, trial: TrialRecord) -> Candidate:
        assert trial.value is not None, "a completed trial has a value"
        results = [result for _, result in self._results(trial.number)]
        values = tuple(result.value for result in results if result.value is not None)
        parameters, failed = trial.metrics.get("parameters"), len(results) - len(values)
        return Candidate(trial.number, trial.label, trial.value, parameters, values, failed)

    def _results(self, number: int) -> list[tuple[Job, TrainingResult]]:
        """The ended trainings of a candidate."""
        jobs = [job for job in self.work.jobs if job.task.number == number]
        return [(job, result) for job in jobs if (result := self.work.result(job)) is not None]


def refit_job(study: StoredStudy, winner: TrialRecord, *, epochs: int, seed: int) -> Job:
    """The winner's configuration on training and validation split together, from a fresh seed."""
    fresh_seed = derive_seed(seed, "refit", winner.number)
    task = Task(winner.number, study.params_of(winner.params), fresh_seed, epochs, refit=True)
    return _job(study.objective, refit_run(winner.number), "all but the test split", "refit", task)


def _job(objective: Objective, run: str, variant: str, kind: str, task: Task) -> Job:
    label = f"{described(objective, task.params)}, {variant}"
    tags = {"kind": kind, "optuna.trial.number": str(task.number)}
    return Job(run, f"{kind} #{task.number:03d} {label}", label, task, tags)


def may_improve(attrs: Mapping[str, Any], summary: Summary, *, refits: bool) -> bool:
    """Whether a training that the winner rests on failed in a way that another start may not. `attrs`: the study's."""
    runs = {refit_run(summary.number)} if refits else set()
    if (confirmation := summary.confirmation) is not None:
        repeats = range(1, confirmation.seeds + 1)
        runs |= {confirm_run(candidate.number, repeat) for candidate in confirmation.candidates for repeat in repeats}
    results = attrs.get(records.EXTRA, {})
    return any(is_transient(TrainingResult.from_dict(results[run])) for run in runs & results.keys())
