"""The local journal of tracking writes: first here, then to MLflow.

One SQLite file per study. A write is one short transaction, so a killed search loses none and an unreachable server
holds up nobody. A delivered write is deleted; what MLflow called a run is kept, so that a resumed search finds it.

Threads: any number, each with a `Journal` of its own. Processes: one appends and delivers, others may look.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from search.sqlite import check_sqlite, connect

Kind = Literal["run", "metrics", "file", "pictures", "tags", "end"]

PARENT = "study"
"""The name of the parent run here."""

EXPERIMENT = "experiment"
"""That of the experiment, whose id is kept beside those of runs."""

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
    """The name of a trial's run here."""
    return f"trial-{number}"


def confirm_run(number: int, repeat: int) -> str:
    """That of a trial's training on its fresh seed `repeat`, 1-based."""
    return f"confirm-{number}-{repeat}"


def refit_run(number: int) -> str:
    """That of a winner's training on all but the test split."""
    return f"refit-{number}"


@dataclass(frozen=True)
class Write:
    """One write on its way: to which run, what kind, what."""

    id: int
    run: str
    """The search's own name of it."""
    kind: Kind
    body: Mapping[str, Any]
    content: bytes | None


class Journal:
    """The journal at `path`, made when it is not there. Use one per thread.

    Raises StorageError when the file is damaged or something else.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.new")
            temporary.unlink(missing_ok=True)
            with closing(sqlite3.connect(temporary)) as fresh:
                fresh.execute("PRAGMA auto_vacuum=FULL")  # weights pass through: the file is to shrink again
                fresh.executescript(SCHEMA)  # before `connect`: with a write-ahead log it is too late for that
            os.replace(temporary, path)
        check_sqlite(path, "writes")
        self._db = connect(path)

    def append(
        self,
        run: str,
        kind: Kind,
        body: Mapping[str, Any],
        content: bytes | None = None,
        *,
        step: int = 0,
        verdict: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one write. `step` is the last step of the run that it covers, `verdict` how the run ended with it."""
        with self._db:
            self._db.execute(
                "INSERT INTO runs (run, last_step) VALUES (?, ?)"
                " ON CONFLICT (run) DO UPDATE SET last_step = max(last_step, excluded.last_step)",
                (run, step),
            )
            self._db.execute(
                "INSERT INTO writes (run, kind, body, content) VALUES (?, ?, ?, ?)",
                (run, kind, json.dumps(body), content),
            )
            if verdict is not None:
                self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (run, json.dumps(verdict)))

    def pending(self, limit: int) -> list[Write]:
        """The oldest writes that are not delivered, in order."""
        rows = self._db.execute("SELECT id, run, kind, body, content FROM writes ORDER BY id LIMIT ?", (limit,))
        return [Write(id_, run, kind, json.loads(body), content) for id_, run, kind, body, content in rows]

    def n_pending(self) -> int:
        """How many writes are not delivered."""
        return int(self._db.execute("SELECT count(*) FROM writes").fetchone()[0])

    def delivered(self, *ids: int) -> None:
        """Forget writes that have arrived."""
        with self._db:
            self._db.executemany("DELETE FROM writes WHERE id = ?", [(id_,) for id_ in ids])

    def knows(self, run: str) -> bool:
        """Whether anything was ever written of this run."""
        return self._db.execute("SELECT 1 FROM runs WHERE run = ?", (run,)).fetchone() is not None

    def last_step(self, run: str) -> int:
        """The last step of a run that was written; 0 before the first."""
        row = self._db.execute("SELECT last_step FROM runs WHERE run = ?", (run,)).fetchone()
        return int(row[0]) if row else 0

    def verdict(self, run: str) -> dict[str, Any] | None:
        """How the run ended; None while it has not."""
        row = self._db.execute("SELECT verdict FROM verdicts WHERE run = ?", (run,)).fetchone()
        return json.loads(row[0]) if row else None

    def mlflow_id(self, run: str) -> str | None:
        """What MLflow calls this run; None before it was delivered."""
        row = self._db.execute("SELECT mlflow_id FROM runs WHERE run = ?", (run,)).fetchone()
        return row[0] if row else None

    def set_mlflow_id(self, run: str, mlflow_id: str) -> None:
        """Keep what MLflow calls this run."""
        with self._db:
            self._db.execute(
                "INSERT INTO runs (run, mlflow_id) VALUES (?, ?)"
                " ON CONFLICT (run) DO UPDATE SET mlflow_id = excluded.mlflow_id",
                (run, mlflow_id),
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()
