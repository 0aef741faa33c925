"""The loop: keep every worker busy, take what comes back, and store it before anything else happens.

One thread. A `Work` decides what is trained and stores how it ended: the trials of a study, or its confirmation. The
coordinator starts, pulls, checkpoints, tracks and retries; workers train. The end of a training is in the tracking
journal before `Work` stores it, so every training that is called finished is tracked.
"""

import json
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime
from functools import cached_property

from optuna.trial import TrialState

from objectives.base import EpochResult, Objective, ObjectiveError, Outcome
from objectives.functions.objective import FunctionObjective
from search.common.direction import Direction
from search.common.errors import SearchError, SearchStoppedError
from search.common.text import printable, sentence
from search.common.workspace import TrainingFiles
from search.coordinator.forecast import seconds_left
from search.coordinator.progress import TRIALS, Display, SearchProgress, Standing
from search.coordinator.questions import Questions
from search.coordinator.training import RunningTraining, TrainingRuns
from search.coordinator.work import Work
from search.executors.base import (
    Asked,
    Checkpointed,
    EpochDone,
    Executor,
    Failed,
    Finished,
    Lost,
    Refused,
    Returned,
    SlotEvent,
    Unusable,
)
from search.study.records import TrainingResult, TrialRecord
from search.study.state import Phase
from search.tracking.tracker import Tracking

TICK_S = 0.2  # how long an idle coordinator sleeps; signals and the display wait no longer
REFRESH_S = 0.25  # how often the display is redrawn
MAX_RETRIES = 2  # how often a training whose worker died is tried again
MAX_SAME_FAILURES = 10  # the search stops when its first trials, this many, all fail for the same reason
NOTICE_LENGTH = 2_000
INTERRUPT_S = 6.0  # how long an interrupted search waits for checkpoints, so that it ends within 10 s


@dataclass
class Coordinator:
    """Runs some work until nothing is left of it, or until it is interrupted."""

    objective: Objective
    executor: Executor
    tracking: Tracking
    _: KW_ONLY
    files: TrainingFiles
    tags: Mapping[str, str]  # of every MLflow run
    display: Display
    checkpoint_interval_s: float = 30.0
    hint: str = ""  # how a user finds out more about a failing objective
    _running: dict[int, RunningTraining] = field(default_factory=dict, init=False)  # by slot
    _retries: deque[RunningTraining] = field(default_factory=deque, init=False)  # they wait for another worker
    _notices: set[str] = field(default_factory=set, init=False)  # shown already; several workers send the same one
    _shown_at: float = field(default=-math.inf, init=False)
    _failures: defaultdict[str, Counter[str | None]] = field(default_factory=lambda: defaultdict(Counter), init=False)
    """By the work's unit, how many trainings failed for which reason, None for those that did not.

    It counts those of this start, whose trials and confirmations take turns: an earlier one's may have been fixed.
    """

    @property
    def _is_function(self) -> bool:
        return isinstance(self.objective, FunctionObjective)

    @cached_property
    def _runs(self) -> TrainingRuns:
        return TrainingRuns(self.objective, self.tracking, self.files, self.tags, self._notify)

    def run(
        self,
        work: Work,
        phase: Phase | None = None,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """Do all of the work, or what can be done before an interruption.

        `phase` says what else the search will do; without it, the time left is not estimated. `idle` is called when a
        worker has nothing left to do while others still train. Raises SearchStoppedError when the first trainings all
        fail for the same reason, StorageError or TrackingError when they cannot be tracked.
        """
        self.work, self._phase = work, phase
        self._questions = Questions(work, self._runs)
        self._standing = Standing(work.target, work.records(), Direction(self.objective.direction), work.unit)
        if work.unit == TRIALS:
            self._trials = self._standing
        hopeless = False
        try:
            while not interrupted() and not hopeless and self._step(idle):
                hopeless = self._is_hopeless()
        except (SearchError, ObjectiveError):  # another program writes to the study, or the function is unusable
            self._suspend()
            raise
        finally:
            self.tracking.set_search_busy(busy=False)
        self._suspend()
        if hopeless:
            failed, last = self._failures[work.unit].total(), self._last_ended
            raise SearchStoppedError(
                f"all {failed} trials failed for the same reason ({last.failure}), so the search stops. "
                f"The last one said: {sentence(last.failure_message or 'nothing')} {self.hint}".rstrip()
            )

    def _step(self, idle: Callable[[], None]) -> bool:
        """One turn of the loop. Returns whether anything is left to do."""
        self._fill()
        self._show()
        is_left = bool(self._running or self._retries or self.work.remaining)
        # Workers train while a new store is made; later this costs nothing. Functions would wait for their answers.
        # No other thread may import MLflow before.
        is_open = self.tracking.ready(wait=not self._is_function or not is_left)
        if not is_left:
            return False
        if is_open and len(self._running) < len(self.executor.available()):
            idle()
        if len(self._running) > 1:  # a single worker waits instead: the value of its training is worth more
            self.work.prepare_next()
        self.tracking.set_search_busy(busy=False)
        events = self.executor.wait(TICK_S)
        self.tracking.set_search_busy(busy=True)
        for slot, event in events:
            self._handle(slot, event)
        self._show()
        return True

    # ---- the life of a training

    def _fill(self) -> None:
        """Give every free slot a training."""
        for slot in self.executor.available():
            if slot in self._running:
                continue
            if self._retries:
                self._start(slot, self._retries.popleft())
            elif (job := self.work.next()) is not None:
                self.work.begin(job, slot)
                steps = job.task.epochs * self.objective.steps_per_epoch()
                self._start(slot, RunningTraining(job, steps, value=job.value, is_function=self._is_function))
                self._runs.open(job)
        self.executor.set_demand(len(self._running) + len(self._retries) + self.work.remaining)

    def _start(self, slot: int, training: RunningTraining) -> None:
        """Start a training, from its checkpoint if it has one."""
        path = self.files.checkpoint_of(training.job.run)
        checkpoint = path.read_bytes() if path.exists() else None
        training.is_resumed = checkpoint is not None
        if checkpoint is not None and self._is_function:
            line, _, checkpoint = checkpoint.partition(b"\n")
            training.points = json.loads(line)["points"]
        self._running[slot] = training
        self.executor.start(slot, replace(training.job.task, checkpoint=checkpoint))

    def _handle(self, slot: int, event: SlotEvent) -> None:
        training = self._running.get(slot)
        if training is None:
            return  # an idle worker died, and has been replaced
        match event:
            case EpochDone(result):
                self._report(slot, training, result)
            case Checkpointed(state):
                self._runs.save(training, state)
                self.executor.advance(slot)
            case Asked():
                self.executor.answer(slot, self._questions.answer(training, event))
            case Returned(value):
                training.value, training.is_pruned = value, value is None
                self._finish(slot, training, Outcome())
            case Unusable(message):
                raise ObjectiveError(f"{self.objective.name}: {message}")
            case Finished(outcome):
                self._finish(slot, training, outcome)
            case Refused(metrics):
                self._end(slot, training, self._runs.refuse(training.job, metrics))
            case Failed("error") if training.is_resumed and training.result is None and not training.reported:
                self.files.checkpoint_of(training.job.run).unlink(missing_ok=True)
                self._retry(slot, training, "it failed right after its checkpoint, so it begins again")
            case Failed(kind, message, traceback):
                self._fail(slot, training, kind, message, traceback)
            case Lost(reason, may_be_task):
                self._retry(slot, training, reason, counts=may_be_task)

    def _report(self, slot: int, training: RunningTraining, result: EpochResult) -> None:
        """Track and report one pull, then pull again, checkpoint or stop."""
        if (error := training.miscount(result.step)) is not None:
            self._fail(slot, training, "error", f"{error}. {self.hint}".rstrip())
            return
        training.result = result
        if result.notice is not None:
            self._notify(result.notice)
        self._runs.log(training.job, result)
        if result.value is not None and not math.isfinite(result.value):
            reason = f"{self.objective.metric} became {result.value} at epoch {result.epoch:g}"
            self._fail(slot, training, "diverged", reason)
            return
        if result.value is not None:
            training.value = result.value
            training.curve.append(result.value)
            if self.work.report(training.job, result.step, result.value) and result.step < training.steps:
                training.is_pruned = True
                self.executor.stop(slot)
                return
        if time.monotonic() - training.checkpointed_at >= self.checkpoint_interval_s:
            self.executor.checkpoint(slot)
        else:
            self.executor.advance(slot)

    def _notify(self, text: str) -> None:
        """Show a notice, each once."""
        if text not in self._notices:
            self._notices.add(text)
            self.display.notice(printable(text, limit=NOTICE_LENGTH))

    def _retry(self, slot: int, training: RunningTraining, reason: str, *, counts: bool = True) -> None:
        """Repeat a training from its checkpoint in the first slot that is free."""
        if training.is_pruned:  # only what the worker would have left is lost
            self._finish(slot, training, Outcome())
            return
        if counts and training.retries >= MAX_RETRIES:
            self._fail(slot, training, "crashed", f"tried {training.retries + 1} times; {reason}")
            return
        job, retries = training.job, training.retries + counts
        again = RunningTraining(job, training.steps, retries, value=training.value, is_function=self._is_function)
        self._retries.append(again)
        del self._running[slot]
        self.display.notice(f"{job.run.replace('-', ' ')} is tried again: {printable(reason, limit=NOTICE_LENGTH)}")

    def _finish(self, slot: int, training: RunningTraining, outcome: Outcome) -> None:
        if training.value is None and not training.is_pruned and not training.job.task.refit:
            self._fail(slot, training, "error", f"the training ended without a value of {self.objective.metric}")
        else:
            self._end(slot, training, self._runs.finish(training, outcome, self.work.keeps))

    def _fail(self, slot: int, training: RunningTraining, kind: str, message: str, traceback: str = "") -> None:
        self._end(slot, training, self._runs.fail(training.job, kind, message, traceback))

    def _end(self, slot: int, training: RunningTraining, result: TrainingResult) -> None:
        """Store the end of a training whose run has ended."""
        record = self.work.end(training.job, result)
        self._runs.sweep(training.job)
        del self._running[slot]
        self._standing.add(record)
        self._standing.target = self.work.target
        self._forecast()
        self.display.trial_ended(record, self._standing)
        self._failures[self.work.unit][record.failure if record.state == TrialState.FAIL else None] += 1
        self._last_ended: TrialRecord = record

    def _is_hopeless(self) -> bool:
        """Whether the first trainings of this start have all failed for the same reason."""
        failures = self._failures[self.work.unit]
        return failures.total() >= MAX_SAME_FAILURES and len(failures) == 1 and None not in failures

    def _suspend(self) -> None:
        """Checkpoint the running trainings and close their runs, so that both can be resumed."""
        deadline = time.monotonic() + INTERRUPT_S
        for training in self._running.values():
            training.checkpointed_at = -math.inf  # a checkpoint is due after the step that is under way
        pending = set(self._running) if not self._is_function else set()  # all that a function has said is stored
        while pending and (remaining_s := deadline - time.monotonic()) > 0:
            for slot, event in self.executor.wait(min(remaining_s, TICK_S)):
                if isinstance(event, Checkpointed):
                    self._runs.save(self._running[slot], event.state)
                elif not isinstance(event, Lost):
                    self._handle(slot, event)
                if isinstance(event, Checkpointed | Lost) or slot not in self._running:
                    pending.discard(slot)
        for training in (*self._running.values(), *self._retries):
            self._runs.suspend(training.job)

    def _forecast(self) -> None:
        if self._phase is not None:
            elapsed_s, now = [training.elapsed_s for training in self._running.values()], datetime.now()
            self._standing.left_s = seconds_left(self._phase, self._standing, self._trials, elapsed_s, now)

    def _show(self) -> None:
        if time.monotonic() - self._shown_at < REFRESH_S:
            return
        self._shown_at = time.monotonic()
        self._forecast()
        running = [training.progress() for _, training in sorted(self._running.items())]
        self.display.refresh(SearchProgress(self._standing, running, self.objective.metric, self.tracking.last_error))
