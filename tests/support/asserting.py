"""The tiny objective on a GPU. Once in a search, an assertion of a kernel fails: that GPU is lost to the process."""

from __future__ import annotations

import os

import torch
from toy import Toy, ToyTraining

from objectives.base import EpochResult, Task


class AssertingTraining(ToyTraining):
    def __init__(self, task: Task, steps: int, device: str) -> None:
        super().__init__(task, steps, "fine")
        self.weights = torch.ones(8, device=device)

    def __next__(self) -> EpochResult:
        result = super().__next__()
        index = 99 if self.task.number == 1 and self.step == 2 and first_time() else 0
        self.weights[torch.tensor([index], device=self.weights.device)].sum().item()
        return result


def first_time() -> bool:
    try:
        with open(os.environ["TOY_MARKER"], "x"):
            return True
    except FileExistsError:
        return False


class Asserting(Toy):
    def start(self, task: Task, device: str) -> AssertingTraining:
        return AssertingTraining(task, self.steps, device)
