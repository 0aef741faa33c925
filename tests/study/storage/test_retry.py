"""Calls of the storage outlast an outage, and never write without the study's lock."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import TrialState
from test_writer import running

from search.common import sqlite
from search.common.errors import DatabaseLockedError, StorageError, StudyHeldError
from search.common.signals import Interrupted
from search.study.storage.retry import RetryingStorage, RetryPolicy
from search.study.storage.storage import open_storage, read_storage
from search.tracking.journal import Journal


class Server:
    """A server that does not answer the first `outages` calls."""

    def __init__(self, outages: float) -> None:
        self.outages, self.calls = outages, 0

    def call(self) -> str:
        self.calls += 1
        if self.calls <= self.outages:
            raise ConnectionError("connection refused")
        return "answer"


def policy(
    messages: list[str], *, check: Callable[[], None] = lambda: None, pause: Callable[[float], None] = time.sleep
) -> RetryPolicy:
    return RetryPolicy(check, wait_s=0.3, say=messages.append, pause=pause)


def test_a_call_is_repeated_until_the_server_answers():
    messages: list[str] = []
    retry = policy(messages, pause=lambda seconds: None)
    assert retry.run(Server(outages=4).call) == "answer"
    assert messages == [
        "the database does not answer (connection refused); the search waits for it, up to 0 s",
        "the database is back; the search goes on",
    ]


def test_a_server_that_is_away_while_a_file_is_written_is_not_called_a_locked_file(tmp_path: Path):
    messages: list[str] = []
    server, file = Server(outages=4), tmp_path / "journal.db"

    def check() -> None:
        server.call()

    retry = RetryPolicy(check, wait_s=0.3, say=messages.append, pause=lambda seconds: None, file=file)
    assert retry.run(lambda: "written") == "written"
    assert [message.split(" (")[0] for message in messages] == [
        "the database does not answer",
        "the database is back; the search goes on",
    ]
    server.outages = float("inf")
    with pytest.raises(StorageError, match="the database has not answered"):
        RetryPolicy(check, wait_s=0, say=messages.append, file=file).run(lambda: "written")


def test_one_broken_connection_causes_no_message():
    messages: list[str] = []
    assert policy(messages).run(Server(outages=1).call) == "answer"
    assert messages == []


def test_the_policy_gives_up_for_good_after_the_wait():
    server = Server(outages=float("inf"))
    retry = policy([])
    with pytest.raises(StorageError, match=r"has not answered for 0 s \(connection refused\)\. Nothing is lost: when"):
        retry.run(server.call)
    calls = server.calls
    with pytest.raises(StorageError, match="has not answered"):
        retry.run(server.call)
    assert server.calls == calls


def test_an_interruption_ends_the_wait():
    def interrupted(seconds: float) -> None:
        raise Interrupted(2)

    with pytest.raises(Interrupted, match="2"):
        policy([], pause=interrupted).run(Server(outages=5).call)


def test_another_error_than_an_outage_is_not_retried():
    calls = []

    def fail() -> None:
        calls.append("call")
        raise KeyError("no such study")

    with pytest.raises(KeyError, match="no such study"):
        policy([]).run(fail)
    assert calls == ["call"]


def test_without_the_lock_nothing_is_written(database: str):
    plain = open_storage(database)
    study = plain.create_new_study([StudyDirection.MAXIMIZE], "toy")
    trial = plain.start_trial(study, running(0))
    before = str(plain.get_all_trials(study))

    def check() -> None:
        raise StudyHeldError("another process has the study")

    storage = RetryingStorage(database, {}, retry=policy([], check=check))
    for write in (
        lambda: storage.start_trial(study, running(1)),
        lambda: storage.report_trial(trial, 1, 0.5, {}),
        lambda: storage.end_trial(trial, TrialState.COMPLETE, 0.5, {}, {}),
        lambda: storage.set_study_user_attr(study, "key", 1),
        lambda: storage.set_study_system_attr(study, "key", 1),
        lambda: storage.set_trial_state_values(trial, TrialState.FAIL),
    ):
        with pytest.raises(StudyHeldError, match="another process has the study"):
            write()
    assert str(plain.get_all_trials(study)) == before
    assert plain.get_study_user_attrs(study) == plain.get_study_system_attrs(study) == {}
    for opened in (plain, storage):
        opened.remove_session()
        opened.engine.dispose()


# A locked SQLite file -----------------------------------------------------------------------------------------------


@pytest.fixture
def file(database: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database for which SQLite itself does not wait."""
    for module in ("search.common.sqlite", "search.study.storage.storage", "search.tracking.journal"):
        monkeypatch.setattr(f"{module}.LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr(sqlite.connect_to_read, "__defaults__", (0.0,))
    return Path(database.removeprefix("sqlite:///"))


@contextmanager
def locked(file: Path, statement: str = "BEGIN IMMEDIATE") -> Iterator[Callable[[], None]]:
    """Another program's lock. Yields what ends it."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as other:
        other.execute(statement)
        yield other.rollback


def patient(file: Path, messages: list[str], *, wait_s: float = 600.0, pause: Any = time.sleep) -> RetryPolicy:
    return RetryPolicy(wait_s=wait_s, say=messages.append, pause=pause, file=file)


CALLS: dict[str, Callable[[RetryingStorage, int, int], object]] = {
    "create a study": lambda storage, study, trial: storage.create_new_study([StudyDirection.MINIMIZE], "other"),
    "delete it": lambda storage, study, trial: storage.delete_study(study),
    "set an attribute": lambda storage, study, trial: storage.set_study_user_attr(study, "key", 1),
    "start a trial": lambda storage, study, trial: storage.start_trial(study, running(1)),
    "report": lambda storage, study, trial: storage.report_trial(trial, 1, 0.5, {}),
    "end a trial": lambda storage, study, trial: storage.end_trial(trial, TrialState.COMPLETE, 0.5, {}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_call_waits_for_a_file_that_another_program_has_locked(file: Path, name: str):
    messages: list[str] = []
    storage: Any = open_storage(f"sqlite:///{file}", retry=patient(file, messages))
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "toy")
    trial = storage.start_trial(study, running(0))
    with locked(file) as free:
        timer = threading.Timer(0.3, free)
        timer.start()
        CALLS[name](storage, study, trial)
        timer.join()
    assert messages == [
        f"{file} is locked by another program; waiting for it, up to 600 s",
        f"{file} is free again",
    ]


@pytest.mark.parametrize("open_", [open_storage, read_storage])
def test_opening_waits_for_the_file_too(file: Path, open_: Callable[..., Any]):
    messages: list[str] = []
    with locked(file, "BEGIN EXCLUSIVE") as free:
        timer = threading.Timer(0.3, free)
        timer.start()
        storage = open_(f"sqlite:///{file}", retry=patient(file, messages))
        timer.join()
    assert storage.get_all_studies() == []
    assert len(messages) == 2


def test_the_journal_waits_too(tmp_path: Path, file: Path):
    messages: list[str] = []
    path = tmp_path / "journal.db"
    journal = Journal(path, retry=patient(path, messages))
    with locked(path) as free:
        timer = threading.Timer(0.3, free)
        timer.start()
        journal.append("trial-0", "run", {"name": "one"}, step=3, verdict={"state": "ok"})
        timer.join()
    assert (journal.n_pending(), journal.last_step("trial-0"), journal.verdict("trial-0")) == (1, 3, {"state": "ok"})
    assert messages[0].startswith(f"{path} is locked by another program")
    journal.close()


def test_a_file_that_stays_locked_is_named_with_the_time_and_what_to_do(file: Path):
    storage: Any = open_storage(f"sqlite:///{file}", retry=patient(file, [], wait_s=1.0))
    message = rf"^{file} has been locked by another program for 1 s\. Nothing is lost\. End what holds it \(a database"
    with locked(file), pytest.raises(DatabaseLockedError, match=message):
        storage.create_new_study([StudyDirection.MAXIMIZE], "toy")


def test_an_interruption_ends_the_wait_for_a_locked_file(file: Path):
    def interrupted(seconds: float) -> None:
        raise Interrupted(2)

    storage: Any = open_storage(f"sqlite:///{file}", retry=patient(file, [], pause=interrupted))
    with locked(file), pytest.raises(Interrupted, match="2"):
        storage.create_new_study([StudyDirection.MAXIMIZE], "toy")


def test_another_error_of_sqlite_is_not_waited_for(file: Path):
    messages: list[str] = []
    storage: Any = open_storage(f"sqlite:///{file}", retry=patient(file, messages))
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "toy")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DROP TABLE study_user_attributes")
    with pytest.raises(StorageInternalError, match="An exception is raised during the commit") as caught:
        storage.get_study_user_attrs(study)
    assert "no such table" in str(caught.value.__cause__)
    assert messages == []
