"""Trains in this process, one task at a time: for debugging, and where no second process is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objectives.base import ObjectiveSpec, Task
from objectives.worker.messages import WorkerSettings
from objectives.worker.worker import Worker
from search.common.system import usable_cores
from search.executors.base import SlotEvent


class InlineExecutor:
    """One slot; the work happens inside `wait`."""

    slots = 1

    def __init__(self, objective: ObjectiveSpec, device: str) -> None:
        cores = usable_cores()
        self._settings = WorkerSettings(objective, device, index=0, threads=cores, threads_alone=cores)
        self._worker: Worker | None = None
        self._due: Callable[[], Any] | None = None

    def ready(self) -> list[str]:
        """Set up the worker."""
        self._worker = self._worker or Worker(self._settings)
        return [self._worker.select_device().device]

    def settle(self, task: Task) -> str | None:
        """Nothing to choose: there is one slot."""
        return None

    def available(self) -> range:
        """Always the only slot."""
        return range(1)

    def expect(self, tasks: int) -> None:
        """Nothing to do: there is one slot."""

    def start(self, slot: int, task: Task) -> None:
        """Begin a task at the next `wait`."""
        self._due = lambda: self._ready_worker().start(task)

    def advance(self, slot: int) -> None:
        """Pull at the next `wait`."""
        self._due = self._ready_worker().advance

    def checkpoint(self, slot: int) -> None:
        """Take the state at the next `wait`."""
        self._due = self._ready_worker().checkpoint

    def stop(self, slot: int) -> None:
        """End the task at the next `wait`."""
        self._due = self._ready_worker().stop

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        """Run the command that is due, however long it takes."""
        due, self._due = self._due, None
        return [(0, due())] if due else []

    def close(self) -> None:
        """Discard the worker."""
        self._worker = None

    def _ready_worker(self) -> Worker:
        assert self._worker is not None, "ready() comes first"
        return self._worker
