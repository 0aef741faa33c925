"""The local journal of a study: tracking writes are stored here first and then delivered to MLflow.

It is one SQLite file. Each write is one short transaction, so a killed search loses none, and an unreachable server
does not slow the search down. Delivered writes are deleted. MLflow's ids of runs are kept for resumed searches.

Any number of threads may use it, each with its own `Journal`. One process writes and delivers; others may read.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from search.common.errors import StorageError
from search.common.open_database import OpenDatabase
from search.common.sqlite import BUSY_TIMEOUT_S, LOCK_TIMEOUT_S, build, check_sqlite, connect
from search.study.storage.retry import RetryPolicy
from search.study.summary import FOLD_RUN

T = TypeVar("T")
Kind = Literal["run", "params", "metrics", "file", "pictures", "tags", "remove", "end"]
Body = Mapping[str, Any]

PARENT = "study"  # journal name of the parent run
EXPERIMENT = "experiment"  # journal name of the experiment, whose id is kept like that of a run

SCHEMA = """
CREATE TABLE writes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, content BLOB
);
CREATE TABLE runs (
    run TEXT PRIMARY KEY, mlflow_id TEXT, last_step INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE verdicts (run TEXT PRIMARY KEY, verdict TEXT NOT NULL);
"""


def trial_run(number: int) -> str:
    """Return the journal name of a trial's run."""
    return f"trial-{number}"


def confirm_run(number: int, training: int, *, is_fold: bool = False) -> str:
    """Return the journal name of a trial's training, from 1, on a fresh seed or on a fold."""
    return f"confirm-{number}{FOLD_RUN if is_fold else '-'}{training}"


def fold_of(run: str) -> int | None:
    """Return the fold, as in `Task`, of a run that confirms a trial on one; None for any other run."""
    _, is_fold, training = run.partition(FOLD_RUN)
    return int(training) - 1 if is_fold else None


def refit_run(number: int) -> str:
    """Return the journal name of a winner's training on all data but the test split."""
    return f"refit-{number}"


@dataclass(frozen=True)
class Write:
    """One undelivered write. `run` is the journal name of its run."""

    id: int
    run: str
    kind: Kind
    body: Body
    content: bytes | None


class Journal:
    """The journal at `path`, created if needed. With `retry`, it waits while another program has locked the file.

    A second `Journal` of the same path gets the `file` of the first. Raises StorageError if the file is damaged or not
    a journal, DatabaseLockedError if it stays locked.
    """

    def __init__(self, path: Path, file: OpenDatabase | None = None, *, retry: RetryPolicy | None = None) -> None:
        self._retry = retry
        wait_s, timeout_s = (BUSY_TIMEOUT_S, BUSY_TIMEOUT_S) if retry is None else (0.0, LOCK_TIMEOUT_S)
        try:
            if not path.exists():  # the study's lock keeps other processes away
                build(path, _create_tables)
            self._patiently(lambda: check_sqlite(path, "writes", wait_s=wait_s))
            self._db = self._patiently(lambda: connect(path, timeout_s))
            self.file = file or OpenDatabase(path, left="The study and MLflow keep what they have")
        except (sqlite3.OperationalError, FileNotFoundError) as error:
            if "full" in str(error):
                raise
            again = "If another program removes files there, end it, and type the same command again"
            raise StorageError(f"{path} cannot be opened ({error}). {again}") from error

    def _patiently(self, call: Callable[[], T]) -> T:
        return call() if self._retry is None else self._retry.run(call)

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        return self._named(lambda: self._db.execute(query, values).fetchall())

    def _write(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Execute statements in one transaction."""

        def write() -> None:
            with self._db:
                for statement, values in statements:
                    self._db.execute(statement, values)

        self._named(write)

    def _named(self, call: Callable[[], T]) -> T:
        """Make a call, and name the file in an error of SQLite that comes from it."""
        try:
            return self._patiently(call)
        except sqlite3.Error as error:
            self.file.explain(error, self._db)
            raise

    def append(
        self,
        run: str,
        kind: Kind,
        body: Body,
        content: bytes | None = None,
        *,
        step: int = 0,
        verdict: Body | None = None,
    ) -> None:
        """Add one write. `step` is the last step of the run that it covers; `verdict` is how the run ended.

        Raises StorageError when the file was removed or replaced, or cannot be written any more.
        """
        insert = "INSERT INTO writes (run, kind, body, content) VALUES (?, ?, ?, ?)"
        self.file.check(self._db)
        statements = [_set_run(run, "last_step", step, "max(last_step, excluded.last_step)")]
        statements.append((insert, (run, kind, json.dumps(body), content)))
        if verdict is not None:
            statements.append(("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (run, json.dumps(verdict))))
        self._write(*statements)

    def pending(self, limit: int) -> list[Write]:
        """Return the oldest undelivered writes, in order."""
        query = "SELECT id, run, kind, body, content FROM writes ORDER BY id LIMIT ?"
        rows = self._read(query, (limit,))
        return [Write(id_, run, kind, json.loads(body), content) for id_, run, kind, body, content in rows]

    def n_pending(self) -> int:
        """Return the number of undelivered writes."""
        return int(self._read("SELECT count(*) FROM writes")[0][0])

    def delivered(self, *ids: int) -> None:
        """Delete delivered writes."""
        self._write(*(("DELETE FROM writes WHERE id = ?", (id_,)) for id_ in ids))

    def knows(self, run: str) -> bool:
        """Return whether anything was ever written for this run."""
        return self._get("run", "runs", run) is not None

    def last_step(self, run: str) -> int:
        """Return the last step that was written for a run; 0 before the first."""
        return self._get("last_step", "runs", run) or 0

    def verdict(self, run: str) -> dict[str, Any] | None:
        """Return how the run ended; None while it has not."""
        verdict = self._get("verdict", "verdicts", run)
        return None if verdict is None else json.loads(verdict)

    def mlflow_id(self, run: str) -> str | None:
        """Return MLflow's id of a run; None before it was delivered."""
        return self._get("mlflow_id", "runs", run) or None

    def set_mlflow_id(self, run: str, mlflow_id: str) -> None:
        """Store MLflow's id of a run."""
        self._write(_set_run(run, "mlflow_id", mlflow_id, "excluded.mlflow_id"))

    def adopt(self, other: Path) -> None:
        """Take over the runs that have ended in another journal, and how they ended; not the study's own run."""
        ended = "run IN (SELECT run FROM other.verdicts) AND run NOT IN (?, ?)"
        self._db.execute("ATTACH DATABASE ? AS other", (str(other),))
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO verdicts SELECT run, verdict FROM other.verdicts")
            select = f"SELECT run, mlflow_id, last_step FROM other.runs WHERE {ended}"
            self._db.execute(f"INSERT OR IGNORE INTO runs (run, mlflow_id, last_step) {select}", (PARENT, EXPERIMENT))
        self._db.execute("DETACH DATABASE other")

    def _get(self, column: str, table: str, run: str) -> Any:
        rows = self._read(f"SELECT {column} FROM {table} WHERE run = ?", (run,))
        return rows[0][0] if rows else None

    def close(self) -> None:
        self._db.close()


def _set_run(run: str, column: str, value: object, update: str) -> tuple[str, tuple[object, ...]]:
    """The statement that inserts a run with one value, or updates that value with the SQL expression `update`."""
    insert = f"INSERT INTO runs (run, {column}) VALUES (?, ?)"
    return f"{insert} ON CONFLICT (run) DO UPDATE SET {column} = {update}", (run, value)


def _create_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        # The file shrinks again after weights have passed through it. Must be set before the write-ahead log.
        connection.execute("PRAGMA auto_vacuum=FULL")
        connection.executescript(SCHEMA)
