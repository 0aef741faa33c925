"""Trains in actors of a Ray cluster, on all of its machines.

Each actor reserves CPUs and GPUs. Until Ray finds them the actor is pending: its slot is not available, so no task
waits for it. Pending actors also make Ray's autoscaler add nodes. `request_resources` is not used because it is global
to the cluster: another program's call replaces it, and it keeps nodes running after the caller was killed.

Actors belong to the job of this process. Ray ends them when the process ends, and other searches do not see them.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from objectives.base import ObjectiveError, Task
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import CaptureFailed, WorkerReady
from objectives.worker.ray_actor import ActorLocation, WorkerActor
from search.common.errors import SearchError, UsageError
from search.executors.base import (
    Executor,
    Failed,
    Finished,
    Lost,
    Refused,
    Returned,
    SlotEvent,
    Unusable,
    lost_to_capture,
)
from search.executors.ray_cluster import Cluster, describe

UPDATE_S = 1.0  # how often the number of actors is adapted
IDLE_S = 10.0  # surplus workers end after this time without a task; the confirmation might need them again
GATHER_S = 5.0  # how long the search waits for the other workers, which may be pending for hours, after the first one
MISSING_NOTICE_S = 10.0  # missing workers are reported after this time, and their number at most this often
MAX_FAILED_STARTS = 3  # in a row, before the search ends; a single one may be a bad node
RETRY_S = 5.0  # time before failed actors are started again; failures within this time count as one


@dataclass
class Actor:
    """One worker, pending or set up."""

    handle: Any
    location: ActorLocation | None = None  # None while it is pending
    ready: WorkerReady | None = None  # None until it is set up
    idle_since: float = -math.inf  # in the time of `time.monotonic`; infinite while it has a task
    ping: Any = None  # reference to the answer of a ping sent just before the task, which shows that the task arrived


@contextmanager
def _explain_lost_cluster() -> Iterator[None]:
    """Raise SearchError instead of the ConnectionError of a lost cluster."""
    try:
        yield
    except ConnectionError as error:
        advice = "Nothing is lost: when it is back, type the same command again"
        raise SearchError(f"the Ray cluster cannot be reached any more ({error}). {advice}") from None


class RayExecutor(Executor):
    """One slot per actor. A slot keeps its number when other actors come or go. Ray decides where each actor runs.

    `jobs` is the maximum number of actors; with None it is what fits the nodes at any time. `notice` shows a message to
    the user. Raises UsageError when the cluster cannot be reached, or has no room for a worker and cannot grow.
    """

    slots = 1

    def __init__(
        self,
        objective: ObjectiveSpec,
        device: str,
        jobs: int | None,
        *,
        cpus: float = 1.0,
        gpus: float | None = None,
        address: str | None = None,
        notice: Callable[[str], None],
    ) -> None:
        self._cluster = Cluster(address, objective)
        self._ray = self._cluster.ray
        try:
            self._share = self._cluster.share(device, cpus, gpus)
        except UsageError:
            self._ray.shutdown()
            raise
        self._jobs, self._notice = jobs, notice
        self._device = "cpu" if device == "auto" and not self._share["GPU"] else device
        self._threads = max(1, int(cpus))
        self._objective = self._ray.put(objective)  # so each node holds the dataset once and its actors share it
        options = {"num_cpus": cpus, "num_gpus": self._share["GPU"], "max_restarts": 0, "max_task_retries": 0}
        self._class = self._ray.remote(**options)(WorkerActor)
        self._actors: dict[int, Actor] = {}
        self._owed: dict[Any, int] = {}  # slots by the reference of the answer that they owe
        self._demand, self._failed_starts, self._capture = 1, 0, True
        self._update_at = self._retry_at = 0.0
        self._notice_at = time.monotonic() + MISSING_NOTICE_S
        self._reported_failures: set[str] = set()  # nodes, or reasons without a node; each is reported once
        self._reported_counts: tuple[int, int] | None = None  # workers that were set up, and wanted

    def set_demand(self, tasks: int) -> None:
        self._demand = tasks  # the number of actors follows at the next update

    def ready(self) -> list[str]:
        """Wait for the first worker, and a few seconds for the others."""
        while not self.available():
            self.wait(0.2)
        deadline = time.monotonic() + GATHER_S
        while len(self.available()) < len(self._actors) and time.monotonic() < deadline:
            self.wait(0.2)
        return [worker.device for worker in self.workers()]

    def workers(self) -> list[WorkerReady]:
        return [actor.ready for actor in self._actors.values() if actor.ready]

    def available(self) -> list[int]:
        return sorted(slot for slot, actor in self._actors.items() if actor.ready)

    @_explain_lost_cluster()
    def start(self, slot: int, task: Task) -> None:
        actor = self._actors[slot]
        actor.idle_since, actor.ping = math.inf, actor.handle.ping.remote()
        super().start(slot, task)

    @_explain_lost_cluster()
    def send(self, slot: int, *command: Any) -> None:
        self._owed[self._actors[slot].handle.do.remote(*command)] = slot

    @_explain_lost_cluster()
    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        if time.monotonic() >= self._update_at:
            self._update_at = time.monotonic() + UPDATE_S
            self._update_actors()
            self._report_missing()
        if not self._owed:
            time.sleep(timeout_s)
            return []
        arrived, _ = self._ray.wait(list(self._owed), num_returns=1, timeout=timeout_s)
        if arrived:
            arrived, _ = self._ray.wait(list(self._owed), num_returns=len(self._owed), timeout=0)
        # an actor that died meanwhile owes nothing any more
        events = [(self._owed[answer], self._receive(answer)) for answer in arrived if answer in self._owed]
        return [(slot, event) for slot, event in events if event is not None]

    def _receive(self, answer: Any) -> SlotEvent | None:
        slot = self._owed.pop(answer)
        actor = self._actors[slot]
        try:
            reply = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return self._remove_dead(slot, actor, error)
        if isinstance(reply, ObjectiveError):
            self._release(slot)
            self._start_failed(actor, reply, str(reply))
            return None
        if isinstance(reply, ActorLocation):
            actor.location = reply
            return None
        if isinstance(reply, WorkerReady):
            actor.ready, actor.idle_since, self._failed_starts = reply, time.monotonic(), 0
            self.slots = max(self.slots, len(self.available()))
            return None
        if isinstance(reply, CaptureFailed):
            self._capture, self._update_at = False, 0.0
            self._release(slot)
            return lost_to_capture(reply)
        if isinstance(reply, Finished | Returned | Unusable | Failed | Refused):
            actor.idle_since = time.monotonic()
        event: SlotEvent = reply
        return event

    def close(self) -> None:
        self._ray.shutdown()

    def _update_actors(self) -> None:
        """Start missing actors, or end surplus ones that are pending or have been idle for long."""
        most = self._cluster.room(self._share) if self._jobs is None else self._jobs
        wanted = min(max(1, most), self._demand)
        free = [slot for slot in range(wanted) if slot not in self._actors]
        for slot in free[: max(0, wanted - len(self._actors))]:
            self._actors[slot] = Actor(handle := self._class.remote())
            self._owed[handle.locate.remote()] = slot
            self._owed[handle.set_up.remote(self._objective, self._device, self._threads, self._capture)] = slot
        idle = [slot for slot, actor in self._actors.items() if actor.idle_since < time.monotonic() - IDLE_S]
        idle.sort(key=lambda slot: (self._actors[slot].ready is not None, -slot))  # pending actors first
        for slot in idle[: max(0, len(self._actors) - wanted)]:
            self._release(slot)

    def _release(self, slot: int) -> None:
        """End an actor that has no task."""
        actor = self._actors.pop(slot)
        self._owed = {answer: owing for answer, owing in self._owed.items() if owing != slot}
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor.handle)

    def _remove_dead(self, slot: int, actor: Actor, error: Exception) -> Lost | None:
        """Remove an actor that answered with an error. The next update starts another one in its slot."""
        machine_gone = self._cluster.is_machine_gone(actor.location, error)
        reason = self._cluster.describe_death(actor.location, error)
        self._release(slot)
        self._update_at = 0.0
        if actor.ready is not None:
            return Lost(reason, may_be_task=not machine_gone and self._task_arrived(actor))
        if not machine_gone:
            self._start_failed(actor, SearchError(f"workers do not start: {reason}"), reason)
        return None

    def _task_arrived(self, actor: Actor) -> bool:
        with suppress(self._ray.exceptions.RayError):  # a GetTimeoutError among them
            self._ray.get(actor.ping, timeout=0)
            return True
        return False

    def _start_failed(self, actor: Actor, error: Exception, reason: str) -> None:
        """Start again later, or raise the error after too many tries. One bad node must not end a search."""
        now = time.monotonic()
        if self.available():
            self._failed_starts = 0
        if now >= self._retry_at:
            self._failed_starts, self._retry_at = self._failed_starts + 1, now + RETRY_S
        self._update_at = self._retry_at
        placed = any(other.location for other in self._actors.values())  # set up, or being set up
        if self._failed_starts >= MAX_FAILED_STARTS and not placed:
            raise error
        failure = actor.location.node if actor.location else reason
        if failure not in self._reported_failures:
            self._reported_failures.add(failure)
            self._notice(f"a worker did not start{self._cluster.place(actor.location)}, and is tried again: {reason}")

    def _report_missing(self) -> None:
        """Report workers that have been missing for a while, and report when all have come."""
        counts = n_ready, wanted = len(self.available()), len(self._actors)
        now, reported = time.monotonic(), self._reported_counts
        if n_ready == wanted:
            self._reported_counts, self._notice_at = None, now + MISSING_NOTICE_S
            if reported and n_ready > reported[0]:
                self._notice("all workers are set up")
        elif counts != reported and now >= self._notice_at:
            self._reported_counts, self._notice_at = counts, now + MISSING_NOTICE_S
            needs, has = describe(self._share), describe(self._cluster.resources())
            room = f"each needs {needs}, and the cluster has {has} in all"
            self._notice(f"{n_ready} of {wanted} workers are set up; the others start or wait for room: {room}")
