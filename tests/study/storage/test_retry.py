"""Calls of the storage outlast an outage, and never write without the study's lock."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from test_writer import running

from search.common.errors import StorageError, StudyHeldError
from search.common.signals import Interrupted
from search.study.storage.retry import RetryingStorage, RetryPolicy
from search.study.storage.storage import open_storage


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
