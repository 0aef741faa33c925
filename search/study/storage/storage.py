"""Opens and checks Optuna's storage, in a SQLite file or in PostgreSQL, and locks its studies."""

import functools
import logging
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search.common.errors import StorageError, UsageError
from search.common.passwords import first_line, mask
from search.common.sqlite import OPTUNA_TABLE, check_sqlite, connect, create_whole, sqlite_file
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
from search.study.storage.postgres import DRIVERS, connect_arguments, connection_errors, masked_url, open_connection
from search.study.storage.retry import RetryingStorage, RetryPolicy
from search.study.storage.writer import WriterStorage


def parse_url(text: str) -> URL:
    """Parse a `--storage` URL. Raises UsageError for an unsupported one."""
    allowed = "allowed: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"
    try:
        url = make_url(text)
    except ArgumentError:
        raise UsageError(f"--storage {mask(text)!r} is no database URL; {allowed}") from None
    if url.drivername not in ("sqlite", *DRIVERS):
        raise UsageError(f"--storage {masked_url(url)!r} is not supported; {allowed}")
    if url.get_backend_name() == "sqlite" and not url.database:
        raise UsageError(f"--storage {text!r} names no file; {allowed}")
    return url


def open_storage(text: str, *, create: bool = True, retry: RetryPolicy | None = None) -> WriterStorage:
    """Open Optuna's storage, and create it if it does not exist and `create` is set.

    With `retry`, calls wait while a server is away; without it, they fail.

    Raises StorageError when the storage is absent, damaged, foreign, newer than this Optuna, or not writable.
    """
    quiet_optuna()
    url = parse_url(text)
    path = sqlite_file(url)
    if path is None:
        return _open_on_server(url, create=create, retry=retry)
    if not path.exists():
        if not create:
            raise StorageError(f"there is no study database at {path}; run a search first: python -m search")
        create_whole(path, lambda temporary: _close(_sqlite_storage(temporary)))
    check_sqlite(path, OPTUNA_TABLE)
    return _with_clear_errors(lambda: _sqlite_storage(path), str(path))


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


def _sqlite_storage(path: Path) -> WriterStorage:
    return WriterStorage(f"sqlite:///{path}", {"creator": functools.partial(connect, path)})


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _with_clear_errors(open_: Callable[[], WriterStorage], where: str) -> WriterStorage:
    try:
        return open_()
    except RuntimeError as error:  # another schema; Optuna's message names the command that upgrades it
        raise StorageError(f"{where} was made by another version of Optuna: {error}") from None
    except (SQLAlchemyError, sqlite3.Error, ImportError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(f"{where} cannot be opened: {first_line(error)}") from None


def study_names(storage: RDBStorage) -> list[str]:
    """Return the names of all studies, oldest first."""
    # private, as in Optuna 5.0.0: ids grow with every new study, and a FrozenStudy has no public id.
    return [study.study_name for study in sorted(storage.get_all_studies(), key=lambda study: study._study_id)]


def hold_study(storage: str, study: str) -> AbstractContextManager[StudyLock]:
    """Lock a study until the block ends or this process dies. Raises StudyHeldError when another process holds it."""
    url = parse_url(storage)
    path = sqlite_file(url)
    return lock_on_server(url, study) if path is None else lock_file(path, study)


def study_holder(storage: str, study: str) -> Holder | None:
    """Return the process that holds a study; None if none does. Writes nothing, and hinders no search that starts."""
    url = parse_url(storage)
    path = sqlite_file(url)
    if path is None:
        return holder_on_server(url, study)
    return holder_of_file(lock_path(path.with_name(f"{path.name}.locks"), study))


def quiet_optuna() -> None:
    """Keep Optuna's own log lines off the terminal."""
    optuna.logging.set_verbosity(logging.ERROR)
