"""A `Worker` as a Ray actor, whose caller may be on another machine.

The actor's machine needs Ray, torch and the imports of the objective. Nothing here imports the search.
"""

import os
from dataclasses import dataclass
from typing import Any

from objectives.base import ObjectiveError
from objectives.devices import BrokenDeviceError
from objectives.functions.output import FileOutput, redirected
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import Reply, WorkerReady, WorkerSettings, transferable
from objectives.worker.worker import Worker, exit_broken


@dataclass(frozen=True)
class ActorLocation:
    """Where an actor runs. Available before its worker is set up, and also when that fails."""

    node: str
    """Ray's id of the machine."""
    worker: str
    """Ray's id of the process, which is part of the names of its log files."""
    pid: int


def redirect_to_log() -> FileOutput:
    """Let this process print to a file in the folder of Ray's logs. The coordinator finds its last lines there.

    Ray would forward lines of its own log files. It does not read this one, because of its name.
    """
    log = os.path.realpath("/proc/self/fd/1")
    if not os.path.isfile(log):
        return redirected()
    return redirected(f"{log.removesuffix('.out')}-function.log")


class WorkerActor:
    """One worker. The coordinator waits for every answer, except that of `ping`, before it sends the next command."""

    def locate(self) -> ActorLocation:
        import ray

        context = ray.get_runtime_context()
        return ActorLocation(context.get_node_id(), context.get_worker_id(), os.getpid())

    def set_up(
        self, objective: ObjectiveSpec, device: str, threads: int, capture: bool
    ) -> WorkerReady | ObjectiveError:
        """Make the worker. Returns an ObjectiveError instead of raising it, because Ray would wrap it."""
        try:
            # Ray shows an actor only the GPUs that it was given, so its index is 0. It has no more cores when alone.
            settings = WorkerSettings(objective, device, 0, threads, threads, capture)
            self._worker = Worker(settings, make_output=redirect_to_log)
            return self._worker.select_device()
        except ObjectiveError as error:
            return transferable(error)

    def ping(self) -> None:
        """Answer, which shows that the actor can be reached."""

    def do(self, command: str, *arguments: Any) -> Reply:
        """Pass a command to the worker and return its reply. Ends this process if the worker cannot go on in it."""
        try:
            return self._worker.do(command, *arguments)
        except BrokenDeviceError as error:
            exit_broken(error)
