"""The parameters and the length of every training, as the search chooses them, and its recipe. Imports no torch."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from objectives.base import Params, Suggest
from objectives.images.geometry import is_tiny, stem_size
from objectives.images.training.recipe import Recipe
from objectives.metrics import balanced_weights

TRAINING_PARAMETERS = frozenset(
    ("optimizer", "sgd_lr", "sgd_momentum", "rmsprop_lr", "adam_lr", "batch_size", "weight_decay", "schedule")
    + ("rotation_zoom", "translation", "flip", "label_smoothing", "class_weighting")
)
"""Names of the parameters that every training has. A network's own parameters have other names."""


AVERAGING = 0.03
"""Time constant of the average of the weights, as a share of a training that anneals its learning rate."""


def suggest(trial: Suggest, *, large_batches: bool, is_unequal: bool, may_flip: bool) -> Params:
    """Sample the parameters of a training.

    `large_batches`: for many images, and for tiny ones, of which small batches are slow. `is_unequal`: whether the
    classes are of very unequal size. `may_flip`: whether mirrored images may still show their class.
    """
    optimizer = trial.suggest_categorical("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
    params: Params = {"optimizer": optimizer}
    if optimizer == "sgd":
        params["sgd_lr"] = trial.suggest_float("sgd_lr", 1e-2, 0.5, log=True)
        params["sgd_momentum"] = trial.suggest_float("sgd_momentum", 0.0, 0.95)
    elif optimizer == "rmsprop":
        params["rmsprop_lr"] = trial.suggest_float("rmsprop_lr", 1e-4, 5e-3, log=True)
    else:  # Adam and AdamW need the same range, and share what the sampler learns about it
        params["adam_lr"] = trial.suggest_float("adam_lr", 5e-4, 2e-2, log=True)
    batch_sizes = [64, 128, 256] if large_batches else [32, 64, 128]
    params["batch_size"] = trial.suggest_categorical("batch_size", batch_sizes)
    params["weight_decay"] = trial.suggest_float("weight_decay", 1e-6, 1e-2, log=True)
    params["schedule"] = trial.suggest_categorical("schedule", ["one_cycle", "constant"])
    for strength in ("rotation_zoom", "translation"):  # in steps, so that none is often chosen
        params[strength] = trial.suggest_float(strength, 0.0, 1.0, step=0.25)
    if may_flip:
        params["flip"] = trial.suggest_categorical("flip", [False, True])
    params["label_smoothing"] = trial.suggest_float("label_smoothing", 0.0, 0.1, step=0.05)
    if is_unequal:
        params["class_weighting"] = trial.suggest_categorical("class_weighting", ["none", "balanced"])
    return params


def learning_rate(params: Mapping[str, Any]) -> float:
    """Return the learning rate of a configuration. Its name depends on the optimizer."""
    names = {"sgd": "sgd_lr", "rmsprop": "rmsprop_lr"}
    return float(params[names.get(params["optimizer"], "adam_lr")])


def choose_epochs(n: int, shape: tuple[int, int, int], device: str, *, is_large: bool) -> int:
    """Return the epochs of a trial's training with `n` images of `shape` (c, h, w). `is_large`: 20,000 or more.

    The layers behind the first block take most of the time. So images x epochs x pixels of that block's output have a
    limit. It is higher for colours, which take longer to learn.
    """
    channels, size = shape[0], shape[1:]
    if device.startswith("cuda"):
        pixels, most = 800_000_000, 16
    else:
        pixels, most = (20_000_000 if channels == 1 else 64_000_000), (8 if is_tiny(size) else 12)
    epochs = round(pixels / (n * math.prod(stem_size(size))))
    return max(1 if is_large else 4, min(most, epochs))


def make_recipe(params: Mapping[str, Any], counts: Iterable[int]) -> Recipe:
    """Return the recipe of a configuration. `counts`: training images by class, for their weights.

    Trials of earlier versions lack some parameters. Their training does without.
    """
    names = ("optimizer", "batch_size", "weight_decay", "schedule", "rotation_zoom", "translation", "flip")
    same = {name: params[name] for name in (*names, "label_smoothing") if name in params}
    weights = balanced_weights(counts) if params.get("class_weighting") == "balanced" else None
    momentum = params.get("sgd_momentum", 0.0)
    averaging = 0.0 if params.get("schedule") == "constant" else AVERAGING  # the tutorials average nothing
    return Recipe(lr=learning_rate(params), momentum=momentum, averaging=averaging, class_weights=weights, **same)


def of_network(params: Params) -> Params:
    """The parameters that are not of the training."""
    return {name: value for name, value in params.items() if name not in TRAINING_PARAMETERS}
