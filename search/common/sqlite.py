"""SQLite files of Optuna, MLflow and the journal: opened safely, created atomically, checked for damage, left whole."""

import atexit
import glob
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Set
from contextlib import closing, suppress
from pathlib import Path
from weakref import WeakSet

import filelock
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from search.common.errors import DatabaseLockedError, StorageError, UsageError

BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for another process, such as a dashboard."""

LOCK_TIMEOUT_S = 1.0
"""A shorter wait, for callers that try again: SQLite waits in C, where Ctrl-C has no effect."""

FOLD_TIMEOUT_S = 2.0
"""How long the end of a command waits for readers of a file."""

MAX_PATH_BYTES = 499
"""SQLite opens a path of at most 504 bytes (512 with the ending of a file beside it; MAX_PATHNAME in its os_unix.c).

`build` needs 5 of them.
"""

OPTUNA_TABLE, MLFLOW_TABLE = "studies", "experiments"

_engines: WeakSet[Engine] = WeakSet()  # all of this process: Optuna and MLflow keep their connections open
_opened: set[Path] = set()  # the files that this program has opened here; other engines are the user's own
_written: set[Path] = set()  # those of them that it has opened for writing


# ---- names


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file. Any name works that is UTF-8 and not too long; raises UsageError for others.

    A URL with escapes names its driver as well: MLflow would take the escapes for the name of a folder, and make it.
    """
    url = URL.create("sqlite", database=str(check_path(path)))
    text = url.render_as_string()
    return url.set(drivername="sqlite+pysqlite").render_as_string() if "%" in text else text


def sqlite_file(url: str | URL) -> Path | None:
    """Return the file of a SQLite URL; None for any other URL, and for a text that is not a URL."""
    try:
        database = make_url(url).database if str(url).startswith("sqlite") else None
    except (ArgumentError, ValueError):  # the latter for a port that is not a number
        return None
    return Path(database).absolute() if database else None


def check_path(path: Path) -> Path:
    """Return the path of a SQLite file. Raises UsageError if it is too long for SQLite, or not UTF-8."""
    shorter = "name another folder with --workspace DIR"
    try:
        n_bytes = len(str(path.absolute()).encode())
    except UnicodeEncodeError:
        text = os.fsencode(path).decode(errors="replace")
        if "\ufffd" in text:
            raise UsageError(f"{text!r} is not a name in UTF-8, as MLflow needs it; rename it, or {shorter}") from None
        encoding = f"Python reads names as {sys.getfilesystemencoding()} here; type: export PYTHONUTF8=1"
        raise UsageError(f"{text!r} cannot be used: {encoding}") from None
    if n_bytes > MAX_PATH_BYTES:
        limit = f"SQLite opens files whose whole path has at most {MAX_PATH_BYTES} bytes, and this one has {n_bytes}"
        raise UsageError(f"{path}: {limit}; {shorter}")
    return path


# ---- connections


def connect(path: Path, timeout_s: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """Open a connection that waits for other writers and does not block readers. The file is folded at the end.

    Raises DatabaseLockedError when another program keeps the file locked.
    """
    _opened.add(path.absolute())
    _written.add(path.absolute())
    connection = sqlite3.connect(check_path(path), timeout=timeout_s, check_same_thread=False)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error as error:
        connection.close()
        if is_locked(error):
            raise DatabaseLockedError(path) from None
        raise
    return connection


def connect_to_read(path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> sqlite3.Connection:
    """Open a connection to an existing file. It refuses writes, and leaves the journal mode as it is."""
    connection = sqlite3.connect(_existing(path), uri=True, timeout=timeout_s, check_same_thread=False)
    connection.execute("PRAGMA query_only=ON")
    return connection


def is_locked(error: BaseException | None) -> bool:
    """Return whether a call failed because another connection has locked the file."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def check_free(path: Path) -> None:
    """Raise DatabaseLockedError if another program has locked the file, so that nobody else can write."""
    with closing(sqlite3.connect(_existing(path), uri=True, timeout=LOCK_TIMEOUT_S)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if is_locked(error):
                raise DatabaseLockedError(path) from None
            raise


@event.listens_for(Engine, "engine_connect")
def _remember(connection: Connection) -> None:
    _engines.add(connection.engine)


# ---- at rest


def fold(path: Path) -> None:
    """Bring everything into the file itself. If nobody else has it open, also end WAL mode: no file stays beside it.

    WAL mode is for the time of writing. In that mode a copy of the file alone lacks what the write-ahead log holds, and
    SQLite opens no such file in a folder that it cannot write. Does nothing to a file that it cannot open or write.
    """
    with suppress(sqlite3.Error):
        _fold(path)


def checkpoint(path: Path) -> None:
    """Bring what is committed into the file itself while it is in use, so that a copy has it. Takes a millisecond."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(_existing(path), uri=True, timeout=0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _fold(path: Path) -> None:
    with closing(sqlite3.connect(_existing(path), uri=True, timeout=FOLD_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")  # fails at once if another connection is open


def _existing(path: Path) -> str:
    """Return SQLite's own URI of a file, which does not create it. A write-protected file is opened to be read."""
    return f"{path.absolute().as_uri()}?mode=rw"


@atexit.register
def close_databases() -> None:
    """Close the connections that Optuna and MLflow keep in this process, then fold every file that it has written."""
    _close_engines(_opened)
    while _written:
        fold(_written.pop())


def _close_engines(files: Set[Path]) -> None:
    for engine in tuple(_engines):
        if sqlite_file(engine.url) in files:
            engine.dispose()


def readable(path: Path) -> Path:
    """Return the file to read: `path`, or its temporary copy where SQLite cannot read it.

    SQLite creates files beside one in WAL mode, even to read it, and so fails in a write-protected folder. The copy has
    the write-ahead log, if there is one, and ends with this process.
    """
    try:
        with closing(connect_to_read(path)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
        path = _copy(path)
    _opened.add(path.absolute())
    return path


def temporary_folder() -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="search-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _copy(path: Path) -> Path:
    folder = temporary_folder()
    for suffix in ("", "-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        if not suffix or beside.exists():
            shutil.copyfile(beside, folder / beside.name)
    return folder / path.name


def require_writable(path: Path) -> None:
    """Raise StorageError if this user cannot write the file, or the folder in which SQLite creates files beside it."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not all(os.access(part, os.W_OK) for part in (folder, path) if part.exists()):
        what = "Commands that only read work here: studies, show, export, predict, report --output FILE"
        advice = "To go on, copy the folder to a place that you can write, or name one with --workspace DIR"
        raise StorageError(f"{path} cannot be written: it or its folder is read-only for this user. {what}. {advice}")


# ---- creation and checks


def create_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Create a SQLite file that is either absent or complete, even if other processes try too. Keeps an existing one.

    `fill` writes the database to the temporary path that it gets.
    """
    if path.exists():
        return
    require_writable(path)
    with filelock.FileLock(lock_folder(path) / ".create"):
        if not path.exists():
            build(path, fill)


def build(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a SQLite file under a temporary name, and rename it when it is complete. One process may do this."""
    check_path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    for leftover in path.parent.glob(f"{glob.escape(temporary.name)}*"):
        leftover.unlink()
    fill(temporary)
    _close_engines({temporary.absolute()})  # MLflow keeps its connection
    _fold(temporary)  # a rename moves one file
    for suffix in ("-wal", "-shm", "-journal"):  # of a file that was removed after a kill: SQLite would apply them
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    os.replace(temporary, path)


def lock_folder(database: Path) -> Path:
    """Return the folder of the lock files beside a database. Creates it if absent."""
    folder = database.with_name(f"{database.name}.locks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_sqlite(path: Path, table: str, *, wait_s: float = BUSY_TIMEOUT_S) -> None:
    """Check that `path` is an undamaged SQLite database that has `table`. Writes nothing. Waits while it is locked.

    Only SQLite opens the file, because closing a second descriptor would drop the locks of this process.
    Source: https://sqlite.org/howtocorrupt.html, section 2.2.

    Raises StorageError when the check fails, DatabaseLockedError when another program has locked the file,
    sqlite3.OperationalError when the disk is full.
    """
    advice = "it was left as it is. Move it away, or name another folder with --workspace DIR"
    if not path.is_file():
        raise StorageError(f"{path} is not a file; {advice}")
    if not path.stat().st_size:  # SQLite reads an empty file as a database without tables
        raise StorageError(f"{path} is not a SQLite database, or is damaged: it is empty; {advice}")
    try:
        verdict, tables = _inspect(path, time.monotonic() + wait_s)
    except sqlite3.OperationalError as error:  # the file may be intact
        if "full" in str(error):
            raise
        if is_locked(error):
            raise DatabaseLockedError(path) from None
        raise StorageError(f"{path} cannot be read ({error}); {advice}") from None
    except PermissionError as error:
        remedy = "ask its owner for the right to read it, or name another folder with --workspace DIR"
        raise StorageError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except sqlite3.DatabaseError as error:
        damage = "not a SQLite database, or is damaged" if "not a database" in str(error) else f"damaged ({error})"
        raise StorageError(f"{path} is {damage}; {advice}") from None
    if verdict != "ok":
        raise StorageError(f"{path} is damaged ({verdict.splitlines()[-1]}); {advice}")
    if table not in tables:
        raise StorageError(f"{path} is a database of something else (it has no table {table!r}); {advice}")


def _inspect(path: Path, deadline: float) -> tuple[str, set[str]]:
    """Return SQLite's verdict on the file and the names of its tables."""
    try:
        with closing(connect_to_read(readable(path))) as connection:
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return verdict, tables
    except sqlite3.OperationalError as error:
        if not is_locked(error) or time.monotonic() > deadline:
            raise
    time.sleep(0.1)
    return _inspect(path, deadline)
