"""Find and delete the weights of trials that `--keep best:N` would not have kept, in studies that exist already."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import optuna

from search.commands.setup import open_tracking
from search.commands.studies import all_studies, patience, shared_trials, store_of, stored_studies, tracked_elsewhere
from search.commands.upkeep.sync import DELIVERY_S
from search.common.config import Config
from search.common.errors import SearchError
from search.common.workspace import Workspace
from search.coordinator.keeping import KeepBest
from search.study import records
from search.study.records import StudyRecord, TrialRecord
from search.study.selection.kept import outside
from search.study.state import State
from search.study.storage.storage import hold_study, open_storage
from search.study.summary import counted
from search.tracking.registry.loading import artifact_sizes
from search.tracking.registry.programs import weights_artifact


@dataclass(frozen=True)
class StoredWeights:
    """The weights of one study that can go."""

    study: str
    n_trials: int  # whose weights they are
    size_bytes: int
    why_not: str | None = None  # why they cannot be deleted now


def find_weights(config: Config) -> list[StoredWeights]:
    """Find what `--keep` would delete in each study, oldest study first; nothing with `--keep all`.

    Raises StorageError if there is no storage, or if it cannot be read.
    """
    if config.n_kept is None:
        return []
    return list(_found(config, config.n_kept))


def _found(config: Config, n: int) -> Iterator[StoredWeights]:
    storage = stored_studies(config)
    for study in all_studies(config):
        if records.UID not in study.attrs:  # another program made it
            continue
        shared = shared_trials(storage, study.name)
        trials = [trial for trial in outside(study, n) if trial.number not in shared]
        if not trials:
            continue
        try:
            sizes = _sizes(config, study, trials)
        except SearchError as error:
            yield StoredWeights(study.name, len(trials), 0, str(error))
            continue
        if sizes:
            yield StoredWeights(study.name, len(sizes), sum(sizes.values()), _why_not(config, study))


def _sizes(config: Config, study: StudyRecord, trials: Sequence[TrialRecord]) -> dict[str, int]:
    """By run, the bytes of the weights that MLflow has. Raises TrackingError if it does not say."""
    runs = [trial.run_id for trial in trials if trial.run_id is not None]
    return artifact_sizes(store_of(config, study.attrs), runs, weights_artifact(is_function=study.is_function))


def _why_not(config: Config, study: StudyRecord) -> str | None:
    """Why the weights of a study stay for now."""
    if study.holder is not None:
        return f"it is being searched by {study.holder}: wait until it has ended, or end it, and type this again"
    if study.state is not State.FINISHED:
        return "its search has stopped, so another trial may win: type the command of the search again first"
    return tracked_elsewhere(config, study.attrs)


def delete_weights(
    config: Config, found: Sequence[StoredWeights], say: Callable[[str], object]
) -> tuple[int, list[str]]:
    """Delete them. Returns the number of trials whose weights are gone, and what could not be deleted, and why.

    `say` shows the user a notice of MLflow's store.
    """
    n_deleted, failures = 0, []
    for entry in found:
        try:
            n, problem = _delete(config, entry.study, say)
        except SearchError as error:
            n, problem = 0, str(error)
        n_deleted += n
        if problem is not None:
            failures.append(f"{entry.study}: {problem}")
    return n_deleted, failures


def _delete(config: Config, name: str, say: Callable[[str], object]) -> tuple[int, str | None]:
    """Delete the weights of one study. Returns for how many trials, and why some are left."""
    assert config.n_kept is not None, "something was found"
    with hold_study(config.storage_url, name):
        storage = open_storage(config.storage_url, create=False, retry=patience(config))
        study = optuna.load_study(study_name=name, storage=storage)
        record, shared = StudyRecord.of(study), partial(shared_trials, storage, name)
        files = Workspace(config.workspace).training_files(name, record.attrs[records.UID])
        with closing(open_tracking(config, name, record.attrs, record.direction, say=say)) as tracking:
            tracking.ready()
            apart = shared()
            others = [trial for trial in outside(record, config.n_kept) if trial.number not in apart]
            stored = _sizes(config, record, others)
            trials = [trial for trial in others if trial.run_id in stored]
            KeepBest(study, tracking, files, config.n_kept, shared=shared).delete(record, trials)
            if n_left := tracking.flush(DELIVERY_S):
                return 0, f"{n_left} writes wait for MLflow. Type python -m search sync{config.where} later"
            left = _sizes(config, record, trials)
            if refused := {trial.number for trial in trials if trial.run_id in left}:
                study.set_user_attr(records.DELETED, sorted({*study.user_attrs[records.DELETED]} - refused))
                return len(trials) - len(refused), f"MLflow has not deleted those of {counted(len(refused), 'trial')}"
            return len(trials), None
