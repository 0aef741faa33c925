"""Is the winner luck? The best trials train again on fresh seeds, and the winner on all but the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

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


class Confirmer:
    """Trains the best completed trials on fresh seeds. A candidate that is clearly behind skips its remaining seeds.

    Every candidate's first seed comes before any second one, so that it shows early who is behind.
    """

    def __init__(
        self,
        study: StoredStudy,
        tracking: Tracking,
        best: Sequence[TrialRecord],
        jobs: Sequence[Job],
        *,
        seeds: int,
        n_images: int | None,
        n_considered: int,
        notice: Callable[[str], None],
    ) -> None:
        """`best` are the candidates; `seeds` of the `jobs` belong to each."""
        self._study, self._tracking = study, tracking
        self._best, self._jobs, self._seeds = best, jobs, seeds
        self._n_images, self._n_considered = n_images, n_considered
        self.work = JobList(study, tracking, jobs, self._may_win, notice)

    @classmethod
    def open(
        cls,
        study: StoredStudy,
        tracking: Tracking,
        *,
        top: int,
        seeds: int,
        epochs: int,
        seed: int,
        notice: Callable[[str], None] = lambda text: None,
    ) -> Self:
        """Read the `top` trials of a study and what earlier starts have confirmed of them."""
        record = study.record()
        complete = [trial for trial in record.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
        best = complete[:top]
        jobs = [
            confirm_job(study, trial, repeat, epochs=epochs, seed=seed)
            for repeat in range(1, seeds + 1)
            for trial in best
        ]
        n_images = images_of(study.objective, (t.value for t in complete if t.value is not None))
        confirmer = cls(
            study, tracking, best, jobs, seeds=seeds, n_images=n_images, n_considered=record.n_eligible, notice=notice
        )
        confirmer.work.resume()
        return confirmer

    def confirmation(self) -> Confirmation:
        """The candidates' figures as far as their trainings have ended."""
        candidates = self._candidates()
        noise = self._noise(candidates)
        confirmed = tuple(self._with_interval(candidate, candidates, noise) for candidate in candidates)
        return Confirmation(confirmed, self._seeds, noise.seed, self._n_images)

    def winner(self) -> Candidate | None:
        """The winner; None when no fresh seed of any candidate came to its end."""
        candidates = self._candidates()
        return choose(candidates, self._noise(candidates), self._study.direction)

    def run_of(self, number: int) -> str | None:
        """A candidate's first run that came to its end. Its network was not chosen for its value."""
        completed = (job.run for job, result in self._results(number) if result.value is not None)
        return next(completed, None)

    def _may_win(self, job: Job) -> bool:
        """Whether a job's configuration may still win. A training that an interruption cut short is finished anyway."""
        if self._tracking.knows(job.run):
            return True
        candidates = self._candidates()
        candidate = next(other for other in candidates if other.number == job.task.number)
        return not clearly_worse(candidate, candidates, self._noise(candidates), self._study.direction)

    def _with_interval(self, candidate: Candidate, candidates: Sequence[Candidate], noise: Noise) -> Candidate:
        if candidate.mean is None:
            return candidate
        half = noise.half_width((candidate.mean, len(candidate.values)))
        behind = clearly_worse(candidate, candidates, noise, self._study.direction)
        return replace(candidate, half=half, behind=behind)

    def _noise(self, candidates: Sequence[Candidate]) -> Noise:
        return Noise.of(candidates, self._n_images, self._n_considered)

    def _candidates(self) -> list[Candidate]:
        return [self._candidate(trial) for trial in self._best]

    def _candidate(self, trial: TrialRecord) -> Candidate:
        assert trial.value is not None, "a completed trial has a value"
        values = [result.value for _, result in self._results(trial.number)]
        completed = tuple(value for value in values if value is not None)
        parameters = trial.metrics.get("parameters")
        return Candidate(
            trial.number, trial.label, trial.value, parameters, completed, failed=len(values) - len(completed)
        )

    def _results(self, number: int) -> list[tuple[Job, TrainingResult]]:
        """The ended trainings of a candidate."""
        jobs = [job for job in self._jobs if job.task.number == number]
        return [(job, result) for job in jobs if (result := self.work.result(job)) is not None]


def confirm_job(study: StoredStudy, trial: TrialRecord, repeat: int, *, epochs: int, seed: int) -> Job:
    """A trial's configuration on its fresh seed `repeat`, 1-based."""
    fresh_seed = derive_seed(seed, "confirm", trial.number, repeat)
    task = Task(trial.number, study.params_of(trial.params), fresh_seed, epochs)
    return _job(study.objective, confirm_run(trial.number, repeat), f"fresh seed {repeat}", "confirm", task)


def refit_job(study: StoredStudy, winner: TrialRecord, *, epochs: int, seed: int) -> Job:
    """The winner's configuration on training and validation split together, from a fresh seed."""
    fresh_seed = derive_seed(seed, "refit", winner.number)
    task = Task(winner.number, study.params_of(winner.params), fresh_seed, epochs, refit=True)
    return _job(study.objective, refit_run(winner.number), "all but the test split", "refit", task)


def _job(objective: Objective, run: str, what: str, kind: str, task: Task) -> Job:
    label = f"{described(objective, task.params)}, {what}"
    tags = {"kind": kind, "optuna.trial.number": str(task.number)}
    return Job(run, f"{kind} #{task.number:03d} {label}", label, task, tags)


def may_improve(attrs: Mapping[str, Any], summary: Summary, *, refits: bool) -> bool:
    """Whether a training that the winner rests on failed in a way that another start may not. `attrs`: the study's."""
    confirmation = summary.confirmation
    runs = {
        confirm_run(candidate.number, repeat)
        for candidate in (confirmation.candidates if confirmation else ())
        for repeat in range(1, (confirmation.seeds if confirmation else 0) + 1)
    }
    runs |= {refit_run(summary.number)} if refits else set()
    results = attrs.get(records.EXTRA_TRAININGS, {})
    return any(is_transient(TrainingResult.from_dict(results[run])) for run in runs & results.keys())
