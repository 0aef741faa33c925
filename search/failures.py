"""How a command ends that could not do its work: one message, a status, and no password in either."""

from __future__ import annotations

import errno
import sqlite3
import sys
import traceback
from types import TracebackType
from typing import NoReturn

import click

from search.masking import mask


def crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, less the passwords of URLs in its messages."""
    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))


def fail(message: str, status: int) -> NoReturn:
    """One message on standard error."""
    click.echo(f"Error: {mask(message)}", err=True)
    raise SystemExit(status)


def storage_failure(error: BaseException | None) -> str | None:
    """What to say when a disk or a database stopped working under the search; None for another error."""
    from sqlalchemy.exc import SQLAlchemyError

    of_database = None
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (isinstance(error, sqlite3.Error) and "full" in str(error)):
            return "the disk is full. Nothing that was stored is lost: make room and type the same command again"
        if isinstance(error, sqlite3.Error | OSError):
            return f"a file could not be read or written: {error}. Mend that and type the same command again"
        of_database = error if isinstance(error, SQLAlchemyError) else of_database
        error = error.__cause__
    if of_database is None:
        return None
    said = str(of_database).splitlines()[0]
    return f"the database stopped answering: {said}. Nothing is lost: when it is back, type the same command again"
