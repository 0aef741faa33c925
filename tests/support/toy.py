"""A tiny objective that trains nothing: seconds become milliseconds, and every way to fail is a parameter.

Imports nothing of `search`, and torch only in modes that fail on a GPU, so workers can load it by its name, `toy:Toy`.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from objectives.base import CaptureError, Diverged, EpochResult, Outcome, Params, Suggest, Task


def fail_on_gpu() -> None:
    import torch

    raise torch.AcceleratorError("CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in the docs")


class ToyTraining:
    """A noisy climb towards `1 - (x - 0.3)**2`; its noise is state that a checkpoint must carry."""

    def __init__(self, task: Task, steps: int, mode: str, direction: str = "maximize", *, capture: bool = True) -> None:
        self.direction, self.capture = direction, capture
        self.task, self.steps, self.mode = task, steps, str(task.params.get("mode", mode))
        self.random, self.step, self.value = random.Random(task.seed), 0, 0.0
        self.more: dict[str, float] = {}
        if task.checkpoint is not None:
            self.step, self.value, (version, numbers, gauss) = json.loads(task.checkpoint)
            self.random.setstate((version, tuple(numbers), gauss))

    def __next__(self) -> EpochResult:
        if self.step >= self.steps and self.mode != "endless":
            raise StopIteration
        time.sleep(float(os.environ.get("TOY_PAUSE_S", "0")))
        self._misbehave()
        self.step += 1
        top = 1 - (float(self.task.params.get("x") or 0.0) - 0.3) ** 2
        noise = 0.0 if self.mode == "still" else self.random.gauss(0, 0.01)
        self.value = top * (1 - math.exp(-self.step)) + noise
        if self.direction == "minimize":
            self.value = -self.value
        value, metrics = self.value, {"val/score": self.value, **self.more}
        if self.mode.startswith("nan") and self.step > int(self.mode.partition("@")[2] or 0):
            value = math.nan
        if self.mode == "numpy":
            import numpy as np

            value, metrics = np.float32(value), {"val/score": np.float32(value)}  # type: ignore[assignment]
        notice = "a worker has something to say" if self.mode == "notice" else None
        return EpochResult(self.step, float(self.step), value, metrics, 0.001, notice)

    def _misbehave(self) -> None:
        mode, _, after = self.mode.partition("@")
        if self.step < int(after or 0):
            return
        match mode:
            case "diverge":
                raise Diverged("the training loss became nan")
            case "diverge_right" if float(self.task.params["x"] or 0.0) > 0.2:
                raise Diverged("the training loss became nan")
            case "error_right" if float(self.task.params["x"] or 0.0) > 0.2:
                raise ValueError("x is too large")
            case "capture" | "never" if self.capture or mode == "never":
                raise CaptureError("the spoon cannot be repeated")
            case "error":
                raise ValueError("the spoon does not exist")
            case "exit":
                sys.exit(3)
            case "leave":
                print("goodbye \x1b[31m")
                os._exit(7)
            case "mute":
                raise GeneratorExit
            case "wild":
                raise ValueError("lone \ud800, \x1b[31mred, over\rwritten")
            case "stray":
                self.more = {"train/loss": math.nan, "val/f1 (%)": 0.5}
            case "memory":
                raise MemoryError("no room for 12 GiB")
            case "fault":
                fail_on_gpu()
            case "broken":  # as after a fault: whatever CUDA does raises its error
                import torch

                torch.cuda.is_initialized = lambda: True
                torch.cuda.synchronize = lambda *_: fail_on_gpu()
                fail_on_gpu()
            case "kill":
                print("one line before the last\nthe very last line")
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(600)
            case "miscount":
                self.step += 1
            case "turns":  # as on a GPU that one worker fills
                with open(__file__) as alone:
                    fcntl.flock(alone, fcntl.LOCK_EX)
                    time.sleep(0.02)

    def checkpoint(self) -> bytes:
        return json.dumps([self.step, self.value, self.random.getstate()]).encode()

    def outcome(self) -> Outcome:
        return Outcome({"noise": self.random.random()}, str(self.value).encode())


class Toy:
    """Finds `x`; `kind` decides which other parameters exist. `TOY_MODE` and `TOY_STEPS` change it from outside."""

    name = "toy"
    metric = "score"
    capture = True

    def __init__(self, direction: str = "maximize", mode: str = "", steps: int = 0, low: float = -1.0) -> None:
        self.direction: Any = direction
        self.mode, self.low = mode or os.environ.get("TOY_MODE", "fine"), low
        self.steps = steps or int(os.environ.get("TOY_STEPS", "4"))
        self.data = "digest-1"
        self.known: dict[str, Params] = {}

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", ["deep", "wide"])
        params: Params = {"x": trial.suggest_float("x", self.low, 1.0), "kind": kind}
        if kind == "deep":
            params["depth"] = trial.suggest_int("depth", 1, 5)
        else:
            params["width"] = trial.suggest_float("width", 1e-3, 1.0, log=True)
        return params

    def start(self, task: Task, device: str) -> ToyTraining:
        return ToyTraining(task, self.steps, self.mode, self.direction, capture=self.capture)

    def baselines(self) -> Mapping[str, Params]:
        return self.known

    def epochs(self, device: str) -> int:
        return self.steps

    def steps_per_epoch(self) -> int:
        return 1

    def fingerprint(self) -> Mapping[str, str]:
        return {"data": self.data}

    def describe(self, params: Params) -> str:
        return f"{params['kind']} {params['x']:.2f}"
