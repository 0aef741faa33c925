"""Everything that trains, phase by phase: the trials, the confirmation on fresh seeds, the refit of the winner."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Self

from optuna.trial import TrialState

from objectives.base import ImageClassifier
from search.commands.session.origin import run_tags
from search.commands.session.preload import Preload
from search.commands.session.session import SearchSession
from search.common.signals import Interrupted
from search.coordinator.confirmation import Confirmer, JobList, refit_job
from search.coordinator.loop import Coordinator
from search.coordinator.trials import Trials
from search.coordinator.work import Work
from search.study import records
from search.study.records import TrialRecord
from search.study.sampling.sampling_study import SamplingStudy
from search.study.selection.winner import best_trial, gains
from search.study.summary import Confirmation, Summary, counted
from search.tracking.journal import trial_run


class Phases:
    """The phases of one start of a search, to be run in order. Each skips what earlier starts have done."""

    def __init__(self, session: SearchSession, trials: Trials, coordinator: Coordinator, epochs: int) -> None:
        self.trials = trials
        self._session, self._coordinator, self._epochs = session, coordinator, epochs
        self._config, self._study, self._display = session.config, session.study, session.display
        self._preload = Preload(session.plan.objective, registers=session.plan.register_as is not None)

    @classmethod
    def of(cls, session: SearchSession, study: SamplingStudy, devices: list[str]) -> Self:
        """The phases of a search that begins now, with its clock."""
        plan, config, epochs = session.plan, session.config, session.study.epochs
        assert epochs is not None, "the study is open for sampling"
        trials = Trials(
            study,
            session.tracking,
            target=config.trials,
            epochs=epochs,
            seed=config.seed,
            deadline=time.monotonic() + config.timeout if config.timeout else math.inf,
            stopping_rule=lambda ended: plan.scope.stop_reason(plan.objective, ended),
        )
        coordinator = Coordinator(
            plan.objective,
            session.executor,
            session.tracking,
            files=session.files,
            tags=run_tags(session.study, devices),
            display=session.display,
            checkpoint_interval_s=config.checkpoint_interval,
        )
        return cls(session, trials, coordinator, epochs)

    # ---- the phases

    def search(self) -> None:
        """The trials. Raises Interrupted after a signal."""
        self._session.files.sweep_checkpoints(self.trials.resume())
        is_last = not self._config.confirm and not self._session.plan.refits
        self._train(self.trials, f"study {self._study.name}", is_last=is_last)
        finished = self._study.record().finished
        # `watch` need not wait for trials that will never begin.
        missing = finished < self._config.trials
        self._study.set_attr(records.OVER, self.trials.stop_reason if missing else None)
        self._study.set_attr(records.TARGET, min(self._config.trials, finished))

    def confirm(self) -> Summary:
        """The winner by fresh seeds. Raises SearchError when no trial completed, Interrupted after a signal."""
        best = best_trial(self._study.record())
        if not self._config.confirm:
            return self._summary(best, trial_run(best.number), None)
        confirmer = Confirmer(
            self._study,
            self._session.tracking,
            top=self._config.confirm,
            seeds=self._config.confirm_seeds,
            epochs=self._epochs,
            seed=self._config.seed,
            notice=self._display.notice,
        )
        is_last = not self._session.plan.refits
        self._train(confirmer.work, "confirming the best on fresh seeds", is_last=is_last)
        confirmation, winner = confirmer.confirmation(), confirmer.winner()
        if winner is None:
            summary = self._summary(best, trial_run(best.number), confirmation)
            return summary.noted("no fresh seed came to its end, so the search's own figures decide")
        run = confirmer.run_of(winner.number)
        assert run is not None, "a candidate with a value has a run"
        return self._summary(self._trial(winner.number), run, confirmation)

    def refit(self, summary: Summary) -> Summary:
        """Train the winner on all but the test split, if that is wanted; if it fails, the network so far is kept."""
        objective = self._session.plan.objective
        if not self._session.plan.refits:
            return summary
        assert isinstance(objective, ImageClassifier), "the plan refits only image classifiers"
        epochs = objective.refit_epochs(self._epochs)
        job = refit_job(self._study, self._trial(summary.number), epochs=epochs, seed=self._config.seed)
        work = JobList(self._study, self._session.tracking, [job])
        work.resume()
        title = f"training the winner on all but the test split, {counted(epochs, 'epoch')}"
        self._train(work, title, is_last=True)
        result = work.results[job.run]
        if result.state != TrialState.COMPLETE:
            why = result.failure_message
            return summary.noted(f"training the winner on all but the test split failed ({why}); {summary.run} is kept")
        info = objective.dataset_info()
        seconds = result.metrics.get("train_seconds")
        images = info["n_train"] + info["n_validation"]
        return replace(summary, run=job.run, refit={"epochs": epochs, "seconds": seconds, "images": images})

    def remove_checkpoints(self) -> None:
        """Remove all checkpoints, also of candidates that better trials have displaced since."""
        shutil.rmtree(self._session.files.checkpoints, ignore_errors=True)

    @contextmanager
    def preload_at_end(self) -> Iterator[None]:
        """Let no import run on after the block; after a signal, wait for it 2 s at most."""
        try:
            yield
        finally:
            self._preload.wait(2.0 if self._session.interruption.number else None)

    # ---- steps

    def _train(self, work: Work, title: str, *, is_last: bool) -> None:
        """Do some work under the display. During the last one, idle cores import what the finish needs.

        Raises Interrupted after a signal.
        """
        interruption = self._session.interruption
        done = sum(trial.state.is_finished() for trial in work.records())
        self._display.begin(title, work.target, done, work.unit)
        try:
            self._coordinator.run(
                work,
                interrupted=lambda: interruption.number is not None,
                idle=self._preload.start if is_last else lambda: None,
            )
        finally:
            self._display.end()
        if interruption.number is not None:
            raise Interrupted(interruption.number)

    def _trial(self, number: int) -> TrialRecord:
        return next(trial for trial in self._study.record().trials if trial.number == number)

    def _summary(self, winner: TrialRecord, run: str, confirmation: Confirmation | None) -> Summary:
        assert winner.value is not None, "a completed trial has a value"
        return Summary(
            winner.number,
            winner.label,
            winner.value,
            winner.params,
            run,
            gains(self._study.record(), winner, confirmation),
            confirmation=confirmation,
        )


@contextmanager
def timed_session(session: SearchSession, phases: Phases) -> Iterator[None]:
    """Store when this start began and, at its end, how long it took."""
    study, executor, clock = session.study, session.executor, time.monotonic()
    started = {"started": datetime.now().isoformat()}
    earlier = list(study.attrs().get(records.SESSIONS, ()))
    study.set_attr(records.SESSIONS, [*earlier, {**started, "slots": executor.slots}])
    try:
        yield
    finally:
        ended: dict[str, Any] = {**started, "slots": executor.slots, "wall_s": time.monotonic() - clock}
        ended |= {"search_s": phases.trials.search_s, "tracking_s": session.tracking.busy_s}
        study.set_attr(records.SESSIONS, [*earlier, ended])
