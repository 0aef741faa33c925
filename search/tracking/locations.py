"""Where artifacts lie: keeps the paths in a local MLflow database right after a workspace was moved or copied.

MLflow stores where the artifacts of an experiment, run or model lie, and resolves a relative path against the current
folder. For a database in the workspace, paths are stored relative to it. So a bare `mlflow ui` in the workspace finds
every artifact, wherever the workspace is now. Other local databases hold absolute paths.

A registered model is loaded from other folders as well, which needs an absolute path. MLflow reads `runs:/RUN/.` from
two places and passes over one that is missing: the folder of the run, and the folder of a model named `.` of that run.
So each version refers to a run of its own, its anchor. The run's folder is relative, the model's is absolute, and both
mean one copy of the files. Anchors are in an experiment that is neither active nor deleted: MLflow's pages do not show
it, and `mlflow gc` leaves it alone.

Other searches of the workspace may run meanwhile: they write files to the workspace, not to where these paths point.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from search.common.errors import DatabaseLockedError
from search.common.sqlite import connect, is_locked
from search.tracking.store import RUN_TAG, STUDY_TAG, Destination

LAYOUT = "mlruns/artifacts/"  # as `Workspace.artifacts` has it
PLACE_TAG = "search.workspace"  # of an experiment: the workspace at the latest start
ANCHORS = "search: files of registered models"
COLUMNS = {
    "experiments": ("experiment_id", "artifact_location"),
    "runs": ("run_uuid", "artifact_uri"),
    "logged_models": ("model_id", "artifact_location"),
}


@dataclass(frozen=True)
class Location:
    """A location in MLflow that lies below the `mlruns/artifacts/` of a workspace."""

    workspace: Path | None  # None for a relative location
    path: str  # relative to the workspace

    @classmethod
    def of(cls, stored: str) -> Self | None:
        """Parse what MLflow stores; None for a location of another layout or kind."""
        scheme = urlsplit(stored).scheme
        if scheme not in ("", "file"):
            return None
        before, found, after = unquote(urlsplit(stored).path if scheme else stored).rpartition(LAYOUT)
        if not found or (before and not (before.startswith("/") and before.endswith("/"))):
            return None
        return cls(Path(before) if before else None, found + after)


def locate(stored: str, database: Path) -> Path | None:
    """Return the folder behind a location in `database`: beside the database if it is there, else where it was.

    Returns None for a location that MLflow should resolve itself.
    """
    if (location := Location.of(stored)) is None:
        return None
    here = database.parent / location.path
    return here if location.workspace is None or here.exists() else location.workspace / location.path


def folder_to_write(stored: str, destination: Destination) -> Path | None:
    """Return the folder in the workspace for new artifacts of a run that has this location; None as in `locate`."""
    location, own = Location.of(stored), Location.of(destination.artifacts.as_uri())
    if destination.database is None or location is None or own is None or own.workspace is None:
        return None
    return own.workspace / location.path


def settle(destination: Destination) -> str | None:
    """Point the locations of a study's experiments to the present workspace. Other locations stay as they are.

    Returns a notice for the user if the workspace was elsewhere. Does nothing for a store without a local database.
    """
    database, own = destination.database, Location.of(destination.artifacts.as_uri())
    if database is None or own is None or own.workspace is None or not database.exists():
        return None
    workspace = own.workspace
    with _opened(database) as db:
        if not _has_tables(db) or not (ids := _experiments(db, destination.scope)):
            return None
        moved_from = _moved_from(db, ids, workspace)
        _settle(db, ids, workspace, relative=_same(database.parent, workspace))
    if moved_from is None:
        return None
    before, now = (folder / LAYOUT for folder in (moved_from, workspace))  # a renamed study keeps its old folder there
    return f"the artifacts of study {destination.experiment!r} were in {before}; they are now in {now}"


def settle_models(database: Path, experiment_id: str) -> None:
    """Do the same for one experiment of the workspace that holds the database, for instance after a registration."""
    with _opened(database) as db:
        _settle(db, [int(experiment_id)], database.parent, relative=True)


def make_absolute(database: Path, model_id: str) -> None:
    """Let MLflow write a model's files from any folder. `settle_models` makes the location relative again."""
    with _opened(database) as db, db:
        ((stored,),) = db.execute("SELECT artifact_location FROM logged_models WHERE model_id = ?", (model_id,))
        if (location := Location.of(stored)) is not None:
            absolute = (database.parent / location.path).as_uri()
            db.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", (absolute, model_id))


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open the database. Raises DatabaseLockedError if another program has locked it."""
    try:
        with closing(connect(database)) as db:
            yield db
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise DatabaseLockedError(database) from None
        raise


def _has_tables(db: sqlite3.Connection) -> bool:
    """Return whether MLflow's tables are there; those of an older version are for MLflow to complain about."""
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {*COLUMNS, "experiment_tags", "tags", "model_versions"} <= names


def _experiments(db: sqlite3.Connection, scope: str) -> list[int]:
    """Return the study's experiments: by their tag, or by a run of the study in those that are older than the tag."""
    query = """
        SELECT experiment_id FROM experiment_tags WHERE key = ? AND value = ? UNION
        SELECT experiment_id FROM runs JOIN tags USING (run_uuid) WHERE key = ? AND value LIKE ? || '/%'
    """
    return [row[0] for row in db.execute(query, (STUDY_TAG, scope, RUN_TAG, scope))]


def _moved_from(db: sqlite3.Connection, ids: Sequence[int], workspace: Path) -> Path | None:
    """Store the workspace with the experiments. Return where it was before if that was another folder."""
    query = f"""
        SELECT experiment_id, artifact_location, value FROM experiments
        LEFT JOIN (SELECT experiment_id, value FROM experiment_tags WHERE key = ?) USING (experiment_id)
        WHERE experiment_id IN ({_marks(ids)})
    """
    before, changes = set(), []
    for experiment_id, stored, tagged in db.execute(query, (PLACE_TAG, *ids)).fetchall():
        if (location := Location.of(stored)) is None or tagged == str(workspace):
            continue
        before.add(Path(tagged) if tagged else location.workspace or workspace)  # those older than the tag are absolute
        changes.append((PLACE_TAG, str(workspace), experiment_id))
    db.executemany("INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)", changes)
    db.commit()
    return next((folder for folder in sorted(before) if not _same(folder, workspace)), None)


def _settle(db: sqlite3.Connection, ids: Sequence[int], workspace: Path, *, relative: bool) -> None:
    """Rewrite the locations of experiments in one transaction, if any has to change."""
    changes = []
    for table, (key, column) in COLUMNS.items():
        query = f"SELECT {key}, {column} FROM {table} WHERE experiment_id IN ({_marks(ids)})"
        for row, stored in db.execute(query, tuple(ids)):
            kept = table != "experiments" and _is_only_elsewhere(stored, workspace)
            wanted = stored if kept else _below(stored, workspace, relative=relative)
            if wanted != stored:
                changes.append((f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (wanted, row)))
    for sql, values in [*changes, *_version_changes(db, ids, workspace, relative=relative)]:
        db.execute(sql, values)
    db.commit()


def _is_only_elsewhere(stored: str, workspace: Path) -> bool:
    """Return whether the files are in another workspace and not in this one, as after copying only the databases."""
    location = Location.of(stored)
    if location is None or location.workspace is None or (workspace / location.path).exists():
        return False
    return os.path.exists(location.workspace / location.path)  # False also in a folder of another user


def _below(stored: str, workspace: Path, *, relative: bool) -> str:
    if (location := Location.of(stored)) is None:
        return stored
    return location.path if relative else (workspace / location.path).as_uri()


# Registered versions ------------------------------------------------------------------------------------------------

Change = tuple[str, tuple[object, ...]]  # an SQL statement and its values


def _version_changes(db: sqlite3.Connection, ids: Sequence[int], workspace: Path, *, relative: bool) -> list[Change]:
    """Return what has to change for the registered versions of the experiments' models. Copies their files."""
    query = f"""
        SELECT model_id, artifact_location, name, version, storage_location FROM model_versions
        JOIN (SELECT model_id, artifact_location, experiment_id FROM logged_models)
        ON source = 'models:/' || model_id WHERE experiment_id IN ({_marks(ids)})
    """
    changes: list[Change] = []
    for model_id, stored, name, version, before in db.execute(query, tuple(ids)).fetchall():
        if (location := Location.of(stored)) is None or not (workspace / location.path).is_dir():
            continue
        if relative:
            wanted, anchor = _anchor(db, model_id, location.path, workspace)
            changes += anchor
        else:
            wanted = (workspace / location.path).as_uri()
        if wanted != before:
            sql = "UPDATE model_versions SET storage_location = ? WHERE name = ? AND version = ?"
            changes.append((sql, (wanted, name, version)))
    return changes


def _anchor(db: sqlite3.Connection, model_id: str, path: str, workspace: Path) -> tuple[str, list[Change]]:
    """Return the anchor's URI, and the statements that make it or point it to the present workspace."""
    run = model_id.removeprefix("m-")
    files = f"{path.partition('/models/')[0]}/registered/{run}"
    _copy_whole(workspace / path, workspace / files)
    absolute, uri = (workspace / files).as_uri(), f"runs:/{run}/."
    query = "SELECT artifact_uri, artifact_location FROM runs JOIN logged_models ON source_run_id = run_uuid"
    if db.execute(f"{query} WHERE run_uuid = ?", (run,)).fetchall() == [(files, absolute)]:
        return uri, []
    now = int(time.time() * 1000)
    experiment = f"(SELECT experiment_id FROM experiments WHERE name = '{ANCHORS}')"
    return uri, [
        (
            "INSERT OR IGNORE INTO experiments (name, artifact_location, lifecycle_stage, creation_time,"
            " last_update_time) VALUES (?, ?, NULL, ?, ?)",
            (ANCHORS, "mlruns/artifacts", now, now),
        ),
        (
            "INSERT OR REPLACE INTO runs (run_uuid, experiment_id, name, source_type, user_id, status, start_time,"
            f" end_time, lifecycle_stage, artifact_uri) VALUES (?, {experiment}, ?, 'UNKNOWN', '', 'FINISHED', ?, ?,"
            " 'active', ?)",
            (run, f"files of {model_id}", now, now, files),
        ),
        (
            "INSERT OR REPLACE INTO logged_models (model_id, experiment_id, name, artifact_location,"
            " creation_timestamp_ms, last_updated_timestamp_ms, status, lifecycle_stage, source_run_id)"
            f" VALUES (?, {experiment}, '.', ?, ?, ?, 2, 'active', ?)",  # 2: ready
            (f"{model_id}-a", absolute, now, now, run),
        ),
    ]


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder, so that it is either absent or complete."""
    if target.exists():
        return
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:  # it is gone, or in a folder of another user
        return False


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
