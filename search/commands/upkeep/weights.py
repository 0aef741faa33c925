"""Find and delete the weights of trials that `--keep best:N` would not have kept, in studies that exist already."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import optuna

from search.commands.setup import open_tracking
from search.commands.studies import all_studies, patience, shared_trials, store_of, stored_studies, tracked_elsewhere
from search.commands.upkeep.sync import DELIVERY_S
from search.common.config import Config
from search.common.errors import SearchError
from search.common.sqlite import sqlite_file
from search.common.workspace import Workspace
from search.coordinator.keeping import KeepBest
from search.study import records
from search.study.records import StudyRecord
from search.study.selection.kept import deletable
from search.study.storage.storage import hold_study, open_storage
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

    Raises StorageError if the storage cannot be read.
    """
    path = sqlite_file(config.storage_url)
    if config.n_kept is None or (path is not None and not path.exists()):
        return []
    return list(_found(config, config.n_kept))


def _found(config: Config, n: int) -> Iterator[StoredWeights]:
    storage = stored_studies(config)
    for study in all_studies(config):
        if records.UID not in study.attrs:  # another program made it
            continue
        shared = shared_trials(storage, study.name)
        runs = [trial.run_id for trial in deletable(study, n) if trial.number not in shared and trial.run_id]
        if not runs:
            continue
        try:
            artifact = weights_artifact(is_function=study.is_function)
            sizes = artifact_sizes(store_of(config, study.attrs), runs, artifact)
        except SearchError as error:
            yield StoredWeights(study.name, len(runs), 0, str(error))
            continue
        if sizes:
            yield StoredWeights(study.name, len(sizes), sum(sizes.values()), _why_not(config, study))


def _why_not(config: Config, study: StudyRecord) -> str | None:
    """Why the weights of a study stay for now."""
    if study.holder is not None:
        return f"it is being searched by {study.holder}, which can delete them itself: give it --keep"
    return tracked_elsewhere(config, study.attrs)


def delete_weights(config: Config, found: Sequence[StoredWeights], say: Callable[[str], object]) -> list[str]:
    """Delete them. Returns what could not be deleted, and why. `say` shows the user a notice of MLflow's store."""
    failures = []
    for entry in found:
        try:
            if n_left := _delete(config, entry.study, say):
                failures.append(f"{entry.study}: {n_left} writes wait for MLflow. Type python -m search sync later")
        except SearchError as error:
            failures.append(f"{entry.study}: {error}")
    return failures


def _delete(config: Config, name: str, say: Callable[[str], object]) -> int:
    """Delete the weights of one study. Returns the number of writes that MLflow did not accept yet."""
    assert config.n_kept is not None, "something was found"
    with hold_study(config.storage_url, name):
        storage = open_storage(config.storage_url, create=False, retry=patience(config))
        study = optuna.load_study(study_name=name, storage=storage)
        record = StudyRecord.of(study)
        files = Workspace(config.workspace).training_files(name, record.attrs[records.UID])
        with closing(open_tracking(config, name, record.attrs, record.direction, say=say)) as tracking:
            tracking.ready()
            KeepBest(study, tracking, files, config.n_kept, shared_trials(storage, name)).take_up()
            return tracking.flush(DELIVERY_S)
