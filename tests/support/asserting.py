"""The tiny objective with faults after which a process can no longer use its GPU."""

from __future__ import annotations

import os

import torch
from toy import Toy, ToyTraining

from objectives.base import EpochResult, Task

ONCE, ALWAYS = 2, 6
"""Trials of `Asserting` that meet a fault in their second step: only when first tried, and each time."""


class AssertingTraining(ToyTraining):
    """Appends a line for each start to the file `TOY_STARTS`: the trial's number, and the steps of its checkpoint."""

    def __init__(self, task: Task, steps: int, device: str) -> None:
        super().__init__(task, steps, "fine")
        self.weights = torch.ones(8, device=device)
        with open(os.environ["TOY_STARTS"], "a+") as starts:
            starts.seek(0)
            is_first = str(task.number) not in starts.read().split()[::2]
            print(task.number, self.step, file=starts)
        self.has_fault = task.number == ALWAYS or (task.number == ONCE and is_first)

    def __next__(self) -> EpochResult:
        is_fault = self.step == 1 and self.has_fault
        if is_fault and not self.weights.is_cuda:
            self.mode = "broken"
        else:  # with the fault, an assertion of the kernel fails
            self.weights[torch.tensor([99 if is_fault else 0], device=self.weights.device)].sum().item()
        return super().__next__()


class Asserting(Toy):
    def start(self, task: Task, device: str) -> AssertingTraining:
        return AssertingTraining(task, self.steps, device)


class Faulty(Toy):
    """Trial 1 meets such a fault each time that it is tried, as if on a GPU."""

    def start(self, task: Task, device: str) -> ToyTraining:
        return ToyTraining(task, self.steps, "broken@1" if task.number == 1 else "fine")
