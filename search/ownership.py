"""One coordinator for each study: a lock that its keeper frees when its holder dies.

Beside SQLite it is a file lock, which cannot be lost while the process lives. In PostgreSQL it is a session advisory
lock on a connection of its own; it ends with that connection, so it is looked at before every write and taken again
when the server was away. That another search had the study meanwhile shows in its `holder`, which each search signs.
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

from search import records
from search.errors import StudyHeldError
from search.postgres import connect_alone, explained, signature
from search.workspace import slug

SIGNING_S = 2.0
"""How long a start waits to read who holds the lock that it did not get."""


class Hold(Protocol):
    """The right to write a study."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Leave a mark in the study, by which a later look shows that nobody else has held it since."""
        ...

    def check(self) -> None:
        """Make sure that it is still ours.

        Raises StudyHeldError when it is not, SQLAlchemyError or ConnectionError when nobody can tell.
        """
        ...


def key(name: str) -> int:
    """The number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _held(study: str, holder: str) -> StudyHeldError:
    return StudyHeldError(
        f"study {study!r} is being searched by {holder}.\n"
        f"Wait for it or stop it, or search beside it: add --study {slug(study)}-2 to what you typed"
    )


# ---- beside a file


class FileHold:
    """A file lock: the operating system keeps it as long as this process lives."""

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Nobody can come in between."""

    def check(self) -> None:
        """It cannot be lost."""


@contextmanager
def hold_in_file(folder: Path, study: str) -> Iterator[FileHold]:
    """Hold a study until the block ends. Raises StudyHeldError when another process does."""
    path = folder / f"{slug(study)}.lock"
    lock = filelock.FileLock(path, blocking=False, on_acquired=_write_holder)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise _held(study, _read_holder(path)) from None
    try:
        yield FileHold()
    finally:
        lock.release()


def _write_holder(descriptor: int) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _read_holder(path: Path) -> str:
    """Who signed the lock. Whoever took it this instant signs in the next one; till then the one before is named."""
    named = "another process"
    deadline = time.monotonic() + SIGNING_S
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, KeyError):
            holder: dict[str, Any] = json.loads(path.read_text())
            named = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
            if holder["host"] != socket.gethostname() or _runs(holder["pid"]):
                break
        time.sleep(0.02)
    return named


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


# ---- in a server

TRY = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
WHO = sqlalchemy.text(
    "SELECT application_name, date_trunc('second', backend_start) FROM pg_stat_activity JOIN pg_locks USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
    " AND classid::bigint = :high AND objid::bigint = :low"
)
SIGNED = sqlalchemy.text("SELECT value_json FROM study_user_attributes WHERE study_id = :study AND key = :key")
SILENT = sqlalchemy.text(  # the server is to miss us after a minute when our machine vanished, not after two hours
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false)"
)


class ServerHold:
    """A session advisory lock, on a connection of its own: the server frees it when we vanish. Used by one thread."""

    def __init__(self, url: URL, study: str) -> None:
        """Raises StudyHeldError when another process has the study, StorageError when nobody answers."""
        self._url, self._study, self._key = url, study, key(f"search/{study}")
        self._mark: tuple[int, str] | None = None
        self._was_ours = False
        with explained(url):
            self._session = connect_alone(url)
        self._take(self._session)

    def sign(self, storage: RDBStorage, study_id: int) -> None:
        """Leave a mark that no other search makes."""
        mark = uuid.uuid4().hex
        storage.set_study_user_attr(study_id, records.HOLDER, mark)
        self._mark = study_id, mark  # not before it is stored: a look in between, after an outage, would miss it

    def check(self) -> None:
        """Ask the session for a sign of life, which is a round trip; take the study again in a new one if need be."""
        try:
            self._session.scalar(sqlalchemy.text("SELECT 1"))
        except SQLAlchemyError:
            self.release()
            session = connect_alone(self._url)
            self._take(session)
            self._session = session

    def _take(self, session: sqlalchemy.Connection) -> None:
        """Get the lock, or close the session."""
        try:
            session.execute(SILENT)
            if not session.scalar(TRY, {"key": self._key}):
                raise self._refused(session)
            if self._mark is not None and not self._is_signed(session, *self._mark):
                raise StudyHeldError(
                    f"study {self._study!r} was searched by another process while the database was away.\n"
                    "What both have stored is kept: type the same command again to go on from there"
                )
            self._was_ours = True
        except BaseException:
            session.close()
            raise

    def _refused(self, session: sqlalchemy.Connection) -> Exception:
        holder = session.execute(WHO, {"high": self._key >> 32 & 0xFFFFFFFF, "low": self._key & 0xFFFFFFFF}).first()
        if holder is None or (found := re.fullmatch(r"search (\d+) (.+)", holder[0] or "")) is None:
            return _held(self._study, "another process")
        if holder[0] == signature() and self._was_ours:
            return ConnectionError("the server has not noticed yet that an earlier connection of this search broke")
        return _held(self._study, f"process {found[1]} on {found[2]} since {holder[1]}")

    def _is_signed(self, session: sqlalchemy.Connection, study_id: int, mark: str) -> bool:
        stored = session.scalar(SIGNED, {"study": study_id, "key": records.HOLDER})
        return bool(stored == json.dumps(mark))

    def release(self) -> None:
        """End the session."""
        with suppress(SQLAlchemyError):  # it may have ended already
            self._session.close()


@contextmanager
def hold_in_server(url: URL, study: str) -> Iterator[ServerHold]:
    """Hold a study until the block ends. Raises as ServerHold does."""
    hold = ServerHold(url, study)
    try:
        yield hold
    finally:
        hold.release()
