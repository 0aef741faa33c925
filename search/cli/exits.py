"""The end of a command: an exit status, and for an error one message without passwords."""

import atexit
import contextlib
import errno
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

import click

from objectives.base import ObjectiveError
from search.common.errors import SearchError
from search.common.passwords import mask
from search.common.signals import Interrupted
from search.common.text import printable, sentence


def run_and_exit(command: Callable[[], object]) -> NoReturn:
    """Run a command, then raise SystemExit. Errors that the user can correct print one message without a traceback."""
    try:
        command()
    except (SearchError, ObjectiveError) as error:
        fail(str(error), error.exit_status if isinstance(error, SearchError) else 1)
    except Interrupted as interrupted:
        click.echo("Stopped. Nothing is lost: type the same command again to resume", err=True)
        raise SystemExit(128 + interrupted.number) from None
    except Exception as error:
        if (message := storage_failure(error)) is None:
            raise
        fail(message, 1)
    raise SystemExit(0)


def fail(message: str, status: int) -> NoReturn:
    """Print one message on standard error and exit."""
    click.echo(f"Error: {printable(mask(message))}", err=True)
    raise SystemExit(status)


def end_process(code: object) -> NoReturn:
    """End the process with the code of a SystemExit. Skips the clean-up, which takes seconds with torch and MLflow."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, SystemExit):  # nobody reads the pipe any more
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback without the passwords of URLs. For `sys.excepthook`."""
    sys.stderr.write(mask("".join(traceback.format_exception(kind, error, trace))))


def storage_failure(error: BaseException | None) -> str | None:
    """Return the message for a disk or database error; None for other errors."""
    from sqlalchemy.exc import SQLAlchemyError

    database_error = None
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (isinstance(error, sqlite3.Error) and "full" in str(error)):
            return "the disk is full. Nothing that was stored is lost: make room and type the same command again"
        if isinstance(error, FileNotFoundError) and error.filename is None:  # of os.getcwd
            return "the current folder was removed. Go to another one, and type the same command again"
        if isinstance(error, sqlite3.Error | OSError):
            return (
                f"a file could not be read or written: {sentence(str(error))} Fix this and type the same command again"
            )
        database_error = error if isinstance(error, SQLAlchemyError) else database_error
        error = error.__cause__
    if database_error is None:
        return None
    reason = sentence(str(database_error).splitlines()[0])
    return f"the database stopped answering: {reason} Nothing is lost: when it is back, type the same command again"
