"""The main job, in order: open, search, confirm, refit, finish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from objectives.base import ObjectiveError, Task, unfinished
from objectives.devices import resolve_device
from search.commands.finish import Finish
from search.commands.session.completion import is_complete
from search.commands.session.origin import open_parent_run, store_origin
from search.commands.session.phases import Phases, timed_session
from search.commands.session.session import DELIVERY_S, SearchSession, open_sampling, open_session
from search.commands.setup import SearchPlan
from search.common.errors import SearchError
from search.common.signals import Interrupted
from search.coordinator.progress import Display
from search.study import records
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.initial_params import example_configuration
from search.study.summary import Summary
from search.tracking.journal import PARENT


@dataclass(frozen=True)
class Result:
    """How a run of the command ended."""

    study: records.StudyRecord
    undelivered: int
    """Tracking writes that stay in the journal."""
    was_complete: bool
    """There was nothing left to do."""


def run(plan: SearchPlan, display: Display) -> Result:
    """Search, then score and publish the winner.

    Raises SearchError or ObjectiveError for what the user can correct, Interrupted after a signal. Nothing is lost
    then: the next start does what is missing.
    """
    if (missing := unfinished(plan.objective)) is not None:
        display.notice(missing)
    with open_session(plan, display) as session:
        if session.tracking_existed:
            _wait_for_tracking(session)
        if is_complete(plan, session.study, session.tracking):  # no worker need start for that
            return _result(session, was_complete=True)
        devices = _start_workers(session)
        study = _open_for_sampling(session, devices[0])
        _choose_slots(session, study)
        devices = devices[: session.executor.slots]
        with _parent_run(session, devices):
            winner = _find_winner(session, study, devices)
            session.executor.close()  # a cluster's resources are for others while the winner is scored and published
            _finish(session, winner, devices[0])
        return _result(session, was_complete=False)


def _result(session: SearchSession, *, was_complete: bool) -> Result:
    return Result(session.study.record(), session.tracking.flush(DELIVERY_S), was_complete)


def _wait_for_tracking(session: SearchSession) -> None:
    """Raise StorageError or TrackingError when MLflow's store is of no use, before anything is written."""
    with session.display.busy("opening MLflow"):
        session.tracking.ready()


def _start_workers(session: SearchSession) -> list[str]:
    """Wait for the workers; returns their devices, one for each slot."""
    finished = session.study.record().finished
    session.executor.set_demand(max(1, session.config.trials - finished))
    with session.display.busy("starting the workers"):
        return session.executor.ready()


def _open_for_sampling(session: SearchSession, device: str) -> SamplingStudy:
    """The study, ready to sample. The first worker's device decides the epochs of a study that has none yet."""
    if session.study.epochs is None:
        session.study.fix_epochs(session.plan.objective.epochs(device))
    study, notices = open_sampling(session.plan, session.study)
    for text in notices:
        session.display.notice(text)
    return study


def _choose_slots(session: SearchSession, study: SamplingStudy) -> None:
    """Let the executor measure how many workers are fastest, if there is anything to search."""
    if study.finished >= session.config.trials and not study.unfinished:
        return
    epochs = session.study.epochs
    assert epochs is not None, "the study is open for sampling"
    task = Task(0, example_configuration(session.plan.objective), session.config.seed, epochs)
    with session.display.busy("measuring how many workers are fastest"):
        chosen = session.executor.tune_workers(task)
    if chosen is not None:
        session.display.notice(chosen)


@contextmanager
def _parent_run(session: SearchSession, devices: list[str]) -> Iterator[None]:
    """The study's run in MLflow, which ends as KILLED or FAILED if the block raises."""
    store_origin(session.plan, session.study)
    open_parent_run(session.plan, session.study, session.tracking, devices)
    try:
        yield
    except Interrupted:
        session.tracking.end_run(PARENT, "KILLED")
        raise
    except (SearchError, ObjectiveError):
        session.tracking.end_run(PARENT, "FAILED")
        raise


def _find_winner(session: SearchSession, study: SamplingStudy, devices: list[str]) -> Summary:
    """Search, confirm, refit: everything that trains."""
    phases = Phases.of(session, study, devices)
    with timed_session(session, phases), phases.preload_at_end(), session.interruption.graceful():
        phases.search()
        summary = phases.refit(phases.confirm())
        phases.remove_checkpoints()
        return summary


def _finish(session: SearchSession, winner: Summary, device: str) -> None:
    """Score the winner, register it, write the report."""
    plan, study = session.plan, session.study
    if session.config.engine == "ray" and device != "cpu":  # a cluster's worker may have a GPU that this machine lacks
        device = resolve_device("auto", 0)
    finish = Finish(
        study,
        session.tracking,
        plan.workspace,
        session.config,
        register_as=plan.register_as,
        device=device,
        goal={"finished": study.record().finished, **plan.goal},
    )
    with session.display.busy("scoring and registering the winner, writing the report"):
        finish.run(winner)
