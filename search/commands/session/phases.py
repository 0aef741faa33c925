"""Everything that trains, phase by phase: trials, confirmation of the best, choice of an ensemble, refit.

With a target, trials and confirmations take turns until one confirmation succeeds.
"""

import importlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Thread
from typing import Any, Literal, Self

from optuna.trial import TrialState

from objectives.base import ImageClassifier
from objectives.functions.objective import FunctionObjective
from search.commands.session.ensembles import with_ensemble
from search.commands.session.networks import StoredNetworks
from search.commands.session.session import SearchSession, run_tags
from search.commands.setup import SearchPlan
from search.common.signals import Interrupted
from search.coordinator.confirmation import Confirmer, JobList, confirmed_before, failed_for_now, refit_job
from search.coordinator.loop import Coordinator
from search.coordinator.trials import Trials
from search.coordinator.work import Job, Work
from search.study import records
from search.study.sampling.sampling_study import SamplingStudy
from search.study.selection.winner import best_trial, completed, gains
from search.study.space.objective_calls import call, check_hint
from search.study.state import Phase
from search.study.summary import Confirmation, Summary, counted
from search.tracking.journal import PARENT, refit_run, trial_run
from search.tracking.pages import run_name


class Phases:
    """The phases of one start, to be run in order. Each skips finished work, and raises Interrupted after a signal."""

    def __init__(
        self,
        session: SearchSession,
        trials: Trials,
        coordinator: Coordinator,
        epochs: int,
        *,
        until: str | None,
        tried: set[int],
    ) -> None:
        self._session, self._trials, self._coordinator, self._epochs = session, trials, coordinator, epochs
        self._until = until  # no trial begins after this time
        self._tried = tried  # the trials that this start has confirmed, or has failed to
        self._plan, self._study, self._tracking = session.plan, session.study, session.tracking
        self._preload = Thread(target=_import_for_finish, args=[session.plan], name="preload", daemon=True)

    @classmethod
    def of(cls, session: SearchSession, study: SamplingStudy, devices: list[str]) -> Self:
        """The phases of a start that begins now. `--timeout` counts from here."""
        plan, config, epochs = session.plan, session.plan.config, session.study.epochs
        assert epochs is not None, "the study is open for sampling"
        files, tags, display = session.files, run_tags(session.study, devices), session.display
        coordinator = Coordinator(
            plan.objective,
            session.executor,
            session.tracking,
            files=files,
            tags=tags,
            display=display,
            checkpoint_interval_s=config.checkpoint_interval,
            hint=check_hint(plan.spec.target),
        )
        deadline = time.monotonic() + config.timeout if config.timeout else math.inf
        until = (datetime.now() + timedelta(seconds=config.timeout)).isoformat() if config.timeout else None
        tried: set[int] = set()

        def has_reached(ended: Sequence[records.TrialRecord]) -> bool:
            if plan.target is None:
                return False
            return any(trial.number not in tried for trial in plan.target.waiting(ended, study.stored.attrs()))

        trials = Trials(
            study,
            session.tracking,
            target=config.trials,
            epochs=epochs,
            seed=config.seed,
            deadline=deadline,
            stopping_rule=plan.stop_reason,
            pausing_rule=has_reached,
            notice=display.notice,
            keeper=session.keeper(at_least=config.confirm),  # without a target, one of those wins
        )
        return cls(session, trials, coordinator, epochs, until=until, tried=tried)

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Run the phases inside the block. Stores its duration and, when all went well, removes the checkpoints."""
        interruption, executor, study = self._session.interruption, self._session.executor, self._study
        clock, earlier = time.monotonic(), list(study.attrs().get(records.SESSIONS, ()))
        times: dict[str, Any] = {"started": datetime.now().astimezone().isoformat(), "slots": executor.slots}
        study.set_attr(records.SESSIONS, [*earlier, times])
        try:
            with interruption.graceful():
                yield
                shutil.rmtree(self._session.files.checkpoints, ignore_errors=True)
        finally:
            if self._preload.ident is not None:
                self._preload.join(2.0 if interruption.number else None)
            times = {**times, "slots": executor.slots, "wall_s": time.monotonic() - clock}
            times |= {"search_s": self._trials.search_s, "tracking_s": self._tracking.busy_s}
            study.set_attr(records.SESSIONS, [*earlier, times])

    def search(self) -> Summary:
        """Train the trials and choose the winner by fresh seeds or folds.

        Whenever trials have reached the target, they are confirmed before others begin. The search ends if that
        succeeds. When no trial may begin any more, one round is the last. Raises SearchError when no trial completed.
        """
        unfinished, target, n = self._trials.resume(), self._plan.target, self._plan.config.confirm
        self._session.files.sweep_checkpoints(unfinished)
        self._train_trials()
        while target is not None and self._trials.is_paused and not self._trials.is_over:
            title = f"confirming --target {target.value:g} on {self._trained_on}"
            summary = self._confirm_round(self._waiting(), title)
            reason = target.describe(self._study.record(), summary)
            if target.is_confirmed(summary):
                return summary if self._end_trials(reason) else summary.noted(reason)
            self._session.display.notice(reason)
            self._trials.apply_rules()
            self._train_trials()
        self._end_trials(self._trials.stop_reason)
        best = [*self._waiting(), *completed(self._study.record())[:n]]
        summary = self._confirm_round(best, f"confirming the best on {self._trained_on}")
        return summary if target is None else summary.noted(target.describe(self._study.record(), summary))

    @property
    def _trained_on(self) -> str:
        folds = self._plan.folds
        return "fresh seeds" if folds is None else folds.describe(self._plan.trainings)

    def _train_trials(self) -> None:
        """Train trials until there are enough, or until some wait for their confirmation."""
        config = self._plan.config
        confirmations = config.confirm * self._plan.trainings
        phase = self._phase("trials", f"study {self._study.name}", confirmations=confirmations)
        self._train(
            self._trials, replace(phase, until=self._until), is_last=not config.confirm and not self._plan.refits
        )

    def _end_trials(self, reason: str | None) -> bool:
        """Store that no more trials begin, and why if some are missing. Returns whether some are."""
        self._tell_unused_fixes()
        config, study, finished = self._plan.config, self._study, self._study.record().finished
        study.set_attr(records.STOP_REASON, reason if finished < config.trials else None)
        study.set_attr(records.TARGET, min(config.trials, finished))  # `watch` ends even if the search stopped early
        return finished < config.trials

    def _tell_unused_fixes(self) -> None:
        """Say which fixed parameters no call of a function has asked for: a mistyped name shows here."""
        asked = {name for trial in self._study.record().trials for name in trial.params}
        if asked and (unused := self._plan.space.fixed.keys() - asked):
            names = ", ".join(sorted(unused))
            self._session.display.notice(f"--fix: no trial asked for {names}; there are {', '.join(sorted(asked))}")

    def _waiting(self) -> list[records.TrialRecord]:
        """The best trials that have reached the target and wait for their confirmation."""
        if (target := self._plan.target) is None:
            return []
        record = self._study.record()
        waiting = [trial for trial in target.waiting(record.trials, record.attrs) if trial.number not in self._tried]
        return record.ranked(waiting)[: self._plan.config.confirm]

    def _confirm_round(self, trials: Sequence[records.TrialRecord], title: str) -> Summary:
        """Confirm some trials. The study stores whose means miss the target.

        A trial whose trainings failed for now is tried again by the next start.
        """
        summary, target, plan = self._confirm(trials, title), self._plan.target, self._plan
        self._tried |= {trial.number for trial in trials}
        if target is None or summary.confirmation is None or target.is_confirmed(summary):
            return summary
        attrs, reached = self._study.attrs(), target.reached_by(trials)
        failed = {trial.number for trial in reached if failed_for_now(attrs, trial.number, plan.trainings, plan.folds)}
        if missed := {trial.number for trial in reached} - failed:
            self._study.set_attr(records.REFUTED, target.with_refuted(missed, attrs))
        return summary

    def _confirm(self, trials: Sequence[records.TrialRecord], title: str) -> Summary:
        """Choose the winner by fresh seeds or folds, among these trials and those that have been confirmed before."""
        config, tracking, notice = self._plan.config, self._tracking, self._session.display.notice
        record, target, plan = self._study.record(), self._plan.target, self._plan
        best = best_trial(record)
        if not config.confirm:
            return self._summary(best, trial_run(best.number))
        if self._plan.is_function and not self._study.attrs().get(records.SEEDED):
            advice = "to have the best trials confirmed on fresh seeds, seed it with search.seed()"
            summary = self._summary(best, trial_run(best.number))
            return summary.noted(f"the winner is not confirmed: the function never asks for a seed; {advice}")
        numbers = {trial.number for trial in trials} | (target.refuted(record.attrs) if target else set())
        numbers |= confirmed_before(record.attrs, record.trials, plan.trainings, plan.folds)  # they cost nothing
        confirmer = Confirmer(
            self._study,
            tracking,
            trials=[trial for trial in completed(record) if trial.number in numbers],
            seeds=plan.trainings,
            epochs=self._epochs,
            seed=config.seed,
            notice=notice,
            target=target,
            folds=plan.folds,
        )
        work = confirmer.work
        phase = self._phase("confirm", title, work.jobs)
        self._train(work, phase, is_last=not self._plan.refits)
        confirmation, winner = confirmer.confirmation(), confirmer.winner()
        if winner is None:
            summary = self._summary(best, trial_run(best.number), confirmation)
            return summary.noted(f"no {confirmation.noun} came to its end, so the search's own figures decide")
        run = confirmer.run_of(winner.number)
        assert run is not None, "a candidate with a value has a run"
        return self._summary(self._trial(winner.number), run, confirmation)

    def ensemble(self, summary: Summary, device: str) -> Summary:
        """Average other trials' networks with the winner's if `--ensemble` asks for that, and if it pays.

        `device` is where the networks predict validation images.
        """
        config, display, before = self._plan.config, self._session.display, self._study.record().summary
        if config.ensemble is None:
            if before is not None and before.ensemble is not None:
                display.notice("without --ensemble, the winner alone is tested and registered")
            return summary
        networks = StoredNetworks(self._study, self._tracking, config, device)
        self._session.wait_for_mlflow()
        self._tracking.flush(60.0)  # weights of earlier starts may still be in the journal
        with display.busy("choosing an ensemble on validation images"):
            return with_ensemble(networks, summary, config.ensemble, self._plan.limits, self._check_interruption)

    def refit(self, summary: Summary) -> Summary:
        """Train the winner, or its ensemble, on all but the test split, if planned. A failure keeps the network so far.

        An ensemble gets a run of its own, to which its model belongs.
        """
        if self._plan.refits:
            summary = self._refitted(summary)
        if (ensemble := summary.ensemble) is not None and self._tracking.verdict(ensemble.run) is None:
            name, data = run_name(summary.number, f"ensemble of {len(ensemble.members)}"), self._plan.dataset
            tags = {**self._coordinator.tags, "kind": "ensemble", "optuna.trial.number": str(summary.number)}
            params = {member.run: share for member, share in zip(ensemble.members, ensemble.shares, strict=True)}
            self._tracking.open_run(ensemble.run, name, tags=tags, params=params, parent=PARENT, dataset=data)
            self._tracking.end_run(ensemble.run, "FINISHED", verdict={})
        return summary

    def _refitted(self, summary: Summary) -> Summary:
        objective, ensemble = self._plan.objective, summary.ensemble
        assert isinstance(objective, ImageClassifier), "the plan refits only image classifiers"
        epochs, seed = self._refit_epochs(), self._plan.config.seed
        kept = {m.number: m.run for m in ensemble.members} if ensemble else {summary.number: summary.run}
        jobs = [refit_job(self._study, self._trial(number), epochs=epochs, seed=seed) for number in kept]
        results: dict[str, records.TrainingResult] = {}
        for place, job in enumerate(jobs, start=1):  # one after another: each has all cores
            work = JobList(self._study, self._tracking, [job])
            work.resume()
            what = f"network {place} of {len(jobs)}" if ensemble else "the winner"
            title = f"training {what} on all but the test split, {counted(epochs, 'epoch')}"
            left = epochs * (len(jobs) - place)
            phase = replace(self._phase("refit", title, [job]), epochs=epochs, refit_epochs=left)
            self._train(work, phase, is_last=place == len(jobs))
            results |= work.results
        done = {job.task.number: job.run for job in jobs if results[job.run].state == TrialState.COMPLETE}
        for number, run in kept.items():
            if number not in done:
                failed = f"training {f'trial {number}' if ensemble else what} on all but the test split failed"
                summary = summary.noted(f"{failed} ({results[refit_run(number)].failure_message}); {run} is kept")
        if not done:
            return summary
        seconds = [results[run].metrics.get("train_seconds") for run in done.values()]
        total, info = None if None in seconds else sum(filter(None, seconds)), objective.dataset_info()
        epochs = round(max(results[run].metrics.get("epochs") or epochs for run in done.values()))  # as trained
        refit = {"epochs": epochs, "seconds": total, "images": info["n_train"] + info["n_validation"]}
        if ensemble is None:
            return replace(summary, run=done[summary.number], refit=refit)
        members = tuple(replace(m, run=done.get(m.number, m.run)) for m in ensemble.members)
        return replace(summary, refit=refit).with_ensemble(replace(ensemble, members=members))

    def _refit_epochs(self) -> int:
        """Epochs of the refit; 0 without one."""
        objective = self._plan.objective
        if not self._plan.refits or not isinstance(objective, ImageClassifier):
            return 0
        return int(call("refit_epochs", objective.refit_epochs, self._epochs))

    def _phase(
        self, kind: Literal["trials", "confirm", "refit"], title: str, jobs: Sequence[Job] = (), confirmations: int = 0
    ) -> Phase:
        return Phase(
            kind,
            title,
            jobs={job.run: (job.task.number, job.label) for job in jobs},
            slots=max(1, self._session.executor.slots),
            epochs=self._epochs,
            confirmations=confirmations,
            refit_epochs=self._refit_epochs(),
        )

    def _train(self, work: Work, phase: Phase, *, is_last: bool) -> None:
        """Run some work under the display. During the last one, idle cores import what the finish needs.

        The study stores the phase, for readers in other processes.
        """
        self._study.set_attr(records.PHASE, phase.as_dict())
        interruption, display = self._session.interruption, self._session.display
        done = sum(trial.state.is_finished() for trial in work.records())
        idle = self._start_preload if is_last else lambda: None
        display.begin(phase.title, work.target, done, work.unit)
        try:
            self._coordinator.run(work, phase, interrupted=lambda: interruption.number is not None, idle=idle)
        finally:
            display.end()
        self._check_interruption()

    def _check_interruption(self) -> None:
        if (number := self._session.interruption.number) is not None:
            raise Interrupted(number)

    def _start_preload(self) -> None:
        if self._preload.ident is None:
            self._preload.start()

    def _trial(self, number: int) -> records.TrialRecord:
        return next(trial for trial in self._study.record().trials if trial.number == number)

    def _summary(self, winner: records.TrialRecord, run: str, confirmation: Confirmation | None = None) -> Summary:
        assert winner.value is not None, "a completed trial has a value"
        lead = gains(self._study.record(), winner, confirmation)
        return Summary(winner.number, winner.label, winner.value, winner.params, run, lead, confirmation=confirmation)


def _import_for_finish(plan: SearchPlan) -> None:
    """Import what the finish needs. It takes seconds, so it runs while the last trainings leave cores idle."""
    modules = ["optuna.importance", "optuna.visualization", "search.reports.page"]
    if isinstance(plan.objective, ImageClassifier):
        modules += ["torch", "search.tracking.figures.figures"]
    if plan.register_as is not None and not isinstance(plan.objective, FunctionObjective):  # which may log no model
        modules += ["torch._dynamo", "mlflow.pytorch"]
    for name in modules:
        importlib.import_module(name)
