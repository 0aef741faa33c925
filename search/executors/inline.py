"""Trains in this process, one task at a time: for debugging, and where a second process is one too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objectives.base import ObjectiveSpec, Task
from objectives.trainer import Settings, Trainer
from search.executors.base import Event
from search.provenance import usable_cores


class InlineExecutor:
    """One slot; the work happens inside `wait`."""

    slots = 1

    def __init__(self, objective: ObjectiveSpec, device: str) -> None:
        self._settings = Settings(objective, device, index=0, threads=usable_cores(), threads_alone=usable_cores())
        self._trainer: Trainer | None = None
        self._due: Callable[[], Any] | None = None

    def ready(self) -> list[str]:
        """Set the trainer up."""
        self._trainer = self._trainer or Trainer(self._settings)
        return [self._trainer.hello().device]

    def settle(self, task: Task) -> str | None:
        """One slot is all there is."""
        return None

    def available(self) -> range:
        """Always the one."""
        return range(1)

    def expect(self, tasks: int) -> None:
        """One slot is all there is."""

    def start(self, slot: int, task: Task) -> None:
        """Begin a task at the next `wait`."""
        self._due = lambda: self._used().start(task)

    def advance(self, slot: int) -> None:
        """Pull at the next `wait`."""
        self._due = self._used().advance

    def checkpoint(self, slot: int) -> None:
        """Take the state at the next `wait`."""
        self._due = self._used().checkpoint

    def stop(self, slot: int) -> None:
        """End the task at the next `wait`."""
        self._due = self._used().stop

    def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        """Do what is due, however long it takes."""
        due, self._due = self._due, None
        return [(0, due())] if due else []

    def close(self) -> None:
        """Forget the training."""
        self._trainer = None

    def _used(self) -> Trainer:
        assert self._trainer is not None, "ready() comes first"
        return self._trainer
