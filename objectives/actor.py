"""The Ray actor in which trainings run: a `Trainer` whose caller is on another machine.

The actor's machine needs Ray, torch and what the objective imports. Nothing here knows of the search.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from objectives.base import ObjectiveError, ObjectiveSpec
from objectives.trainer import Hello, Reply, Settings, Trainer


@dataclass(frozen=True)
class Whereabouts:
    """Where an actor runs, which is known before its trainer is set up, and also when that fails."""

    node: str
    """Ray's name of the machine."""
    worker: str
    """Ray's name of the process, by which its log files are found."""
    pid: int


class TrainerActor:
    """One trainer. Its only caller waits for each answer but that of `ping` before it asks again."""

    def where(self) -> Whereabouts:
        """Where this process is."""
        import ray

        here = ray.get_runtime_context()
        return Whereabouts(here.get_node_id(), here.get_worker_id(), os.getpid())

    def set_up(self, objective: ObjectiveSpec, device: str, threads: int) -> Hello | ObjectiveError:
        """Make the trainer; gives the error of a person's making, which Ray would wrap beyond recognition."""
        try:
            # Ray shows the actor no GPUs but its own, so it is the first there; nor are more cores its own when alone.
            self._trainer = Trainer(Settings(objective, device, 0, threads, threads))
            return self._trainer.hello()
        except ObjectiveError as error:
            return error

    def ping(self) -> None:
        """Show that the actor can be reached."""

    def do(self, command: str, *arguments: Any) -> Reply:
        """What the trainer answers to a command."""
        reply: Reply = getattr(self._trainer, command)(*arguments)
        return reply
