"""The trials of a study as work for the coordinator: sampled, reported, pruned and told until there are enough."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from objectives.base import Objective, Task
from search.coordinator.progress import TRIALS
from search.coordinator.work import Job
from search.study import records
from search.study.records import TrialRecord
from search.study.sampling.samplers import derive_seed
from search.study.sampling.sampling_study import PreparedTrial, SamplingStudy
from search.study.space.objective_calls import described
from search.study.training_result import TrainingResult
from search.tracking.journal import EXPERIMENT, PARENT, trial_run
from search.tracking.pages import run_name
from search.tracking.tracker import Tracking

StoppingRule = Callable[[Sequence[TrialRecord]], str | None]
"""Says why the trials that have ended are enough; None while they are not."""


def never_stop(ended: Sequence[TrialRecord]) -> None:
    """The stopping rule that never ends a search."""


class Trials:
    """The missing trials of a study: first those that an earlier search left running, then new ones."""

    unit = TRIALS

    def __init__(
        self,
        study: SamplingStudy,
        tracking: Tracking,
        *,
        target: int,
        epochs: int,
        seed: int,
        deadline: float = math.inf,
        stopping_rule: StoppingRule = never_stop,
    ) -> None:
        """`deadline` is on `time.monotonic`'s clock: no trial is sampled after it."""
        self.study, self.tracking, self.target = study, tracking, target
        self.search_s = 0.0
        """Seconds spent on sampling and storing."""
        self._epochs, self._seed = epochs, seed
        self._deadline, self._stopping_rule = deadline, stopping_rule
        self._ended: list[TrialRecord] = []
        self._stopped: str | None = None
        self._resumed: deque[PreparedTrial] = deque()
        self._prepared: PreparedTrial | None = None
        self._running: dict[int, PreparedTrial] = {}
        self._study_linked = False

    @property
    def objective(self) -> Objective:
        """The objective that is optimised."""
        return self.study.objective

    def resume(self) -> set[str]:
        """Take up what earlier starts left; call it once, first. Returns the runs of trials that train on.

        A trial whose result is in the journal but not in the storage ends now.
        """
        self._ended = [trial for trial in self.records() if trial.state.is_finished()]
        for prepared in self.study.resume():
            run = trial_run(prepared.number)
            if (stored := self.tracking.verdict(run)) is None:
                self._resumed.append(prepared)
            else:
                self._tell(prepared.number, run, TrainingResult.from_dict(stored))
        self._stopped = self._stopping_rule(self._ended)
        return {trial_run(prepared.number) for prepared in self._resumed}

    def records(self) -> list[TrialRecord]:
        """All trials in the storage."""
        return list(self.study.stored.record().trials)

    # ---- what to train

    @property
    def remaining(self) -> int:
        """Trials that an earlier search left, and those that are missing."""
        return len(self._resumed) + max(0, self._missing())

    def next(self) -> Job | None:
        """The next trial."""
        if self._resumed:
            return self._job(self._resumed.popleft())
        if self._missing() <= 0:
            return None
        prepared, self._prepared = self._prepared or self._ask(), None
        return None if prepared is None else self._job(prepared)

    def prepare_next(self) -> None:
        """Sample the next trial, if one will be needed."""
        if self._prepared is None and not self._resumed and self._missing() > 0:
            self._prepared = self._ask()

    @property
    def stop_reason(self) -> str | None:
        """Why no further trial begins although some are missing; None while trials go on."""
        return self.study.proposals.exhausted or self._stopped

    def _missing(self) -> int:
        """How many trials are still to begin."""
        if time.monotonic() > self._deadline or self.stop_reason is not None:
            return 0
        return self.target - self.study.finished - len(self._running) - len(self._resumed)

    def _ask(self) -> PreparedTrial | None:
        with self._timed():
            return self.study.ask()

    def _job(self, prepared: PreparedTrial) -> Job:
        self._running[prepared.number] = prepared
        label = described(self.objective, prepared.params)
        tags = {"kind": "trial", "optuna.trial.number": str(prepared.number)}
        if prepared.baseline:
            tags["baseline"] = prepared.baseline
        task = Task(
            prepared.number,
            prepared.params,
            derive_seed(self._seed, "train", prepared.number),
            self._epochs,
            max_latency_ms=self.study.limits.latency_ms,
        )
        name = run_name(prepared.number, label)
        run = trial_run(prepared.number)
        return Job(run, name, label, task, tags, step=prepared.last_step, value=prepared.last_value)

    # ---- what became of it

    def begin(self, job: Job, slot: int) -> None:
        """Store the trial, whole, unless an earlier start has."""
        prepared = self._running[job.task.number]
        if not self.study.holds(prepared.number):
            with self._timed():
                self.study.start(prepared, {records.LABEL: job.label, records.SLOT: slot})

    def report(self, job: Job, step: int, value: float) -> bool:
        """Store a value and ask the pruner. A baseline trains to its end, for comparison."""
        number = job.task.number
        with self._timed():
            return self.study.report(number, step, value, prunable=self._running[number].baseline is None)

    def end(self, job: Job, result: TrainingResult) -> TrialRecord:
        """Tell the study."""
        record = self._tell(job.task.number, job.run, result)
        del self._running[job.task.number]
        self._stopped = self._stopping_rule(self._ended)
        return record

    def _tell(self, number: int, run: str, result: TrainingResult) -> TrialRecord:
        result = result.with_attrs(self._link(run))
        with self._timed():
            trial = self.study.tell(number, result)
        self._ended.append(record := TrialRecord.of(trial))
        return record

    def _link(self, run: str) -> dict[str, str]:
        """The attribute that leads from a trial to its MLflow run, if that has arrived there.

        Nothing waits for it here, because workers would wait, too. The finish links what is not linked yet.
        """
        if (run_id := self.tracking.mlflow_id(run)) is None:
            return {}
        if not self._study_linked:
            self._study_linked = True
            for key, name in ((records.EXPERIMENT, EXPERIMENT), (records.PARENT_RUN, PARENT)):
                self.study.stored.set_attr(key, self.tracking.mlflow_id(name))
        return {records.RUN: run_id}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds of a block as the search's own."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.search_s += time.perf_counter() - started
