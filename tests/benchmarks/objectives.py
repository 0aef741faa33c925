"""The alternatives' search spaces on this project's own data path and training loop.

A custom objective takes no arguments, so what a row varies comes from the environment, to workers too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from objectives.base import EpochResult, Outcome, Params, Suggest, Task, Training
from objectives.data.datasets import Dataset, load_dataset
from objectives.images.objective import ImageClassification
from tests.benchmarks import settings

COMMON: Params = {
    "family": "mlp",
    "weight_decay": 0.0,
    "schedule": "constant",
    "mlp_batch_norm": False,
    "rotation_zoom": 0.0,
    "translation": 0.0,
    "label_smoothing": 0.0,
}
"""What the alternatives do not search, as they have it."""


def cut(data: Dataset, sizes: Mapping[str, int]) -> Dataset:
    """So many pictures of the splits `train` and `validation`, drawn by a fixed seed."""
    draw = np.random.RandomState(0)
    parts: dict[str, Any] = {split: np.sort(draw.permutation(getattr(data, split))[:n]) for split, n in sizes.items()}
    return replace(data, **parts)


def wanted() -> dict[str, int]:
    """Sizes of the splits as `BENCHMARK_TRAIN` and `BENCHMARK_VALIDATION` say."""
    given = {split: os.environ.get(f"BENCHMARK_{split.upper()}") for split in ("train", "validation")}
    return {split: int(n) for split, n in given.items() if n}


class Cut(ImageClassification):
    """MNIST, or a part of it. `BENCHMARK_SETTINGS`, a JSON list, is trained first, and never pruned."""

    def prepare(self) -> None:
        self.dataset = cut(load_dataset(self.dataset_name, self.data_dir), wanted())

    @cached_property
    def dataset(self) -> Dataset:
        whole = load_dataset(self.dataset_name, self.data_dir, download=False, verify=False)
        return cut(whole, wanted())

    def baselines(self) -> Mapping[str, Params]:
        fixed = json.loads(os.environ.get("BENCHMARK_SETTINGS", "[]"))
        return {f"setting {number}": setting for number, setting in enumerate(fixed)}


class Usual(Cut):
    """The usual script's space, and its network: on pixels as they are, which a learning rate is sampled for."""

    def suggest(self, trial: Suggest) -> Params:
        found = settings.suggest(trial)
        network: Params = {"mlp_depth": 1, "mlp_width_1": found["hidden"], "mlp_dropout": found["dropout"]}
        return {**COMMON, **network, "optimizer": "adam", "adam_lr": found["lr"], "batch_size": found["batch_size"]}

    def build_model(self, params: Params) -> Any:
        normalised: Any = super().build_model(params)
        return normalised[1:]


class Example(Cut):
    """The space of Optuna's small PyTorch example, on pixels as they are; each layer has a dropout of its own."""

    def suggest(self, trial: Suggest) -> Params:
        depth = trial.suggest_int("n_layers", 1, 3)
        params: Params = {**COMMON, "mlp_depth": depth, "batch_size": 128}
        for layer in range(1, depth + 1):
            params[f"mlp_width_{layer}"] = trial.suggest_int(f"n_units_l{layer}", 4, 128)
            params[f"mlp_dropout_{layer}"] = trial.suggest_float(f"dropout_l{layer}", 0.2, 0.5)
        optimizer = trial.suggest_categorical("optimizer", ["adam", "rmsprop", "sgd"])
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return {**params, "optimizer": optimizer, f"{optimizer}_lr": lr}

    def build_model(self, params: Params) -> Any:
        from torch import nn

        from objectives.images.models import Dropout

        p: Any = params
        size = self.dataset.images[0].size
        layers: list[nn.Module] = [nn.Flatten()]
        for layer in range(1, p["mlp_depth"] + 1):
            width = p[f"mlp_width_{layer}"]
            layers += [nn.Linear(size, width), nn.ReLU(), Dropout(p[f"mlp_dropout_{layer}"])]
            size = width
        return nn.Sequential(*layers, nn.Linear(size, len(self.class_names())))


class Digits(Cut):
    """The default space on the digits that need no download."""

    def __init__(self) -> None:
        super().__init__("digits")


class Anew(ImageClassification):
    """The default objective, which forgets its CUDA graphs whenever trials have another seed than those before."""

    def start(self, task: Task, device: str) -> Training:
        if task.seed != getattr(self, "last_seed", None):
            self._graphs.clear()
        self.last_seed = task.seed
        return super().start(task, device)


class Timed(Cut):
    """The default objective, whose trials say how long their workers were at work."""

    def baselines(self) -> Mapping[str, Params]:
        return ImageClassification.baselines(self)

    def start(self, task: Task, device: str) -> Training:
        return TimedTraining(super().start(task, device))


class TimedTraining:
    """A training with a stopwatch around every pull: batches and evaluation, and nothing that a search adds."""

    def __init__(self, training: Training) -> None:
        self.training, self.wall_s, self.cpu_s = training, 0.0, 0.0
        self.begun_at = time.time()

    def __next__(self) -> EpochResult:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return next(self.training)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu

    def checkpoint(self) -> bytes:
        return self.training.checkpoint()

    def outcome(self) -> Outcome:
        outcome = self.training.outcome()
        spent = {"pull_seconds": self.wall_s, "pull_cpu_seconds": self.cpu_s, "first_pull_at": self.begun_at}
        return replace(outcome, metrics={**outcome.metrics, **spent})
