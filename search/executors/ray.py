"""Trains in actors of a Ray cluster, on as many machines as that has.

An actor holds its share of CPUs and GPUs from the moment Ray finds room for it. Until then it is pending: its slot is
not available, so no task waits with it. Pending actors are also how demand is declared, because Ray's autoscaler adds
nodes for them by itself. `request_resources` would, too, but is one order for the whole cluster: any program's call
replaces it, and it keeps nodes up until somebody takes it back, even when whoever gave it was killed.

Actors belong to this process's job: Ray ends them when it ends, however that happens, and no other search sees them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from objectives.actor import TrainerActor, Whereabouts
from objectives.base import ObjectiveError, ObjectiveSpec, Task
from objectives.trainer import Hello
from search.errors import SearchError, UsageError
from search.executors.base import Event, Failed, Finished, Lost, Refused
from search.executors.cluster import Cluster

LOOK_S = 1.0
"""How often the number of actors is compared with what is wanted."""

IDLE_S = 10.0
"""A trainer that had nothing to do for so long goes, if it is one too many: the confirmation may want it at once."""

GATHER_S = 5.0
"""Once a first trainer is set up, the search waits no longer for the others: they may be pending for hours."""

PATIENCE_S = 10.0
"""After so long it is said that trainers are missing."""

START_TRIES = 3
"""After so many in a row of which no trainer came the search ends: it is not one bad node of several."""

RETRY_S = 5.0
"""Before actors are made in the place of those that did not start; those that fail within it are one try."""


@dataclass
class Actor:
    """One trainer, pending or set up."""

    handle: Any
    where: Whereabouts | None = None
    """None while it waits for room."""
    hello: Hello | None = None
    """None until it is set up."""
    idle_since: float | None = None
    """On `time.monotonic`'s clock; None while it has a task."""
    reached: Any = None
    """The answer to a ping sent just before the task: there is one if the task came to a living actor."""


class RayExecutor:
    """A slot for every actor; their numbers stay when others go or come.

    `jobs`: actors at most; None: as many as the nodes have room for, be they few or many. `tasks`: how many there are
    at first. `say` is called with what a person should know of the cluster. Raises UsageError when the cluster cannot
    be reached, or has no room for a trainer and never will.
    """

    def __init__(
        self, objective: ObjectiveSpec, device: str, jobs: int | None, *, cpus: float = 1.0, gpus: float | None = None,
        address: str | None = None, tasks: int, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._cluster = Cluster(address, objective.target)
        self._ray = self._cluster.ray
        try:
            self._share = self._cluster.share(device, cpus, gpus)
        except UsageError:
            self._cluster.close()
            raise
        self._jobs, self._tasks, self._say = jobs, tasks, say
        self._device = "cpu" if device == "auto" and not self._share["GPU"] else device
        self._threads = max(1, int(cpus))
        self._objective = self._ray.put(objective)
        """In the object store: each node has its dataset once, and each actor there a view of it."""
        options = {"num_cpus": cpus, "num_gpus": self._share["GPU"], "max_restarts": 0, "max_task_retries": 0}
        self._class = self._ray.remote(**options)(TrainerActor)
        self._actors: dict[int, Actor] = {}
        self._owed: dict[Any, int] = {}
        """Answers that have not come, by the slot that owes them."""
        self._most = self._failures = 0
        self._look_at = self._try_until = 0.0
        self._bad_nodes: set[str] = set()
        """Where trainers did not start, which is said once of each; or why, where the node is not known."""
        self._counted, self._since = (0, 0), time.monotonic()
        """Trainers that are set up, and that there should be; and since when it is so."""
        self._said: tuple[int, int] | None = None

    @property
    def slots(self) -> int:
        return max(1, self._most)

    def available(self) -> list[int]:
        """Those whose actor is set up."""
        return sorted(slot for slot, actor in self._actors.items() if actor.hello)

    def expect(self, tasks: int) -> None:
        """Let those go that have been idle for a while, or call for more, when it is looked at next."""
        self._tasks = tasks

    def ready(self) -> list[str]:
        """Wait for the first trainer, and a moment for the others."""
        until = math.inf
        while not self.available() or (len(self.available()) < len(self._actors) and time.monotonic() < until):
            self.wait(0.2)
            if self.available() and until == math.inf:
                until = time.monotonic() + GATHER_S
        return [actor.hello.device for actor in self._actors.values() if actor.hello]

    def settle(self, task: Task) -> str | None:
        """Ray was told what each trainer needs."""
        return None

    def start(self, slot: int, task: Task) -> None:
        """Begin a task."""
        actor = self._actors[slot]
        with _cluster_needed():
            actor.idle_since, actor.reached = None, actor.handle.ping.remote()
        self._ask(slot, "start", task)

    def advance(self, slot: int) -> None:
        """Pull the next result."""
        self._ask(slot, "advance")

    def checkpoint(self, slot: int) -> None:
        """Ask for the state."""
        self._ask(slot, "checkpoint")

    def stop(self, slot: int) -> None:
        """End the task."""
        self._ask(slot, "stop")

    def _ask(self, slot: int, command: str, *arguments: Any) -> None:
        with _cluster_needed():
            self._owed[self._actors[slot].handle.do.remote(command, *arguments)] = slot

    def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        """Events that came within the time. Raises SearchError when the cluster is lost."""
        with _cluster_needed():
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_S
                self._hire_and_release()
                self._say_what_is_missing()
            if not self._owed:
                time.sleep(timeout_s)
                return []
            came, _ = self._ray.wait(list(self._owed), num_returns=1, timeout=timeout_s)
            if came:
                came, _ = self._ray.wait(list(self._owed), num_returns=len(self._owed), timeout=0)
            events = [
                (self._owed[answer], self._receive(answer)) for answer in came
                if answer in self._owed  # one that died owes nothing any more
            ]  # fmt: skip
        return [(slot, event) for slot, event in events if event is not None]

    def _receive(self, answer: Any) -> Event | None:
        slot = self._owed.pop(answer)
        actor = self._actors[slot]
        try:
            reply = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            return self._lose(slot, actor, error)
        if isinstance(reply, ObjectiveError):
            self._release(slot)
            self._not_started(actor, reply, str(reply))
            return None
        if isinstance(reply, Whereabouts):
            actor.where = reply
            return None
        if isinstance(reply, Hello):
            actor.hello, actor.idle_since, self._failures = reply, time.monotonic(), 0
            self._most = max(self._most, len(self.available()))
            return None
        if isinstance(reply, Finished | Failed | Refused):
            actor.idle_since = time.monotonic()
        event: Event = reply
        return event

    def close(self) -> None:
        """End the job, and with it all trainers; a Ray that was started for them ends, too."""
        self._cluster.close()

    # ---- actors come and go

    def _hire_and_release(self) -> None:
        """Make what is missing of the wanted actors, or let those go that are too many and idle."""
        most = self._cluster.room(self._share) if self._jobs is None else self._jobs
        wanted = min(max(1, most), self._tasks)
        free = (slot for slot in range(wanted) if slot not in self._actors)
        while len(self._actors) < wanted:
            self._hire(next(free))
        long_ago = time.monotonic() - IDLE_S
        spare = [
            slot for slot, actor in sorted(self._actors.items(), reverse=True)
            if actor.hello is None or (actor.idle_since is not None and actor.idle_since < long_ago)
        ]  # fmt: skip
        spare.sort(key=lambda slot: self._actors[slot].hello is not None)  # pending ones cost nobody anything
        for slot in spare[: max(0, len(self._actors) - wanted)]:
            self._release(slot)

    def _hire(self, slot: int) -> None:
        handle = self._class.remote()
        self._actors[slot] = Actor(handle)
        self._owed[handle.where.remote()] = slot
        self._owed[handle.set_up.remote(self._objective, self._device, self._threads)] = slot

    def _release(self, slot: int) -> None:
        """End an actor that has no task."""
        actor = self._actors.pop(slot)
        self._owed = {answer: owing for answer, owing in self._owed.items() if owing != slot}
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor.handle)

    def _lose(self, slot: int, actor: Actor, error: Exception) -> Lost | None:
        """An actor gave an error instead of an answer: another one takes its slot."""
        machine_gone = self._cluster.has_lost(actor.where, error)
        reason = self._cluster.last_words(actor.where, error)
        self._release(slot)
        self._look_at = 0.0
        if actor.hello is not None:
            return Lost(reason, blameless=machine_gone or not self._was_reached(actor))
        if not machine_gone:
            self._not_started(actor, SearchError(f"trainers do not start: {reason}"), reason)
        return None

    def _not_started(self, actor: Actor, error: Exception, reason: str) -> None:
        """Leave it to the next try, or raise the error where there is none: a bad node must not end a good search."""
        now = time.monotonic()
        if self.available():
            self._failures = 0
        if now >= self._try_until:
            self._failures, self._try_until = self._failures + 1, now + RETRY_S
        self._look_at = self._try_until
        placed = any(other.where for other in self._actors.values())  # it works, or is being set up
        if self._failures >= START_TRIES and not placed:
            raise error
        said = actor.where.node if actor.where else reason
        if said not in self._bad_nodes:
            self._bad_nodes.add(said)
            self._say(f"a trainer did not start{self._cluster.place(actor.where)}, and is tried again: {reason}")

    def _was_reached(self, actor: Actor) -> bool:
        try:
            self._ray.get(actor.reached, timeout=0)
        except self._ray.exceptions.RayError:  # a GetTimeoutError among them
            return False
        return True

    def _say_what_is_missing(self) -> None:
        """Once the number of trainers has not changed for a while, say so if some are missing or have been."""
        counted = here, wanted = len(self.available()), len(self._actors)
        if counted != self._counted:
            self._counted, self._since = counted, time.monotonic()
        if counted == self._said or time.monotonic() < self._since + PATIENCE_S:
            return
        before, self._said = self._said, counted
        if here < wanted:
            each = self._cluster.describe(self._share)
            have = self._cluster.describe(self._cluster.resources())
            self._say(
                f"{here} of {wanted} trainers are set up; the others start or wait for room: each needs {each}, and "
                f"the cluster has {have} in all"
            )
        elif before is not None and here > before[0]:
            self._say(f"all {wanted} trainers are set up")


@contextlib.contextmanager
def _cluster_needed() -> Iterator[None]:
    """Raise SearchError where the cluster is lost."""
    try:
        yield
    except ConnectionError as error:
        raise SearchError(
            f"the Ray cluster cannot be reached any more ({error}). Nothing is lost: when it is back, type the "
            "same command again"
        ) from None
