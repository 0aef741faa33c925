"""A plain function of an Optuna trial, as written for `study.optimize`, for searches that are hurt on purpose.

VALLEY_LOG is a file that gets a line for everything that the function asks and gets, and VALLEY_STEP_S says how long
a step takes. A start that repeats another one computes slightly different values, so that both can be told apart.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from typing import Any

import optuna

import search

STEPS = 8


def _note(trial: optuna.Trial, word: str, **what: Any) -> None:
    line = json.dumps({"trial": trial.number, "pid": os.getpid(), "word": word, **what})
    descriptor = os.open(os.environ["VALLEY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def objective(trial: optuna.Trial) -> float:
    """Lowest at x = 1 and y = -2; which parameters there are depends on other parameters."""

    def noted(name: str, value: Any) -> Any:
        _note(trial, "suggested", name=name, value=value)
        return value

    _note(trial, "started")
    noise = os.getpid() % 1000 * 1e-6
    x = noted("x", trial.suggest_float("x", -5, 5))
    shape = noted("shape", trial.suggest_categorical("shape", ["round", "long", None]))
    rate = noted("rate", trial.suggest_float("rate", 1e-3, 1.0, log=True))
    layers = noted("layers", trial.suggest_int("layers", 1, 3))
    widths = [noted(f"width_{i}", trial.suggest_int(f"width_{i}", 8, 64, step=8)) for i in range(layers)]
    y = noted("y", trial.suggest_float("y", -5, x)) if shape == "long" else -2.0
    trial.set_user_attr("widths", widths)
    warnings.warn(f"trial {trial.number} is a toy", UserWarning, stacklevel=1)
    for step in range(STEPS):
        time.sleep(float(os.environ.get("VALLEY_STEP_S", "0.05")))
        loss = (x - 1) ** 2 + (y + 2) ** 2 + abs(rate - 0.1) + 1 / (step + 1) + noise
        print(f"trial {trial.number}: loss {loss:.3f} after step {step}")
        search.log({"train/loss": 2 * loss}, step=step)
        _note(trial, "reports", step=step, value=loss)
        trial.report(loss, step)
        _note(trial, "reported", step=step, value=loss)
        if trial.should_prune():
            raise optuna.TrialPruned
    _note(trial, "returns", value=loss)
    return loss
