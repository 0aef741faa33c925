"""The contract between the coordinator and whatever trains.

A slot trains one task at a time. After `start`, `advance`, `checkpoint` or `stop` a slot owes exactly one event, which
`wait` gives; until then nothing may be asked of that slot. After `Finished`, `Failed`, `Refused` or `Lost` the slot is
free.

    start -> Refused
          -> EpochDone -> advance -> EpochDone -> ... -> Finished
                       -> checkpoint -> Checkpointed -> advance | (leave it: the task is dropped by the next start)
                       -> stop -> Finished

A slot whose trainer died gives `Lost`; the executor replaces the trainer by itself. Used by one thread.
"""

from __future__ import annotations

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


Event = EpochDone | Checkpointed | Finished | Failed | Refused | Lost | Probed
"""`Probed` comes only to an executor that asked for it itself."""


class Executor(Protocol):
    """Runs tasks in slots."""

    @property
    def slots(self) -> int:
        """How many tasks train at once."""
        ...

    def ready(self) -> list[str]:
        """Wait until the trainers are set up; returns the device of each slot.

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
        """End all trainers."""
        ...
