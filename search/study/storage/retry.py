"""Outlasts a server that is away, and a SQLite file that another program has locked: repeats a call of the storage.

Each call is one transaction. Only a whole call can be repeated, because Optuna reads, decides and writes inside it. If
the answer was lost, the transaction may be committed: every repeated call has the same outcome when it is made twice.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import tenacity
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import InterfaceError, OperationalError

from search.common.errors import DatabaseLockedError, StorageError
from search.common.sqlite import checkpoint, is_locked, sqlite_file
from search.study.storage.postgres import driver_error, driver_message
from search.study.storage.writer import WriterStorage

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])

LONGEST_PAUSE_S = 2.0


def is_outage(error: BaseException) -> bool:
    """Return True if a call failed because its connection could not be opened or broke, or because a file is locked."""
    if isinstance(original := driver_error(error), sqlite3.Error):
        return is_locked(original)
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return isinstance(cause, OperationalError | InterfaceError | ConnectionError | DatabaseLockedError)


class RetryPolicy:
    """Repeats a call until the server answers. Reports once that it waits, and once that the server is back.

    `check` runs before every attempt. It raises when the study's lock is lost or the server is away. After `wait_s`
    seconds the policy gives up for good. `say` shows a message. `pause` sleeps, and raises when the user interrupts.
    `file`: the SQLite file that the calls use instead of a server. `check` may still ask a server.
    """

    def __init__(
        self,
        check: Callable[[], None] = lambda: None,
        *,
        wait_s: float,
        say: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
        file: Path | None = None,
    ) -> None:
        self._check, self._wait_s, self._say, self._file = check, wait_s, say, file
        self._recovery = ""
        """While the policy waits, what it shows when a call succeeds again."""
        self._gave_up: StorageError | None = None
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_outage),
            stop=tenacity.stop_after_attempt(2) & tenacity.stop_after_delay(wait_s),
            wait=tenacity.wait_incrementing(start=0.0, increment=0.2, max=LONGEST_PAUSE_S),
            sleep=pause,
            before_sleep=self._report_waiting,
            retry_error_callback=self._give_up,
        )

    def run(self, call: Callable[[], T]) -> T:
        """Return the call's result.

        Raises StudyHeldError when another search has locked the study, StorageError when the server stays away,
        DatabaseLockedError when the file stays locked.
        """
        if self._gave_up is not None:
            raise self._gave_up
        result: T = self._retrying(self._attempt, call)
        if self._recovery:
            self._say(self._recovery)
            self._recovery = ""
        return result

    def _attempt(self, call: Callable[[], T]) -> T:
        self._check()
        return call()

    def _report_waiting(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number > 1 and not self._recovery:  # a new connection often helps
            if self._file is not None and _is_of_file(state):
                trouble = f"{self._file} is locked by another program; waiting for it"
                self._recovery = f"{self._file} is free again"
            else:
                trouble = f"the database does not answer ({_reason(state)}); the search waits for it"
                self._recovery = "the database is back; the search goes on"
            self._say(f"{trouble}, up to {self._wait_s:.0f} s")

    def _give_up(self, state: tenacity.RetryCallState) -> None:
        if self._file is not None and _is_of_file(state):
            self._gave_up = DatabaseLockedError(self._file, self._wait_s)
            raise self._gave_up
        away = f"the database has not answered for {self._wait_s:.0f} s ({_reason(state)})"
        self._gave_up = StorageError(f"{away}. Nothing is lost: when it is back, type the same command again")
        raise self._gave_up


def _error(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome and state.outcome.exception()
    assert error, "only failed attempts are repeated"
    return error


def _reason(state: tenacity.RetryCallState) -> str:
    return driver_message(_error(state))


def _is_of_file(state: tenacity.RetryCallState) -> bool:
    error = _error(state)
    return isinstance(error, DatabaseLockedError) or isinstance(driver_error(error), sqlite3.Error)


def _retried(method: Method) -> Method:
    @functools.wraps(method)
    def call(self: RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        return self.retry.run(functools.partial(method, self, *args, **kwargs))

    return cast(Method, call)


class RetryingStorage(WriterStorage):
    """A storage on a server, with the calls of a search under a retry policy.

    `create_new_study` and `delete_study` are made once: a second call has another outcome.
    """

    def __init__(self, url: str, engine_kwargs: dict[str, Any], *, retry: RetryPolicy, **options: Any) -> None:
        super().__init__(url, engine_kwargs, **options)
        self.retry = retry

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as a storage without retries: the policy needs this process's lock and terminal."""
        return WriterStorage, (self.url, self.engine_kwargs)

    start_trial = _retried(WriterStorage.start_trial)
    add_params = _retried(WriterStorage.add_params)
    note_trial = _retried(WriterStorage.note_trial)
    count_trials = _retried(WriterStorage.count_trials)
    report_trial = _retried(WriterStorage.report_trial)
    end_trial = _retried(WriterStorage.end_trial)
    set_study_user_attr = _retried(RDBStorage.set_study_user_attr)
    set_study_system_attr = _retried(RDBStorage.set_study_system_attr)
    set_trial_user_attr = _retried(RDBStorage.set_trial_user_attr)
    set_trial_state_values = _retried(RDBStorage.set_trial_state_values)  # a second call returns False; ignored
    get_study_id_from_name = _retried(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _retried(RDBStorage.get_study_name_from_id)
    get_study_directions = _retried(RDBStorage.get_study_directions)
    get_study_user_attrs = _retried(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _retried(RDBStorage.get_study_system_attrs)
    get_n_trials = _retried(RDBStorage.get_n_trials)
    get_best_trial = _retried(RDBStorage.get_best_trial)
    _get_trials = _retried(RDBStorage._get_trials)  # private, as in Optuna 5.0.0: a Study's cache calls it


class RetryingFile(RetryingStorage):
    """A storage in a SQLite file. There a call that found the file locked has changed nothing: any may be repeated."""

    create_new_study = _retried(RDBStorage.create_new_study)
    delete_study = _retried(RDBStorage.delete_study)
    get_all_studies = _retried(RDBStorage.get_all_studies)

    def end_trial(self, *args: Any) -> None:
        """Store the end of a trial. Afterwards a copy of the file alone has it too."""
        super().end_trial(*args)
        if (path := sqlite_file(self.engine.url)) is not None:
            checkpoint(path)
