"""A `Worker` as a Ray actor, whose caller may be on another machine.

The actor's machine needs Ray, torch and whatever the objective imports. Nothing here knows the search.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from objectives.base import ObjectiveError, ObjectiveSpec
from objectives.worker.messages import Reply, WorkerReady, WorkerSettings
from objectives.worker.worker import Worker


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor runs. Known before its worker is set up, and also when that fails."""

    node: str
    """Ray's id of the machine."""
    worker: str
    """Ray's id of the process, which is part of the names of its log files."""
    pid: int


class WorkerActor:
    """One worker. The coordinator waits for every answer, except that of `ping`, before it sends the next command."""

    def locate(self) -> ActorLocation:
        """Return where this process runs."""
        import ray

        here = ray.get_runtime_context()
        return ActorLocation(here.get_node_id(), here.get_worker_id(), os.getpid())

    def set_up(self, objective: ObjectiveSpec, device: str, threads: int) -> WorkerReady | ObjectiveError:
        """Make the worker. Returns an ObjectiveError instead of raising it, because Ray would wrap it."""
        try:
            # Ray shows an actor only the GPUs that it was given, so its index is 0. It has no more cores when alone.
            self._worker = Worker(WorkerSettings(objective, device, 0, threads, threads))
            return self._worker.select_device()
        except ObjectiveError as error:
            return error

    def ping(self) -> None:
        """Do nothing: an answer shows that the actor can be reached."""

    def do(self, command: str, *arguments: Any) -> Reply:
        """Pass a command to the worker and return its reply."""
        reply: Reply = getattr(self._worker, command)(*arguments)
        return reply
