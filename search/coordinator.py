"""The loop: keep every trainer busy, hear what comes back, and write it down before anything else happens.

One thread, one study. The coordinator samples, reports, prunes and tells; trainers train. A trial's writes go to the
tracking journal before Optuna learns of its end, so that whatever Optuna calls finished is tracked.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from objectives.base import EpochResult, ImageClassifier, Objective, Outcome, Task
from search import records
from search.display import Display, RunningTrial, Snapshot
from search.errors import SearchStoppedError
from search.executors.base import Checkpointed, EpochDone, Event, Executor, Failed, Finished, Lost
from search.pages import MARKS, RUN_NAME, readable, run_name
from search.sampling import derive_seed
from search.study import Sampled, Study
from search.tracking import EXPERIMENT, Tracking
from search.workspace import write_whole

TICK_S = 0.2
"""How long an idle coordinator sleeps; signals and the display wait no longer."""

MAX_RETRIES = 2
"""A trial whose trainer died is tried this often again."""

ALIKE = 10
"""When so many trials have failed for one reason and none has not, the search stops."""

CURVES = ("lr", "seconds", "images_per_s")
"""Curve points without a group; all others are named `group/name`."""

PARENT = "study"
"""The parent run's name in the journal."""


@dataclass(frozen=True)
class Plan:
    """What the loop is to do, in plain values."""

    trials: int
    epochs: int
    steps: int
    """Pulls of a whole training."""
    seed: int
    deadline: float = math.inf
    """On `time.monotonic`'s clock: no trial begins after it."""
    checkpoint_interval_s: float = 30.0
    interrupt_s: float = 6.0
    """After an interruption, checkpoints that take longer are not waited for: all is to be over within 10 s."""


@dataclass
class Running:
    """One trial in its slot."""

    sampled: Sampled
    task: Task
    label: str
    started: float
    retries: int = 0
    checkpointed: float = field(default_factory=time.monotonic)
    result: EpochResult | None = None
    value: float | None = None
    curve: list[float] = field(default_factory=list)
    ends_as: TrialState = TrialState.COMPLETE

    @property
    def run(self) -> str:
        """The trial's run in the journal."""
        return f"trial-{self.sampled.number}"


class Coordinator:
    """Runs a study to its number of trials, or until it is interrupted."""

    def __init__(
        self,
        study: Study,
        executor: Executor,
        tracking: Tracking,
        plan: Plan,
        *,
        checkpoint_path: Callable[[str], Path],
        weights_path: Callable[[str], Path],
        tags: Mapping[str, str],
        display: Display,
    ) -> None:
        self.study, self.executor, self.tracking, self.plan = study, executor, tracking, plan
        self.objective: Objective = study.objective
        self._checkpoint_path, self._weights_path, self._tags = checkpoint_path, weights_path, tags
        self._display = display
        self._running: dict[int, Running] = {}
        self._queue: deque[Sampled] = deque()
        self._prepared: Sampled | None = None
        self._ended: list[records.TrialRecord] = []
        self.interrupted: Callable[[], bool] = lambda: False
        self.idle: Callable[[], None] = lambda: None
        """Called when a trainer has nothing left to do while others still train."""
        self.search_s = 0.0
        self._linked = False
        self._told: set[str] = set()
        """What trainers had to say; several of them say the same."""

    def run(self) -> bool:
        """Run; returns whether the study reached its number of trials.

        Raises SearchStoppedError when the first trials all fail for the same reason, StorageError or TrackingError when
        there is no keeping track of them.
        """
        self._resume()
        self._ended = list(self.study.record().trials)
        self._ended_before = len(self._ended)
        try:
            while not self.interrupted():
                self._fill()
                self.tracking.ready()  # trainers are at work while a new store is made; later this costs nothing
                if not self._running:
                    break
                if len(self._running) < self.executor.slots:
                    self.idle()
                self._prepare()
                self._hear(TICK_S)
                self._stop_if_hopeless()
        except SearchStoppedError:
            self._leave()
            raise
        if self.interrupted():
            self._leave()
        return self.study.finished >= self.plan.trials

    # ---- what an earlier search left

    def _resume(self) -> None:
        """Queue the trials that were running; end those whose end is in the journal and not yet in the storage."""
        for sampled in self.study.resume():
            run = f"trial-{sampled.number}"
            if (verdict := self.tracking.verdict(run)) is None:
                self._queue.append(sampled)
            else:
                known = {**verdict["attrs"], **self._link(run)}
                self.study.tell(sampled.number, TrialState[verdict["state"]], verdict["value"], known)
        self._sweep({self._checkpoint_path(f"trial-{sampled.number}") for sampled in self._queue})

    def _sweep(self, used: Set[Path]) -> None:
        """Remove the checkpoints of trials that have ended, and what a kill left of one that was being written."""
        for path in self._checkpoint_path("any").parent.glob("*"):
            if path not in used:
                path.unlink()

    # ---- what to train

    def _fill(self) -> None:
        for slot in range(self.executor.slots):
            if slot not in self._running and (sampled := self._next()) is not None:
                self._start(slot, sampled)

    def _missing(self) -> int:
        """How many trials are still to begin."""
        if time.monotonic() > self.plan.deadline:
            return 0
        return self.plan.trials - self.study.finished - len(self._running) - len(self._queue)

    def _next(self) -> Sampled | None:
        if self._queue:
            return self._queue.popleft()
        if self._missing() <= 0:
            return None
        sampled, self._prepared = self._prepared or self._ask(), None
        return sampled

    def _prepare(self) -> None:
        """Sample the next trial while others train. A single trainer waits instead: its trial's value is worth more."""
        if self._prepared is None and len(self._running) > 1 and not self._queue and self._missing() > 0:
            self._prepared = self._ask()

    def _ask(self) -> Sampled:
        sampled: Sampled = self._timed(self.study.ask)
        return sampled

    def _start(self, slot: int, sampled: Sampled) -> None:
        label = self.objective.describe(sampled.params)
        path = self._checkpoint_path(f"trial-{sampled.number}")
        task = Task(
            number=sampled.number,
            params=sampled.params,
            seed=derive_seed(self.plan.seed, "train", sampled.number),
            epochs=self.plan.epochs,
            checkpoint=path.read_bytes() if path.exists() else None,
        )
        running = Running(sampled, task, label, started=time.monotonic(), value=sampled.last_value)
        if not self.study.holds(sampled.number):
            attrs = {records.LABEL: label, records.SLOT: slot}
            self._timed(lambda: self.study.start(sampled, attrs))
        self._running[slot] = running
        self.executor.start(slot, task)
        self._open_run(running)

    def _open_run(self, running: Running) -> None:
        sampled = running.sampled
        tags = {**self._tags, "kind": "trial", "optuna.trial.number": str(sampled.number), "optuna.state": "RUNNING"}
        if sampled.baseline:
            tags["baseline"] = sampled.baseline
        params = {name: readable(value) for name, value in sampled.params.items()}
        params |= {"seed": str(running.task.seed), "epochs": str(self.plan.epochs)}
        name = run_name(sampled.number, running.label)
        self.tracking.open_run(running.run, name, tags=tags, params=params, parent=PARENT, dataset=self._dataset())

    def _dataset(self) -> Mapping[str, Any] | None:
        return self.objective.dataset_info() if isinstance(self.objective, ImageClassifier) else None

    # ---- what came back

    def _hear(self, timeout_s: float) -> None:
        for slot, event in self.executor.wait(timeout_s):
            self._handle(slot, event)
        self._show()

    def _handle(self, slot: int, event: Event) -> None:
        running = self._running.get(slot)
        if running is None:
            return  # an idle trainer died, and has been replaced
        match event:
            case EpochDone(result):
                self._progress(slot, running, result)
            case Checkpointed(state):
                write_whole(self._checkpoint_path(running.run), state)
                running.checkpointed = time.monotonic()
                self.executor.advance(slot)
            case Finished(outcome):
                self._finish(slot, running, outcome)
            case Failed("error") if running.result is None and running.task.checkpoint is not None:
                self._checkpoint_path(running.run).unlink(missing_ok=True)
                self._retry(slot, running, "its checkpoint could not be used")
            case Failed(kind, message, traceback):
                self._fail(slot, running, kind, message, traceback)
            case Lost(reason):
                self._retry(slot, running, reason)

    def _progress(self, slot: int, running: Running, result: EpochResult) -> None:
        running.result = result
        if result.notice is not None and result.notice not in self._told:
            self._told.add(result.notice)
            self._display.notice(result.notice)
        if result.metrics:
            step = math.floor(result.epoch)
            self.tracking.log(running.run, result.metrics, step=step, position=result.step)
        figures = {self.objective.metric: result.value, **result.metrics}
        for name, figure in figures.items():
            if figure is not None and not math.isfinite(figure):
                self._fail(slot, running, "diverged", f"{name} became {figure} at {_at(result)}")
                return
        if result.value is None:
            self._go_on(slot, running)
            return
        running.value = result.value
        running.curve.append(result.value)
        number, value = running.sampled.number, result.value
        prune = self._timed(lambda: self.study.report(number, result.step, value))
        at_end = result.step >= self.plan.steps
        if prune and not at_end and running.sampled.baseline is None:  # a baseline is compared with, so it trains on
            running.ends_as = TrialState.PRUNED
            self.executor.stop(slot)
        else:
            self._go_on(slot, running)

    def _go_on(self, slot: int, running: Running) -> None:
        if time.monotonic() - running.checkpointed >= self.plan.checkpoint_interval_s:
            self.executor.checkpoint(slot)
        else:
            self.executor.advance(slot)

    def _finish(self, slot: int, running: Running, outcome: Outcome) -> None:
        if running.value is None:
            self._fail(slot, running, "error", f"the training ended without a value of {self.objective.metric}")
            return
        epoch = running.result.epoch if running.result else running.sampled.last_step / self.objective.steps_per_epoch()
        figures = {**outcome.metrics, "epochs": epoch}
        self._keep(running.run, running.sampled, outcome)
        if outcome.weights is not None and running.ends_as == TrialState.COMPLETE:
            write_whole(self._weights_path(running.run), outcome.weights)
        finals = {self.objective.metric: running.value, **_finals(figures)}
        tags = {"optuna.state": running.ends_as.name}
        self._end(slot, running, running.ends_as, {records.METRICS: figures}, tags=tags, metrics=finals)

    def _keep(self, run: str, sampled: Sampled, outcome: Outcome) -> None:
        """Write down what the training left: weights, parameters, and what its pictures are drawn from."""
        self.tracking.file(run, "params.json", records.to_json(sampled.params))
        if outcome.weights is not None:
            self.tracking.file(run, "weights.pt", outcome.weights)
        if outcome.predictions is not None and isinstance(self.objective, ImageClassifier):
            images, labels = self.objective.validation_images()
            classes = self.objective.class_names()
            self.tracking.pictures(
                run, classes=classes, images=images, labels=labels, probabilities=outcome.predictions
            )

    def _fail(self, slot: int, running: Running, kind: str, message: str, traceback: str = "") -> None:
        tags = {"optuna.state": "FAIL", "failure": kind, "failure.message": message[:5000]}
        if traceback:
            self.tracking.file(running.run, "traceback.txt", traceback.encode())
        attrs = {records.FAILURE: kind, records.FAILURE_MESSAGE: message[:2000]}
        self._end(slot, running, TrialState.FAIL, attrs, tags=tags)

    def _end(
        self,
        slot: int,
        running: Running,
        state: TrialState,
        attrs: Mapping[str, Any],
        *,
        tags: Mapping[str, str],
        metrics: Mapping[str, float] = {},
    ) -> None:
        """End a trial: its run first, with the verdict, then the trial itself.

        Once the journal has the verdict the trial has ended: a search that is killed in between must not train it
        again, since it would write its final figures a second time.
        """
        number = running.sampled.number
        if state in MARKS:
            tags = {**tags, RUN_NAME: run_name(number, running.label, MARKS[state])}
        value = running.value if state == TrialState.COMPLETE else None
        status = "FAILED" if state == TrialState.FAIL else "FINISHED"
        verdict = {"state": state.name, "value": value, "attrs": dict(attrs)}
        self.tracking.end_run(running.run, status, tags=tags, metrics=metrics, verdict=verdict)
        known = {**attrs, **self._link(running.run)}
        trial = self._timed(lambda: self.study.tell(number, state, value, known))
        self._checkpoint_path(running.run).unlink(missing_ok=True)
        del self._running[slot]
        record = records.TrialRecord.of(trial)
        self._ended.append(record)
        self._display.trial_ended(record, self._snapshot())

    def _link(self, run: str) -> dict[str, str]:
        """The attribute that leads from a trial to its run, if that has arrived; the study's own are kept once."""
        run_id = self.tracking.mlflow_id(run, wait_s=0.2)
        if run_id is None:
            return {}
        if not self._linked:
            self._linked = True
            for key, name in ((records.EXPERIMENT, EXPERIMENT), (records.PARENT_RUN, PARENT)):
                self.study.set_attr(key, self.tracking.mlflow_id(name))
        return {records.RUN: run_id}

    def _retry(self, slot: int, running: Running, reason: str) -> None:
        if running.ends_as == TrialState.PRUNED:  # it was decided; only what the trainer would have left is lost
            self._finish(slot, running, Outcome())
            return
        if running.retries >= MAX_RETRIES:
            self._fail(slot, running, "crashed", f"tried {running.retries + 1} times; {reason}")
            return
        path = self._checkpoint_path(running.run)
        checkpoint = path.read_bytes() if path.exists() else None
        task = Task(running.task.number, running.task.params, running.task.seed, running.task.epochs, checkpoint)
        again = Running(
            running.sampled, task, running.label, running.started, running.retries + 1, value=running.value
        )  # fmt: skip
        self._running[slot] = again
        self.executor.start(slot, task)
        self._display.notice(f"trial {task.number} is tried again: {reason}")

    def _stop_if_hopeless(self) -> None:
        ended = self._ended[self._ended_before :]  # what failed before may have been mended since
        kinds = {trial.failure if trial.state == TrialState.FAIL else None for trial in ended}
        if len(ended) >= ALIKE and len(kinds) == 1 and None not in kinds:
            raise SearchStoppedError(
                f"all {len(ended)} trials failed for the same reason ({ended[-1].failure}), so the search stops. "
                f"The last one said: {ended[-1].failure_message}"
            )

    # ---- interruption

    def _leave(self) -> None:
        """Checkpoint what is running and close its runs in a way that can be resumed."""
        deadline = time.monotonic() + self.plan.interrupt_s
        for running in self._running.values():
            running.checkpointed = -math.inf  # a checkpoint is due after the step that is under way
        waiting = set(self._running)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for slot, event in self.executor.wait(min(left, TICK_S)):
                if isinstance(event, Checkpointed):
                    write_whole(self._checkpoint_path(self._running[slot].run), event.state)
                elif not isinstance(event, Lost):
                    self._handle(slot, event)
                if isinstance(event, Checkpointed | Lost) or slot not in self._running:
                    waiting.discard(slot)
        for running in self._running.values():
            self.tracking.end_run(running.run, "KILLED", tags={"optuna.state": "RUNNING"})

    # ---- what people see

    def _show(self) -> None:
        self._display.refresh(self._snapshot)

    def _snapshot(self) -> Snapshot:
        running = [
            RunningTrial(
                slot,
                trial.sampled.number,
                trial.label,
                trial.result.epoch if trial.result else 0.0,
                self.plan.epochs,
                tuple(trial.curve),
                time.monotonic() - trial.started,
            )
            for slot, trial in sorted(self._running.items())
        ]
        return Snapshot(
            self.plan.trials, tuple(self._ended), tuple(running), self.objective.metric, self.study.maximize,
            self.tracking.trouble,
        )  # fmt: skip

    def _timed(self, work: Callable[[], Any]) -> Any:
        """Do some of the search's own work, and count what it costs."""
        started = time.perf_counter()
        try:
            return work()
        finally:
            self.search_s += time.perf_counter() - started


def _at(result: EpochResult) -> str:
    return f"epoch {result.epoch:g}"


def _finals(figures: Mapping[str, float]) -> dict[str, float]:
    """Last figures worth a column in MLflow's table; curve points are there already."""
    return {name: value for name, value in figures.items() if "/" not in name and name not in CURVES}
