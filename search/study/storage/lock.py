"""The lock of a study: one coordinator at a time. It ends with its process.

A SQLite study has a file lock, which ends with its process. In PostgreSQL it is a session advisory lock, which
ends with its connection. So a running search checks it before every call, and takes it again after an outage. Each
search writes a mark into its study, which shows whether another search held the lock meanwhile.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from search.common.errors import StudyHeldError
from search.common.open_database import OpenDatabase
from search.common.sqlite import lock_folder
from search.common.workspace import slug
from search.study import records
from search.study.state import Holder
from search.study.storage.postgres import connection_errors, open_connection, session_name

HOLDER_TIMEOUT_S = 2.0
"""How long a refused start waits for the name of the process that has just locked a file."""
READER_TIMEOUT_S = 0.5
"""How long a start tries to lock a file. A reader, which asks whether it is locked, holds it for some microseconds."""
SERVER_TIMEOUT_S = 1.0
"""How long a start tries to lock a study on a server, which frees the lock a moment after a search was killed."""


class StudyLock:
    """The right to write to a study."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Write a mark into the study. `check` reads it to learn whether another process held the lock."""

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises StudyHeldError when another process does, SQLAlchemyError or ConnectionError when the server is away.
        """


def lock_number(name: str) -> int:
    """Return the key of an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _held_by(holder: Holder, study: str) -> StudyHeldError:
    return StudyHeldError(
        f"study {study!r} is being searched by {holder}.\n"
        f"Wait for it, stop it, or start another study: add --study {slug(study)}-2 to what you typed"
    )


class FileLock(StudyLock):
    """The lock file of a SQLite database. Every transaction checks that both files are still there."""

    def __init__(self, database: Path, study: str) -> None:
        self._database, self._study = database, study
        self._locks: list[filelock.BaseFileLock] = []
        self._identity: tuple[int, int] | None = None
        self.take()

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        left = "MLflow keeps the runs that were delivered to it"
        watched = OpenDatabase(self._database, left=left)

        def before(connection: sqlalchemy.Connection) -> None:
            watched.check(_driver_connection(connection))
            self.check()

        def after(context: sqlalchemy.engine.ExceptionContext) -> None:
            driver = None if context.connection is None else _driver_connection(context.connection)
            watched.explain(context.original_exception, driver)

        sqlalchemy.event.listen(storage.engine, "begin", before)
        sqlalchemy.event.listen(storage.engine, "handle_error", after)

    def check(self) -> None:
        """Take the lock again if its file was removed. Raises StudyHeldError when another process was faster."""
        if self._identity != _identity(lock_path(lock_folder(self._database), self._study)):
            self.take()

    def take(self) -> None:
        """Take the lock. Raises StudyHeldError when another process holds it."""
        path = lock_path(lock_folder(self._database), self._study)
        lock = filelock.FileLock(path, timeout=READER_TIMEOUT_S, on_acquired=_write_holder)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise _held_by(_await_holder(path), self._study) from None
        self._locks.append(lock)
        self._identity = _identity(path)

    def close(self) -> None:
        """End the lock."""
        for lock in self._locks:
            lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino
    return None


def _driver_connection(connection: sqlalchemy.Connection) -> sqlite3.Connection | None:
    driver: Any = connection.connection.driver_connection
    return driver if isinstance(driver, sqlite3.Connection) else None


@contextmanager
def lock_file(database: Path, study: str) -> Iterator[StudyLock]:
    """Lock a study in a SQLite file until the block ends. Raises StudyHeldError when another process holds it."""
    with closing(FileLock(database, study)) as lock:
        yield lock


def _write_holder(descriptor: int) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def lock_path(folder: Path, study: str) -> Path:
    """Return the lock file of a study in a folder of lock files."""
    return folder / f"{slug(study)}.lock"


def holder_of_file(path: Path) -> Holder | None:
    """Return the process that holds a lock file; None if none does. Works in a folder that cannot be written to.

    A shared lock shows it. It is held for some microseconds, for which a start has patience.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # no search was here
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(path) or Holder()
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return None


def _read_holder(path: Path) -> Holder | None:
    """Read what the last holder of a lock file wrote into it; None if that is not complete."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Holder(values["pid"], values["host"], values["since"])
    return None


def _await_holder(path: Path) -> Holder:
    """Name the process that holds the lock. It writes its name just after it takes the lock, so wait for that."""
    deadline, holder = time.monotonic() + HOLDER_TIMEOUT_S, None
    while time.monotonic() < deadline:
        holder = _read_holder(path)
        if holder is not None and (holder.host != socket.gethostname() or _is_alive(holder.pid or 0)):
            break
        time.sleep(0.02)
    return holder or Holder()  # a dead process only where the holder is out of sight, as in another container


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # the process of another user
    return True


TRY_LOCK = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
READ_HOLDER = sqlalchemy.text(
    "SELECT application_name, date_trunc('second', backend_start) FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    " AND classid::bigint = :high AND objid::bigint = :low"
)
# private, as in Optuna 5.0.0: the table of `set_study_user_attr`, read here on the connection of the lock.
READ_MARK = sqlalchemy.text("SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key")
# With these, the server frees the lock of a machine that vanished after one minute instead of two hours.
SET_KEEPALIVE = sqlalchemy.text(
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)


class AdvisoryLock(StudyLock):
    """A session advisory lock on its own connection: the server frees it when this process dies. For one thread."""

    def __init__(self, url: URL, study: str) -> None:
        self._url, self._study, self._number = url, study, lock_number(f"search/{study}")
        self._connection: sqlalchemy.Connection | None = None
        self._mark: tuple[int, str] | None = None

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        mark = uuid.uuid4().hex
        storage.set_study_user_attr(study_id, records.HOLDER, mark)  # which calls `check`, maybe before it is stored
        self._mark = study_id, mark

    def check(self) -> None:
        """Make a round trip to the server. If the connection broke, take the lock again on a new one."""
        assert self._connection is not None, "the lock was taken"
        try:
            self._connection.scalar(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:
            self.close()
            self.take()

    def take(self) -> None:
        """Connect and take the lock. Raises what `check` raises; StudyHeldError also if another process had it."""
        connection = open_connection(self._url)
        try:
            connection.execute(SET_KEEPALIVE)
            deadline = time.monotonic() + SERVER_TIMEOUT_S
            while not connection.scalar(TRY_LOCK, {"key": self._number}):
                if time.monotonic() > deadline:
                    raise self._refusal(connection)
                time.sleep(0.02)
            if self._mark is not None and not _has_mark(connection, *self._mark):
                raise StudyHeldError(
                    f"study {self._study!r} was searched by another process while the database was away.\n"
                    "The trials of both are stored: type the same command again to continue from there"
                )
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _refusal(self, connection: sqlalchemy.Connection) -> Exception:
        name, holder = _find_holder(connection, self._number)
        if self._connection is not None and name == session_name():
            return ConnectionError("the server has not noticed yet that an earlier connection of this search broke")
        return _held_by(holder or Holder(), self._study)

    def close(self) -> None:
        """Close the connection, which ends the lock."""
        assert self._connection is not None, "the lock was taken"
        with suppress(SQLAlchemyError):  # the server may have closed it already
            self._connection.close()


def _find_holder(connection: sqlalchemy.Connection, number: int) -> tuple[str, Holder | None]:
    """Return the name of the connection that holds an advisory lock, and its process; None if none holds it."""
    words = {"high": number >> 32 & 0xFFFFFFFF, "low": number & 0xFFFFFFFF}
    if (row := connection.execute(READ_HOLDER, words).first()) is None:
        return "", None
    name, since = row[0] or "", row[1] and str(row[1])  # the time is hidden from users who may not see it
    found = re.fullmatch(r"search (\d+) (.+)", name)
    return name, Holder(int(found[1]), found[2], since) if found else Holder()


def holder_on_server(url: URL, study: str) -> Holder | None:
    """Return the process that holds the lock of a study in PostgreSQL; None if none does.

    Raises StorageError when the server does not answer.
    """
    with connection_errors(url), open_connection(url) as connection:
        return _find_holder(connection, lock_number(f"search/{study}"))[1]


def _has_mark(connection: sqlalchemy.Connection, study_id: int, mark: str) -> bool:
    stored = connection.scalar(READ_MARK, {"study": study_id, "key": records.HOLDER})
    return bool(stored == json.dumps(mark))


@contextmanager
def lock_on_server(url: URL, study: str) -> Iterator[StudyLock]:
    """Lock a study until the block ends.

    Raises StudyHeldError when another process holds it, StorageError when the server does not answer.
    """
    lock = AdvisoryLock(url, study)
    with connection_errors(url):
        lock.take()
    with closing(lock):
        yield lock
