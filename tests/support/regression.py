"""An objective with a PyTorch model that predicts a number: its error is minimised, and it knows no images.

Imports nothing of `search`, so workers can load it by its name, `regression:Curve`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from objectives.base import Diverged, EpochResult, Outcome, Params, Suggest, Task
from objectives.images.latency import latency_ms

STEPS = 4
"""Pulls in an epoch; an error is measured with each."""


def model(params: Params) -> nn.Sequential:
    """One hidden layer, from one number to one number."""
    units = int(params["units"] or 0)
    return nn.Sequential(nn.Linear(1, units), nn.Tanh(), nn.Linear(units, 1))


def bytes_of(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


class Fit:
    """Fits a sine; every second point is for validation."""

    def __init__(self, task: Task) -> None:
        torch.manual_seed(task.seed)
        self.task, self.step = task, 0
        self.model = model(task.params)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=float(task.params["lr"] or 0))
        x = torch.linspace(-3, 3, 64).unsqueeze(1)
        self.x, self.y = x, torch.sin(x)
        if task.checkpoint is not None:
            state = torch.load(io.BytesIO(task.checkpoint), weights_only=True)
            self.step = state["step"]
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])

    def error(self, part: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.model(self.x[part::2]), self.y[part::2])

    def __next__(self) -> EpochResult:
        if self.step == self.task.epochs * STEPS:
            raise StopIteration
        for _ in range(5):
            self.optimizer.zero_grad()
            loss = self.error(0)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.step += 1
        error = self.error(1).item()
        if not math.isfinite(error):
            raise Diverged(f"the error became {error}")
        return EpochResult(self.step, self.step / STEPS, error, {"val/mse": error, "train/mse": loss.item()}, 0.001)

    def checkpoint(self) -> bytes:
        state = {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return bytes_of(state)

    def outcome(self) -> Outcome:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        return Outcome({"parameters": float(size)}, bytes_of(self.model.state_dict()))


class Curve:
    """Finds a small network that follows a sine."""

    name, metric = "curve", "mse"
    direction: Literal["maximize", "minimize"] = "minimize"

    def suggest(self, trial: Suggest) -> Params:
        return {"units": trial.suggest_int("units", 2, 32), "lr": trial.suggest_float("lr", 1e-4, 0.1, log=True)}

    def start(self, task: Task, device: str) -> Fit:
        torch.set_num_threads(1)
        return Fit(task)

    def baselines(self) -> Mapping[str, Params]:
        return {"plain": {"units": 8, "lr": 1e-3}}

    def epochs(self, device: str) -> int:
        return 4

    def steps_per_epoch(self) -> int:
        return STEPS

    def fingerprint(self) -> Mapping[str, str]:
        return {"data": "64 points of a sine"}

    def describe(self, params: Params) -> str:
        return f"{params['units']} units lr {params['lr']:.1e}"

    def n_parameters(self, params: Params) -> int:
        return 3 * int(params["units"] or 0) + 1

    def load_weights(self, params: Params, weights: bytes) -> nn.Module:
        network = model(params)
        network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
        return network.eval()

    def example_input(self) -> NDArray[np.float32]:
        return np.linspace(-3, 3, 4, dtype=np.float32)[:, None]

    def latency_ms(self, params: Params, device: str) -> float:
        return latency_ms(model(params), (1,), device)
