"""The contract between the coordinator and whatever trains.

A slot trains one task at a time. After `start`, `advance`, `checkpoint` or `stop` a slot owes exactly one event, which
`wait` gives; until then nothing may be asked of that slot. After `Finished`, `Failed`, `Refused` or `Lost` the slot is
free.

    start -> Refused
          -> EpochDone -> advance -> EpochDone -> ... -> Finished
                       -> checkpoint -> Checkpointed -> advance | (leave it: the task is dropped by the next start)
                       -> stop -> Finished

A slot whose trainer died gives `Lost`; the executor replaces the trainer by itself. A task is started only in a slot
that is `available`: on a cluster a trainer may wait long for its place, and no task is to wait with it. Used by one
thread.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from objectives.base import Task
from objectives.trainer import Checkpointed, EpochDone, Failed, Finished, Probed, Refused

__all__ = ["Checkpointed", "EpochDone", "Event", "Executor", "Failed", "Finished", "Lost", "Refused"]


@dataclass(frozen=True)
class Lost:
    """The trainer died with its task."""

    reason: str
    """How it died and the last lines it wrote."""
    blameless: bool = False
    """The task had no part in it: its machine went away, or its trainer was gone before the task reached it."""


Event = EpochDone | Checkpointed | Finished | Failed | Refused | Lost | Probed
"""`Probed` comes only to an executor that asked for it itself."""


class Executor(Protocol):
    """Runs tasks in slots."""

    @property
    def slots(self) -> int:
        """How many tasks train at once; on a cluster, how many did so far at most."""
        ...

    def available(self) -> Collection[int]:
        """The slots, at work or not, whose trainer can begin a task at once, or within seconds."""
        ...

    def expect(self, tasks: int) -> None:
        """So many tasks are under way or to come: trainers beyond that may go, and come back when there are more."""
        ...

    def ready(self) -> list[str]:
        """Wait until the trainers are set up, of which there may be fewer than asked for; returns their devices.

        Raises ObjectiveError when what a person asked for makes that impossible, SearchError when none starts.
        """
        ...

    def settle(self, task: Task) -> str | None:
        """Between `ready` and the first task: keep the slots that pay, measured by training `task` for a moment.

        Returns what was chosen and why, for people, or None where there was nothing to choose.
        """
        ...

    def start(self, slot: int, task: Task) -> None:
        """Begin a task and pull its first result."""
        ...

    def advance(self, slot: int) -> None:
        """Pull the next result."""
        ...

    def checkpoint(self, slot: int) -> None:
        """Ask for the state to resume from."""
        ...

    def stop(self, slot: int) -> None:
        """End the task and ask for what it left."""
        ...

    def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        """Events that came within the time, by slot; none when there were none."""
        ...

    def close(self) -> None:
        """End all trainers; once they have ended, do nothing."""
        ...
