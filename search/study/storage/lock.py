"""The lock of a study: one coordinator at a time, and a dead one holds nothing.

Beside SQLite it is a file lock, which cannot be lost while the process lives. In PostgreSQL it is a session advisory
lock on its own connection. It ends with that connection, so it is checked before every write and taken again after the
server was away. Each search writes its own mark into the study, which shows whether another one held it meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import filelock
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from search.common.errors import StudyHeldError
from search.common.workspace import slug
from search.study import records
from search.study.storage.postgres import connection_errors, open_connection, session_name

HOLDER_TIMEOUT_S = 2.0
"""How long to wait until the file names a living holder, which writes its name just after it takes the lock."""


class StudyLock(Protocol):
    """The right to write to a study."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Write a mark into the study. A later `check` reads it to see that nobody else held the lock."""
        ...

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises StudyHeldError when another process does, SQLAlchemyError or ConnectionError when the server is away.
        """
        ...


def lock_number(name: str) -> int:
    """The key of an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _held_by(holder: str, study: str) -> StudyHeldError:
    return StudyHeldError(
        f"study {study!r} is being searched by {holder}.\n"
        f"Wait for it or stop it, or search beside it: add --study {slug(study)}-2 to what you typed"
    )


# ---- beside a SQLite file


class FileLock:
    """A lock file. The operating system keeps the lock for as long as this process lives."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Do nothing: no other process can take the lock meanwhile."""

    def check(self) -> None:
        """Do nothing: the lock cannot be lost."""


@contextmanager
def lock_file(folder: Path, study: str) -> Iterator[FileLock]:
    """Lock a study until the block ends. Raises StudyHeldError when another process holds it."""
    path = folder / f"{slug(study)}.lock"
    lock = filelock.FileLock(path, blocking=False, on_acquired=_write_holder)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _held_by(_read_holder(path), study) from None
    try:
        yield FileLock()
    finally:
        lock.release()


def _write_holder(descriptor: int) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> str:
    """Who holds the lock. A new holder needs a moment to write its name, so a dead one is read again for a while."""
    named = "another process"
    deadline = time.monotonic() + HOLDER_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            holder: dict[str, Any] = json.loads(path.read_text())
            named = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
            if holder["host"] != socket.gethostname() or _is_alive(holder["pid"]):
                break
        time.sleep(0.02)
    return named


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the process of another user
        pass
    return True


# ---- in PostgreSQL

TRY_LOCK = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
READ_HOLDER = sqlalchemy.text(
    "SELECT application_name, date_trunc('second', backend_start) FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    " AND classid::bigint = :high AND objid::bigint = :low"
)
# Read from optuna 5.0.0: the table behind `set_study_user_attr`. The lock has a connection of its own, so it cannot ask
# Optuna's storage.
READ_MARK = sqlalchemy.text("SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key")
# The server frees the lock of a machine that vanished after a minute, not after two hours.
SET_KEEPALIVE = sqlalchemy.text(
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)


class AdvisoryLock:
    """A session advisory lock on its own connection: the server frees it when this process dies. For one thread."""

    def __init__(self, url: URL, study: str) -> None:
        """`take` takes it."""
        self._url, self._study, self._number = url, study, lock_number(f"search/{study}")
        self._connection: sqlalchemy.Connection | None = None
        self._mark: tuple[int, str] | None = None
        self._was_held = False

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Write a mark that no other search writes."""
        mark = uuid.uuid4().hex
        storage.set_study_user_attr(study_id, records.HOLDER, mark)
        self._mark = study_id, mark  # only once it is stored: a `check` in between, after an outage, would miss it

    def check(self) -> None:
        """Make a round trip to the server. When the connection broke, take the lock again on a new one."""
        assert self._connection is not None, "the lock was taken"
        try:
            self._connection.scalar(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:
            self.release()
            self.take()

    def take(self) -> None:
        """Connect and take the lock.

        Raises StudyHeldError when another process has it, or had it since it was lost. Raises SQLAlchemyError or
        ConnectionError when the server is away.
        """
        connection = open_connection(self._url)
        try:
            connection.execute(SET_KEEPALIVE)
            if not connection.scalar(TRY_LOCK, {"key": self._number}):
                raise self._refusal(connection)
            if self._mark is not None and not self._has_mark(connection, *self._mark):
                raise StudyHeldError(
                    f"study {self._study!r} was searched by another process while the database was away.\n"
                    "What both have stored is kept: type the same command again to go on from there"
                )
        except BaseException:
            connection.close()
            raise
        self._connection, self._was_held = connection, True

    def _refusal(self, connection: sqlalchemy.Connection) -> Exception:
        halves = {"high": self._number >> 32 & 0xFFFFFFFF, "low": self._number & 0xFFFFFFFF}
        holder = connection.execute(READ_HOLDER, halves).first()
        if holder is None or (name := re.fullmatch(r"search (\d+) (.+)", holder[0] or "")) is None:
            return _held_by("another process", self._study)
        if holder[0] == session_name() and self._was_held:
            return ConnectionError("the server has not noticed yet that an earlier connection of this search broke")
        return _held_by(f"process {name[1]} on {name[2]} since {holder[1]}", self._study)

    def _has_mark(self, connection: sqlalchemy.Connection, study_id: int, mark: str) -> bool:
        stored = connection.scalar(READ_MARK, {"study": study_id, "key": records.HOLDER})
        return bool(stored == json.dumps(mark))

    def release(self) -> None:
        """Close the connection, and with it the lock."""
        assert self._connection is not None, "the lock was taken"
        with suppress(SQLAlchemyError):  # the server may have closed it already
            self._connection.close()


@contextmanager
def lock_on_server(url: URL, study: str) -> Iterator[AdvisoryLock]:
    """Lock a study until the block ends.

    Raises StudyHeldError when another process holds it, StorageError when the server does not answer.
    """
    lock = AdvisoryLock(url, study)
    with connection_errors(url):
        lock.take()
    try:
        yield lock
    finally:
        lock.release()
