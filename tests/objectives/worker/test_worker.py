"""A worker: whatever a training raises or answers is told, and fails that training alone."""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable

import pytest
from toy import ToyTraining

from objectives.base import EpochResult, Outcome, Task
from objectives.spec import ObjectiveSpec
from objectives.worker.messages import WorkerSettings
from objectives.worker.worker import Worker
from search.executors.base import EpochDone, Failed

TOY = ObjectiveSpec("toy:Toy")


def task(number: int = 0, checkpoint: bytes | None = None, **params: object) -> Task:
    return Task(number, {"x": 0.1, **params}, seed=7 + number, epochs=4, checkpoint=checkpoint)  # type: ignore[arg-type]


class Fragile(Exception):
    """It has no text, and cannot be pickled."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(one)

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Faulty(ToyTraining):
    """A training that raises in one of its methods, or answers with something else."""

    def __init__(self, task: Task, method: str, answer: Callable[[], object]) -> None:
        super().__init__(task, 4, "fine")
        setattr(self, method, answer)
        if method == "start":
            answer()

    def __next__(self) -> EpochResult:
        return self.pull() if hasattr(self, "pull") else super().__next__()


def raising(error: BaseException) -> Callable[[], object]:
    def answer() -> None:
        raise error

    return answer


RAISED: list[tuple[BaseException, str]] = [
    (SystemExit(), "SystemExit: sys.exit() was called"),
    (SystemExit("no data"), "SystemExit: sys.exit('no data') was called"),
    (KeyboardInterrupt(), "KeyboardInterrupt"),
    (KeyError(), "KeyError"),
    (RecursionError("too deep"), "RecursionError: too deep"),
    (Fragile(1, 2), "Fragile: its text cannot be made, because RuntimeError was raised"),
    (ExceptionGroup("two", [ValueError("a"), KeyError("b")]), "two (2 sub-exceptions); ValueError: a; KeyError: 'b'"),
    (UserWarning("taken for an error"), "UserWarning: taken for an error"),
]


@pytest.mark.parametrize("method", ["start", "pull", "checkpoint", "outcome"])
@pytest.mark.parametrize(("error", "message"), RAISED, ids=[type(error).__name__ for error, _ in RAISED])
def test_whatever_a_training_raises_is_told_and_fails_it_alone(error: BaseException, message: str, method: str):
    worker = Worker(WorkerSettings(TOY, "cpu", 0, 1, 1))
    toy = worker.objective
    worker.objective = types.SimpleNamespace(start=lambda task, device: Faulty(task, method, raising(error)))  # type: ignore[assignment]
    replies = [worker.do("start", task())]
    if method in ("checkpoint", "outcome"):
        replies.append(worker.do("checkpoint" if method == "checkpoint" else "stop"))
    assert isinstance(replies[-1], Failed)
    assert (replies[-1].kind, message in replies[-1].message) == ("error", True)
    assert pickle.loads(pickle.dumps(replies[-1])) == replies[-1]
    worker.objective = toy
    assert isinstance(worker.do("start", task()), EpochDone)


@pytest.mark.parametrize(
    ("method", "answer", "message"),
    [
        ("pull", lambda: None, "a pull gave None; give an objectives.base.EpochResult"),
        ("pull", lambda: EpochResult(1, 1.0, 0.5, None, 0.0), "the metrics are None; give a dict"),  # type: ignore[arg-type]
        ("outcome", lambda: {"acc": 1}, "outcome gave {'acc': 1}; give an objectives.base.Outcome"),
        ("outcome", lambda: Outcome(weights={"w": 1}), "the outcome's weights are a dict; give bytes, or None"),  # type: ignore[arg-type]
    ],
)
def test_an_answer_of_another_kind_is_named(method: str, answer: Callable[[], object], message: str):
    worker = Worker(WorkerSettings(TOY, "cpu", 0, 1, 1))
    worker.objective = types.SimpleNamespace(start=lambda task, device: Faulty(task, method, answer))  # type: ignore[assignment]
    reply = worker.do("start", task())
    reply = worker.do("stop") if method == "outcome" else reply
    assert isinstance(reply, Failed)
    assert message in reply.message
