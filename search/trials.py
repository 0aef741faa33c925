"""The trials of a study: sampled, reported, pruned and told, until it has as many as it is to have."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from objectives.base import Objective, Task
from search import records
from search.asking import described
from search.journal import EXPERIMENT, PARENT, trial_run
from search.pages import run_name
from search.progress import TRIALS
from search.sampling import derive_seed
from search.study import Sampled, Study
from search.tracking import Tracking
from search.work import Job


class Trials:
    """What is missing of a study's trials: first those that an earlier search left, then new ones."""

    unit = TRIALS

    def __init__(
        self, study: Study, tracking: Tracking, *, target: int, epochs: int, seed: int, deadline: float = math.inf,
        patience: Callable[[Sequence[records.TrialRecord]], str | None] = lambda trials: None,
    ) -> None:  # fmt: skip
        self.study, self.tracking, self.target = study, tracking, target
        self.objective: Objective = study.objective
        self._epochs, self._seed = epochs, seed
        self._deadline = deadline
        """On `time.monotonic`'s clock: no trial is sampled after it."""
        self._patience = patience
        """Says of the trials that ended why there should be no more, if so."""
        self._records: list[records.TrialRecord] = []
        self._enough: str | None = None
        self._note(*(trial for trial in study.record().trials if trial.state.is_finished()))
        self._left: deque[Sampled] = deque()
        self._prepared: Sampled | None = None
        self._at_work: dict[int, Sampled] = {}
        self._linked = False
        self.search_s = 0.0
        """Seconds spent on sampling and storing."""

    def resume(self) -> set[str]:
        """Take up the trials that were running; returns their runs.

        Those whose end is in the journal and not yet in the storage are ended.
        """
        for sampled in self.study.resume():
            run = trial_run(sampled.number)
            if (verdict := self.tracking.verdict(run)) is None:
                self._left.append(sampled)
            else:
                known = {**verdict["attrs"], **self._link(run)}
                told = self.study.tell(sampled.number, TrialState[verdict["state"]], verdict["value"], known)
                self._note(records.TrialRecord.of(told))
        return {trial_run(sampled.number) for sampled in self._left}

    def ended(self) -> list[records.TrialRecord]:
        """All that the storage has."""
        return list(self.study.record().trials)

    # ---- what to train

    @property
    def left(self) -> int:
        """Those that an earlier search left, and those that are missing."""
        return len(self._left) + max(0, self._missing())

    def next(self) -> Job | None:
        """The next trial."""
        if self._left:
            return self._job(self._left.popleft())
        if self._missing() <= 0:
            return None
        sampled, self._prepared = self._prepared or self._ask(), None
        return None if sampled is None else self._job(sampled)

    def prepare(self) -> None:
        """Sample the next trial, if one will be needed."""
        if self._prepared is None and not self._left and self._missing() > 0:
            self._prepared = self._ask()

    @property
    def over(self) -> str | None:
        """Why no trial is begun any more, though some are missing; None while that is not so."""
        return self.study.proposals.exhausted or self._enough

    def _missing(self) -> int:
        """How many trials are still to begin."""
        if time.monotonic() > self._deadline or self.over is not None:
            return 0
        return self.target - self.study.finished - len(self._at_work) - len(self._left)

    def _ask(self) -> Sampled | None:
        sampled: Sampled | None = self._timed(self.study.ask)
        return sampled

    def _job(self, sampled: Sampled) -> Job:
        self._at_work[sampled.number] = sampled
        label = described(self.objective, sampled.params)
        tags = {"kind": "trial", "optuna.trial.number": str(sampled.number)}
        if sampled.baseline:
            tags["baseline"] = sampled.baseline
        task = Task(
            sampled.number, sampled.params, derive_seed(self._seed, "train", sampled.number), self._epochs,
            max_latency_ms=self.study.limits.latency_ms,
        )  # fmt: skip
        return Job(
            trial_run(sampled.number), run_name(sampled.number, label), label, task, sampled.params, tags,
            step=sampled.last_step, value=sampled.last_value,
        )  # fmt: skip

    # ---- what became of it

    def begin(self, job: Job, slot: int) -> None:
        """Store the trial, whole, unless an earlier start has."""
        sampled = self._at_work[job.task.number]
        if not self.study.holds(sampled.number):
            attrs = {records.LABEL: job.label, records.SLOT: slot}
            self._timed(lambda: self.study.start(sampled, attrs))

    def report(self, job: Job, step: int, value: float) -> bool:
        """Store a value and ask the pruner. A baseline is compared with, so it trains on."""
        number = job.task.number
        spared = self._at_work[number].baseline is not None
        return bool(self._timed(lambda: self.study.report(number, step, value, spared=spared)))

    def end(self, job: Job, state: TrialState, value: float | None, attrs: Mapping[str, Any]) -> records.TrialRecord:
        """Tell the study."""
        number = job.task.number
        known = {**attrs, **self._link(job.run)}
        trial = self._timed(lambda: self.study.tell(number, state, value, known))
        del self._at_work[number]
        self._note(record := records.TrialRecord.of(trial))
        return record

    def _note(self, *ended: records.TrialRecord) -> None:
        self._records += ended
        self._enough = self._patience(self._records)

    def _link(self, run: str) -> dict[str, str]:
        """The attribute that leads from a trial to its run, if that has arrived; the study's own are kept once.

        Trainers would wait with whoever waits for it here. The end of the search links what is not linked yet.
        """
        run_id = self.tracking.mlflow_id(run)
        if run_id is None:
            return {}
        if not self._linked:
            self._linked = True
            for key, name in ((records.EXPERIMENT, EXPERIMENT), (records.PARENT_RUN, PARENT)):
                self.study.set_attr(key, self.tracking.mlflow_id(name))
        return {records.RUN: run_id}

    def _timed(self, work: Callable[[], Any]) -> Any:
        """Do some of the search's own work, and count what it costs."""
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.search_s += time.perf_counter() - started


def sweep(checkpoints: Path, used: Set[str]) -> None:
    """Remove the checkpoints of trials that are not among the runs `used`, and files that a kill left half written."""
    for path in checkpoints.glob("*"):
        if path.name.startswith(".") or (path.name.startswith("trial-") and path.stem not in used):
            path.unlink()
