"""PostgreSQL: sessions that say whose they are, and a storage that outlasts a restart of the server.

A search writes through one thread, and each call of Optuna's storage is one transaction. A call that the server left
without an answer is made again when it is back, and may then find that it had been carried out; so each one here is
either the same when it is done twice, or looks first whether it was done.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy
import tenacity
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.errors import StorageError
from search.masking import first_line, mask
from search.writer import WriterStorage

T = TypeVar("T")

DRIVERS = ("postgresql+psycopg", "postgresql")
"""The latter is SQLAlchemy's word for the former."""

CONNECTION = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}  # fmt: skip
"""Seconds, but for the last, in ms: after a minute at most, a server that vanished is taken for away. What a URL gives
instead (`?connect_timeout=3`) counts. Source: https://www.postgresql.org/docs/18/libpq-connect.html"""

AT_MOST_S = 2.0
"""Between two tries to reach a server that is away."""

TRIED_AGAIN = (
    "_get_trials", "create_new_trial", "end_trial", "get_all_studies", "get_study_directions", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_system_attrs", "get_study_user_attrs", "get_trial",
    "get_trial_id_from_study_id_trial_number", "report_trial", "set_study_system_attr", "set_study_user_attr",
    "set_trial_param", "set_trial_state_values", "set_trial_user_attr",
)  # fmt: skip
"""Calls of Optuna's storage, each of them one transaction. Optuna's own cache reads through the first."""


def signature() -> str:
    """What the server is told of whose session it is."""
    return f"search {os.getpid()} {socket.gethostname()}"[:63]


def arguments(url: URL) -> dict[str, Any]:
    """How to connect, beside what the URL says."""
    return {name: value for name, value in CONNECTION.items() if name not in url.query} | {
        "application_name": signature()
    }


def connect_alone(url: URL) -> sqlalchemy.Connection:
    """A session that is nobody else's; its locks end with it."""
    engine = sqlalchemy.create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments(url)
    )
    return engine.connect()


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what goes wrong in this block into a StorageError that says what to type."""
    try:
        yield
    except ImportError:
        raise StorageError(f'{shown(url)} needs a driver; type: pip install -e ".[postgres]"') from None
    except SQLAlchemyError as error:
        raise StorageError(f"{shown(url)} cannot be opened: {advice(url, said(error))}") from None


def shown(url: URL) -> str:
    """The URL for people, without its password."""
    return mask(url.render_as_string())


def said(error: BaseException) -> str:
    """The driver's own words, in one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    return first_line(error)


def advice(url: URL, text: str) -> str:
    """What the server said, and what to type then. A server may speak another language: then only what it said."""
    server = f"{url.host or 'localhost'}:{url.port or 5432}"
    flags = "".join(
        f" -{flag} {value}" for flag, value in zip("hpU", (url.host, url.port, url.username), strict=True) if value
    )
    bare = mask(url._replace(password=None).render_as_string())
    known = {
        r"password authentication failed|no password supplied": (
            f"type the password where no list of processes shows it: export PGPASSWORD=..., and --storage {bare}"
        ),
        r"database .* does not exist": f"type: createdb{flags} {url.database}",
        r"role .* does not exist": f"type: createuser{flags}, or name another user in --storage",
        r"resolve|translate host name|Name or service": f"there is no host {url.host!r}; name another one in --storage",
        r"Connection refused|No such file": f"nobody answers at {server}; start the server, or name another one",
        r"timeout|timed out": f"nobody answers at {server}; is a firewall in between?",
    }
    hints = [hint for pattern, hint in known.items() if re.search(pattern, text)]
    return ". ".join([text, *hints[:1]])


# ---- while the server is away


def is_outage(error: BaseException) -> bool:
    """Whether waiting may help: no connection, or one that broke."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError | ConnectionError)


class Outage:
    """Makes every call of a storage until it is answered; says once that it waits, and once that it is over."""

    def __init__(
        self, check: Callable[[], None], *, wait_s: float, say: Callable[[str], None], pause: Callable[[float], None]
    ) -> None:
        """After `wait_s` it gives up for good.

        `check` raises when the study is not ours any more, or when nobody answers. `pause` sleeps, and raises when the
        search is to end.
        """
        self._check, self._wait_s, self._say, self._pause = check, wait_s, say, pause
        self._over: StorageError | None = None
        self._waits = False

    def outlast(self, call: Callable[[], T]) -> T:
        """What the call gives, when the server has answered.

        Raises StudyHeldError when another search has the study by then, StorageError when it stays away.
        """
        if self._over is not None:
            raise self._over
        try:
            return self._once(call)
        except Exception as error:
            if not is_outage(error):
                raise
        try:
            found = self._patiently(call)
        except Exception as error:
            if not is_outage(error):
                raise
            self._over = StorageError(
                f"the database has not answered for {self._wait_s:.0f} s ({said(error)}). Nothing is lost: when it is "
                "back, type the same command again"
            )
            raise self._over from None
        if self._waits:
            self._waits = False
            self._say("the database is back; the search goes on")
        return found

    def _once(self, call: Callable[[], T]) -> T:
        self._check()
        return call()

    def _patiently(self, call: Callable[[], T]) -> T:
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_outage),
            stop=tenacity.stop_after_delay(self._wait_s),
            wait=tenacity.wait_exponential(multiplier=0.1, max=AT_MOST_S),
            sleep=self._pause,
            before_sleep=self._told,
            reraise=True,
        )
        found: T = tries(self._once, call)
        return found

    def _told(self, state: tenacity.RetryCallState) -> None:
        if not self._waits:
            self._waits = True
            error = state.outcome.exception() if state.outcome else None
            why = said(error) if error else "no answer"
            self._say(f"the database does not answer ({why}); the search waits for it, up to {self._wait_s:.0f} s")


def _lasting(storage: type[LastingStorage]) -> type[LastingStorage]:
    """Let the calls named above outlast an outage."""

    def lasting(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: LastingStorage, *words: Any, **named: Any) -> Any:
            return self.outage.outlast(lambda: method(self, *words, **named))

        return call

    for name in TRIED_AGAIN:
        setattr(storage, name, lasting(getattr(storage, name)))
    return storage


@_lasting
class LastingStorage(WriterStorage):
    """A search's storage in a server that may be away for a while."""

    def __init__(self, url: str, engine_kwargs: dict[str, Any] | None = None, *, outage: Outage) -> None:
        super().__init__(url, engine_kwargs)
        self.outage = outage
        self._tried: datetime | None = None
        """When the trial began that was the last to be stored, or that was to be."""

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Any = None) -> bool:
        """Set it, unless an earlier try has, whose answer was lost on the way."""
        try:
            return super().set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            if self.get_trial(trial_id).state != state:
                raise
            return True

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Store it, unless an earlier try has. Optuna's own method tries again by itself, in anybody's study."""
        assert template_trial is not None, "a search stores a trial whole, when it starts"
        with _create_scoped_session(self.scoped_session) as session:
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            started, before = template_trial.datetime_start, self._tried
            self._tried = started
            if started == before:
                trials = session.query(models.TrialModel).filter_by(study_id=study_id, number=template_trial.number)
                if (stored := trials.one_or_none()) is not None and stored.datetime_start == started:
                    return int(stored.trial_id)
            return int(self._get_prepared_new_trial(study_id, template_trial, session).trial_id)
