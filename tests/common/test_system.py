"""The environment that a search gives its workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import search

from search.common.system import WAITING, thread_waiting


def test_threads_wait_as_the_user_says(monkeypatch: pytest.MonkeyPatch):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    assert thread_waiting() == WAITING
    for name in WAITING:
        with monkeypatch.context() as variables:
            variables.setenv(name, "active")
            assert thread_waiting() == {}


@pytest.mark.slow
def test_workers_inherit_it(folder: Path):
    """The value of the trial is what the worker has."""
    (folder / "waits.py").write_text(
        "import os\n\ndef objective(trial):\n    return float(os.environ['GOMP_SPINCOUNT'])\n"
    )
    function = ("--objective", "waits.py:objective", "--jobs", 1, "--trials", 1)
    assert "10000" in search(*function, cwd=folder).stdout
    assert "777" in search(*function, "--study", "mine", cwd=folder, env={"GOMP_SPINCOUNT": "777"}).stdout
