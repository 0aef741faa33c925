"""One start of a search: its locked study, both stores, the workers, and the study's own run in MLflow."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import cloudpickle  # type: ignore[import-untyped, unused-ignore]
from optuna.trial import TrialState

from objectives.base import ObjectiveError, Portable
from objectives.devices import n_nvidia_gpus
from objectives.spec import ObjectiveSpec
from search.commands.setup import SearchPlan, open_tracking
from search.commands.studies import find_stored, separate_copy, shared_trials
from search.common.errors import SearchError
from search.common.passwords import bare
from search.common.signals import Interrupted, Interruption
from search.common.sqlite import check_free, close_databases, require_writable, sqlite_file
from search.common.system import command_line, provenance, usable_cores
from search.common.workspace import TrainingFiles
from search.coordinator.confirmation import may_improve
from search.coordinator.keeping import KeepAll, KeepBest, Keeper
from search.coordinator.progress import Display
from search.executors.base import Executor
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.study import records
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.objective_calls import call
from search.study.storage.lock import StudyLock
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import hold_study, open_storage
from search.study.study import StoredStudy, open_study
from search.study.summary import Summary
from search.tracking.journal import PARENT
from search.tracking.tracker import Tracking

DELIVERY_S = 60.0  # how long the end of a search waits for MLflow
TAGGED_FLAGS = ("trials", "sampler", "seed", "patience", "target", "warm_start", "ensemble")


@dataclass(frozen=True)
class SearchSession:
    """One start of a search, with everything open."""

    plan: SearchPlan
    study: StoredStudy
    tracking: Tracking
    executor: Executor
    display: Display
    interruption: Interruption
    patience: Callable[..., RetryPolicy]  # `patience(file=FILE)`: how to wait for a SQLite file that is locked

    def wait_for_mlflow(self) -> None:
        """Wait while another program has locked MLflow's database; MLflow itself would give up after 20 s."""
        database = sqlite_file(self.plan.config.mlflow_uri)
        if database is not None and database.exists():
            self.patience(file=database).run(partial(check_free, database))

    @property
    def files(self) -> TrainingFiles:
        """Checkpoints and weights of the study's trainings."""
        return self.plan.workspace.training_files(self.study.name, self.study.uid)

    def keeper(self, *, at_least: int = 0) -> Keeper:
        """Return the rule of `--keep`: the best trials keep their weights, `at_least` this many."""
        if (n := self.plan.config.n_kept) is None:
            return KeepAll()
        study, shared = self.study, partial(shared_trials, self.study.storage, self.study.name)
        n = max(n, at_least, self.plan.config.ensemble or 0)
        return KeepBest(study.optuna_study, self.tracking, self.files, n, target=self.plan.target, shared=shared)

    def is_complete(self) -> bool:
        """True if all trials have ended and the winner was confirmed, refitted, registered and tracked as planned."""
        plan, record = self.plan, self.study.record()
        if (summary := record.summary) is None or record.finished < len(record.trials):
            return False
        if any(trial.state == TrialState.WAITING for trial in record.foreign) and self.open_sampling()[0].unfinished:
            return False
        if self.tracking.verdict(PARENT) != {"finished": record.finished, **plan.goal}:
            return False
        if not self._is_registered(record, summary) or may_improve(self.study.attrs(), summary, refits=plan.refits):
            return False
        if record.finished >= plan.config.trials or plan.stop_reason(record.trials) is not None:
            return True
        if plan.target is not None and plan.target.is_confirmed(summary):
            return True
        ended_early = record.attrs.get(records.STOP_REASON) is not None
        return ended_early and self.open_sampling()[0].proposals.is_exhausted()

    def why_enough(self) -> str | None:
        """Why a complete study has fewer trials than planned; None if it has all."""
        plan, record = self.plan, self.study.record()
        if record.finished >= plan.config.trials or record.summary is None:
            return None
        if (reason := plan.stop_reason(record.trials)) is not None:
            return reason
        if plan.target is not None and plan.target.is_confirmed(record.summary):
            return plan.target.describe(record, record.summary)
        return record.stop_reason

    def _is_registered(self, record: records.StudyRecord, summary: Summary) -> bool:
        if self.plan.register_as is None:
            return True
        if summary.has_no_model:  # a user who gave a name has seen why nothing is registered
            return self.plan.config.register is None or summary.standing is not None
        has_name = self.plan.register_as == (summary.model or {}).get("name")
        return has_name and find_stored(self.plan.config, [record]) != [None]

    def open_sampling(self) -> tuple[SamplingStudy, list[str]]:
        """Open the sampler and the pruner; also returns notices for the user about the initial parameters."""
        plan, config, epochs = self.plan, self.plan.config, self.study.epochs
        assert epochs is not None, "the first worker's device decides it before"
        initial, notices = plan.initial_params(self.study)
        steps = None if plan.is_function else epochs * plan.objective.steps_per_epoch()
        pruner = make_pruner(plan.pruner, steps)
        sampler, seed, space, limits = config.sampler, config.seed, plan.space, plan.limits
        sampling = SamplingStudy.open(
            self.study, pruner=pruner, sampler=sampler, seed=seed, space=space, limits=limits, initial=initial
        )
        return sampling, notices


@contextmanager
def open_session(plan: SearchPlan, display: Display) -> Iterator[SearchSession]:
    """Lock the study, create the executor, and open both stores; close all of it with the block.

    A new study of which nothing began is removed. Raises SearchError, such as StudyHeldError or StudyMismatchError.
    """
    config = plan.config
    plan.workspace.root.mkdir(parents=True, exist_ok=True)
    with (
        Interruption() as interruption,
        hold_study(config.storage_url, plan.name) as lock,
        closing(_executor(plan, display)) as executor,
    ):
        database = sqlite_file(config.mlflow_uri)
        must_wait = database is None or database.exists()  # a new database is created while the workers start
        notice, pause = display.notice, interruption.pause
        patience = partial(RetryPolicy, lock.check, wait_s=config.storage_wait, say=notice, pause=pause)
        if database is not None and database.exists():
            require_writable(database)
            patience(file=database).run(partial(check_free, database))
        with display.busy("opening the study"):
            study = _open_study(plan, lock, patience(file=sqlite_file(config.storage_url)))
        journal = plan.workspace.journal(plan.name, study.uid)
        retry = patience(file=journal)
        tracking = open_tracking(config, plan.name, study.attrs(), study.direction, say=notice, retry=retry)
        try:
            if must_wait:
                with display.busy("opening MLflow"):
                    tracking.ready()
            plan = plan.confirmed_on(study.folds)
            yield SearchSession(plan, study, tracking, executor, display, interruption, patience)
        finally:
            tracking.close(timeout_s=1.0 if interruption.number else DELIVERY_S)
            if records.PROVENANCE not in study.attrs():
                journal.unlink(missing_ok=True)
                study.delete()
            close_databases()


def _open_study(plan: SearchPlan, lock: StudyLock, retry: RetryPolicy) -> StoredStudy:
    config = plan.config
    storage = open_storage(config.storage_url, retry=retry)
    names = plan.name, plan.objective, plan.spec.target
    dataset = plan.spec.options.get("dataset")
    study = open_study(storage, *names, config.epochs, plan.space, plan.limits, dataset, plan.spec.identity)
    lock.sign(storage, study.study_id)
    separate_copy(config, storage, study.study_id)
    return study


def _executor(plan: SearchPlan, display: Display) -> Executor:
    """The executor that `--engine` names. Raises UsageError when Ray cannot be reached."""
    config, spec = plan.config, plan.spec
    if config.engine == "inline":
        return InlineExecutor(spec, config.device)
    if config.engine == "local":
        jobs = config.jobs or (jobs_of_function() if plan.is_function else None)
        return LocalExecutor(spec, config.device, jobs, notice=display.notice)
    from search.executors.ray import RayExecutor

    spec = spec_for_machines(plan)
    device, jobs, cpus, gpus = config.device, config.jobs, config.cpus_per_trial, config.gpus_per_trial
    with display.busy("starting or reaching Ray"):
        return RayExecutor(spec, device, jobs, cpus=cpus, gpus=gpus, address=config.address, notice=display.notice)


def spec_for_machines(plan: SearchPlan) -> ObjectiveSpec:
    """How workers of other machines make the objective, which do not have the files of its data."""
    spec: ObjectiveSpec = call("sending the objective", plan.spec.with_code)
    objective = plan.objective
    if not isinstance(objective, Portable):
        return spec
    if spec.pickled is not None and spec.is_made():  # nothing is called that could take the data
        return replace(spec, pickled=call("sending the prepared objective", cloudpickle.dumps, objective))
    return replace(spec, options={**spec.options, **call("portable", objective.portable)})


def jobs_of_function() -> int:
    """How many workers call a function by default: one per GPU, else one per core. Nobody knows what each needs."""
    return n_nvidia_gpus() or usable_cores()


@contextmanager
def parent_run(session: SearchSession, devices: list[str], workers: str) -> Iterator[None]:
    """Open or resume the study's run in MLflow. It ends as KILLED or FAILED if the block raises.

    `workers` describes the workers and their devices.
    """
    _store_origin(session, workers)
    study, tracking = session.study, session.tracking
    tags = {**run_tags(study, devices), "kind": "study", "command": study.attrs()[records.PROVENANCE]["command"]}
    plan, config = session.plan, session.plan.config
    settings = {"objective": plan.spec.target, "epochs": study.epochs, "fix": ", ".join(config.fix)}
    settings |= {name: getattr(config, name) for name in TAGGED_FLAGS} | plan.limits.as_settings() | plan.goal
    settings["pruner"] = plan.pruner
    tags |= {f"setting.{name}": str(value) for name, value in settings.items()}
    tracking.open_run(PARENT, f"search {study.name}", tags=tags, dataset=plan.dataset)
    try:
        yield
    except Interrupted:
        tracking.end_run(PARENT, "KILLED")
        raise
    except (SearchError, ObjectiveError):
        tracking.end_run(PARENT, "FAILED")
        raise


def run_tags(study: StoredStudy, devices: list[str]) -> dict[str, str]:
    """Tags of every run of the study: name, devices, versions, commit."""
    origin = study.attrs()[records.PROVENANCE]
    tags = {"optuna.study.name": study.name, "device": ", ".join(sorted(set(devices)))}
    tags |= {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
    tags |= {f"version.{package}": version for package, version in origin["versions"].items()}
    return tags | ({"mlflow.source.git.commit": origin["git_commit"]} if origin["git_commit"] else {})


def _store_origin(session: SearchSession, workers: str) -> None:
    """Store how the study is made, for later commands. The provenance of the first start stays, with later commands."""
    plan, study = session.plan, session.study
    made = {"target": plan.spec.target, "options": dict(plan.spec.options)}
    study.set_attr(records.OBJECTIVE, made | ({"direction": plan.objective.direction} if plan.is_function else {}))
    study.set_attr(records.TARGET, plan.config.trials)
    study.set_attr(records.TRACKING, bare(plan.config.tracking_uri or ""))
    if (origin := study.attrs().get(records.PROVENANCE)) is None:
        study.set_attr(records.PROVENANCE, provenance(plan.config.seed, plan.dataset, workers, plan.command))
        return
    commands, command = [origin["command"], *origin.get("later_commands", ())], command_line(plan.command)
    if command != commands[-1]:
        study.set_attr(records.PROVENANCE, {**origin, "later_commands": [*commands[1:], command]})
