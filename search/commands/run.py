"""The main job, in order: open, search, confirm, refit, finish."""

from dataclasses import dataclass, replace

from objectives.base import Task
from objectives.devices import resolve_device
from search.commands.finish import Finish
from search.commands.session.phases import Phases
from search.commands.session.scales import choose_scale
from search.commands.session.session import DELIVERY_S, SearchSession, open_session, parent_run
from search.commands.setup import SearchPlan
from search.commands.studies import compared
from search.coordinator.progress import Display
from search.study.records import PHASE, StudyRecord
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.initial_params import example_configurations
from search.study.space.objective_calls import call, explain_errors, missing_methods
from search.study.state import Phase
from search.study.summary import Summary
from search.study.texts.setting import dataset_lines, describe_workers, unequal_classes


@dataclass(frozen=True)
class Ending:
    """How a run of the command ended."""

    study: StudyRecord
    undelivered: int  # writes to MLflow that stay in the journal
    was_complete: bool  # nothing was left to do
    why_enough: str | None = None  # why it was complete with fewer trials than planned


def run(plan: SearchPlan, display: Display) -> Ending:
    """Search, then score and publish the winner. After any error, the next start does what is missing.

    Raises SearchError or ObjectiveError for what the user can correct, Interrupted after a signal.
    """
    for notice in filter(None, (missing_methods(plan.objective), plan.notice)):
        display.notice(notice)
    dataset = plan.dataset or {}
    for line in dataset_lines(dataset):
        display.notice(line)
    if unequal := unequal_classes(dataset, plan.objective.metric):
        display.notice(unequal)
    with (
        explain_errors(plan.spec.target),
        open_session(plan, display) as session,  # locks the study, opens both databases, starts workers
    ):
        if session.is_complete():
            return replace(_result(session, was_complete=True), why_enough=session.why_enough())
        devices = _wait_for_workers(session)
        choose_scale(session.study, plan.config, plan.space, session.executor.workers()[0], display.notice)
        study = _open_for_sampling(session, devices[0])
        _choose_slots(session, study)
        devices = devices[: session.executor.slots]
        with parent_run(session, devices, _report_workers(session)):
            phases = Phases.of(session, study, devices)
            with phases.begin():
                own = _own_device(plan, devices[0])
                winner = phases.refit(phases.ensemble(phases.search(), own))
            session.executor.close()  # frees a cluster's resources while the winner is scored and published
            _finish(session, winner, own)
        return _result(session, was_complete=False)


def _result(session: SearchSession, *, was_complete: bool) -> Ending:
    session.keeper().take_up()  # now the winner is known
    with session.display.busy("delivering to MLflow"):
        undelivered = session.tracking.flush(DELIVERY_S)
    (study,) = compared(session.plan.config, [session.study.record()])
    return Ending(study, undelivered, was_complete)


def _wait_for_workers(session: SearchSession) -> list[str]:
    """Return the device of each slot once the workers are set up."""
    finished = session.study.record().finished
    session.executor.set_demand(max(1, session.plan.config.trials - finished))
    with session.display.busy("starting the workers"):
        return session.executor.ready()


def _open_for_sampling(session: SearchSession, device: str) -> SamplingStudy:
    """Open the sampler and the pruner. In a new study, the first worker's device decides the number of epochs."""
    if session.study.epochs is None:
        session.study.fix_epochs(int(call("epochs", session.plan.objective.epochs, device)))
    study, notices = session.open_sampling()
    for text in notices:
        session.display.notice(text)
    return study


def _choose_slots(session: SearchSession, study: SamplingStudy) -> None:
    """Let the executor measure how many workers are fastest, if trials are left."""
    if session.plan.is_function or (study.finished >= session.plan.config.trials and not study.unfinished):
        return
    plan, epochs = session.plan, session.study.epochs
    assert epochs is not None, "the study is open for sampling"
    examples = example_configurations(plan.objective, plan.space, plan.limits)
    tasks = [Task(0, params, plan.config.seed, epochs) for params in examples]
    with session.display.busy("measuring how many workers are fastest"):
        choice = session.executor.tune_workers(tasks)
    if choice is not None:
        session.display.notice(choice)


def _report_workers(session: SearchSession) -> str:
    """Show the devices of the workers, and why none of them is a GPU. Returns the devices in words."""
    workers = session.executor.workers()
    for text in sorted({worker.notice for worker in workers if worker.notice}):
        session.display.notice(text)
    devices = describe_workers([(worker.device, worker.name) for worker in workers])
    if devices:
        session.display.notice(f"device: {devices}")
    return devices


def _own_device(plan: SearchPlan, device: str) -> str:
    """The device of this process, by that of a worker. This machine may lack the GPU of a cluster's worker."""
    return resolve_device("auto", 0) if plan.config.engine == "ray" and device != "cpu" else device


def _finish(session: SearchSession, winner: Summary, device: str) -> None:
    """Score the winner, register it, write the report."""
    plan, study = session.plan, session.study
    goal = {"finished": study.record().finished, **plan.goal}
    finish = Finish(study, session.tracking, plan.config, register_as=plan.register_as, device=device, goal=goal)
    session.wait_for_mlflow()
    phase = Phase("finish", "scoring and registering the winner, writing the report")
    study.set_attr(PHASE, phase.as_dict())
    with session.display.busy(phase.title):
        finish.run(winner)
