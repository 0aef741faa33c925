"""A study in a SQLite file has one coordinator at a time, and its lock ends with its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from shell import environment

from search.common.errors import StudyHeldError
from search.study.storage.storage import hold_study

HOLDER = """
    import subprocess, sys
    from search.study.storage.storage import hold_study

    with hold_study(sys.argv[1], "mnist"):
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        sys.stdin.read()
"""


def hold(url: str) -> subprocess.Popen[str]:
    """Start a process that locks the study `mnist` until its standard input ends. It has a child."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), url],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_locked_study_names_its_process_until_that_is_killed(database: str):
    holder = hold(database)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        expected = rf"(?s)study 'mnist' is being searched by process {holder.pid} on {socket.gethostname()} since 20"
        with (
            pytest.raises(StudyHeldError, match=rf"{expected}.*add --study mnist-2 to what you typed"),
            hold_study(database, "mnist"),
        ):
            pass
        with hold_study(database, "another"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # its child still lives, and does not hold the lock
        with hold_study(database, "mnist"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_the_lock_ends_with_its_block_and_after_an_error(database: str):
    with pytest.raises(ZeroDivisionError, match="division"), hold_study(database, "mnist"):
        _ = 1 / 0
    with (
        hold_study(database, "mnist"),
        pytest.raises(StudyHeldError, match=f"by process {os.getpid()} on"),
        hold_study(database, "mnist"),
    ):
        pass


def test_the_lock_of_a_name_with_slashes_lies_inside_the_folder(database: str, tmp_path: Path):
    with hold_study(database, "../../a b/c"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["optuna.db", "optuna.db.locks"]
