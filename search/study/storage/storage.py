"""Opens and checks Optuna's storage, in a SQLite file or in PostgreSQL, and locks its studies."""

import functools
import logging
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.common.errors import DatabaseLockedError, StorageError, UsageError
from search.common.passwords import first_line, mask
from search.common.sqlite import (
    BUSY_TIMEOUT_S,
    LOCK_TIMEOUT_S,
    OPTUNA_TABLE,
    check_sqlite,
    connect,
    connect_to_read,
    create_whole,
    is_locked,
    readable,
    require_writable,
    sqlite_file,
    sqlite_url,
)
from search.study.state import Holder
from search.study.storage.lock import (
    StudyLock,
    holder_of_file,
    holder_on_server,
    lock_file,
    lock_number,
    lock_on_server,
    lock_path,
)
from search.study.storage.postgres import (
    DRIVERS,
    connect_arguments,
    connection_errors,
    driver_error,
    masked_url,
    open_connection,
)
from search.study.storage.retry import RetryingFile, RetryingStorage, RetryPolicy
from search.study.storage.writer import WriterStorage

if TYPE_CHECKING:
    from optuna.study._frozen import FrozenStudy  # private, as in Optuna 5.0.0


def parse_url(text: str) -> URL:
    """Parse a `--storage` URL. Raises UsageError for an unsupported one."""
    allowed = "allowed: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except ArgumentError:
        raise UsageError(f"--storage {mask(text)!r} is not a database URL; {allowed}") from None
    except ValueError:  # not shown, because it may be the password of a URL without a host
        raise UsageError(f"--storage has a port that is not a number; {allowed}") from None
    if url.drivername not in ("sqlite", "sqlite+pysqlite", *DRIVERS):
        raise UsageError(f"--storage {masked_url(url)!r} is not supported; {allowed}")
    if url.get_backend_name() == "sqlite" and (not url.database or url.database.startswith((":memory:", "file:"))):
        raise UsageError(f"--storage {text!r} names no file; {allowed}")
    return url


def open_storage(text: str, *, create: bool = True, retry: RetryPolicy | None = None) -> WriterStorage:
    """Open Optuna's storage, and create it if it does not exist and `create` is set.

    With `retry`, calls wait while a server is away or a file is locked; without it, they fail.

    Raises StorageError when the storage is absent, damaged, foreign, newer than this Optuna, or not writable.
    """
    quiet_optuna()
    url = parse_url(text)
    path = sqlite_file(url)
    if path is None:
        return _open_on_server(url, create=create, retry=retry)
    if create:
        create_whole(path, lambda temporary: _close(_sqlite_storage(temporary, connect)))
    open_ = functools.partial(_open_file, path, retry)
    return open_() if retry is None else retry.run(open_)


def read_storage(text: str, *, retry: RetryPolicy | None = None) -> WriterStorage:
    """Open an existing storage to read it, which needs no right to write. Raises as `open_storage` does."""
    path = sqlite_file(parse_url(text))
    if path is None:
        return open_storage(text, create=False)
    quiet_optuna()
    open_ = functools.partial(_open_to_read, path, retry)
    return open_() if retry is None else retry.run(open_)


def _open_file(path: Path, retry: RetryPolicy | None) -> WriterStorage:
    _check(path, retry)
    require_writable(path)
    return _with_clear_errors(lambda: _sqlite_storage(path, connect, retry), path)


def _open_to_read(path: Path, retry: RetryPolicy | None) -> WriterStorage:
    _check(path, retry)
    source = readable(path)
    return _with_clear_errors(lambda: _sqlite_storage(source, connect_to_read, retry), path)


def _check(path: Path, retry: RetryPolicy | None) -> None:
    if not path.exists():
        raise StorageError(f"there is no study database at {path}; run a search first: python -m search")
    check_sqlite(path, OPTUNA_TABLE, wait_s=BUSY_TIMEOUT_S if retry is None else 0.0)


def _open_on_server(url: URL, *, create: bool, retry: RetryPolicy | None) -> WriterStorage:
    with connection_errors(url), open_connection(url) as connection:
        # If two processes created the tables at the same time, both would fail. The lock ends with the connection.
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": lock_number("search")})
        tables = sqlalchemy.inspect(connection).get_table_names()
        if OPTUNA_TABLE not in tables and "alembic_version" in tables:
            raise StorageError(
                f"{masked_url(url)} is a database of something else (it has no table {OPTUNA_TABLE!r}), and was left "
                "as it is: studies need one of their own. Type: createdb optuna, and end --storage with /optuna"
            )
        if OPTUNA_TABLE not in tables and not create:
            raise StorageError(f"there are no studies in {masked_url(url)}; run a search first: python -m search")
        whole_url = url.render_as_string(hide_password=False)
        engine_kwargs = {"connect_args": connect_arguments(url)}
        storage = WriterStorage if retry is None else functools.partial(RetryingStorage, retry=retry)
        return _with_clear_errors(lambda: storage(whole_url, engine_kwargs), masked_url(url))


def _sqlite_storage(
    path: Path, connect_: Callable[[Path, float], sqlite3.Connection], retry: RetryPolicy | None = None
) -> WriterStorage:
    """Optuna's storage in an existing file, or in a new one that `create_whole` makes."""
    timeout_s = BUSY_TIMEOUT_S if retry is None else LOCK_TIMEOUT_S
    engine_kwargs = {"creator": functools.partial(connect_, path, timeout_s)}
    if retry is None:
        return WriterStorage(sqlite_url(path), engine_kwargs, skip_table_creation=connect_ is connect_to_read)
    return RetryingFile(sqlite_url(path), engine_kwargs, retry=retry, skip_table_creation=True)


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _with_clear_errors(open_: Callable[[], WriterStorage], where: str | Path) -> WriterStorage:
    try:
        return open_()
    except RuntimeError as error:  # another schema; Optuna's message names the command that upgrades it
        raise StorageError(f"{where} was made by another version of Optuna: {error}") from None
    except (SQLAlchemyError, sqlite3.Error, ImportError, optuna.exceptions.StorageInternalError) as error:
        if isinstance(where, Path) and is_locked(driver_error(error)):
            raise DatabaseLockedError(where) from None
        raise StorageError(f"{where} cannot be opened: {first_line(error)}") from None


def oldest_first(storage: RDBStorage) -> "list[FrozenStudy]":
    """Return all studies, oldest first."""
    # private, as in Optuna 5.0.0: ids grow with every new study, and a FrozenStudy has no public id.
    return sorted(storage.get_all_studies(), key=lambda study: study._study_id)


def study_names(storage: RDBStorage) -> list[str]:
    """Return the names of all studies, oldest first."""
    return [study.study_name for study in oldest_first(storage)]


def hold_study(storage: str, study: str) -> AbstractContextManager[StudyLock]:
    """Lock a study until the block ends or this process dies.

    Raises StudyHeldError when another process holds it, StorageError when this user cannot write the database.
    """
    url = parse_url(storage)
    path = sqlite_file(url)
    if path is None:
        return lock_on_server(url, study)
    require_writable(path)
    return lock_file(path, study)


def study_holder(storage: str, study: str) -> Holder | None:
    """Return the process that holds a study; None if none does. Writes nothing, and hinders no search that starts."""
    url = parse_url(storage)
    path = sqlite_file(url)
    if path is None:
        return holder_on_server(url, study)
    return holder_of_file(lock_path(path.with_name(f"{path.name}.locks"), study))


def quiet_optuna() -> None:
    """Keep log lines of Optuna and of its PostgreSQL driver off the terminal."""
    optuna.logging.set_verbosity(logging.ERROR)
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of lost connections, for which it also raises
