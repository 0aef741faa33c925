"""The databases: opened safely, created whole, locked by one coordinator at a time.

Optuna's storage is reached through `open_storage`. A SQLite file that is damaged, foreign or made by a newer Optuna is
recognised before anything is written to it.
"""

from __future__ import annotations

import functools
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import filelock
import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.errors import StorageError, UsageError
from search.masking import first_line, mask
from search.ownership import Hold, hold_in_file, hold_in_server, key
from search.postgres import DRIVERS, LastingStorage, Outage, arguments, connect_alone, explained, shown
from search.writer import WriterStorage

WAIT_S = 30.0
"""How long a write waits for another process, such as a dashboard that reads."""

OPTUNA_TABLE = "studies"
MLFLOW_TABLE = "experiments"


def parse_url(text: str) -> URL:
    """Check a `--storage` URL. Raises UsageError when it names nothing that a study can live in."""
    allowed = "allowed: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except ArgumentError:
        raise UsageError(f"--storage {mask(text)!r} is no database URL; {allowed}") from None
    if url.drivername not in ("sqlite", *DRIVERS):
        raise UsageError(f"--storage {shown(url)!r} is not supported; {allowed}")
    if url.get_backend_name() == "sqlite" and not url.database:
        raise UsageError(f"--storage {text!r} names no file; {allowed}")
    return url


def sqlite_file(text: str) -> Path | None:
    """The file behind a URL of any kind; None when it names no SQLite file."""
    return sqlite_path(make_url(text)) if text.startswith("sqlite:") else None


def sqlite_path(url: URL) -> Path | None:
    """The file behind a SQLite URL; None for a server."""
    return Path(url.database).absolute() if url.get_backend_name() == "sqlite" and url.database else None


def open_storage(text: str, *, create: bool = True, outage: Outage | None = None) -> WriterStorage:
    """Open Optuna's storage, making it when it is not there and `create` is set.

    `outage` is how a search waits for a server that is away; without it, a call fails then. Raises StorageError when
    the storage is absent, damaged, foreign, newer than this Optuna, or not writable.
    """
    url = parse_url(text)
    path = sqlite_path(url)
    if path is None:
        return _open_in_server(url, create=create, outage=outage)
    if not path.exists():
        if not create:
            raise StorageError(f"there is no study database at {path}; run a search first: python -m search")
        create_whole(path, lambda temporary: _close(_sqlite_storage(temporary)))
    check_sqlite(path, OPTUNA_TABLE)
    return _optuna(lambda: _sqlite_storage(path), str(path))


def _open_in_server(url: URL, *, create: bool, outage: Outage | None) -> WriterStorage:
    with explained(url), connect_alone(url) as session:
        # Starts that make the tables together would trip over each other; the lock ends with the session.
        session.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": key("search")})
        tables = sqlalchemy.inspect(session).get_table_names()
        if OPTUNA_TABLE not in tables and "alembic_version" in tables:
            raise StorageError(
                f"{shown(url)} is a database of something else (it has no table {OPTUNA_TABLE!r}), and was left as it "
                "is: studies need one of their own. Type: createdb optuna, and end --storage with /optuna"
            )
        if OPTUNA_TABLE not in tables and not create:
            raise StorageError(f"there are no studies in {shown(url)}; run a search first: python -m search")
        whole, how = url.render_as_string(hide_password=False), {"connect_args": arguments(url)}
        make = WriterStorage if outage is None else functools.partial(LastingStorage, outage=outage)
        return _optuna(lambda: make(whole, engine_kwargs=how), shown(url))


def _sqlite_storage(path: Path) -> WriterStorage:
    return WriterStorage(f"sqlite:///{path}", engine_kwargs={"creator": lambda: connect(path)})


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for others, lets them read meanwhile, and survives the death of its process."""
    connection = sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _optuna(make: Callable[[], WriterStorage], where: str) -> WriterStorage:
    try:
        return make()
    except RuntimeError as error:  # Optuna's word for another schema; its message says which command upgrades it
        raise StorageError(f"{where} was made by another version of Optuna: {error}") from None
    except (
        SQLAlchemyError,
        sqlite3.Error,
        ImportError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        raise StorageError(f"{where} cannot be opened: {first_line(error)}") from None


def create_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a SQLite file that either does not exist or is complete, whoever else tries and whenever this is killed.

    `fill` writes the database at the temporary path that it gets.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(_locks(path) / ".create"):
        if path.exists():
            return
        temporary = path.with_name(f".{path.name}.new")
        for leftover in path.parent.glob(f"{temporary.name}*"):
            leftover.unlink()
        fill(temporary)
        with closing(sqlite3.connect(temporary)) as connection:
            # Fold the write-ahead log into the file: a rename moves one file. WAL comes back with the first `connect`.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("PRAGMA journal_mode=DELETE")
        os.replace(temporary, path)


def check_sqlite(path: Path, table: str) -> None:
    """Raise StorageError unless `path` is a whole SQLite database that has `table`. Writes nothing.

    SQLite alone opens the file: closing a second descriptor of it would drop the locks that this process holds on it.
    Source: https://sqlite.org/howtocorrupt.html, section 2.2. Raises sqlite3.OperationalError when the disk is full.
    """
    advice = "it was left as it is. Move it away, or name another folder with --workspace DIR"
    if not path.is_file():
        raise StorageError(f"{path} is not a file; {advice}")
    try:
        if not path.stat().st_size:  # SQLite would take it for a database without tables
            raise StorageError(f"{path} is not a SQLite database, or is damaged: it is empty; {advice}")
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as connection:
            connection.execute("PRAGMA query_only=ON")
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:  # no room, no permission, or busy: that says nothing about the content
        if "full" in str(error):
            raise
        raise StorageError(f"{path} cannot be read ({error}); {advice}") from None
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise StorageError(f"{path} is not a SQLite database, or is damaged; {advice}") from None
        raise StorageError(f"{path} is damaged ({error}); {advice}") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror}); {advice}") from None
    if verdict != "ok":
        raise StorageError(f"{path} is damaged ({verdict.splitlines()[-1]}); {advice}")
    if table not in tables:
        raise StorageError(f"{path} is a database of something else (it has no table {table!r}); {advice}")


def hold_study(storage: str, study: str) -> AbstractContextManager[Hold]:
    """Own a study until the block ends or this process dies. Raises StudyHeldError when another one owns it."""
    url = parse_url(storage)
    if (path := sqlite_path(url)) is None:
        return hold_in_server(url, study)
    return hold_in_file(_locks(path), study)


def _locks(database: Path) -> Path:
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def quiet_optuna() -> None:
    """Keep Optuna's own log lines off the terminal; the search says what matters itself."""
    optuna.logging.set_verbosity(logging.ERROR)
