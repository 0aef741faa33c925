"""SQLite files of Optuna, MLflow and the journal: opened safely, created atomically, checked for damage."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import filelock
from sqlalchemy.engine import URL, make_url

from search.common.errors import StorageError

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process, such as a dashboard."""

OPTUNA_TABLE, MLFLOW_TABLE = "studies", "experiments"


def sqlite_file(url: str | URL) -> Path | None:
    """Return the file of a SQLite URL; None for any other URL."""
    database = make_url(url).database if str(url).startswith("sqlite") else None
    return Path(database).absolute() if database else None


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that waits for other writers and does not block readers."""
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def create_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Create a SQLite file that is either absent or complete, even if other processes try too. Keeps an existing one.

    `fill` writes the database to the temporary path that it gets.
    """
    if path.exists():
        return
    with filelock.FileLock(lock_folder(path) / ".create"):
        if not path.exists():
            build(path, fill)


def build(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a SQLite file under a temporary name, and rename it when it is complete. One process may do this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    for leftover in path.parent.glob(f"{temporary.name}*"):
        leftover.unlink()
    fill(temporary)
    with closing(sqlite3.connect(temporary)) as connection:
        # Fold the write-ahead log into the file, because a rename moves one file. `connect` turns WAL on again.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    os.replace(temporary, path)


def lock_folder(database: Path) -> Path:
    """Return the folder of the lock files beside a database. Creates it if absent."""
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_sqlite(path: Path, table: str) -> None:
    """Check that `path` is an undamaged SQLite database that has `table`. Writes nothing.

    Only SQLite opens the file, because closing a second descriptor would drop the locks of this process.
    Source: https://sqlite.org/howtocorrupt.html, section 2.2.

    Raises StorageError when the check fails, sqlite3.OperationalError when the disk is full.
    """
    advice = "it was left as it is. Move it away, or name another folder with --workspace DIR"
    if not path.is_file():
        raise StorageError(f"{path} is not a file; {advice}")
    if not path.stat().st_size:  # SQLite reads an empty file as a database without tables
        raise StorageError(f"{path} is not a SQLite database, or is damaged: it is empty; {advice}")
    try:
        verdict, tables = _inspect(path)
    except sqlite3.OperationalError as error:  # disk full, no permission, or busy: the file may be intact
        if "full" in str(error):
            raise
        raise StorageError(f"{path} cannot be read ({error}); {advice}") from None
    except sqlite3.DatabaseError as error:
        damage = "not a SQLite database, or is damaged" if "not a database" in str(error) else f"damaged ({error})"
        raise StorageError(f"{path} is {damage}; {advice}") from None
    if verdict != "ok":
        raise StorageError(f"{path} is damaged ({verdict.splitlines()[-1]}); {advice}")
    if table not in tables:
        raise StorageError(f"{path} is a database of something else (it has no table {table!r}); {advice}")


def _inspect(path: Path) -> tuple[str, set[str]]:
    """Return SQLite's verdict on the file and the names of its tables."""
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA query_only=ON")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return verdict, tables
