"""Whether the registry still has the versions that studies have stored, asked without a long wait.

A SQLite store is read as a file, in a millisecond, because importing MLflow takes seconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.common.errors import SearchError
from search.common.sqlite import connect_to_read, readable, sqlite_file
from search.common.system import environment
from search.tracking.registry.promotion import CHALLENGER, CHAMPION, PREVIOUS
from search.tracking.store import OUR_DEFAULTS, RUN_TAG, connect_mlflow, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

BUSY_S = 2.0  # wait for a writer of the file
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

# Tables as in MLflow 3.17; test_presence.py compares the answers with those of MLflow's client.
OF_RUN = f"""
SELECT v.name, v.version FROM model_versions v
JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = '{RUN_TAG}'
WHERE v.current_stage != 'Deleted_Internal' AND t.value = ? ORDER BY v.creation_time DESC
"""
ALIASES = "SELECT alias FROM registered_model_aliases WHERE name = ? AND version = ?"


@dataclass(frozen=True)
class StoredVersion:
    """A version as a study has stored it."""

    name: str
    version: str
    runs: Sequence[str]  # the run whose network it is, as `RUN_TAG` may have it


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
            with closing(connect_to_read(readable(path), BUSY_S)) as database:
                return [_find(version, _Rows(database)) for version in stored]
        # A user's own values win.
        quick = {name: value for name, value in QUICK.items() if os.environ.get(name) in (None, OUR_DEFAULTS[name])}
        with environment(quick):
            client = connect_mlflow(uri)
            with mlflow_errors(uri):
                return [_find(version, _Client(client)) for version in stored]
    except (sqlite3.Error, OSError, ImportError, SearchError):
        return None


def _find(stored: StoredVersion, registry: _Rows | _Client) -> FoundVersion | None:
    found = [version for run in stored.runs for version in registry.of_run(run)]
    if not found:
        return None
    same = (stored.name, stored.version)
    name, version = same if same in found else found[0]
    aliases = registry.aliases(name, version)
    known = [alias for alias in (CHAMPION, CHALLENGER, PREVIOUS) if alias in aliases]
    return FoundVersion(name, version, next(iter(known + aliases), ""))


class _Rows:
    """A registry in a SQLite file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._select: Callable[..., sqlite3.Cursor] = database.execute

    def of_run(self, run: str) -> list[tuple[str, str]]:
        return [(name, str(version)) for name, version in self._select(OF_RUN, (run,))]

    def aliases(self, name: str, version: str) -> list[str]:
        return [row[0] for row in self._select(ALIASES, (name, version))]


class _Client:
    """A registry behind MLflow's client."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def of_run(self, run: str) -> list[tuple[str, str]]:
        found = self._client.search_model_versions(f"tags.`{RUN_TAG}` = '{run}'")
        newest_first = sorted(found, key=lambda version: -int(version.creation_timestamp))
        return [(version.name, str(version.version)) for version in newest_first]

    def aliases(self, name: str, version: str) -> list[str]:
        return list(self._client.get_model_version(name, version).aliases)
