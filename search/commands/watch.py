"""Follow a search that another process runs: its trials, its confirmation and refit, until it ends or stops."""

import time
from collections.abc import Callable
from datetime import datetime

import optuna
from optuna.trial import TrialState

from search.commands.studies import record_of, study_if_there
from search.common.config import Config
from search.common.errors import SearchStoppedError
from search.coordinator.forecast import seconds_left
from search.coordinator.progress import TRIALS, Display, RunningTrial, SearchProgress, Standing
from search.study import records
from search.study.records import StudyRecord, TrainingResult, TrialRecord
from search.study.state import Phase, State

POLL_S = 0.5  # pause between two reads of the study


def follow(config: Config, name: str | None, display: Display) -> StudyRecord:
    """Show the progress of a search in another process until no process runs it; return the study as it is then.

    Waits for a study that does not exist yet. A study that nobody searches is returned at once.
    """
    study = _await_study(config, name, display.notice)
    view = _View(display)
    try:
        while True:
            try:
                record = record_of(config, study)
            except KeyError:  # a search removes a new study when it cannot start
                raise SearchStoppedError(f"study {study.study_name!r} has been deleted") from None
            view.show(record)
            if record.state is not State.RUNNING:
                return record
            time.sleep(POLL_S)
    finally:
        display.end()


def _await_study(config: Config, name: str | None, notice: Callable[[str], None]) -> optuna.Study:
    is_waiting = False
    while isinstance(study := study_if_there(config, name), str):
        if not is_waiting:
            wanted = "a search" if name is None else f"the search of study {name!r}"
            notice(f"waiting for {wanted} to start: {study}. Ctrl-C ends this")
            is_waiting = True
        time.sleep(POLL_S)
    return study


class _View:
    """Shows a study on a display, read by read."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._phase: Phase | None = None  # whose trainings are shown
        self._standing: Standing | None = None
        self._shown: set[str] = set()
        self._is_starting = False

    def show(self, record: StudyRecord) -> None:
        """Show what is new since the last read."""
        if self._standing is not None:
            self._show_ended(record)
        if record.target is None and record.state is State.RUNNING:
            if not self._is_starting:
                self._display.notice(f"study {record.name}: its search is starting")
                self._is_starting = True
            return
        phase = record.phase or self._phase or Phase("trials", f"study {record.name}")
        if self._phase is None or (phase.title, phase.jobs) != (self._phase.title, self._phase.jobs):
            self._begin(phase, record)
        assert self._standing is not None, "a phase has begun"
        running = [_running_trial(record, trial) for trial in record.trials if trial.state == TrialState.RUNNING]
        running = running if record.state is State.RUNNING else []
        self._standing.target = _target(phase, record)
        self._standing.left_s = _left_s(phase, self._standing, record)
        self._display.refresh(SearchProgress(self._standing, running, record.metric))

    def _begin(self, phase: Phase, record: StudyRecord) -> None:
        if self._phase is not None:
            self._display.end()
        ended = _ended(phase, record)
        self._phase, self._shown = phase, set(ended)
        unit = TRIALS if phase.kind == "trials" else "trainings"
        self._standing = Standing(_target(phase, record), ended.values(), record.direction, unit)
        self._display.begin(phase.title, self._standing.target, self._standing.finished, unit)

    def _show_ended(self, record: StudyRecord) -> None:
        assert self._phase is not None, "a phase has begun"
        assert self._standing is not None, "a phase has begun"
        self._standing.target = _target(self._phase, record)
        for key, trial in _ended(self._phase, record).items():
            if key not in self._shown:
                self._shown.add(key)
                self._standing.add(trial)
                self._display.trial_ended(trial, self._standing)


def _target(phase: Phase, record: StudyRecord) -> int:
    """The number of trainings of a phase."""
    if phase.kind == "trials":
        return len(record.trials) if record.target is None else record.target
    return len(phase.jobs) or 1


def _ended(phase: Phase, record: StudyRecord) -> dict[str, TrialRecord]:
    """The trainings of a phase that ended, in that order."""
    if phase.kind == "trials":
        ended = [trial for trial in record.trials if trial.state.is_finished()]
        ended.sort(key=lambda trial: (trial.ended or datetime.max, trial.number))
        return {str(trial.number): trial for trial in ended}
    stored = record.attrs.get(records.EXTRA_TRAININGS, {})
    results = {run: TrainingResult.from_dict(stored[run]) for run in phase.jobs if run in stored}
    return {run: TrialRecord.of_training(*phase.jobs[run], result) for run, result in results.items()}


def _left_s(phase: Phase, standing: Standing, record: StudyRecord) -> float | None:
    if record.state is not State.RUNNING or record.phase is None:
        return None
    trials = Standing(record.target or 0, _ended(Phase("trials", ""), record).values(), record.direction)
    now, in_trials = datetime.now(), phase.kind == "trials"
    started = [trial.started for trial in record.trials if in_trials and trial.state == TrialState.RUNNING]
    return seconds_left(phase, standing, trials, [(now - at).total_seconds() for at in started if at], now)


def _running_trial(study: StudyRecord, trial: TrialRecord) -> RunningTrial:
    epoch = max(trial.intermediate, default=0) / int(study.attrs.get(records.STEPS_PER_EPOCH, 1))
    epochs = int(study.attrs.get(records.FINGERPRINT, {}).get("epochs") or 0)
    curve = tuple(value for _, value in sorted(trial.intermediate.items()))
    return RunningTrial(trial.number, trial.label, epoch, epochs, curve)
