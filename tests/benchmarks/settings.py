"""The usual script's space, and settings of it that both sides train, so that accuracies can be compared."""

from __future__ import annotations

import random
from typing import Any

from objectives.base import Suggest

BATCHES = (32, 64, 128)


def suggest(trial: Suggest) -> dict[str, Any]:
    """The usual space."""
    return {
        "hidden": trial.suggest_int("hidden", 64, 512),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        "batch_size": trial.suggest_categorical("batch_size", list(BATCHES)),
    }


def fixed(n: int) -> list[dict[str, Any]]:
    """The first `n` of an endless list of settings, drawn evenly; batch sizes take turns, since speed hangs on them."""
    draw = random.Random(4)
    return [
        {
            "hidden": draw.randint(64, 512),
            "dropout": draw.uniform(0.0, 0.5),
            "lr": 10 ** draw.uniform(-4, -1),
            "batch_size": BATCHES[number % 3],
        }
        for number in range(n)
    ]
