"""The trials of a study as work for the coordinator: ask, report and tell until there are enough."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any

from objectives.base import Task
from objectives.worker.messages import Asked
from search.coordinator.keeping import KeepAll, Keeper
from search.coordinator.progress import TRIALS
from search.coordinator.work import Job
from search.study import records
from search.study.records import TrainingResult, TrialRecord
from search.study.sampling.function_answers import answer_about_study
from search.study.sampling.live_trials import LiveTrials
from search.study.sampling.samplers import derive_seed
from search.study.sampling.sampling_study import PreparedTrial, SamplingStudy
from search.study.space.objective_calls import described
from search.tracking.journal import EXPERIMENT, PARENT, trial_run
from search.tracking.pages import run_name
from search.tracking.tracker import Tracking


@dataclass
class Trials:
    """The missing trials of a study: first those that an earlier search left running, then new ones."""

    unit = TRIALS

    study: SamplingStudy
    tracking: Tracking
    _: KW_ONLY
    target: int
    epochs: int
    seed: int
    deadline: float = math.inf  # on the clock of `time.monotonic`; no trial is sampled after it
    stopping_rule: Callable[[Sequence[TrialRecord]], str | None] = lambda ended: None
    """Returns why the trials that have ended are enough; None while they are not."""
    pausing_rule: Callable[[Sequence[TrialRecord]], bool] = lambda ended: False
    """Returns whether some of the trials that have ended must be confirmed before another one begins."""
    notice: Callable[[str], None] = lambda text: None
    keeper: Keeper = field(default_factory=KeepAll)
    search_s: float = field(default=0.0, init=False)  # seconds spent on sampling and storing
    _ended: list[TrialRecord] = field(default_factory=list, init=False)
    is_paused: bool = field(default=False, init=False)
    _stopped: str | None = field(default=None, init=False)
    _resumed: deque[PreparedTrial] = field(default_factory=deque, init=False)
    _prepared: PreparedTrial | None = field(default=None, init=False)
    _running: dict[int, PreparedTrial] = field(default_factory=dict, init=False)
    _study_linked: bool = field(default=False, init=False)

    @cached_property
    def live(self) -> LiveTrials:
        """The running trials, if the objective is a function."""
        return LiveTrials(self.study)

    def resume(self) -> set[str]:
        """Take up the running trials of earlier starts; call it once, first. Returns the runs that are resumed.

        A trial whose result is in the journal but not in the storage ends now.
        """
        self._ended = [trial for trial in self.records() if trial.state.is_finished()]
        for prepared in self._unfinished():
            run = trial_run(prepared.number)
            if (stored := self.tracking.verdict(run)) is None:
                self._resumed.append(prepared)
            else:
                self._tell(prepared.number, run, TrainingResult.from_dict(stored))
        self.keeper.take_up()
        self.apply_rules()
        return {trial_run(prepared.number) for prepared in self._resumed}

    def apply_rules(self) -> None:
        """Decide whether new trials may begin. Those that run come to their end: they may be the better ones."""
        self._stopped = self._stopped or self.stopping_rule(self._ended)
        self.is_paused = self.pausing_rule(self._ended)

    def _unfinished(self) -> list[PreparedTrial]:
        """Trials that begin before new ones. Also shows the notices about trials of other programs."""
        for text in self.study.notices:
            self.notice(text)
        self.study.notices.clear()
        return self.study.resume()

    def _catch_up(self) -> None:
        """Take note of trials that other programs have added while the search runs."""
        with self._timed():
            self._prepared = self.study.catch_up(self._prepared)
            self._resumed.extend(self._unfinished())

    def records(self) -> list[TrialRecord]:
        return list(self.study.stored.record().trials)

    @property
    def remaining(self) -> int:
        return len(self._resumed) + max(0, self._missing())

    def next(self) -> Job | None:
        self.prepare_next()
        if self.remaining:
            self._catch_up()  # after sampling, which takes a while
        if self._resumed:
            return self._job(self._resumed.popleft())
        if self._missing() <= 0:
            return None
        prepared, self._prepared = self._prepared, None
        return None if prepared is None else self._job(prepared)

    def prepare_next(self) -> None:
        if self._prepared is None and not self._resumed and self._missing() > 0:
            self._prepared = self._ask()

    @property
    def stop_reason(self) -> str | None:
        """Why no further trial begins although some are missing; None while trials go on."""
        return self.study.proposals.exhausted or self._stopped

    @property
    def is_over(self) -> bool:
        """Whether no further trial may begin, paused or not."""
        enough = self.study.finished >= self.target
        return enough or time.monotonic() > self.deadline or self.stop_reason is not None

    def _missing(self) -> int:
        if self.is_paused or self.is_over:
            return 0
        return self.target - self.study.finished - len(self._running) - len(self._resumed)

    def _ask(self) -> PreparedTrial | None:
        with self._timed():
            return self.study.ask()

    def _job(self, prepared: PreparedTrial) -> Job:
        self._running[prepared.number] = prepared
        number, params, limit_ms = prepared.number, prepared.params, self.study.limits.latency_ms
        label = described(self.study.objective, params)
        tags = {"kind": "trial", "optuna.trial.number": str(number)}
        if prepared.baseline:
            tags["baseline"] = prepared.baseline
        seed = derive_seed(self.seed, "train", number)
        task = Task(number, params, seed, self.epochs, max_latency_ms=limit_ms)
        run, name = trial_run(number), run_name(number, label)
        return Job(run, name, label, task, tags, step=prepared.last_step, value=prepared.last_value)

    def begin(self, job: Job, slot: int) -> None:
        """Store the complete trial, unless an earlier start has."""
        prepared, attrs = self._running[job.task.number], {records.LABEL: job.label, records.SLOT: slot}
        if not self.study.holds(prepared.number):
            with self._timed():
                self.study.start(prepared, attrs)
        elif prepared.is_enqueued:
            self.study.describe(prepared.number, attrs)
        if self.study.is_function:
            self.live.begin(prepared.number)

    def report(self, job: Job, step: int, value: float) -> bool:
        """Store a value and ask the pruner. A baseline is never pruned, because others are compared with it."""
        number = job.task.number
        with self._timed():
            return self.study.report(number, step, value, prunable=self._running[number].baseline is None)

    def answer(self, job: Job, asked: Asked, reported: set[int]) -> Any:
        if asked.method == "study.stop":
            self._stopped = "the function called study.stop()"
            return None
        with self._timed():
            method, arguments, keywords = asked.method, asked.arguments, asked.keywords
            if method.startswith("study."):
                name = method.removeprefix("study.")
                return answer_about_study(self.study.stored, name, arguments, keywords)
            return self.live.answer(job.task.number, method, arguments, keywords, reported)

    def note(self, attr: str) -> None:
        self.study.stored.note(attr)

    def keeps(self, job: Job, result: TrainingResult) -> bool:
        constraints = self.study.limits.excess(result.metrics)
        return self.keeper.keeps(TrialRecord.of_training(job.task.number, job.label, result, constraints=constraints))

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        if self.study.is_function:
            self.live.end(job.task.number)
        record = self._tell(job.task.number, job.run, result)
        with self._timed():
            self.keeper.add(record)
        del self._running[job.task.number]
        self.apply_rules()
        return record

    def _tell(self, number: int, run: str, result: TrainingResult) -> TrialRecord:
        result = result.with_attrs(self._link(run))
        with self._timed():
            trial = self.study.tell(number, result)
        self._ended.append(record := TrialRecord.of(trial))
        return record

    def _link(self, run: str) -> dict[str, str]:
        """The attribute that links a trial to its run in MLflow, if the run is there; the finish links the others."""
        if (run_id := self.tracking.mlflow_id(run)) is None:
            return {}
        if not self._study_linked:
            self._study_linked = True
            for key, name in ((records.EXPERIMENT, EXPERIMENT), (records.PARENT_RUN, PARENT)):
                self.study.stored.set_attr(key, self.tracking.mlflow_id(name))
        return {records.RUN: run_id}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the seconds of a block to `search_s`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.search_s += time.perf_counter() - started
