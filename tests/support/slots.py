"""The toy objective in an executor's slot: a training is started, and what comes from it is waited for."""

from __future__ import annotations

import time

from objectives.base import Task
from objectives.spec import ObjectiveSpec
from search.executors.base import EpochDone, Executor, Finished, Lost, SlotEvent

TOY = ObjectiveSpec("toy:Toy")


def task(number: int = 0, checkpoint: bytes | None = None, **params: object) -> Task:
    return Task(number, {"x": 0.1, **params}, seed=7 + number, epochs=4, checkpoint=checkpoint)  # type: ignore[arg-type]


def hear(executor: Executor, slot: int = 0, timeout_s: float = 60.0) -> SlotEvent:
    """Wait for the one event of a slot."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        events = executor.wait(1.0)
        assert all(came == slot for came, _ in events), f"{events} came where slot {slot} owes one"
        if events:
            assert len(events) == 1
            return events[0][1]
    raise AssertionError(f"slot {slot} gave nothing in {timeout_s} s")


def lose(executor: Executor, work: Task) -> Lost:
    """The end of a worker in the second step of a training."""
    executor.start(0, work)
    assert isinstance(hear(executor), EpochDone)
    executor.advance(0)
    event = hear(executor)
    assert isinstance(event, Lost)
    return event


def train(executor: Executor, work: Task) -> tuple[list[EpochDone], Finished]:
    """A whole training."""
    executor.start(0, work)
    results = []
    while isinstance(event := hear(executor), EpochDone):
        results.append(event)
        executor.advance(0)
    assert isinstance(event, Finished)
    return results, event
