"""Small trainings for tests of how a network is trained."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from objectives.base import EpochResult, Task
from objectives.images.models import InputSpec, build_cnn, build_mlp, normalised
from objectives.images.training.augment import random_maps
from objectives.images.training.cuda_graphs import GraphCache
from objectives.images.training.loop import ImageTraining, lr_factor
from objectives.images.training.recipe import Recipe
from objectives.images.training.update import TrainingData

OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "adam": {"lr": 2e-3},
    "adamw": {"lr": 2e-3},
    "rmsprop": {"lr": 1e-3},
}
MOVED: dict[str, Any] = {"rotation_zoom": 0.5, "translation": 0.5, "flip": True}
LIVELY: dict[str, Any] = {**MOVED, "label_smoothing": 0.05, "weight_decay": 1e-3, "averaging": 0.2}
LIVELY |= {"class_weights": (0.5, 0.25, 3.0, 1.0)}


def striped(device: str = "cpu") -> TrainingData:
    """Learnable noise: each class has a bright stripe of its own."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    images = torch.randint(0, 120, (320, 1, 8, 8), generator=random, dtype=torch.uint8)
    for label in range(4):
        images[labels == label, :, 2 * label, :] = 220
    validation = torch.arange(256, 320)
    return TrainingData(images.to(device), labels.to(device), torch.arange(256), validation.to(device), 4)


def network(dropout: float = 0.0, seed: int = 0, family: str = "cnn", width: int = 8) -> nn.Sequential:
    torch.manual_seed(seed)
    inputs = InputSpec(1, (8, 8), 4, (0.3,), (0.25,))
    if family == "mlp":
        return normalised(inputs, build_mlp(inputs, (4 * width, 2 * width), dropout))
    return normalised(inputs, build_cnn(inputs, 2, width, dropout=dropout))


def recipe(optimizer: str = "adam", **other: Any) -> Recipe:
    return Recipe(**{"optimizer": optimizer, "batch_size": 32, **OPTIMIZERS[optimizer], **other})


def a_training(
    data: TrainingData,
    how: Recipe,
    *,
    epochs: int = 3,
    steps: int = 1,
    checkpoint: bytes | None = None,
    seed: int = 5,
    graphs: GraphCache | None = None,
    memory_format: torch.memory_format = torch.channels_last,
    **net: Any,
) -> ImageTraining:
    task = Task(0, {}, seed, epochs, checkpoint)
    model = network(seed=seed, **net).to(memory_format=memory_format)
    return ImageTraining(data, model, how, task, steps_per_epoch=steps, graphs=graphs)


def plain_loop(data: TrainingData, how: Recipe, epochs: int, *, seed: int = 5, **net: Any) -> nn.Module:
    """The textbook's loop on the data's device, with torch's plain optimizers and numbers for learning rates."""
    device = data.images.device
    model = network(seed=seed, **net).to(device).train()
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, nesterov=True, **k),
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    decayed, others = ([p for p in model.parameters() if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    groups = [{"params": decayed, "weight_decay": how.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = kinds[how.optimizer](groups, lr=how.lr)
    kept = 1 - 1 / max(1.0, how.averaging * epochs * 8)
    constant = {name for name in model.state_dict() if name.startswith("0.") or name.endswith("num_batches_tracked")}
    averages = {name: torch.zeros_like(t) for name, t in model.state_dict().items() if name not in constant}
    for epoch in range(epochs):
        epoch_seed = seed * 1_000_003 + epoch
        order = torch.randperm(256, generator=torch.Generator().manual_seed(epoch_seed))
        maps = random_maps(256, (8, 8), how, torch.Generator(device).manual_seed(~epoch_seed)).split(32)
        for batch, index in enumerate(order.to(device).split(32)):
            for group in optimizer.param_groups:
                group["lr"] = how.lr * lr_factor(how.schedule, (epoch + batch / 8) / epochs)
            images = data.images[index].float() / 255
            if how.is_augmented:
                grid = F.affine_grid(maps[batch], list(images.shape), align_corners=False)
                images = F.grid_sample(images, grid, align_corners=False)
            labels, smoothing = data.labels[index], how.label_smoothing
            losses = F.cross_entropy(model(images), labels, label_smoothing=smoothing, reduction="none")
            class_weights = torch.tensor(how.class_weights or (1.0,) * data.n_classes, device=device)
            loss = (losses * class_weights[labels]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for name, average in averages.items():
                average.mul_(kept).add_(model.state_dict()[name].detach(), alpha=1 - kept)
    share = 1 - kept ** (epochs * 8)
    model.load_state_dict({name: average / share for name, average in averages.items()}, strict=False)
    return model


def finish(training: ImageTraining) -> list[EpochResult]:
    results = []
    while True:
        try:
            results.append(next(training))
        except StopIteration:
            return results


def told(results: list[EpochResult]) -> list[tuple[Any, ...]]:
    """Results without clocks."""
    timed = ("images_per_s", "seconds")
    return [(r.step, r.epoch, r.value, {k: v for k, v in r.metrics.items() if k not in timed}) for r in results]


def weights(training: ImageTraining) -> dict[str, torch.Tensor]:
    stored = training.outcome().weights
    assert stored is not None
    return torch.load(io.BytesIO(stored), weights_only=True)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
