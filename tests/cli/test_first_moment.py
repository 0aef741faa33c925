"""The first second of a command: something is on the screen before the libraries are imported."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shell import begin, environment

BARE_S = 0.4
"""More than `--help` needs on an idle machine, where no library of the search is imported."""


def seconds_to_first_output(words: list[str], folder: Path, *, terminal: bool) -> tuple[float, bytes]:
    """Start a command; return when it first writes something, and what that is."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    env = environment({"TERM": "xterm"})
    env.pop("CI", None)
    started = time.monotonic()
    command = [sys.executable, "-m", "search", *words]
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL)
    os.close(theirs)
    try:
        assert select.select([ours], [], [], 60)[0]
        return time.monotonic() - started, os.read(ours, 4096)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize("words", [["--objective", "toy:Toy"], ["watch"], ["show"], ["studies"]])
def test_a_terminal_shows_at_once_what_is_done(tmp_path: Path, words: list[str]):
    help_s, _ = seconds_to_first_output(["--help"], tmp_path, terminal=True)
    seconds, text = seconds_to_first_output(words, tmp_path, terminal=True)
    assert text.startswith(b"importing the libraries ...")
    assert seconds < 3 * help_s + BARE_S  # the imports take ten times as long


def test_a_log_says_in_one_line_that_the_search_starts(tmp_path: Path):
    _, text = seconds_to_first_output(["--objective", "toy:Toy"], tmp_path, terminal=False)
    assert text.rstrip() == b"the search starts: it imports its libraries and reads its data"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--quiet"], ["--log-format", "json"], ["--quiet", "--log-format", "json"]])
def test_quiet_and_json_start_without_that_line(tmp_path: Path, words: list[str]):
    process = begin("--objective", "nowhere:Toy", *words, cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert "starts" not in out
    assert "importing" not in out
    assert "nowhere" in err
