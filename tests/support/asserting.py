"""The tiny objective with a fault in trial 1, after which its process can use the GPU no more."""

from __future__ import annotations

import os

import torch
from toy import Toy, ToyTraining

from objectives.base import EpochResult, Task


class AssertingTraining(ToyTraining):
    """On a GPU: an assertion of a kernel fails, only once in a search if `TOY_MARKER` names a file."""

    def __init__(self, task: Task, steps: int, device: str) -> None:
        super().__init__(task, steps, "fine")
        self.weights = torch.ones(8, device=device)

    def __next__(self) -> EpochResult:
        result = super().__next__()
        index = 99 if self.task.number == 1 and self.step == 2 and first_time() else 0
        self.weights[torch.tensor([index], device=self.weights.device)].sum().item()
        return result


def first_time() -> bool:
    """Whether the fault has not happened yet, as far as is noted."""
    marker = os.environ.get("TOY_MARKER")
    if marker is None:
        return True
    try:
        with open(marker, "x"):
            return True
    except FileExistsError:
        return False


class Asserting(Toy):
    def start(self, task: Task, device: str) -> AssertingTraining:
        return AssertingTraining(task, self.steps, device)


class Faulty(Toy):
    """The same without a GPU, each time that trial 1 is tried."""

    def start(self, task: Task, device: str) -> ToyTraining:
        return ToyTraining(task, self.steps, "broken@1" if task.number == 1 else "fine")
