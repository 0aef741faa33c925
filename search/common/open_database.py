"""Notices that an open SQLite file was removed, moved, replaced or emptied, which SQLite itself does not.

A process that has a file open goes on writing to it after it was removed, and all of that is lost when it ends.
"""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock

from search.common.errors import StorageError

IN_USE = "while this search was using it"
AGAIN = "then type the same command again, which continues"


class OpenDatabase:
    """Watches over a SQLite file that is open here. Any thread may use it."""

    def __init__(self, path: Path, *, left: str) -> None:
        """Begin with the file that is at `path` now. `left` says what is left if the file is lost."""
        self.path, self._left, self._lock = path, left, Lock()
        status = path.stat()
        self._identity = status.st_dev, status.st_ino
        self._loss: StorageError | None = None

    def check(self, connection: sqlite3.Connection | None) -> None:
        """Check that the path still leads to the open file.

        If not, raises StorageError, now and later. What `connection` still reads is written to a file before that.
        """
        with self._lock:
            if self._loss is None and (loss := self._describe_loss(connection)) is not None:
                self._loss = StorageError(loss)
        if self._loss is not None:
            raise self._loss

    def explain(self, error: BaseException, connection: sqlite3.Connection | None) -> None:
        """Raise StorageError that names the file for an error of SQLite that comes from it. Return for another one."""
        self.check(connection)
        text = str(error)
        if not isinstance(error, sqlite3.Error) or "full" in text:
            return
        if "malformed" in text or "not a database" in text:
            raise StorageError(f"{self.path} was damaged {IN_USE} ({text}). {self._left}") from error
        if any(word in text for word in ("readonly", "I/O", "unable to open")):
            fix = f"Nothing that was stored is lost: make {self.path.parent} writable again, {AGAIN}"
            raise StorageError(f"{self.path} cannot be read or written any more ({text}). {fix}") from error

    def _describe_loss(self, connection: sqlite3.Connection | None) -> str | None:
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return self._describe_absence(connection)
        except OSError:  # a network share that is away, or a folder without rights: SQLite itself raises an error
            return None
        if (status.st_dev, status.st_ino) != self._identity:
            saved = self.path.with_name(f"{self.path.name}.rescued-{os.getpid()}")
            what = f"{self.path} was replaced by another file {IN_USE}"
            failure = self._save(connection, saved)
            self._drop_logs()
            if failure is not None:
                return f"{what}, and what it held could not be saved ({failure}). {self._left}"
            return f"{what}. What the search had stored is in {saved}: keep one of both as {self.path.name}, {AGAIN}"
        if not status.st_size:
            return f"{self.path} was emptied {IN_USE}. {self._left}. Move it away to start over, or restore a copy"
        return None

    def _describe_absence(self, connection: sqlite3.Connection | None) -> str:
        if (place := _open_here(self._identity)) is not None:
            with suppress(sqlite3.Error):  # the log stays at the old place: fold it into the file that was moved
                if connection is not None:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return f"{self.path} was moved to {place} {IN_USE}. Nothing is lost: move it back, {AGAIN}"
        self._drop_logs()
        if (failure := self._save(connection, self.path)) is not None:
            return f"{self.path} was removed {IN_USE}, and could not be written again ({failure}). {self._left}"
        again = "It was still open, and has been written again with all that it held"
        return f"{self.path} was removed {IN_USE}. {again}. Find out what removes it, {AGAIN}"

    def _drop_logs(self) -> None:
        """Remove the logs of the file that is gone: SQLite would mix them with the one that takes its place."""
        for suffix in ("-wal", "-shm"):
            log = self.path.with_name(self.path.name + suffix)
            with suppress(OSError):
                status = log.stat()
                if not self.path.exists() or _open_here((status.st_dev, status.st_ino)):
                    log.unlink()

    def _save(self, connection: sqlite3.Connection | None, path: Path) -> str | None:
        """Write what the connection still reads to a new file. Return why that failed, or None."""
        if connection is None:
            return "no connection to it is left"
        temporary = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(temporary)) as copy:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            os.replace(temporary, path)
        except (sqlite3.Error, OSError) as error:
            return str(error)
        return None


def _open_here(identity: tuple[int, int]) -> str | None:
    """The path that a file which is open here has now; None if it has none, or if this system does not tell."""
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                status = entry.stat()
                if (status.st_dev, status.st_ino) == identity and os.path.exists(place := os.readlink(entry)):
                    return place
    return None
