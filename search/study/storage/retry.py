"""Waits while a database server is away: each call of the storage is made again until the server answers.

Each call is one transaction, and only a whole call can be repeated: Optuna reads, decides and writes inside it. A call
whose answer was lost may have been committed, so only calls that have the same outcome when made twice are repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import InterfaceError, OperationalError

from search.common.errors import StorageError
from search.study.storage.postgres import driver_message
from search.study.storage.writer import WriterStorage

T = TypeVar("T")

LONGEST_PAUSE_S = 2.0
"""Between two tries."""


def is_outage(error: BaseException) -> bool:
    """Whether a call failed because there was no connection, or because it broke."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError | ConnectionError)


class RetryPolicy:
    """Repeats a call until the server answers. Reports once that it waits, and once that the server is back."""

    def __init__(
        self, check: Callable[[], None], *, wait_s: float, say: Callable[[str], None], pause: Callable[[float], None]
    ) -> None:
        """`check` runs before every call. It raises when the study's lock is lost or the server is away.

        After `wait_s` seconds the policy gives up for good. `say` shows a message. `pause` sleeps, and raises when the
        search was interrupted.
        """
        self._check, self._wait_s, self._say, self._pause = check, wait_s, say, pause
        self._waiting = False
        self._gave_up: StorageError | None = None

    def run(self, call: Callable[[], T]) -> T:
        """Return the call's result.

        Raises StudyHeldError when another search has the study by then, StorageError when the server stays away.
        """
        if self._gave_up is not None:
            raise self._gave_up
        try:
            return self._attempt(call)
        except Exception as error:
            if not is_outage(error):
                raise
        result = self._repeat(call)
        if self._waiting:
            self._waiting = False
            self._say("the database is back; the search goes on")
        return result

    def _attempt(self, call: Callable[[], T]) -> T:
        self._check()
        return call()

    def _repeat(self, call: Callable[[], T]) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_outage),
            stop=tenacity.stop_after_delay(self._wait_s),
            wait=tenacity.wait_exponential(multiplier=0.1, max=LONGEST_PAUSE_S),
            sleep=self._pause,
            before_sleep=self._report_waiting,
            retry_error_callback=self._give_up,
        )
        result: T = retrying(self._attempt, call)
        return result

    def _report_waiting(self, state: tenacity.RetryCallState) -> None:
        if not self._waiting:
            self._waiting = True
            self._say(
                f"the database does not answer ({_reason(state)}); the search waits for it, up to {self._wait_s:.0f} s"
            )

    def _give_up(self, state: tenacity.RetryCallState) -> None:
        self._gave_up = StorageError(
            f"the database has not answered for {self._wait_s:.0f} s ({_reason(state)}). Nothing is lost: when it is "
            "back, type the same command again"
        )
        raise self._gave_up


def _reason(state: tenacity.RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return driver_message(error) if error else "no answer"


class RetryingStorage(WriterStorage):
    """A storage on a server whose calls run under a retry policy.

    It repeats all getters and setters of Optuna's storage contract, and the calls that start a trial, report and end
    it. `create_new_study`, `create_new_trial` and `delete_study` are made once.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], *, retry: RetryPolicy) -> None:
        super().__init__(url, engine_kwargs)
        self.retry = retry

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as a storage without retries: the policy needs this process's lock and terminal."""
        return WriterStorage, (self.url, self.engine_kwargs)


def _retried(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: RetryingStorage, *args: Any, **kwargs: Any) -> T:
        return self.retry.run(lambda: method(self, *args, **kwargs))

    return call


REPEATABLE_CALLS = (
    *(name for name in dir(BaseStorage) if name.startswith(("get_", "set_"))),
    "_get_trials",  # read from optuna 5.0.0: the cache that Optuna puts around a study's storage reads through it
    "start_trial",
    "report_trial",
    "end_trial",
)
"""A second `set_trial_state_values` says that the state was set already; a search sets WAITING trials RUNNING with it,
and ignores that."""
for _name in REPEATABLE_CALLS:
    setattr(RetryingStorage, _name, _retried(getattr(WriterStorage, _name)))
