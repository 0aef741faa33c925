"""The main job, in order: open, search, choose, test once, register, report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from optuna.storages import RDBStorage

from objectives.base import ImageClassifier, Objective, ObjectiveSpec
from objectives.trainer import resolve_device
from search import records
from search.config import DEFAULT_OBJECTIVE, Config
from search.coordinator import PARENT, Coordinator, Plan
from search.display import Display
from search.errors import SearchError
from search.executors.base import Executor
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.interruption import Interrupted, Interruption
from search.provenance import provenance, usable_cores
from search.sampling import make_pruner
from search.storage import MLFLOW_TABLE, check_sqlite, hold_study, open_storage, parse_url, quiet_optuna, sqlite_path
from search.study import Study, open_study
from search.tracking import Destination, Tracking
from search.workspace import Workspace

if TYPE_CHECKING:
    from search.records import Summary


@dataclass(frozen=True)
class Result:
    """How a run of the command ended."""

    study: records.StudyRecord
    summary: Summary | None
    undelivered: int
    """Tracking writes that stay in the journal."""


def objective_spec(config: Config) -> ObjectiveSpec:
    """How trainers make the objective. A custom objective takes no arguments: it knows its own data."""
    if config.objective != DEFAULT_OBJECTIVE:
        return ObjectiveSpec(config.objective)
    data_dir = str(config.data_dir.absolute()) if config.data_dir else None
    return ObjectiveSpec(config.objective, {"dataset": config.dataset, "data_dir": data_dir})


def load_objective(spec: ObjectiveSpec) -> Objective:
    """Make the objective and see to its data. Raises ObjectiveError."""
    objective = spec.load()
    if isinstance(objective, ImageClassifier):
        objective.prepare()
    return objective


def run(config: Config, spec: ObjectiveSpec, objective: Objective, display: Display) -> Result:
    """Search, then confirm and publish the winner. Raises SearchError and ObjectiveError with nothing lost."""
    quiet_optuna()
    workspace = Workspace(config.workspace)
    workspace.check_writable()
    check_stores(config)
    if config.device not in ("auto", "cpu"):
        resolve_device(config.device, 0)  # a device that is not there is said before anything is written
    name = config.study or objective.name
    workspace.root.mkdir(parents=True, exist_ok=True)
    with Interruption() as interruption, hold_study(config.storage_url, name), _executor(config, spec) as executor:
        storage = open_storage(config.storage_url)
        return _search(config, objective, storage, name, executor, display, interruption)


def check_stores(config: Config) -> None:
    """Refuse damaged or foreign stores before anything is written. Raises StorageError or UsageError."""
    for url, table in ((config.storage_url, "studies"), (config.mlflow_uri, MLFLOW_TABLE)):
        path = sqlite_path(parse_url(url)) if url == config.storage_url or url.startswith("sqlite:") else None
        if path is not None and path.exists():
            check_sqlite(path, table)


@contextmanager
def _executor(config: Config, spec: ObjectiveSpec) -> Iterator[Executor]:
    executor: Executor
    if config.engine == "inline":
        executor = InlineExecutor(spec, config.device)
    else:
        executor = LocalExecutor(spec, config.device, config.jobs or usable_cores())
    try:
        yield executor
    finally:
        executor.close()


def _search(
    config: Config,
    objective: Objective,
    storage: RDBStorage,
    name: str,
    executor: Executor,
    display: Display,
    interruption: Interruption,
) -> Result:
    study_id = open_study(storage, name, objective, config.objective, config.epochs)
    attrs = storage.get_study_user_attrs(study_id)
    workspace, uid = Workspace(config.workspace), attrs[records.UID]
    note = f"Search `{name}`. Its parent run carries the summary, the report and the leaderboard."
    destination = Destination(config.mlflow_uri, name, uid, workspace.artifacts(name).absolute(), note)
    tracking = Tracking(workspace.journal(name, uid), destination)
    job: _Job | None = None
    try:
        devices = executor.ready()
        tracking.ready()
        epochs = _epochs(storage, study_id, objective, devices[0], attrs)
        steps = epochs * objective.steps_per_epoch()
        study = Study(
            storage, study_id, objective,
            pruner=make_pruner(config.pruner, steps), sampler=config.sampler, seed=config.seed,
        )  # fmt: skip
        job = _Job(config, workspace, study, objective, tracking, executor, display, uid, epochs, devices)
        return job.run(interruption)
    finally:
        tracking.close(timeout_s=1.0 if interruption.number else 60.0)
        if job is None and not storage.get_n_trials(study_id) and records.SESSIONS not in attrs:
            storage.delete_study(study_id)  # it failed before it began: leave no empty study behind


def _epochs(storage: RDBStorage, study_id: int, objective: Objective, device: str, attrs: Mapping[str, Any]) -> int:
    """The study's number of epochs; settled by its first start."""
    fingerprint = dict(attrs[records.FINGERPRINT])
    if fingerprint["epochs"] is None:
        fingerprint["epochs"] = objective.epochs(device)
        storage.set_study_user_attr(study_id, records.FINGERPRINT, fingerprint)
    return int(fingerprint["epochs"])


@dataclass
class _Job:
    """One start of one study."""

    config: Config
    workspace: Workspace
    study: Study
    objective: Objective
    tracking: Tracking
    executor: Executor
    display: Display
    uid: str
    epochs: int
    devices: list[str]

    def run(self, interruption: Interruption) -> Result:
        started, clock = datetime.now(), time.monotonic()
        if self._is_complete():
            record = self.study.record()
            return Result(record, record.summary, 0)
        self._open_parent()
        coordinator = Coordinator(
            self.study, self.executor, self.tracking, self._plan(),
            checkpoint_path=lambda run: self.workspace.checkpoint(self.study.name, self.uid, run),
            weights_path=lambda run: self.workspace.weights(self.study.name, self.uid, run),
            tags=self._tags(), display=self.display,
        )  # fmt: skip
        coordinator.interrupted = lambda: interruption.number is not None
        self.display.begin(f"study {self.study.name}", self.config.trials, self.study.finished)
        try:
            with interruption.graceful():
                coordinator.run()
        except SearchError:
            self.tracking.end_run(PARENT, "FAILED")
            raise
        finally:
            self.display.end()
            self._note_session(started, clock, coordinator.search_s)
        try:
            if interruption.number is not None:
                raise Interrupted(interruption.number)
            summary = self._conclude()
        except Interrupted:
            self.tracking.end_run(PARENT, "KILLED")
            raise
        return Result(self.study.record(), summary, self.tracking.flush(60.0))

    def _is_complete(self) -> bool:
        """Whether there is nothing left to do: every trial ended and the winner is where it belongs."""
        summary = self.study.record().summary
        enough = self.study.finished >= self.config.trials and not self.study.unfinished
        published = summary is not None and (summary.model is not None or self.config.no_register)
        return enough and (published or (summary is not None and not isinstance(self.objective, ImageClassifier)))

    def _plan(self) -> Plan:
        deadline = time.monotonic() + self.config.timeout if self.config.timeout else math.inf
        steps = self.epochs * self.objective.steps_per_epoch()
        return Plan(self.config.trials, self.epochs, steps, self.config.seed, deadline, self.config.checkpoint_interval)

    def _tags(self) -> dict[str, str]:
        source = self.study.attrs()[records.PROVENANCE]
        tags = {"optuna.study.name": self.study.name, "device": ", ".join(sorted(set(self.devices)))}
        tags |= {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
        tags |= {f"version.{package}": found for package, found in source["versions"].items()}
        if source["git_commit"]:
            tags["mlflow.source.git.commit"] = source["git_commit"]
        return tags

    def _open_parent(self) -> None:
        classifier = isinstance(self.objective, ImageClassifier)
        dataset = dict(self.objective.dataset_info()) if isinstance(self.objective, ImageClassifier) else None
        if records.PROVENANCE not in self.study.attrs():
            self.study.set_attr(records.PROVENANCE, provenance(self.config.seed, dataset))
        settings = {
            "dataset": self.config.dataset if classifier else None, "trials": self.config.trials,
            "epochs": self.epochs, "sampler": self.config.sampler, "pruner": self.config.pruner,
            "seed": self.config.seed, "objective": self.config.objective,
        }  # fmt: skip
        tags = {**self._tags(), "kind": "study", "command": self.study.attrs()[records.PROVENANCE]["command"]}
        tags |= {f"setting.{name}": str(value) for name, value in settings.items() if value is not None}
        self.tracking.open_run(PARENT, f"search {self.study.name}", tags=tags, dataset=dataset)

    def _note_session(self, started: datetime, clock: float, search_s: float) -> None:
        session = {
            "started": started.isoformat(), "wall_s": time.monotonic() - clock, "search_s": search_s,
            "tracking_s": self.tracking.busy_s, "slots": self.executor.slots,
        }  # fmt: skip
        self.study.set_attr(records.SESSIONS, [*self.study.attrs().get(records.SESSIONS, ()), session])

    def _conclude(self) -> Summary:
        from search.conclusion import Conclusion

        conclusion = Conclusion(
            self.config, self.workspace, self.study, self.objective, self.tracking, self.uid, self.devices[0]
        )
        return conclusion.run()
