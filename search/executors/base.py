"""The contract between the coordinator and the workers.

A slot trains one task at a time. After each command it owes exactly one event, which `wait` returns. Until then it
takes no other command.

    command      event          the slot is then
    start        EpochDone      training: the next command is advance, checkpoint or stop
                 Refused        free: the network is slower than the task allows
                 Asked          calling a function, which waits: the next command is answer
    answer       Asked          calling the function
                 Returned       free: the function returned, or was pruned
                 Unusable       free: the function can never be searched; the coordinator raises ObjectiveError
    advance      EpochDone      training
                 Finished       free: the training came to its end
    checkpoint   Checkpointed   training; the next start drops it, if no other command follows
    stop         Finished       free
    any          Failed         free: the training raised an error
                 Lost           free once it is available again: its worker died and is replaced

A task is started only in a slot that is `available`. On a cluster a worker may wait long for resources, and a task
must not wait with it. Not thread-safe.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from objectives.base import Task
from objectives.worker.messages import (
    Answer,
    Asked,
    CaptureFailed,
    Checkpointed,
    EpochDone,
    Failed,
    Finished,
    Refused,
    Reply,
    Returned,
    Unusable,
    WorkerReady,
)

__all__ = ["Answer", "Asked", "Checkpointed", "EpochDone", "Executor", "Failed", "Finished", "Lost", "Refused"]
__all__ += ["Returned", "SlotEvent", "Unusable"]


@dataclass(frozen=True)
class Lost:
    """The worker died with its task."""

    reason: str  # how it died and the last lines it printed
    may_be_task: bool = True
    """False if the task cannot be the cause: the machine is gone, or the worker died before the task reached it."""


SlotEvent = Reply | Lost


def lost_to_capture(failed: CaptureFailed) -> Lost:
    """The event of a task whose training cannot be captured as a CUDA graph. It does not count as a retry."""
    return Lost(f"without CUDA graphs, slower and with the same results: {failed.reason}", may_be_task=False)


class Executor(Protocol):
    """Runs tasks in slots. Implementations inherit the five commands, and define how one is sent."""

    @property
    def slots(self) -> int:
        """Number of tasks that train in parallel; on a cluster, the largest number so far."""

    def set_demand(self, tasks: int) -> None:
        """Set how many tasks are running or still to come. Surplus workers may end; new ones start when needed."""

    def ready(self) -> list[str]:
        """Wait until the workers are set up and return their devices. There may be fewer than asked for.

        Raises ObjectiveError when the objective or the device makes this impossible, SearchError when none starts.
        """

    def workers(self) -> list[WorkerReady]:
        """Return what each worker that is set up said of itself."""

    def tune_workers(self, tasks: Sequence[Task]) -> str | None:
        """Choose the number of workers by training `tasks` briefly; called once, between `ready` and the first task.

        Returns a message about the choice, or None when there was nothing to choose.
        """
        return None

    def available(self) -> Collection[int]:
        """Return the slots, busy or free, whose worker is set up."""

    def send(self, slot: int, *command: Any) -> None:
        """Send a command, its name and arguments, to the worker of a slot."""

    def start(self, slot: int, task: Task) -> None:
        """Begin a task and pull its first result."""
        self.send(slot, "start", task)

    def advance(self, slot: int) -> None:
        """Pull the next result."""
        self.send(slot, "advance")

    def checkpoint(self, slot: int) -> None:
        """Ask for the state to resume from."""
        self.send(slot, "checkpoint")

    def answer(self, slot: int, answer: Answer) -> None:
        """Answer a function's question."""
        self.send(slot, "answer", answer)

    def stop(self, slot: int) -> None:
        """End the task and ask for its outcome."""
        self.send(slot, "stop")

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        """Return the events that arrive within the time, by slot; an empty list if none does."""

    def close(self) -> None:
        """End all workers. A second call does nothing."""
