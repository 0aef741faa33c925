"""The loop: keep every trainer busy, hear what comes back, and write it down before anything else happens.

One thread. What is trained, and what becomes of it, is up to a `Work`: the trials of a study, its winner's
confirmation. The coordinator starts, pulls, checkpoints, tracks and retries; trainers train. A training's writes go to
the tracking journal before its end is stored, so that whatever is called finished is tracked.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from objectives.base import EpochResult, ImageClassifier, Objective, Outcome
from objectives.files import write_atomic
from search import records
from search.errors import SearchStoppedError
from search.executors.base import Checkpointed, EpochDone, Executor, Failed, Finished, Lost, Refused, SlotEvent
from search.journal import PARENT
from search.limits import describe
from search.pages import MARKS, RUN_NAME, readable, run_name
from search.progress import Display, RunningTrial, SearchProgress, Standing
from search.tracking import Tracking
from search.work import Job, Work

TICK_S = 0.2
"""How long an idle coordinator sleeps; signals and the display wait no longer."""

REFRESH_S = 0.25
"""How often what people see is drawn anew."""

MAX_RETRIES = 2
"""A trial whose trainer died is tried this often again."""

ALIKE = 10
"""When so many trials have failed for one reason and none has not, the search stops."""

INTERRUPT_S = 6.0
"""After an interruption, checkpoints that take longer are not waited for: all is to be over within 10 s."""

CURVES = ("lr", "seconds", "images_per_s")
"""Curve points without a group; all others are named `group/name`."""


@dataclass
class Running:
    """One training in its slot."""

    job: Job
    retries: int = 0
    checkpointed: float = field(default_factory=time.monotonic)
    result: EpochResult | None = None
    value: float | None = None
    curve: list[float] = field(default_factory=list)
    ends_as: TrialState = TrialState.COMPLETE


class Coordinator:
    """Runs some work until nothing is left of it, or until it is interrupted."""

    def __init__(
        self, objective: Objective, executor: Executor, tracking: Tracking, *,
        checkpoint_path: Callable[[str], Path], weights_path: Callable[[str], Path], tags: Mapping[str, str],
        display: Display, checkpoint_interval_s: float = 30.0,
    ) -> None:  # fmt: skip
        self.objective, self.executor, self.tracking = objective, executor, tracking
        self._checkpoint_path, self._weights_path, self._tags = checkpoint_path, weights_path, tags
        self._display, self._checkpoint_interval_s = display, checkpoint_interval_s
        self._running: dict[int, Running] = {}
        self._shown = -math.inf
        self._again: deque[Running] = deque()
        """Those that lost their trainer and wait for another."""
        self._told: set[str] = set()
        """What trainers had to say; several of them say the same."""

    def run(
        self, work: Work, *, interrupted: Callable[[], bool] = lambda: False, idle: Callable[[], None] = lambda: None
    ) -> None:
        """Do all of it, or what can be done before an interruption.

        `idle` is called when a trainer has nothing left to do while others still train. Raises SearchStoppedError when
        the first trainings all fail for the same reason, StorageError or TrackingError when there is no keeping track
        of them.
        """
        self.work = work
        self._ends: Counter[str | None] = Counter()  # of this start: what failed before may have been mended since
        maximize = self.objective.direction == "maximize"
        self._standing = Standing(work.target, work.ended(), maximize=maximize, unit=work.unit)
        try:
            while not interrupted():
                self._fill()
                self.tracking.ready()  # trainers are at work while a new store is made; later this costs nothing
                if not self._running and not self._again and not work.left:
                    break
                if len(self._running) < len(self.executor.available()):
                    idle()
                if len(self._running) > 1:  # a single trainer waits instead: the value of its training is worth more
                    work.prepare()
                self.tracking.set_search_busy(busy=False)
                events = self.executor.wait(TICK_S)
                self.tracking.set_search_busy(busy=True)
                for slot, event in events:
                    self._handle(slot, event)
                self._show()
                self._stop_if_hopeless()
        except SearchStoppedError:
            self._leave()
            raise
        finally:
            self.tracking.set_search_busy(busy=False)
        if interrupted():
            self._leave()

    # ---- what to train

    def _fill(self) -> None:
        for slot in self.executor.available():
            if slot in self._running:
                continue
            if self._again:
                self._running[slot] = running = self._again.popleft()
                self.executor.start(slot, running.job.task)
            elif (job := self.work.next()) is not None:
                self._start(slot, Running(self._resumed(job), value=job.value))
        self.executor.expect(len(self._running) + len(self._again) + self.work.left)

    def _resumed(self, job: Job) -> Job:
        """With the checkpoint that was left of it, if one was."""
        path = self._checkpoint_path(job.run)
        return replace(job, task=replace(job.task, checkpoint=path.read_bytes() if path.exists() else None))

    def _start(self, slot: int, running: Running) -> None:
        job = running.job
        self.work.begin(job, slot)
        self._running[slot] = running
        self.executor.start(slot, job.task)
        tags = {**self._tags, **job.tags, "optuna.state": "RUNNING"}
        params = {name: readable(value) for name, value in job.params.items()}
        params |= {"seed": str(job.task.seed), "epochs": str(job.task.epochs)}
        dataset = self.objective.dataset_info() if isinstance(self.objective, ImageClassifier) else None
        self.tracking.open_run(
            job.run, job.name, tags=tags, params=params, parent=PARENT, dataset=dataset, step=job.step
        )  # fmt: skip

    # ---- what came back

    def _handle(self, slot: int, event: SlotEvent) -> None:
        running = self._running.get(slot)
        if running is None:
            return  # an idle trainer died, and has been replaced
        match event:
            case EpochDone(result):
                self._progress(slot, running, result)
            case Checkpointed(state):
                write_atomic(self._checkpoint_path(running.job.run), state)
                running.checkpointed = time.monotonic()
                self.executor.advance(slot)
            case Finished(outcome):
                self._finish(slot, running, outcome)
            case Failed("error") if running.result is None and running.job.task.checkpoint is not None:
                self._checkpoint_path(running.job.run).unlink(missing_ok=True)
                self._retry(slot, running, "its checkpoint could not be used")
            case Failed(kind, message, traceback):
                self._fail(slot, running, kind, message, traceback)
            case Refused(metrics):
                figures = {**metrics, "epochs": 0}
                tags = {"optuna.state": TrialState.PRUNED.name, "refused": describe(metrics)}
                self._end(slot, running, TrialState.PRUNED, {records.METRICS: figures}, tags=tags, metrics=metrics)
            case Lost(reason, may_be_task):
                self._retry(slot, running, reason, counts=may_be_task)

    def _progress(self, slot: int, running: Running, result: EpochResult) -> None:
        if (wrong := self._miscounted(running, result.step)) is not None:
            self._fail(slot, running, "error", wrong)
            return
        running.result = result
        if result.notice is not None and result.notice not in self._told:
            self._told.add(result.notice)
            self._display.notice(result.notice)
        if result.metrics:
            step = math.floor(result.epoch)
            self.tracking.log(running.job.run, result.metrics, step=step, position=result.step)
        figures = {self.objective.metric: result.value, **result.metrics}
        for name, figure in figures.items():
            if figure is not None and not math.isfinite(figure):
                self._fail(slot, running, "diverged", f"{name} became {figure} at epoch {result.epoch:g}")
                return
        if result.value is None:
            self._go_on(slot, running)
            return
        running.value = result.value
        running.curve.append(result.value)
        stop = self.work.report(running.job, result.step, result.value)
        if stop and result.step < self._steps(running.job):
            running.ends_as = TrialState.PRUNED
            self.executor.stop(slot)
        else:
            self._go_on(slot, running)

    def _miscounted(self, running: Running, step: int) -> str | None:
        """Why a result cannot be the next one of its training: pruners count in steps, and a search is to end."""
        last = self._steps(running.job)
        advice = "python -m search check-objective MODULE:ATTR says more"
        if step > last:
            return f"the training went on to step {step}, after its last, {last}; {advice}"
        if running.result is not None and step != running.result.step + 1:
            return f"after step {running.result.step} the training called itself {step}; count one a pull. {advice}"
        return None

    def _steps(self, job: Job) -> int:
        """Pulls of a whole training."""
        return job.task.epochs * self.objective.steps_per_epoch()

    def _go_on(self, slot: int, running: Running) -> None:
        if time.monotonic() - running.checkpointed >= self._checkpoint_interval_s:
            self.executor.checkpoint(slot)
        else:
            self.executor.advance(slot)

    def _finish(self, slot: int, running: Running, outcome: Outcome) -> None:
        if running.value is None and not running.job.task.refit:
            self._fail(slot, running, "error", f"the training ended without a value of {self.objective.metric}")
            return
        epoch = running.result.epoch if running.result else running.job.step / self.objective.steps_per_epoch()
        figures = {**outcome.metrics, "epochs": epoch}
        self._keep(running.job, outcome)
        if outcome.weights is not None and running.ends_as == TrialState.COMPLETE:
            write_atomic(self._weights_path(running.job.run), outcome.weights)
        measured = {} if running.value is None else {self.objective.metric: running.value}
        finals = {**measured, **_finals(figures)}
        tags = {"optuna.state": running.ends_as.name}
        self._end(slot, running, running.ends_as, {records.METRICS: figures}, tags=tags, metrics=finals)

    def _keep(self, job: Job, outcome: Outcome) -> None:
        """Write down what the training left: weights, parameters, and what its pictures are drawn from."""
        run = job.run
        self.tracking.file(run, "params.json", records.to_json(job.task.params))
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
            self.tracking.file(running.job.run, "traceback.txt", traceback.encode())
        attrs = {records.FAILURE: kind, records.FAILURE_MESSAGE: message[:2000]}
        self._end(slot, running, TrialState.FAIL, attrs, tags=tags)

    def _end(
        self, slot: int, running: Running, state: TrialState, attrs: Mapping[str, Any], *, tags: Mapping[str, str],
        metrics: Mapping[str, float] = {},
    ) -> None:  # fmt: skip
        """End a training: its run first, with the verdict, then its record.

        Once the journal has the verdict the training has ended: a search that is killed in between must not train it
        again, since it would write its final figures a second time.
        """
        job, value = running.job, running.value if state == TrialState.COMPLETE else None
        if state in MARKS:
            tags = {**tags, RUN_NAME: run_name(job.task.number, job.label, MARKS[state])}
        status = "FAILED" if state == TrialState.FAIL else "FINISHED"
        verdict = {"state": state.name, "value": value, "attrs": dict(attrs)}
        self.tracking.end_run(job.run, status, tags=tags, metrics=metrics, verdict=verdict)
        record = self.work.end(job, state, value, attrs)
        self._checkpoint_path(job.run).unlink(missing_ok=True)
        del self._running[slot]
        self._standing.add(record)
        self._standing.target = self.work.target
        self._display.trial_ended(record, self._standing)
        self._ends[record.failure if state == TrialState.FAIL else None] += 1
        self._last = record

    def _retry(self, slot: int, running: Running, reason: str, *, counts: bool = True) -> None:
        """Have a training done again from its checkpoint, by whichever trainer is free first."""
        if running.ends_as == TrialState.PRUNED:  # it was decided; only what the trainer would have left is lost
            self._finish(slot, running, Outcome())
            return
        if counts and running.retries >= MAX_RETRIES:
            self._fail(slot, running, "crashed", f"tried {running.retries + 1} times; {reason}")
            return
        job = self._resumed(running.job)
        self._again.append(Running(job, running.retries + counts, value=running.value))
        del self._running[slot]
        self._display.notice(f"{job.run.replace('-', ' ')} is tried again: {reason}")

    def _stop_if_hopeless(self) -> None:
        if self._ends.total() >= ALIKE and len(self._ends) == 1 and None not in self._ends:
            raise SearchStoppedError(
                f"all {self._ends.total()} trials failed for the same reason ({self._last.failure}), so the search "
                f"stops. The last one said: {self._last.failure_message}"
            )

    # ---- interruption

    def _leave(self) -> None:
        """Checkpoint what is running and close its runs in a way that can be resumed."""
        deadline = time.monotonic() + INTERRUPT_S
        for running in self._running.values():
            running.checkpointed = -math.inf  # a checkpoint is due after the step that is under way
        waiting = set(self._running)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for slot, event in self.executor.wait(min(left, TICK_S)):
                if isinstance(event, Checkpointed):
                    write_atomic(self._checkpoint_path(self._running[slot].job.run), event.state)
                elif not isinstance(event, Lost):
                    self._handle(slot, event)
                if isinstance(event, Checkpointed | Lost) or slot not in self._running:
                    waiting.discard(slot)
        for running in (*self._running.values(), *self._again):
            self.tracking.end_run(running.job.run, "KILLED", tags={"optuna.state": "RUNNING"})

    # ---- what people see

    def _show(self) -> None:
        if time.monotonic() - self._shown < REFRESH_S:
            return
        self._shown = time.monotonic()
        self._standing.target = self.work.target
        running = [
            RunningTrial(
                training.job.task.number, training.job.label, training.result.epoch if training.result else 0.0,
                training.job.task.epochs, tuple(training.curve),
            )
            for _, training in sorted(self._running.items())
        ]  # fmt: skip
        self._display.refresh(SearchProgress(self._standing, running, self.objective.metric, self.tracking.trouble))


def _finals(figures: Mapping[str, float]) -> dict[str, float]:
    """Last figures worth a column in MLflow's table; curve points are there already."""
    return {name: value for name, value in figures.items() if "/" not in name and name not in CURVES}
