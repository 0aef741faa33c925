"""Ctrl-C, SIGTERM and SIGSTOP, with and without a terminal."""

from __future__ import annotations

import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from harness import BOWL, Place, say, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEARCH = (*BOWL, "--trials", 40, "--jobs", 2)

# A shell's part in job control, without a shell: the search leads a session whose controlling terminal is its input.
IN_FRONT = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, '-m', 'search', *sys.argv[1:]])"
)


class Terminal:
    """A pseudo-terminal with a search in front."""

    def __init__(self, place: Place, *words: object) -> None:
        self.master, inner = pty.openpty()
        self.shown = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", IN_FRONT, *map(str, words)],
            cwd=place.folder,
            env={**place.environment(), "TERM": "xterm"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 4096):
                self.shown += part
        except OSError:  # the other side hung up
            return

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def hang_up(self) -> None:
        os.close(self.master)


@contextmanager
def stopwatch(seconds: list[float]) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds.append(time.monotonic() - started)


@pytest.mark.long
def test_interrupted_without_a_terminal(place: Place):
    moments, seconds = random.Random(7), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = place.begin(*SEARCH)
        place.random_moment(process, moments, reports=20)
        with stopwatch(seconds):
            process.send_signal(number)
            status = place.ended(process, 20)
        say(f"{number.name}: status {status} after {seconds[-1]:.2f} s, {place.finished()} trials finished")
        assert status == 128 + number, place.said()
        assert "Stopped. Nothing is lost" in place.said()
        assert "Traceback" not in place.said()
    place.finish(*SEARCH)
    place.assert_whole(40)
    assert max(seconds) < 10


def test_interrupted_in_a_terminal(place: Place):
    seconds: list[float] = []
    place.env = {"BOWL_STEP_S": "0.05"}

    def begin() -> Terminal:
        terminal = Terminal(place, *SEARCH)
        place.until_training(terminal.process)
        return terminal

    for how in ("Ctrl-C", "hang-up"):
        terminal = begin()
        with stopwatch(seconds):
            match how:
                case "Ctrl-C":
                    terminal.press_ctrl_c()
                case "hang-up":
                    terminal.hang_up()
            status = place.ended(terminal.process, 20)
        say(f"{how} in a terminal: status {status} after {seconds[-1]:.2f} s, {place.finished()} trials finished")
        assert status == {"Ctrl-C": 130, "hang-up": 129}[how], terminal.shown
        assert b"Traceback" not in terminal.shown
    place.env = {"BOWL_STEP_S": "30"}  # so long that the first Ctrl-C has to wait for a checkpoint
    terminal = Terminal(place, *SEARCH)
    place.until_pulling()
    terminal.press_ctrl_c()
    time.sleep(0.5)
    assert terminal.process.poll() is None
    with stopwatch(seconds):
        terminal.press_ctrl_c()
        status = place.ended(terminal.process, 20)
    say(f"Ctrl-C twice: status {status} after {seconds[-1]:.2f} s")
    assert status == 130
    assert seconds[-1] < 1
    place.env = {}
    place.finish(*SEARCH)
    place.assert_whole(40)
    assert max(seconds) < 10


def test_a_step_that_takes_longer_than_an_interruption_may(place: Place):
    place.env = {"BOWL_STEP_S": "60"}
    process = place.begin(*SEARCH)
    place.until_pulling()
    seconds: list[float] = []
    with stopwatch(seconds):
        process.terminate()
        status = place.ended(process, 20)
    say(f"SIGTERM in a step of 60 s: status {status} after {seconds[-1]:.2f} s")
    assert status == 143, place.said()
    assert seconds[-1] < 10


def test_signals_before_the_search_begins(empty: Place):
    moments, statuses = random.Random(8), []
    for number in (signal.SIGINT, signal.SIGTERM) * 2:
        process = empty.begin(*SEARCH)
        time.sleep(moments.uniform(0.5, 3.0))
        process.send_signal(number)
        status = empty.ended(process, 20)
        statuses.append(f"{number.name} {status}")
        # Python itself answers in its first moments: killed by the signal, where a shell says 130 or 143 too.
        assert status in (128 + number, -number), empty.said()
    say(f"signals in the first 3 s: {', '.join(statuses)}")
    empty.finish(*BOWL, "--trials", 4, "--jobs", 2)
    empty.assert_whole(4)


@pytest.mark.long
def test_stopped_and_continued(place: Place):
    search = (*BOWL, "--trials", 30, "--jobs", 2)
    process = place.begin(*search)
    place.until_training(process)
    pids = place.processes()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    before = place.finished()
    time.sleep(60)
    assert place.finished() == before
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    say(f"{len(pids)} processes stopped for 60 s with {before} trials finished")
    assert place.ended(process) == 0, place.said()
    place.assert_whole(30)


@pytest.mark.long
def test_interrupted_here_and_finished_elsewhere(place: Place):
    """On another machine that sees the same databases, and nothing else: trials begin anew, no point is there twice."""
    place.env = {"BOWL_STEP_S": "0.2"}
    search = (*BOWL, "--trials", 6, "--jobs", 2)
    process = place.begin(*search)
    wait_until(lambda: place.finished() >= 2, 60, "the second trial")
    place.until_training(process)
    process.send_signal(signal.SIGINT)
    assert place.ended(process) == 130, place.said()
    begun_anew = [values for _, state, *_, values in place.story() if state == "RUNNING"]
    say(f"steps that two trials had been told: {list(map(len, begun_anew))}")
    assert any(begun_anew)
    for what in ("journal", "checkpoints", "weights"):
        shutil.rmtree(place.folder / "mlruns" / what)
    place.env = {}
    place.finish(*search)
    place.assert_whole(6)
