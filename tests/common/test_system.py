"""The environment that a search gives its workers."""

from __future__ import annotations

import pytest

from search.common.system import WAITING, thread_waiting


def test_threads_wait_as_the_user_says(monkeypatch: pytest.MonkeyPatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    assert thread_waiting() == WAITING
    for name in WAITING:
        with monkeypatch.context() as variables:
            variables.setenv(name, "active")
            assert thread_waiting() == {}
