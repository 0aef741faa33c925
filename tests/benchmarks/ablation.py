"""Row 11: what each part of the recipe is worth on three datasets, by leaving it out or putting it in."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from objectives.base import DatasetError, Diverged, Params, Task
from objectives.images.baselines import STRONG
from objectives.images.objective import ImageClassification
from objectives.images.training import update
from objectives.images.training.loop import ImageTraining
from objectives.images.training_params import AVERAGING, make_recipe
from search.common.system import usable_cores
from tests.benchmarks.measure import Line, Options, Skipped, sample

CIFAR = "BENCHMARK_CIFAR10"
"""Environment variable with the name of a dataset that has CIFAR-10's images, such as folder:PATH."""

COLOUR: Params = {**STRONG, "cnn_width": 24, "cnn_stride": 1, "cnn_kernel": 3, "rotation_zoom": 0.0, "flip": True}
SGD: Params = {"optimizer": "sgd", "sgd_lr": 0.2, "sgd_momentum": 0.9, "weight_decay": 5e-4}


def nothing(model: nn.Module) -> None:
    """Leave a network as it is."""


def slow_statistics(model: nn.Module) -> None:
    """Torch's usual momentum of normalisation."""
    for layer in norms(model):
        layer.momentum = 0.1


def random_filters(model: nn.Module) -> None:
    """Torch's usual initialisation of convolutions, instead of Dirac's."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()


def fast_biases(model: nn.Module) -> None:
    """Train the biases of normalisation with 16 times the learning rate; with SGD, by as large gradients."""
    for layer in norms(model):
        layer.bias.register_hook(lambda gradient: 16 * gradient)


def norms(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@dataclass(frozen=True)
class Change:
    """One change of the recipe."""

    params: Params = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: Callable[[nn.Module], None] = nothing
    decayed_dimensions: int = update.DECAYED_DIMENSIONS
    mirrors: bool = True
    """Whether predictions average mirror images if the training flips."""
    reference: str = ""
    """The change with which it is compared. "": the base."""


CHANGES: dict[str, Change] = {
    "": Change(),
    "constant learning rate": Change({"schedule": "constant"}, {"averaging": AVERAGING}),
    "constant learning rate, no average of weights": Change({"schedule": "constant"}),
    "no label smoothing": Change({"label_smoothing": 0.0}),
    "no translation": Change({"translation": 0.0}),
    "no rotation and zoom": Change({"rotation_zoom": 0.0}),
    "rotation and zoom": Change({"rotation_zoom": 0.7}),
    "no flips": Change({"flip": False}),
    "flips in training alone": Change(mirrors=False),
    "no average of weights": Change(recipe={"averaging": 0.0}),
    "slow batch-norm momentum": Change(model=slow_statistics),
    "weight decay on norms and biases": Change(decayed_dimensions=0),
    "no Dirac initialisation": Change(model=random_filters),
    "SGD": Change(SGD),
    "SGD, fast norm biases": Change(SGD, model=fast_biases, reference="SGD"),
}
MNIST_LACKS = ("rotation and zoom", "no flips", "flips in training alone")
FASHION_LACKS = ("rotation and zoom",)
CIFAR_LACKS = ("no rotation and zoom",)


@dataclass(frozen=True)
class Setting:
    """The base that is changed, on one dataset."""

    label: str
    dataset: str
    params: Params
    images: int
    epochs: int
    validation: int
    lacks: tuple[str, ...]


def ablation(options: Options) -> Iterator[Line | Skipped]:
    """Validation accuracy with and without each part, the same seeds on both sides. Single threads side by side.

    The base is a small network that two cores train in a minute, on a part of the training images.
    """
    grey, colour = (options.size(20_000, 200), options.size(3, 1)), (options.size(8_000, 200), options.size(5, 1))
    settings = [
        Setting("MNIST", "mnist", STRONG, *grey, 10_000, MNIST_LACKS),
        Setting("Fashion-MNIST", "fashion-mnist", {**STRONG, "flip": True}, *grey, 10_000, FASHION_LACKS),
    ]
    if name := cifar():
        settings.append(Setting("CIFAR-10", name, COLOUR, *colour, 5_000, CIFAR_LACKS))
    else:
        yield Skipped(f"{CIFAR} is not set to the name of a dataset with CIFAR-10's images, such as folder:PATH")
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        for setting in settings:
            try:
                ImageClassification(setting.dataset).prepare()
            except DatasetError as error:
                yield Skipped(f"{setting.label}: {error}")
                continue
            names = [name for name in CHANGES if name not in setting.lacks]
            runs = {
                name: [pool.submit(trained, setting, name, seed) for seed in range(options.repeats)] for name in names
            }
            notes = {"images": setting.images, "epochs": setting.epochs, "validation images": setting.validation}
            for name in names:
                if options.left_s <= 0:
                    pool.shutdown(cancel_futures=True)
                    yield Skipped("the rest was not measured, since no time was left")
                    return
                try:
                    both = [[run.result() for run in runs[side]] for side in (name, CHANGES[name].reference)]
                    yield _line(setting, name, both, notes)
                except Diverged as error:
                    yield Skipped(f"{setting.label}, {name}: {error}")


def _line(setting: Setting, name: str, results: list[list[tuple[float, float]]], notes: dict[str, Any]) -> Line:
    """The accuracies of the base, or what a change adds to those of its reference."""
    changed, reference = results
    if not name:
        return Line(11, f"{setting.label}: base", "%", sample([value for value, _ in changed]), notes=notes)
    pairs = list(zip(changed, reference, strict=True))
    gains, losses = ([after[i] - before[i] for after, before in pairs] for i in (0, 1))
    figures = {"mean": mean_and_error(gains), "mean of the loss": mean_and_error(losses)}
    return Line(11, f"{setting.label}: {name}", "points", sample(gains), notes=figures)


def mean_and_error(values: list[float]) -> str:
    """A mean with its standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):+.4f} +- {error:.4f}"


def cifar() -> str | None:
    """The dataset named in `CIFAR`, with an absolute path, since searches run in folders of their own."""
    kind, colon, path = os.environ.get(CIFAR, "").partition(":")
    return f"{kind}:{Path(path).expanduser().absolute()}" if colon else kind or None


@cache
def prepared(dataset: str) -> ImageClassification:
    return ImageClassification(dataset)


def trained(setting: Setting, change: str, seed: int) -> tuple[float, float]:
    """Train the base with one change. Returns the accuracy in percent and the loss on the validation images."""
    torch.set_num_threads(1)
    how, objective = CHANGES[change], prepared(setting.dataset)
    params = {**setting.params, **how.params}
    update.DECAYED_DIMENSIONS = how.decayed_dimensions
    torch.manual_seed(seed)
    model = objective.build_model(params).to(memory_format=torch.channels_last)
    how.model(model)
    data = objective._data("cpu")
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[: setting.images]
    recipe = replace(make_recipe(params, [1] * data.n_classes), **how.recipe)
    task = Task(0, params, seed, setting.epochs)
    judged = torch.randperm(len(data.validation), generator=torch.Generator().manual_seed(0))[: setting.validation]
    part = replace(data, train=data.train[chosen], validation=data.validation[judged])
    training = ImageTraining(part, model, recipe, task, steps_per_epoch=1)
    if not how.mirrors:
        training.predictor = training.model
    metrics: Mapping[str, float] = {}
    for _ in range(setting.epochs):
        metrics = next(training).metrics
    return 100 * metrics["val/accuracy"], metrics["val/loss"]
