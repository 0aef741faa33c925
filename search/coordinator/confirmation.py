"""The trainings after the trials: the best configurations once more, and the winner on all but the test split.

The best ones are trained on fresh seeds or, if there are few images, on folds of all but the test split.

Optuna never sees these trainings, so the study's counts stay exact. An attribute of the study keeps their results by
run. When more trials change the best ones, only the new trainings run.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from objectives.base import Task
from objectives.worker.messages import Asked
from search.coordinator.work import Job
from search.study import records
from search.study.records import TrainingResult, TrialRecord
from search.study.sampling.function_answers import FixedTrials, answer_about_study
from search.study.sampling.samplers import derive_seed
from search.study.selection.intervals import Noise, images_of, possible_values
from search.study.selection.target import Target
from search.study.selection.winner import choose, clearly_worse, completed
from search.study.space.objective_calls import described
from search.study.study import StoredStudy
from search.study.summary import Candidate, Confirmation, Folds, Summary
from search.tracking.journal import confirm_run, fold_of, refit_run, trial_run
from search.tracking.tracker import Tracking

TRANSIENT_FAILURES = ("out_of_memory", "crashed")  # another start may not meet them, on a machine that is less busy


@dataclass
class JobList:
    """Trainings that each run once. A later start repeats those that failed for a transient reason."""

    unit = "trainings"

    study: StoredStudy
    tracking: Tracking
    jobs: Sequence[Job]
    is_needed: Callable[[Job], bool] = lambda job: True  # decides on each job until it begins
    notice: Callable[[str], None] = lambda text: None
    results: dict[str, TrainingResult] = field(default_factory=dict, init=False)  # by run, of those that have ended
    _begun: dict[str, tuple[int, datetime]] = field(default_factory=dict, init=False)  # by run: the slot and the time
    _fixed: FixedTrials = field(default_factory=FixedTrials, init=False)  # of a function

    def resume(self) -> None:
        """Take up the results of earlier starts; call it once, first.

        The journal may have a result that a killed search could not store in the study any more.
        """
        stored = self._stored()
        for job in self.jobs:
            values = self.tracking.verdict(job.run) or stored.get(job.run)
            result = TrainingResult.from_dict(values) if values is not None else None
            if result is not None and result.failure not in TRANSIENT_FAILURES:
                self._store(job.run, result)

    @property
    def target(self) -> int:
        return len(self.results.keys() | self._begun.keys()) + self.remaining

    @property
    def remaining(self) -> int:
        return len(self._waiting())

    def next(self) -> Job | None:
        return next(iter(self._waiting()), None)

    def prepare_next(self) -> None:
        """Do nothing: there is nothing to sample."""

    def _waiting(self) -> list[Job]:
        begun = self.results.keys() | self._begun.keys()
        return [job for job in self.jobs if job.run not in begun and self.is_needed(job)]

    def begin(self, job: Job, slot: int) -> None:
        self._begun[job.run] = slot, datetime.now()

    def report(self, job: Job, step: int, value: float) -> bool:
        return False

    def answer(self, job: Job, asked: Asked, reported: set[int]) -> Any:
        method, arguments, keywords = asked.method, asked.arguments, asked.keywords
        if method == "study.stop":
            return None
        if method.startswith("study."):
            return answer_about_study(self.study, method.removeprefix("study."), arguments, keywords)
        task = job.task
        return self._fixed.answer(job.run, task.number, task.params, method, arguments, keywords, reported)

    def note(self, attr: str) -> None:
        self.study.note(attr)

    def keeps(self, job: Job, result: TrainingResult) -> bool:
        return True

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        """Store the result, and report which trainings it makes unnecessary."""
        waiting = self._waiting()
        self._store(job.run, result)
        for other in waiting:
            if not self.is_needed(other):
                training = f"trial {other.task.number}  {other.label}"
                self.notice(f"{training} is not needed any more: its configuration cannot win")
        return self._record(job)

    def records(self) -> list[TrialRecord]:
        return [self._record(job) for job in self.jobs if job.run in self.results]

    def _stored(self) -> dict[str, dict[str, Any]]:
        return dict(self.study.attrs().get(records.EXTRA_TRAININGS, {}))

    def _store(self, run: str, result: TrainingResult) -> None:
        self.results[run] = result
        stored = self._stored()
        if stored.get(run) != result.as_dict():
            self.study.set_attr(records.EXTRA_TRAININGS, {**stored, run: result.as_dict()})

    def _record(self, job: Job) -> TrialRecord:
        result = self.results[job.run]
        slot, started = self._begun.get(job.run, (None, None))
        return TrialRecord.of_training(
            job.task.number,
            job.label,
            result,
            params=job.task.params,
            slot=slot,
            started=started,
            ended=datetime.now() if started else None,
            run_id=self.tracking.mlflow_id(job.run),
        )


@dataclass
class Confirmer:
    """Trains some completed trials on fresh seeds or folds. A candidate that is clearly behind skips the rest.

    Every candidate's first training comes before any second one, so that it shows early who is behind.
    """

    study: StoredStudy
    tracking: Tracking
    trials: Sequence[TrialRecord]  # that are confirmed, best first
    seeds: int  # trainings of each, with a fresh seed each
    epochs: int
    seed: int  # from which the fresh ones are derived
    notice: Callable[[str], None]
    target: Target | None = None
    folds: Folds | None = None  # of which each training leaves out one; None: they have the training split

    @cached_property
    def work(self) -> JobList:
        """The trainings, for the coordinator, with the results of earlier starts."""
        jobs = [self._job(trial, repeat) for repeat in range(1, self.seeds + 1) for trial in self.trials]
        work = JobList(self.study, self.tracking, jobs, self._may_win, self.notice)
        work.resume()
        return work

    @cached_property
    def _selection(self) -> tuple[int | None, int]:
        """The images that values are shares of; how many trials were considered."""
        record = self.study.record()
        values = (trial.value for trial in completed(record) if trial.value is not None)
        return images_of(self.study.objective, values), record.n_eligible

    def _job(self, trial: TrialRecord, repeat: int) -> Job:
        run = confirm_run(trial.number, repeat, is_fold=self.folds is not None)
        seed = derive_seed(self.seed, "confirm", trial.number, repeat)
        note = f"fresh seed {repeat}" if self.folds is None else self.folds.label(repeat)
        return _job(self.study, trial, "confirm", run, note, seed, self.epochs)

    def confirmation(self) -> Confirmation:
        """The candidates' figures as far as their trainings have ended."""
        candidates, noise = self._candidates()
        judged = []
        for candidate in candidates:
            if candidate.mean is not None:
                half_width = noise.half_width(noise.mean_of(candidate))
                behind = clearly_worse(candidate, candidates, noise, self.study.direction)
                candidate = replace(candidate, half=half_width, behind=behind)
            judged.append(candidate)
        possible = possible_values(self.study.objective)
        return Confirmation(tuple(judged), self.seeds, noise.seed, noise.n_images, possible, self.folds)

    def winner(self) -> Candidate | None:
        """The winner; None when no training of any candidate came to its end.

        If some candidates confirm the target, it is one of them: a smaller network must not win that misses it.
        """
        candidates, noise = self._candidates()
        confirming = [candidate for candidate in candidates if self.target and self.target.is_confirmed_by(candidate)]
        return choose(confirming or candidates, noise, self.study.direction)

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
        n_images, n_considered = self._selection
        candidates = [self._candidate(trial) for trial in self.trials]
        return candidates, Noise.of(candidates, n_images, n_considered, self.folds)

    def _candidate(self, trial: TrialRecord) -> Candidate:
        assert trial.value is not None, "a completed trial has a value"
        results = [result for _, result in self._results(trial.number)]
        values = tuple(result.value for result in results if result.value is not None and math.isfinite(result.value))
        parameters, failed = trial.metrics.get("parameters"), len(results) - len(values)
        errors = [result.attrs[records.IMAGE_ERROR] for result in results if records.IMAGE_ERROR in result.attrs]
        error = math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else trial.image_error
        return Candidate(trial.number, trial.label, trial.value, parameters, values, failed, image_error=error)

    def _results(self, number: int) -> list[tuple[Job, TrainingResult]]:
        """The ended trainings of a candidate."""
        jobs = [job for job in self.work.jobs if job.task.number == number]
        return [(job, self.work.results[job.run]) for job in jobs if job.run in self.work.results]


def confirmed_before(
    attrs: Mapping[str, Any], trials: Iterable[TrialRecord], seeds: int, folds: Folds | None = None
) -> set[int]:
    """Return the numbers of the trials that have values of this many trainings. `attrs`: the study's."""
    stored = {run: TrainingResult.from_dict(values) for run, values in attrs.get(records.EXTRA_TRAININGS, {}).items()}
    valued = {run for run, result in stored.items() if result.value is not None}
    return {trial.number for trial in trials if valued.issuperset(confirm_runs(trial.number, seeds, folds))}


def failed_for_now(attrs: Mapping[str, Any], number: int, seeds: int, folds: Folds | None = None) -> bool:
    """Whether trainings of a candidate failed, and all that did for a transient reason. `attrs`: the study's."""
    stored = attrs.get(records.EXTRA_TRAININGS, {})
    runs = confirm_runs(number, seeds, folds)
    failures = {TrainingResult.from_dict(stored[run]).failure for run in runs if run in stored} - {None}
    return bool(failures) and failures <= {*TRANSIENT_FAILURES}


def confirm_runs(number: int, seeds: int, folds: Folds | None) -> list[str]:
    """Return the runs of a candidate's trainings, of which there are `seeds`."""
    return [confirm_run(number, repeat, is_fold=folds is not None) for repeat in range(1, seeds + 1)]


def refit_job(study: StoredStudy, winner: TrialRecord, *, epochs: int, seed: int) -> Job:
    """The winner's configuration on training and validation split together, from a fresh seed."""
    run, fresh_seed = refit_run(winner.number), derive_seed(seed, "refit", winner.number)
    return _job(study, winner, "refit", run, "all but the test split", fresh_seed, epochs, refit=True)


def _job(
    study: StoredStudy, trial: TrialRecord, kind: str, run: str, note: str, seed: int, epochs: int, refit: bool = False
) -> Job:
    fold = fold_of(run)
    task = Task(trial.number, study.params_of(trial.params), seed, epochs, refit=refit, fold=fold)
    label = f"{described(study.objective, task.params)}, {note}"
    tags = {"kind": kind, "optuna.trial.number": str(task.number)} | ({} if fold is None else {"fold": note})
    return Job(run, f"{kind} #{task.number:03d} {label}", label, task, tags)


def runs_to_calibrate(attrs: Mapping[str, Any], summary: Summary) -> list[str]:
    """The winner's trainings that confirm it and came to their end; without one, its trial. `attrs`: the study's.

    They were not selected for their values, so their predictions are not too good. Only the folds of one division
    count: then each image is predicted once.
    """
    seeds, folds = (summary.confirmation.seeds, summary.confirmation.folds) if summary.confirmation else (0, None)
    runs = confirm_runs(summary.number, min(seeds, folds.number) if folds else seeds, folds)
    stored = attrs.get(records.EXTRA_TRAININGS, {})
    ended = [run for run in runs if run in stored and TrainingResult.from_dict(stored[run]).value is not None]
    return ended or [trial_run(summary.number)]


def may_improve(attrs: Mapping[str, Any], summary: Summary, *, refits: bool) -> bool:
    """Whether a training that the winner rests on failed in a way that another start may not. `attrs`: the study's."""
    members = summary.ensemble.members if summary.ensemble else ()
    runs = {refit_run(number) for number in (summary.number, *(member.number for member in members)) if refits}
    if (confirmation := summary.confirmation) is not None:
        for candidate in confirmation.candidates:
            runs |= {*confirm_runs(candidate.number, confirmation.seeds, confirmation.folds)}
    stored = attrs.get(records.EXTRA_TRAININGS, {})
    return any(TrainingResult.from_dict(stored[run]).failure in TRANSIENT_FAILURES for run in runs & stored.keys())
