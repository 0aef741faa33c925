"""Is the winner luck? The best trials train again on fresh seeds, and the winner on everything but the test split.

Both are trainings beside the study's trials: Optuna never sees them, so the study's counts stay exact. Their ends are
kept in an attribute of the study, by run: more trials later, which may change the best, train only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from objectives.base import Objective, Task
from search import records
from search.asking import described
from search.direction import Direction
from search.intervals import Noise, images_of
from search.journal import confirm_run, refit_run
from search.records import TrialRecord
from search.sampling import derive_seed
from search.study import Study
from search.summary import Candidate, Confirmation, Summary
from search.tracking import Tracking
from search.winner import choose, clearly_worse
from search.work import Job

PASSING = ("out_of_memory", "crashed")
"""Why a training may fail and, at another start, on a machine that does less else, not."""


class Extra:
    """Given trainings, each of them once, whatever ended earlier starts; what failed in `PASSING` is tried again."""

    unit = "trainings"

    def __init__(
        self,
        study: Study,
        tracking: Tracking,
        jobs: Sequence[Job],
        wanted: Callable[[Job], bool] = lambda job: True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._study, self._tracking, self._jobs, self._wanted, self._say = study, tracking, jobs, wanted, say
        self._began: dict[str, tuple[int, datetime]] = {}
        self._kept: dict[str, Mapping[str, Any]] = dict(study.attrs().get(records.EXTRA, {}))
        self._results: dict[str, Mapping[str, Any]] = {}
        for job in jobs:  # a search that was killed before it could store an end has it in the journal
            result = tracking.verdict(job.run) or self._kept.get(job.run)
            if result is not None and not _may_pass(result):
                self._store(job.run, result)

    @property
    def target(self) -> int:
        """Trainings that were done, are at work, or still wanted."""
        return sum(job.run in self._results or job.run in self._began or self._wanted(job) for job in self._jobs)

    def result(self, job: Job) -> Mapping[str, Any] | None:
        """`state`, `value` and `attrs` of its end; None when it has not ended."""
        return self._results.get(job.run)

    @property
    def left(self) -> int:
        """Those that are wanted, of those that have not begun."""
        return sum(1 for _ in self._due())

    def next(self) -> Job | None:
        """The first that is wanted."""
        return next(self._due(), None)

    def prepare(self) -> None:
        """Nothing needs time."""

    def begin(self, job: Job, slot: int) -> None:
        """Note who trains it."""
        self._began[job.run] = (slot, datetime.now())

    def report(self, job: Job, step: int, value: float) -> bool:
        """Train to the end."""
        return False

    def end(self, job: Job, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> TrialRecord:
        """Keep the end, and say what nobody wants to know any more because of it."""
        due = list(self._due())
        self._store(job.run, {"state": state.name, "value": value, "attrs": dict(attrs)})
        due_now = {each.run for each in self._due()}
        for spared in (each for each in due if each.run not in due_now):
            self._say(f"{spared.name} is not needed any more: its setting cannot win")
        return self._record(job)

    def ended(self) -> list[TrialRecord]:
        """Those of them that have."""
        return [self._record(job) for job in self._jobs if job.run in self._results]

    def _due(self) -> Iterator[Job]:
        """What is wanted and not begun, in order."""
        waiting = (job for job in self._jobs if job.run not in self._results and job.run not in self._began)
        return (job for job in waiting if self._wanted(job))

    def _store(self, run: str, result: Mapping[str, Any]) -> None:
        self._results[run] = result
        if self._kept.get(run) != result:
            self._kept[run] = result
            self._study.set_attr(records.EXTRA, self._kept)

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


def _may_pass(result: Mapping[str, Any]) -> bool:
    return result["attrs"].get(records.FAILURE) in PASSING


def may_improve(results: Mapping[str, Mapping[str, Any]], summary: Summary, *, refits: bool) -> bool:
    """Whether one of the trainings that a winner rests on failed in a way that another start may not meet."""
    found = summary.confirmation
    runs = {
        confirm_run(each.number, repeat)
        for each in (found.candidates if found else ())
        for repeat in range(1, (found.seeds if found else 0) + 1)
    }
    runs |= {refit_run(summary.number)} if refits else set()
    return any(_may_pass(results[run]) for run in runs & results.keys())


class Confirming:
    """The best completed trials, each on so many fresh seeds; one that is clearly behind is spared the rest of them.

    Every candidate's first seed comes before any second one, so that it shows early who is behind.
    """

    def __init__(
        self,
        study: Study,
        tracking: Tracking,
        *,
        top: int,
        seeds: int,
        epochs: int,
        seed: int,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._study, self._tracking, self._seeds = study, tracking, seeds
        self._direction = Direction.of(maximize=study.maximize)
        record, objective = study.record(), study.objective
        done = [trial for trial in record.ranked() if trial.state == TrialState.COMPLETE and trial.feasible]
        self._best, self._trials = done[:top], record.considered
        self._n_images = images_of(objective, (trial.value for trial in done if trial.value is not None))
        self._jobs = [
            _job(
                objective, trial, confirm_run(trial.number, repeat), f"fresh seed {repeat}", "confirm",
                Task(
                    trial.number, study.params_of(trial.params), derive_seed(seed, "confirm", trial.number, repeat),
                    epochs,
                ),
            )
            for repeat in range(1, seeds + 1)
            for trial in self._best
        ]  # fmt: skip
        self.work = Extra(study, tracking, self._jobs, self._is_wanted, say)

    def _is_wanted(self, job: Job) -> bool:
        """Whether its setting may still win. One that was begun before an interruption is brought to its end."""
        if self._tracking.knows(job.run):
            return True
        candidates = self._candidates()
        candidate = next(each for each in candidates if each.number == job.task.number)
        return not clearly_worse(candidate, candidates, self._noise(candidates), self._direction)

    def found(self) -> Confirmation:
        """What is known so far."""
        candidates = self._candidates()
        noise = self._noise(candidates)
        known = [
            each if each.mean is None
            else replace(
                each, half=noise.half_width((each.mean, len(each.values))),
                behind=clearly_worse(each, candidates, noise, self._direction),
            )
            for each in candidates
        ]  # fmt: skip
        return Confirmation(tuple(known), self._seeds, noise.seed, self._n_images)

    def chosen(self) -> Candidate | None:
        """The winner; None when no fresh seed of any candidate came to its end."""
        candidates = self._candidates()
        return choose(candidates, self._noise(candidates), self._direction)

    def run_of(self, number: int) -> str | None:
        """The first run of a candidate that came to its end: its network was not chosen for its value."""
        ended = (job.run for job, result in self._results(number) if result["value"] is not None)
        return next(ended, None)

    def _results(self, number: int) -> list[tuple[Job, Mapping[str, Any]]]:
        """The ended trainings of a candidate."""
        jobs = [job for job in self._jobs if job.task.number == number]
        return [(job, result) for job in jobs if (result := self.work.result(job)) is not None]

    def _noise(self, candidates: Sequence[Candidate]) -> Noise:
        return Noise.of(candidates, self._n_images, self._trials)

    def _candidates(self) -> list[Candidate]:
        return [self._candidate(trial) for trial in self._best]

    def _candidate(self, trial: TrialRecord) -> Candidate:
        assert trial.value is not None, "a completed trial has a value"
        values = [result["value"] for _, result in self._results(trial.number)]
        return Candidate(
            trial.number, trial.label, trial.value, trial.metrics.get("parameters"),
            tuple(value for value in values if value is not None), failed=values.count(None),
        )  # fmt: skip


def refit_job(study: Study, winner: TrialRecord, *, epochs: int, seed: int) -> Job:
    """The winner's setting on training and validation split together, from a fresh seed."""
    params = study.params_of(winner.params)
    task = Task(winner.number, params, derive_seed(seed, "refit", winner.number), epochs, refit=True)
    return _job(study.objective, winner, refit_run(winner.number), "all but the test split", "refit", task)


def _job(objective: Objective, trial: TrialRecord, run: str, what: str, kind: str, task: Task) -> Job:
    label = f"{described(objective, task.params)}, {what}"
    tags = {"kind": kind, "optuna.trial.number": str(trial.number)}
    return Job(run, f"{kind} #{trial.number:03d} {label}", label, task, task.params, tags)
