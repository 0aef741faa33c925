"""Any number of workers that only wait, and the number and length of their trials."""

from __future__ import annotations

import heapq
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from objectives.base import EpochResult, Outcome, Task
from search.executors.base import EpochDone, Finished, SlotEvent
from tests.benchmarks.growth_stores import POINT

PULLS = 4
"""Results of a training: each of them waits for the coordinator."""


@dataclass(frozen=True)
class Case:
    """Numbers of workers and trials, and the seconds that one trial takes."""

    trainers: int
    seconds: float
    trials: int
    weights_mb: float = 0.0

    def __str__(self) -> str:
        text = f"{self.trainers}x{self.seconds:g}x{self.trials}"
        return f"{text}x{self.weights_mb:g}" if self.weights_mb else text

    @classmethod
    def of(cls, text: str) -> Case:
        """As it is typed: `64x10x1000`, with a fourth number for megabytes of weights."""
        trainers, seconds, trials, *weights = text.split("x")
        return cls(int(trainers), float(seconds), int(trials), *map(float, weights))

    @property
    def ideal(self) -> float:
        """The efficiency of a search that costs nothing: some workers have nothing to do in the last round."""
        return self.trials / (self.trainers * -(-self.trials // self.trainers))


class Idlers:
    """What executors without processes have in common: every slot is there at once, and nothing is left to end."""

    slots: int

    def available(self) -> range:
        return range(self.slots)

    def set_demand(self, tasks: int) -> None:
        pass

    def ready(self) -> list[str]:
        return ["cpu"] * self.slots

    def tune_workers(self, tasks: Sequence[Task]) -> str | None:
        return None

    def checkpoint(self, slot: int) -> None:
        raise AssertionError("no checkpoint is asked for")

    def close(self) -> None:
        pass


@dataclass
class Sleepers(Idlers):
    """An executor whose trainings wait; values rise, so that the pruner has all of its work and ends nothing."""

    case: Case
    useful_s: float = 0.0
    idle_s: float = 0.0
    """Seconds in which the coordinator had nothing to do."""
    _due: list[tuple[float, int]] = field(default_factory=list)
    _pulled: dict[int, int] = field(default_factory=dict)
    _values: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    def __post_init__(self) -> None:
        self.slots = self.case.trainers

    def start(self, slot: int, task: Task) -> None:
        self._pulled[slot] = 0
        self._pull(slot, self.case.seconds / PULLS)

    def advance(self, slot: int) -> None:
        self._pull(slot, self.case.seconds / PULLS if self._pulled[slot] < PULLS else 0.0)

    def stop(self, slot: int) -> None:
        self._pulled[slot] = PULLS
        self._pull(slot, 0.0)

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        asked = time.monotonic()
        left = min(timeout_s, self._due[0][0] - asked) if self._due else timeout_s
        if left > 0:
            time.sleep(left)
        now = time.monotonic()
        self.idle_s += now - asked
        events = []
        while self._due and self._due[0][0] <= now:
            _, slot = heapq.heappop(self._due)
            events.append((slot, self._event(slot)))
        return events

    def _pull(self, slot: int, seconds: float) -> None:
        self.useful_s += seconds
        heapq.heappush(self._due, (time.monotonic() + seconds, slot))

    def _event(self, slot: int) -> SlotEvent:
        if self._pulled[slot] == PULLS:
            weights = os.urandom(int(self.case.weights_mb * 1e6)) if self.case.weights_mb else None
            return Finished(Outcome({"train_seconds": self.case.seconds}, weights))
        self._pulled[slot] += 1
        step, value = self._pulled[slot], 1 - 1 / next(self._values)
        return EpochDone(
            EpochResult(step, step / 4, value, {**POINT, "val/accuracy": value}, self.case.seconds / PULLS)
        )
