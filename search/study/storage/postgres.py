"""Connections to PostgreSQL: their parameters, their name, and advice when one fails."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.common.errors import StorageError
from search.common.passwords import first_line, mask

DRIVERS = ("postgresql+psycopg", "postgresql")
"""Names in a URL; both mean psycopg 3."""

CONNECTION_DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""Parameters of libpq, in seconds, the last one in milliseconds: a vanished server is noticed within a minute.

Source: https://www.postgresql.org/docs/18/libpq-connect.html
"""


def session_name() -> str:
    """Return the name of our connections on the server: process id and host."""
    return f"search {os.getpid()} {socket.gethostname()}"[:63]


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return the parameters of a connection. One in the URL (`?connect_timeout=3`) takes precedence."""
    defaults = {name: value for name, value in CONNECTION_DEFAULTS.items() if name not in url.query}
    return {**defaults, "application_name": session_name()}


def open_connection(url: URL) -> sqlalchemy.Connection:
    """Open a connection outside any pool. Its locks end when it closes."""
    arguments = connect_arguments(url)
    engine = sqlalchemy.create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments)
    return engine.connect()


@contextmanager
def connection_errors(url: URL) -> Iterator[None]:
    """Turn a database error in this block into a StorageError that says what to type."""
    try:
        yield
    except ImportError:
        raise StorageError(f'{masked_url(url)} needs a driver; type: pip install -e ".[postgres]"') from None
    except SQLAlchemyError as error:
        raise StorageError(f"{masked_url(url)} cannot be opened: {_with_advice(url, driver_message(error))}") from None


def masked_url(url: URL) -> str:
    """Return the URL without its password, for messages."""
    return mask(url.render_as_string())


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error behind one of Optuna or SQLAlchemy."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def driver_message(error: BaseException) -> str:
    """Return the driver's own message, in one line."""
    return first_line(driver_error(error))


def _with_advice(url: URL, message: str) -> str:
    """Add a command to a message of the server. A message in another language than English stays as it is."""
    server = f"{url.host or 'localhost'}:{url.port or 5432}"
    options = zip("hpU", (url.host, url.port, url.username), strict=True)
    flags = "".join(f" -{flag} {value}" for flag, value in options if value)
    without_password = mask(url._replace(password=None).render_as_string())  # `set` would ignore a None
    export = f"export PGPASSWORD=..., and --storage {without_password}"
    advice = {
        r"password authentication failed|no password supplied": "keep the password out of the process list: " + export,
        r"database .* does not exist": f"type: createdb{flags} {url.database}",
        r"role .* does not exist": f"type: createuser{flags}, or name another user in --storage",
        r"resolve|translate host name|Name or service": f"there is no host {url.host!r}; name another one in --storage",
        r"Connection refused|No such file": f"nobody answers at {server}; start the server, or name another one",
        r"timeout|timed out": f"nobody answers at {server}; is a firewall in between?",
    }
    matching = [text for pattern, text in advice.items() if re.search(pattern, message)]
    return ". ".join([message, *matching[:1]])
