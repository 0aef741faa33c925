"""The local journal of a study: tracking writes are stored here first and then delivered to MLflow.

It is one SQLite file. Each write is one short transaction, so a killed search loses none, and an unreachable server
does not slow the search down. Delivered writes are deleted. MLflow's ids of runs are kept for resumed searches.

Any number of threads may use it, each with its own `Journal`. One process writes and delivers; others may read.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from search.common.errors import StorageError
from search.common.open_database import OpenDatabase
from search.common.sqlite import build, check_sqlite, connect

Kind = Literal["run", "metrics", "file", "pictures", "tags", "end"]
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


def confirm_run(number: int, repeat: int) -> str:
    """Return the journal name of a trial's training on fresh seed number `repeat`, from 1."""
    return f"confirm-{number}-{repeat}"


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
    """The journal at `path`, created if needed. Raises StorageError if the file is damaged or not a journal.

    A second `Journal` of the same path gets the `file` of the first.
    """

    def __init__(self, path: Path, file: OpenDatabase | None = None) -> None:
        try:
            if not path.exists():  # the study's lock keeps other processes away
                build(path, _create_tables)
            check_sqlite(path, "writes")
            self._db = connect(path)
            self.file = file or OpenDatabase(path, left="The study and MLflow keep what they have")
        except (sqlite3.OperationalError, FileNotFoundError) as error:
            if "full" in str(error):
                raise
            again = "If another program removes files there, end it, and type the same command again"
            raise StorageError(f"{path} cannot be opened ({error}). {again}") from error

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
        with self._clear_errors(), self._db:
            self._set_run(run, "last_step", step, "max(last_step, excluded.last_step)")
            self._db.execute(insert, (run, kind, json.dumps(body), content))
            if verdict is not None:
                self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (run, json.dumps(verdict)))

    def pending(self, limit: int) -> list[Write]:
        """Return the oldest undelivered writes, in order."""
        query = "SELECT id, run, kind, body, content FROM writes ORDER BY id LIMIT ?"
        with self._clear_errors():
            rows = self._db.execute(query, (limit,)).fetchall()
        return [Write(id_, run, kind, json.loads(body), content) for id_, run, kind, body, content in rows]

    def n_pending(self) -> int:
        """Return the number of undelivered writes."""
        with self._clear_errors():
            return int(self._db.execute("SELECT count(*) FROM writes").fetchone()[0])

    def delivered(self, *ids: int) -> None:
        """Delete delivered writes."""
        with self._clear_errors(), self._db:
            self._db.executemany("DELETE FROM writes WHERE id = ?", [(id_,) for id_ in ids])

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
        with self._clear_errors(), self._db:
            self._set_run(run, "mlflow_id", mlflow_id, "excluded.mlflow_id")

    def _get(self, column: str, table: str, run: str) -> Any:
        with self._clear_errors():
            row = self._db.execute(f"SELECT {column} FROM {table} WHERE run = ?", (run,)).fetchone()
        return row[0] if row else None

    def _set_run(self, run: str, column: str, value: object, update: str) -> None:
        """Insert a run with one value, or update that value with the SQL expression `update`."""
        insert = f"INSERT INTO runs (run, {column}) VALUES (?, ?)"
        self._db.execute(f"{insert} ON CONFLICT (run) DO UPDATE SET {column} = {update}", (run, value))

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Name the file in an error of SQLite that comes from it."""
        try:
            yield
        except sqlite3.Error as error:
            self.file.explain(error, self._db)
            raise

    def close(self) -> None:
        self._db.close()


def _create_tables(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        # The file shrinks again after weights have passed through it. Must be set before the write-ahead log.
        connection.execute("PRAGMA auto_vacuum=FULL")
        connection.executescript(SCHEMA)
