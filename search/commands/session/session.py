"""Everything that is open while a search runs: its locked study, both stores, and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from objectives.base import ObjectiveSpec, Portable
from search.commands.setup import SearchPlan, open_tracking
from search.common.config import Config
from search.common.signals import Interruption
from search.common.sqlite import sqlite_file
from search.common.workspace import TrainingFiles
from search.coordinator.progress import Display
from search.executors.base import Executor
from search.executors.inline import InlineExecutor
from search.executors.local import LocalExecutor
from search.study import records
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.storage.lock import StudyLock
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import hold_study, open_storage
from search.study.study import StoredStudy, open_study
from search.tracking.tracker import Tracking

DELIVERY_S = 60.0
"""How long the end of a search waits for MLflow to take what is left."""


@dataclass(frozen=True)
class SearchSession:
    """One start of a search, with everything open."""

    plan: SearchPlan
    study: StoredStudy
    tracking: Tracking
    tracking_existed: bool
    """MLflow's store was there before this start; it may be of no use, which `Tracking.ready` tells."""
    executor: Executor
    display: Display
    interruption: Interruption

    @property
    def config(self) -> Config:
        """The settings."""
        return self.plan.config

    @property
    def files(self) -> TrainingFiles:
        """Checkpoints and weights of the study's trainings."""
        return self.plan.workspace.training_files(self.study.name, self.study.uid)


@contextmanager
def open_session(plan: SearchPlan, display: Display) -> Iterator[SearchSession]:
    """Lock the study, start the workers, open both stores; close all of it with the block.

    Raises StudyHeldError, StudyMismatchError, StorageError or UsageError. A study for which nothing was begun is
    removed again.
    """
    plan.workspace.root.mkdir(parents=True, exist_ok=True)
    with (
        Interruption() as interruption,
        hold_study(plan.config.storage_url, plan.name) as hold,
        _open_executor(plan, display) as executor,
    ):
        study = _open_study(plan, hold, display, interruption)
        existed = _tracking_exists(plan.config)
        tracking = open_tracking(plan.config, plan.name, study.attrs(), maximize=study.maximize)
        try:
            yield SearchSession(plan, study, tracking, existed, executor, display, interruption)
        finally:
            tracking.close(timeout_s=1.0 if interruption.number else DELIVERY_S)
            if records.PROVENANCE not in study.attrs():
                plan.workspace.journal(plan.name, study.uid).unlink(missing_ok=True)
                study.delete()


def open_sampling(plan: SearchPlan, study: StoredStudy) -> tuple[SamplingStudy, list[str]]:
    """The study with its sampler and pruner, and notices for the user about what is tried first.

    The study's epochs must be known.
    """
    epochs, config, scope = study.epochs, plan.config, plan.scope
    assert epochs is not None, "the first worker's device decides before"
    initial, notices = scope.initial_params(study)
    sampling = SamplingStudy.open(
        study,
        pruner=make_pruner(config.pruner, epochs * plan.objective.steps_per_epoch()),
        sampler=config.sampler,
        seed=config.seed,
        space=scope.space,
        limits=scope.limits,
        initial=initial,
    )
    return sampling, notices


def _open_study(plan: SearchPlan, hold: StudyLock, display: Display, interruption: Interruption) -> StoredStudy:
    config = plan.config
    retry = RetryPolicy(hold.check, wait_s=config.storage_wait, say=display.notice, pause=interruption.pause)
    storage = open_storage(config.storage_url, retry=retry)
    scope = plan.scope
    study = open_study(storage, plan.name, plan.objective, plan.spec.target, config.epochs, scope.space, scope.limits)
    hold.sign(storage, study.study_id)
    return study


def _tracking_exists(config: Config) -> bool:
    """Whether MLflow's store is a server, or a file that exists."""
    path = sqlite_file(config.mlflow_uri)
    return path is None or path.exists()


@contextmanager
def _open_executor(plan: SearchPlan, display: Display) -> Iterator[Executor]:
    """The executor; its workers end with the block. Raises UsageError when it cannot be reached."""
    executor = _executor(plan, display)
    try:
        yield executor
    finally:
        executor.close()


def _executor(plan: SearchPlan, display: Display) -> Executor:
    config, spec = plan.config, plan.spec
    if config.engine == "inline":
        return InlineExecutor(spec, config.device)
    if config.engine == "local":
        return LocalExecutor(spec, config.device, config.jobs)
    from search.executors.ray import RayExecutor

    if isinstance(plan.objective, Portable):
        spec = ObjectiveSpec(spec.target, {**spec.options, **plan.objective.portable()})
    with display.busy("starting or reaching Ray"):
        return RayExecutor(
            spec,
            config.device,
            config.jobs,
            cpus=config.cpus_per_trial,
            gpus=config.gpus_per_trial,
            address=config.address,
            notice=display.notice,
        )
