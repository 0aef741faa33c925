"""Trains in processes of this machine, started once and reused.

Each trainer is a fresh interpreter that runs `objectives`: it inherits no lock, no database and no terminal.
It is reached over a socket pair, and it ends when the coordinator does, because its standard input ends then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

from objectives.base import ObjectiveError, ObjectiveSpec, Task
from objectives.trainer import Hello, Probed, Settings
from search.errors import SearchError
from search.executors.base import Event, Lost
from search.executors.crowding import PROBE_S, Crowd, affordable, grow, most_trainers, together
from search.provenance import usable_cores

LAST_LINES = 15
START_TRIES = 3
KILLED_TRIES = 30
"""Starts that SIGKILL ended say less of the next one than starts that failed by themselves."""


class TrainerProcess:
    """One trainer process and the two ways of hearing from it: its socket and what it printed."""

    def __init__(self, settings: Settings) -> None:
        ours, theirs = socket.socketpair()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "OMP_NUM_THREADS": str(settings.threads), "PYTHONUNBUFFERED": "1"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "objectives", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=self._output,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the coordinator alone
            )
        self.connection = Connection(ours.detach())
        self.hello: Hello | None = None
        self.failed_starts = 0
        """How many before this one died, one after the other, before they said hello."""
        self._owed: deque[Any] = deque()
        self.send(settings, at_once=True)

    def send(self, message: Any, *, at_once: bool = False) -> None:
        """Send, or keep until the trainer is set up: a large task would block the socket before that."""
        if self.hello is None and not at_once:
            self._owed.append(message)
            return
        with contextlib.suppress(OSError):  # it is dead; whoever receives next finds out and says why
            self.connection.send(message)

    def greeted(self, hello: Hello) -> None:
        """It is set up."""
        self.hello = hello
        while self._owed:
            self.send(self._owed.popleft())

    def last_words(self) -> str:
        """How it ended and the last lines it printed. Waits for the process."""
        status = self.process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 8192))
        lines = self._output.read().decode(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"its trainer (pid {self.process.pid}) {how}", *lines])

    def end(self) -> None:
        """Ask it to end by hanging up."""
        self.connection.close()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def reap(self, timeout_s: float) -> None:
        """Make sure that it has ended."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()


class LocalExecutor:
    """As many slots as trainers.

    Without `jobs` there is one single-threaded trainer per core; on GPUs there are at first as many as may pay, spread
    over all of them, and `settle` keeps those that do.
    """

    def __init__(self, objective: ObjectiveSpec, device: str, jobs: int | None) -> None:
        self._objective, self._device, self._jobs = objective, device, jobs
        self._threads = max(1, usable_cores() // jobs) if jobs else 1
        self._settings: list[Settings] = []
        self._trainers: list[TrainerProcess] = []
        self._dismissed: list[TrainerProcess] = []
        self._notices: set[str] = set()
        """What trainers had to say while they were measured; several of them say the same."""
        # What `auto` is, the first trainer says: on a large machine with one GPU, one per core would be too many.
        self._hire(jobs or (usable_cores() if device == "cpu" else most_trainers(usable_cores(), gpus=1)))

    @property
    def slots(self) -> int:
        return len(self._trainers)

    def available(self) -> range:
        """All: a trainer that died is replaced within seconds."""
        return range(self.slots)

    def expect(self, tasks: int) -> None:
        """Keep them all: they cost nothing that anybody waits for."""

    def _hire(self, trainers: int) -> None:
        """Start trainers until there are so many."""
        for index in range(self.slots, trainers):
            self._settings.append(Settings(self._objective, self._device, index, self._threads, usable_cores()))
            self._trainers.append(TrainerProcess(self._settings[index]))

    def ready(self) -> list[str]:
        """Wait until every trainer has said hello."""
        hellos = self._hellos()
        if self._jobs is None:
            self._hire(most_trainers(usable_cores(), hellos[0].gpus))
            hellos = self._hellos()
        return [hello.device for hello in hellos]

    def _hellos(self) -> list[Hello]:
        while any(trainer.hello is None for trainer in self._trainers):
            self.wait(1.0)
        return [trainer.hello for trainer in self._trainers if trainer.hello]

    def settle(self, task: Task) -> str | None:
        """On GPUs, and where nobody said how many, keep as many trainers as pay when all of them train `task`."""
        hellos = self._hellos()
        if self._jobs is not None or not hellos[0].gpus:
            return None
        gpus = hellos[0].gpus
        each = affordable(self.slots // gpus, min(hello.free_bytes for hello in hellos))
        crowd = self.try_crowds(task, each * gpus, step=gpus)
        where = ", ".join(sorted({hello.device for hello in hellos[: self.slots]}))
        return "\n".join([f"{self.slots} trainers on {where} ({crowd.why})", *sorted(self._notices)])

    def try_crowds(self, task: Task, most: int, *, step: int = 1) -> Crowd:
        """Measure `step` trainers, then twice as many and so on up to `most`; keep those that pay."""
        self.probe(most, task, 0.0)  # libraries are loaded and recordings made before anything is measured
        crowd = grow(lambda trainers: self.probe(trainers, task, PROBE_S), most, step=step)
        self.dismiss(crowd.trainers)
        return crowd

    def probe(self, trainers: int, task: Task, seconds: float) -> float:
        """Pulls a second of the first `trainers` together, all training `task`; 0 where one of them fails."""
        for trainer in self._trainers[:trainers]:
            trainer.send(("probe", task, seconds))
        answers: dict[int, Event] = {}
        while len(answers) < trainers:
            answers |= {slot: event for slot, event in self.wait(1.0) if slot < trainers}  # an idle one may die, too
        probed = [answer for answer in answers.values() if isinstance(answer, Probed)]
        self._notices |= {notice for answer in probed for notice in answer.notices}
        return together([(answer.began, answer.pulled) for answer in probed]) if len(probed) == trainers else 0.0

    def dismiss(self, keep: int) -> None:
        """End all trainers but the first `keep`; none of them may be at work."""
        for trainer in self._trainers[keep:]:
            trainer.end()
        self._dismissed += self._trainers[keep:]
        del self._trainers[keep:], self._settings[keep:]

    def start(self, slot: int, task: Task) -> None:
        """Begin a task."""
        self._trainers[slot].send(("start", task))

    def advance(self, slot: int) -> None:
        """Pull the next result."""
        self._trainers[slot].send(("advance",))

    def checkpoint(self, slot: int) -> None:
        """Ask for the state."""
        self._trainers[slot].send(("checkpoint",))

    def stop(self, slot: int) -> None:
        """End the task."""
        self._trainers[slot].send(("stop",))

    def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        """Events that came within the time."""
        slots = {trainer.connection: slot for slot, trainer in enumerate(self._trainers)}
        events = [(slots[ready], self._receive(slots[ready])) for ready in wait(list(slots), timeout_s)]  # type: ignore[index]
        return [(slot, event) for slot, event in events if event is not None]

    def _receive(self, slot: int) -> Event | None:
        trainer = self._trainers[slot]
        try:
            message = trainer.connection.recv()
        except (EOFError, OSError):
            return self._replace(slot)
        if isinstance(message, ObjectiveError):
            raise message
        if isinstance(message, Hello):
            trainer.greeted(message)
            return None
        event: Event = message
        return event

    def _replace(self, slot: int) -> Event | None:
        old = self._trainers[slot]
        old.end()
        reason = old.last_words()
        old.reap(0)
        failed_starts = old.failed_starts + 1 if old.hello is None else 0
        killed = old.process.returncode == -signal.SIGKILL
        if failed_starts >= (KILLED_TRIES if killed else START_TRIES):
            raise SearchError(f"trainers do not start: {reason}")
        new = TrainerProcess(self._settings[slot])
        new.failed_starts = failed_starts
        self._trainers[slot] = new
        if old.hello is None:
            new._owed.extend(old._owed)  # its task never reached it
            return None
        return Lost(reason)

    def close(self) -> None:
        """End all trainers, at most a few seconds from now."""
        self.dismiss(0)
        deadline = time.monotonic() + 3.0
        for trainer in self._dismissed:
            trainer.reap(max(0.0, deadline - time.monotonic()))
