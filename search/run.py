"""The main job, in order: open, search, choose, test, register, report."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from optuna.trial import TrialState

from objectives.base import ImageClassifier, Objective, ObjectiveError, ObjectiveSpec, Task, unfinished
from objectives.devices import resolve_device
from search import records
from search.conclusion import Conclusion, Preparation
from search.config import Config
from search.confirmation import Confirming, Extra, may_improve, refit_job
from search.coordinator import Coordinator
from search.errors import SearchError
from search.executors.base import Executor
from search.executors.choice import check_engine, open_executor
from search.interruption import Interrupted, Interruption
from search.journal import PARENT, trial_run
from search.known import example_configuration
from search.lock import StudyLock
from search.masking import bare
from search.opening import check_stores, open_tracking, registered_name
from search.progress import Display
from search.provenance import provenance
from search.records import TrialRecord
from search.retry import RetryPolicy
from search.sampling import make_pruner
from search.scope import Scope
from search.sqlite import sqlite_file
from search.storage import hold_study, open_storage, quiet_optuna
from search.study import Study, open_study
from search.summary import Confirmation, Summary, counted
from search.tracking import Tracking
from search.trials import Trials, sweep
from search.winner import best_trial, gains
from search.work import Work
from search.workspace import Workspace


@dataclass(frozen=True)
class Result:
    """How a run of the command ended."""

    study: records.StudyRecord
    undelivered: int
    """Tracking writes that stay in the journal."""
    was_complete: bool
    """There was nothing left to do."""


def run(config: Config, spec: ObjectiveSpec, objective: Objective, display: Display) -> Result:
    """Search, then score and publish the winner.

    Raises SearchError or ObjectiveError for what a person can mend, Interrupted after a signal; nothing is lost then.
    """
    quiet_optuna()
    workspace = Workspace(config.workspace)
    workspace.check_writable()
    check_stores(config)
    check_engine(config)  # what is not possible is said before anything is written
    registered_name(config, objective)
    if (missing := unfinished(objective)) is not None:
        display.notice(missing)
    name = config.study or objective.name
    scope = Scope.of(config, objective, name)
    workspace.root.mkdir(parents=True, exist_ok=True)
    with (
        Interruption() as interruption,
        hold_study(config.storage_url, name) as hold,
        open_executor(config, spec, objective, display) as executor,
    ):
        return Start(config, spec, objective, name, scope, executor, display, interruption, hold).run()


@dataclass
class Start:
    """One start of one study, which is held and whose trainers are starting."""

    config: Config
    spec: ObjectiveSpec
    objective: Objective
    name: str
    scope: Scope
    executor: Executor
    display: Display
    interruption: Interruption
    hold: StudyLock

    def __post_init__(self) -> None:
        config, objective, scope = self.config, self.objective, self.scope
        self.workspace = Workspace(config.workspace)
        say, pause = self.display.notice, self.interruption.pause
        retry = RetryPolicy(self.hold.check, wait_s=config.storage_wait, say=say, pause=pause)
        self.storage = open_storage(config.storage_url, retry=retry)
        self.study_id = open_study(
            self.storage, self.name, objective, self.spec.target, config.epochs, scope.space, scope.limits
        )
        self.hold.sign(self.storage, self.study_id)
        self.uid = str(self.attrs()[records.UID])
        self._register_as = registered_name(config, objective)
        self._preparation = Preparation(objective, publishes=self._register_as is not None)
        self._refits = not config.no_refit and isinstance(objective, ImageClassifier)

    def attrs(self) -> dict[str, Any]:
        """What the study keeps."""
        return self.storage.get_study_user_attrs(self.study_id)

    def run(self) -> Result:
        """Do what is missing."""
        maximize, database = self.objective.direction == "maximize", sqlite_file(self.config.mlflow_uri)
        is_new = database is not None and not database.exists()
        tracking = open_tracking(self.config, self.name, self.attrs(), maximize=maximize)
        try:
            with self.display.busy("starting the trainers, opening MLflow"):
                if not is_new:  # a store that was there can turn out to be of no use before anything is written
                    tracking.ready()
                study = self._study()
                if study is not None and self._is_complete(study, tracking):  # no cluster need make room for that
                    return Result(study.record(), tracking.flush(60.0), was_complete=True)
                if study is not None:
                    self.executor.expect(max(1, self.config.trials - study.finished))
                devices = self.executor.ready()
                study = study or self._new_study(devices[0])
            if study.finished < self.config.trials or study.unfinished:
                self._settle()
            self._work(study, tracking, devices[: self.executor.slots])
            return Result(study.record(), tracking.flush(60.0), was_complete=False)
        finally:
            tracking.close(timeout_s=1.0 if self.interruption.number else 60.0)
            if records.PROVENANCE not in self.attrs():
                self.storage.delete_study(self.study_id)  # it failed before it began: leave no empty study behind
                self.workspace.journal(self.name, self.uid).unlink(missing_ok=True)

    def _new_study(self, device: str) -> Study:
        """The study, once its epochs are settled by its first trainer's device."""
        fingerprint = {**self.attrs()[records.FINGERPRINT], "epochs": self.objective.epochs(device)}
        self.storage.set_study_user_attr(self.study_id, records.FINGERPRINT, fingerprint)
        study = self._study()
        assert study is not None
        return study

    def _study(self) -> Study | None:
        """The study; None while its epochs are open."""
        if (epochs := self.attrs()[records.FINGERPRINT]["epochs"]) is None:
            return None
        self.epochs = int(epochs)
        pruner = make_pruner(self.config.pruner, self.epochs * self.objective.steps_per_epoch())
        known, self.said = self.scope.known(self.objective, self.storage, self.study_id)
        return Study(
            self.storage, self.study_id, self.objective, pruner=pruner, sampler=self.config.sampler,
            seed=self.config.seed, space=self.scope.space, limits=self.scope.limits, known=known,
        )  # fmt: skip

    def _settle(self) -> None:
        """Let the executor find out how many trainers pay, and say what it found."""
        task = Task(0, example_configuration(self.objective), self.config.seed, self.epochs)
        with self.display.busy("measuring how many trainers pay"):
            chosen = self.executor.settle(task)
        if chosen is not None:
            self.display.notice(chosen)

    def _goal(self) -> dict[str, Any]:
        """What this search is to come to, beside its number of trials."""
        confirm = [self.config.confirm, self.config.confirm_seeds if self.config.confirm else 0]
        return {"confirm": confirm, "refit": self._refits}

    def _is_complete(self, study: Study, tracking: Tracking) -> bool:
        """Whether there is nothing left to do: every trial ended, the winner is where it belongs, and that is told."""
        if study.unfinished or (study.finished < self.config.trials and not self._is_over(study)):
            return False
        if tracking.verdict(PARENT) != {"finished": study.finished, **self._goal()}:
            return False
        summary = study.record().summary
        if summary is None or may_improve(study.attrs().get(records.EXTRA, {}), summary, refits=self._refits):
            return False
        return self._register_as is None or (summary.model is not None and summary.model["name"] == self._register_as)

    def _is_over(self, study: Study) -> bool:
        """Whether no trial would be begun, though some are missing."""
        return self.scope.run_out(self.objective, study.record().trials) is not None or study.proposals.is_exhausted()

    def _work(self, study: Study, tracking: Tracking, devices: list[str]) -> None:
        self._note_origin(study)
        self._open_parent(study, tracking, devices)
        for text in self.said:
            self.display.notice(text)
        try:
            chosen = self._trained(study, tracking, devices)
            self.executor.close()  # what a cluster has is for others while the winner is scored and published
            conclusion = Conclusion(
                study, self.objective, tracking, workspace=self.workspace, uid=self.uid,
                device=self._own_device(devices[0]), tracking_uri=self.config.mlflow_uri,
                register=self._register_as, where=self.config.where, chosen=chosen,
                goal={"finished": study.finished, **self._goal()},
            )  # fmt: skip
            with self.display.busy("scoring and registering the winner, writing the report"):
                conclusion.run()
        except Interrupted:
            tracking.end_run(PARENT, "KILLED")
            raise
        except (SearchError, ObjectiveError):
            tracking.end_run(PARENT, "FAILED")
            raise

    def _own_device(self, trainers: str) -> str:
        """Where this process scores the winner: a cluster's trainers may have a GPU that it has not."""
        return resolve_device("auto", 0) if self.config.engine == "ray" and trainers != "cpu" else trainers

    # ---- everything that trains

    def _trained(self, study: Study, tracking: Tracking, devices: list[str]) -> Summary:
        """Search, confirm, refit; returns the winner. Raises Interrupted after a signal."""
        started, clock = datetime.now(), time.monotonic()
        session: dict[str, Any] = {"started": started.isoformat(), "slots": self.executor.slots}
        earlier = study.attrs().get(records.SESSIONS, ())
        study.set_attr(records.SESSIONS, [*earlier, session])
        trials = Trials(
            study, tracking, target=self.config.trials, epochs=self.epochs, seed=self.config.seed,
            deadline=clock + self.config.timeout if self.config.timeout else math.inf,
            patience=lambda ended: self.scope.run_out(self.objective, ended),
        )  # fmt: skip
        try:
            with self.interruption.graceful():
                checkpoints = self.workspace.checkpoint(self.name, self.uid, "any").parent
                sweep(checkpoints, trials.resume())
                coordinator = Coordinator(
                    self.objective, self.executor, tracking,
                    checkpoint_path=lambda run: self.workspace.checkpoint(self.name, self.uid, run),
                    weights_path=lambda run: self.workspace.weights(self.name, self.uid, run),
                    tags=self._tags(devices), display=self.display,
                    checkpoint_interval_s=self.config.checkpoint_interval,
                )  # fmt: skip
                last = not self.config.confirm and not self._refits
                self._do(coordinator, trials, f"study {self.name}", is_last=last)
                self._note_end(study, trials)
                summary = self._refitted(self._confirmed(study, tracking, coordinator), study, tracking, coordinator)
                shutil.rmtree(checkpoints, ignore_errors=True)  # of candidates, too, that more trials have displaced
                return summary
        finally:
            self._preparation.wait(2.0 if self.interruption.number else None)
            session |= {"wall_s": time.monotonic() - clock, "search_s": trials.search_s, "tracking_s": tracking.busy_s}
            study.set_attr(records.SESSIONS, [*earlier, {**session, "slots": self.executor.slots}])

    def _do(self, coordinator: Coordinator, work: Work, title: str, *, is_last: bool) -> None:
        """Run some work under the display; the ending is prepared while the last one runs out.

        Raises Interrupted after a signal.
        """
        idle = self._preparation.begin if is_last else lambda: None
        done = sum(trial.state.is_finished() for trial in work.ended())
        self.display.begin(title, work.target, done, work.unit)
        try:
            coordinator.run(work, interrupted=lambda: self.interruption.number is not None, idle=idle)
        finally:
            self.display.end()
        if self.interruption.number is not None:
            raise Interrupted(self.interruption.number)

    def _confirmed(self, study: Study, tracking: Tracking, coordinator: Coordinator) -> Summary:
        """The winner as fresh seeds show it. Raises SearchError when no trial completed."""
        best = best_trial(study.record())
        if not self.config.confirm:
            return self._summary(study, best, trial_run(best.number), None)
        confirming = Confirming(
            study, tracking, top=self.config.confirm, seeds=self.config.confirm_seeds, epochs=self.epochs,
            seed=self.config.seed, say=self.display.notice,
        )  # fmt: skip
        title = "confirming the best on fresh seeds"
        self._do(coordinator, confirming.work, title, is_last=not self._refits)
        found, chosen = confirming.found(), confirming.chosen()
        if chosen is None:
            summary = self._summary(study, best, trial_run(best.number), found)
            return summary.noted("no fresh seed came to its end, so the search's own figures decide")
        winner = next(trial for trial in study.record().trials if trial.number == chosen.number)
        run = confirming.run_of(winner.number)
        assert run is not None, "a candidate with a value has a run"
        return self._summary(study, winner, run, found)

    def _summary(self, study: Study, winner: TrialRecord, run: str, confirmation: Confirmation | None) -> Summary:
        assert winner.value is not None, "a completed trial has a value"
        return Summary(
            winner.number, winner.label, winner.value, winner.params, run,
            gains(study.record(), winner, confirmation), confirmation=confirmation,
        )  # fmt: skip

    def _refitted(self, summary: Summary, study: Study, tracking: Tracking, coordinator: Coordinator) -> Summary:
        """With a network that was trained on all but the test split, unless that is not wanted or comes to nothing."""
        if not self._refits:
            return summary
        assert isinstance(self.objective, ImageClassifier)
        epochs = self.objective.refit_epochs(self.epochs)
        winner = next(trial for trial in study.record().trials if trial.number == summary.number)
        job = refit_job(study, winner, epochs=epochs, seed=self.config.seed)
        work = Extra(study, tracking, [job])
        title = f"training the winner on all but the test split, {counted(epochs, 'epoch')}"
        self._do(coordinator, work, title, is_last=True)
        result = work.result(job)
        assert result is not None, "the coordinator brings every training to an end"
        if result["state"] != TrialState.COMPLETE.name:
            why = result["attrs"].get(records.FAILURE_MESSAGE)
            return summary.noted(f"training the winner on all but the test split failed ({why}); {summary.run} is kept")
        info = self.objective.dataset_info()
        seconds = result["attrs"][records.METRICS].get("train_seconds")
        images = info["n_train"] + info["n_validation"]
        return replace(summary, run=job.run, refit={"epochs": epochs, "seconds": seconds, "images": images})

    # ---- what is said of the study and its runs

    def _note_end(self, study: Study, trials: Trials) -> None:
        """Whoever watches the study need not wait for trials that nobody will begin."""
        study.set_attr(records.OVER, trials.over if study.finished < self.config.trials else None)
        study.set_attr(records.TARGET, min(self.config.trials, study.finished))

    def _note_origin(self, study: Study) -> None:
        study.set_attr(records.OBJECTIVE, {"target": self.spec.target, "options": dict(self.spec.options)})
        study.set_attr(records.TARGET, self.config.trials)
        study.set_attr(records.TRACKING, bare(self.config.tracking_uri or ""))
        if records.PROVENANCE not in self.attrs():
            study.set_attr(records.PROVENANCE, provenance(self.config.seed, self._dataset()))

    def _dataset(self) -> dict[str, Any] | None:
        return dict(self.objective.dataset_info()) if isinstance(self.objective, ImageClassifier) else None

    def _tags(self, devices: list[str]) -> dict[str, str]:
        origin = self.attrs()[records.PROVENANCE]
        tags = {"optuna.study.name": self.name, "device": ", ".join(sorted(set(devices)))}
        tags |= {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
        tags |= {f"version.{package}": found for package, found in origin["versions"].items()}
        if origin["git_commit"]:
            tags["mlflow.source.git.commit"] = origin["git_commit"]
        return tags

    def _open_parent(self, study: Study, tracking: Tracking, devices: list[str]) -> None:
        settings: Mapping[str, Any] = {
            "trials": self.config.trials, "epochs": self.epochs, "sampler": self.config.sampler,
            "pruner": self.config.pruner, "seed": self.config.seed, "objective": self.spec.target,
            "fix": ", ".join(self.config.fix), **self.scope.limits.as_settings(),
            "patience": self.config.patience, "warm_start": self.config.warm_start,
            **self._goal(),
        }  # fmt: skip
        tags = {**self._tags(devices), "kind": "study", "command": self.attrs()[records.PROVENANCE]["command"]}
        tags |= {f"setting.{name}": str(value) for name, value in settings.items()}
        tracking.open_run(PARENT, f"search {self.name}", tags=tags, dataset=self._dataset())
