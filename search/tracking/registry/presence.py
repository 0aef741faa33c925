"""Whether the registry still has the versions that studies have stored, asked without a long wait.

A SQLite store is read as a file, in a millisecond, because importing MLflow takes seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.common.errors import SearchError
from search.common.sqlite import sqlite_file
from search.common.system import environment
from search.tracking.delivery import RUN_TAG
from search.tracking.registry.promotion import CHALLENGER, CHAMPION, PREVIOUS
from search.tracking.store import connect_mlflow, mlflow_errors, unchanged_process

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUSY_S = 2.0  # wait for a writer of the file
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

# Tables as in MLflow 3.17; test_presence.py compares the answers with those of MLflow's client.
OF_NUMBER = f"""
SELECT v.name, v.version, t.value FROM model_versions v
LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = '{RUN_TAG}'
WHERE v.current_stage != 'Deleted_Internal' AND v.name = ? AND v.version = ?
"""
OF_RUN = f"""
SELECT v.name, v.version, t.value FROM model_versions v
JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = '{RUN_TAG}'
WHERE v.current_stage != 'Deleted_Internal' AND t.value = ? ORDER BY v.creation_time DESC
"""
ALIASES = "SELECT alias FROM registered_model_aliases WHERE name = ? AND version = ?"

Row = tuple[str, str, str | None]  # name, version, and the run in its tag


@dataclass(frozen=True)
class StoredVersion:
    """A version as a study has stored it, and the run whose network it is, as `RUN_TAG` has it."""

    name: str
    version: str
    run: str


@dataclass(frozen=True)
class FoundVersion:
    """A version in the registry. A model that was renamed there has another name than a study has stored."""

    name: str
    version: str
    alias: str  # "" without one

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


def find_versions(uri: str, stored: Sequence[StoredVersion]) -> list[FoundVersion | None] | None:
    """Find versions in a store. None stands for one that was deleted; the whole is None if the store does not answer.

    A version of the same number that another study registered after a deletion is not the stored one.
    """
    path = sqlite_file(uri)
    try:
        if path is not None:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", timeout=BUSY_S, uri=True)) as database:
                return [_find(version, _Rows(database)) for version in stored]
        with unchanged_process(), environment(QUICK):
            client = connect_mlflow(uri)
            with mlflow_errors(uri):
                return [_find(version, _Client(client)) for version in stored]
    except (sqlite3.Error, SearchError):
        return None


def _find(stored: StoredVersion, registry: _Rows | _Client) -> FoundVersion | None:
    rows = [*registry.of_number(stored.name, stored.version), *registry.of_run(stored.run)]
    name, version, _ = next((row for row in rows if is_of_run(row[2], stored.run)), (None, None, None))
    if name is None or version is None:
        return None
    aliases = registry.aliases(name, version)
    known = [alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if alias in aliases]
    return FoundVersion(name, version, next(iter(known + aliases), ""))


def is_of_run(tag: str | None, run: str) -> bool:
    """Return whether a version's tag names this run. A copied study has the runs and versions of its original."""
    if tag is None:  # registered by an early release
        return True
    (scope, _, name), (uid, _, number) = tag.partition("/"), run.partition("/")
    return name == number and (uid == scope or uid.startswith(f"{scope}-"))


class _Rows:
    """A registry in a SQLite file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._select: Callable[..., sqlite3.Cursor] = database.execute

    def of_number(self, name: str, version: str) -> list[Row]:
        return [(row[0], str(row[1]), row[2]) for row in self._select(OF_NUMBER, (name, version))]

    def of_run(self, run: str) -> list[Row]:
        return [(row[0], str(row[1]), row[2]) for row in self._select(OF_RUN, (run,))]

    def aliases(self, name: str, version: str) -> list[str]:
        return [row[0] for row in self._select(ALIASES, (name, version))]


class _Client:
    """A registry behind MLflow's client."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def of_number(self, name: str, version: str) -> list[Row]:
        return self._rows(f"name = '{name}' AND version_number = {int(version)}")

    def of_run(self, run: str) -> list[Row]:
        return self._rows(f"tags.`{RUN_TAG}` = '{run}'")

    def _rows(self, condition: str) -> list[Row]:
        found = self._client.search_model_versions(condition)
        return [(version.name, str(version.version), version.tags.get(RUN_TAG)) for version in found]

    def aliases(self, name: str, version: str) -> list[str]:
        return list(self._client.get_model_version(name, version).aliases)
