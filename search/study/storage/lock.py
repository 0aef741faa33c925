"""The lock of a study: one coordinator at a time. It ends with its process.

A SQLite study has a file lock, which a living process cannot lose. In PostgreSQL it is a session advisory lock, which
ends with its connection. So a running search checks it before every call, and takes it again after an outage. Each
search writes a mark into its study, which shows whether another search held the lock meanwhile.
"""

import hashlib
import json
import os
import re
import socket
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
from search.common.workspace import slug
from search.study import records
from search.study.storage.postgres import connection_errors, open_connection, session_name

HOLDER_TIMEOUT_S = 2.0


class StudyLock:
    """The right to write to a study. A file lock needs no mark and no check: a living process cannot lose it."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Write a mark into the study. `check` reads it to learn whether another process held the lock."""

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises StudyHeldError when another process does, SQLAlchemyError or ConnectionError when the server is away.
        """


def lock_number(name: str) -> int:
    """Return the key of an advisory lock: 64 bits, signed."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _held_by(holder: str, study: str) -> StudyHeldError:
    return StudyHeldError(
        f"study {study!r} is being searched by {holder}.\n"
        f"Wait for it, stop it, or start another study: add --study {slug(study)}-2 to what you typed"
    )


@contextmanager
def lock_file(folder: Path, study: str) -> Iterator[StudyLock]:
    """Lock a study until the block ends. Raises StudyHeldError when another process holds it."""
    path = folder / f"{slug(study)}.lock"
    lock = filelock.FileLock(path, blocking=False, on_acquired=_write_holder)
    try:
        acquired = lock.acquire()
    except filelock.Timeout:
        raise _held_by(_read_holder(path), study) from None
    with acquired:
        yield StudyLock()


def _write_holder(descriptor: int) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> str:
    """Name the process that holds the lock. It writes its name just after it takes the lock, so wait for that."""
    deadline, name = time.monotonic() + HOLDER_TIMEOUT_S, "another process"
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            name = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
            if holder["host"] != socket.gethostname() or _is_alive(holder["pid"]):
                break
        time.sleep(0.02)
    return name  # of a dead process only where this one cannot see the holder, as in another container


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
            if not connection.scalar(TRY_LOCK, {"key": self._number}):
                raise self._refusal(connection)
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
        words = {"high": self._number >> 32 & 0xFFFFFFFF, "low": self._number & 0xFFFFFFFF}
        holder, since = connection.execute(READ_HOLDER, words).first() or ("", "")
        if self._connection is not None and holder == session_name():
            return ConnectionError("the server has not noticed yet that an earlier connection of this search broke")
        name = re.fullmatch(r"search (\d+) (.+)", holder or "")
        return _held_by(f"process {name[1]} on {name[2]} since {since}" if name else "another process", self._study)

    def close(self) -> None:
        """Close the connection, which ends the lock."""
        assert self._connection is not None, "the lock was taken"
        with suppress(SQLAlchemyError):  # the server may have closed it already
            self._connection.close()


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
