"""An objective that costs a fraction of a second, for searches that are hurt on purpose.

It is copied beside the search. From outside: BOWL_STEP_S is how long a pull takes, BOWL_LOG a file that gets a line
when a pull begins and when it ends, BOWL_FAULTS the trials that fail, as `{"memory": [3, 8]}`, BOWL_GATE a file that
every start waits for. Imports nothing heavy, so workers are ready as soon as torch is.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from objectives.base import EpochResult, Outcome, Params, Suggest, Task

FAULT_STEP = 2
"""A trial that is to fail does so in this step, after one that went well."""


def _note(word: str, task: Task, step: int) -> None:
    if path := os.environ.get("BOWL_LOG"):
        line = f"{time.monotonic():.4f} {word} {os.getpid()} {task.number} {step}\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line.encode())
        os.close(descriptor)


class Descent:
    """Slides down the bowl with a little noise, whose random state a checkpoint must carry."""

    def __init__(self, task: Task) -> None:
        self.task, self.step, self.random = task, 0, random.Random(task.seed)
        self.loss = 0.0
        if task.checkpoint is not None:
            self.step, self.loss, (version, numbers, gauss) = json.loads(task.checkpoint)
            self.random.setstate((version, tuple(numbers), gauss))

    def __next__(self) -> EpochResult:
        if self.step == self.task.epochs:
            raise StopIteration
        _note("pull", self.task, self.step + 1)
        time.sleep(float(os.environ.get("BOWL_STEP_S", "0.05")))
        self.step += 1
        x, y = float(self.task.params["x"] or 0), float(self.task.params["y"] or 0)
        self.loss = (x - 1) ** 2 + (y + 2) ** 2 + 1 / self.step + self.random.gauss(0, 0.3)
        if self.step == FAULT_STEP:
            self._fail()
        _note("done", self.task, self.step)
        return EpochResult(self.step, float(self.step), self.loss, {"val/loss": self.loss}, train_seconds=0.0)

    def _fail(self) -> None:
        faults = json.loads(os.environ.get("BOWL_FAULTS", "{}"))
        match next((kind for kind, numbers in faults.items() if self.task.number in numbers), None):
            case "memory":
                raise MemoryError("tried to allocate 12.00 GiB")
            case "nan":
                self.loss = float("nan")
            case "infinity":
                self.loss = float("inf")
            case "segfault":
                print("about to read what is not there", flush=True)
                os.kill(os.getpid(), signal.SIGSEGV)

    def checkpoint(self) -> bytes:
        return json.dumps([self.step, self.loss, self.random.getstate()]).encode()

    def outcome(self) -> Outcome:
        return Outcome({"noise": self.random.random()}, weights=repr(self.loss).encode())


class Bowl:
    """Lowest at (1, -2)."""

    name, metric, direction = "bowl", "loss", "minimize"

    def __init__(self) -> None:
        if gate := os.environ.get("BOWL_GATE"):
            Path(f"{gate}.{os.getpid()}").touch()
            while not Path(gate).exists():
                time.sleep(0.002)

    def suggest(self, trial: Suggest) -> Params:
        return {"x": trial.suggest_float("x", -5, 5), "y": trial.suggest_float("y", -5, 5)}

    def start(self, task: Task, device: str) -> Descent:
        return Descent(task)

    def baselines(self) -> Mapping[str, Params]:
        return {"origin": {"x": 0.0, "y": 0.0}}

    def epochs(self, device: str) -> int:
        return 8

    def steps_per_epoch(self) -> int:
        return 1

    def fingerprint(self) -> Mapping[str, str]:
        return {}

    def describe(self, params: Params) -> str:
        return f"x={params['x']:.2f} y={params['y']:.2f}"
