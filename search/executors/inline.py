"""Trains in this process, one task at a time: for debugging, and where no second process is wanted.

An objective that crashes the process or calls `os._exit` ends the search with it, and one that makes the GPU unusable
ends the search. Searches with another engine survive it.
"""

from dataclasses import replace
from typing import Any

from objectives.devices import BrokenDeviceError
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import CaptureFailed, WorkerReady, WorkerSettings
from objectives.worker.worker import Worker
from search.common.errors import SearchError
from search.common.signals import is_interruption
from search.common.system import usable_cores
from search.executors.base import Executor, SlotEvent, lost_to_capture


class InlineExecutor(Executor):
    """One slot; the work happens inside `wait`."""

    slots = 1

    def __init__(self, objective: ObjectiveSpec, device: str) -> None:
        cores = usable_cores()
        self._settings = WorkerSettings(objective, device, index=0, threads=cores, threads_alone=cores)
        self._command: tuple[Any, ...] = ()
        self.worker: Worker | None = None
        self._ready: WorkerReady | None = None

    def set_demand(self, tasks: int) -> None:
        pass

    def ready(self) -> list[str]:
        self.worker = self.worker or Worker(self._settings, is_interruption)
        self._ready = self.worker.select_device()
        return [self._ready.device]

    def workers(self) -> list[WorkerReady]:
        return [self._ready] if self._ready else []

    def available(self) -> range:
        return range(1)

    def send(self, slot: int, *command: Any) -> None:
        self._command = command

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        if not self._command:
            return []
        assert self.worker is not None
        command, self._command = self._command, ()
        try:
            reply = self.worker.do(*command)
        except BrokenDeviceError as error:
            advice = "Nothing is lost: type the same command again; --engine local replaces such a worker by itself"
            raise SearchError(f"{error}. {advice}") from None
        if isinstance(reply, CaptureFailed):
            self._settings = replace(self._settings, capture=False)
            self.worker = Worker(self._settings, is_interruption)
            return [(0, lost_to_capture(reply))]
        return [(0, reply)]

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
        self.worker = None
