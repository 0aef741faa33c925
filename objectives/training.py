"""The training loop, in execution order.

Data stays on the device as uint8 and batches are taken by index: no DataLoader, no work per image in Python. The
order of images is a function of (seed, epoch) and the learning rate one of the batch number, so a checkpoint needs
only the network, the optimizer and two random states.
"""

from __future__ import annotations

import inspect
import io
import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.augment import random_affine
from objectives.base import Diverged, EpochResult, Outcome, Task

EVAL_BATCH = 500


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"]
    lr: float
    """The peak, where the schedule has one."""
    batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.0
    """SGD only; Nesterov's form when positive."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    augmentation: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class TrainingData:
    """Two splits on the training device."""

    images: Tensor
    """The pool, uint8 (n, c, h, w)."""
    labels: Tensor
    """int64 (n,)."""
    train: Tensor
    """Indices into the pool, int64, on the CPU."""
    validation: Tensor
    """Likewise, on the device. Empty where all images are trained on, and nothing is to be measured."""


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; same shape."""
    return images.to(torch.float32).mul_(1 / 255)


def lr_factor(schedule: str, progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of a training.

    One cycle: linear from 4% to the peak over the first quarter, then a cosine to zero.
    Source: Smith & Topin, https://arxiv.org/abs/1708.07120, in the two-phase form that torch's OneCycleLR made usual.
    """
    if schedule == "constant":
        return 1.0
    if progress < 0.25:
        return 0.04 + 0.96 * progress / 0.25
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer; `fused` where it exists, since one kernel per step beats one per tensor by far."""
    lr, decay = recipe.lr, recipe.weight_decay
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.momentum > 0
            return torch.optim.SGD(
                parameters, lr, momentum=recipe.momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
        case "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=decay, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr, weight_decay=decay, foreach=True)


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> tuple[float, float, Tensor]:
    """Mean cross-entropy, accuracy and class probabilities (n, k) of the pool's images at `index`."""
    model.eval()
    logits = torch.cat([model(to_unit(images[part])) for part in torch.split(index, EVAL_BATCH)])
    truth = labels[index]
    loss = F.cross_entropy(logits, truth).item()
    accuracy = (logits.argmax(1) == truth).sum().item() / len(truth)
    return loss, accuracy, logits.softmax(1)


class ImageTraining:
    """One training of one network: pull it for the next step.

    A step is `1 / steps_per_epoch` of an epoch. The network is evaluated after every epoch and, where an epoch has
    several steps, once after the very first: early enough to stop a hopeless setting at a fraction of an epoch.
    """

    def __init__(
        self, data: TrainingData, model: nn.Module, recipe: Recipe, task: Task, *, steps_per_epoch: int, device: str
    ) -> None:
        self.data, self.recipe, self.task = data, recipe, task
        self.device = torch.device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(recipe, list(self.model.parameters()))
        # Without hooks for profilers and schedulers, and without importing torch's compiler to keep it away.
        self._optimize = inspect.unwrap(type(self.optimizer).step)
        self.steps_per_epoch, self.steps = steps_per_epoch, steps_per_epoch * task.epochs
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.batches = len(data.train) // self.batch_size
        self.augment_rng = torch.Generator(self.device).manual_seed(task.seed)
        self.step = 0
        self.seconds = self.epoch_seconds = 0.0
        self.epoch_sums = torch.zeros(3, device=self.device)  # loss, correct, images
        self.probabilities: Tensor | None = None
        self.metrics: dict[str, float] = {}
        if task.checkpoint is not None:
            self._restore(task.checkpoint)

    def __next__(self) -> EpochResult:
        if self.step >= self.steps:
            raise StopIteration
        epoch, part = divmod(self.step, self.steps_per_epoch)
        started = time.perf_counter()
        self._train(epoch, part)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.epoch_seconds += seconds
        self.step += 1
        position = self.step / self.steps_per_epoch
        if self.step > 1 and not position.is_integer():
            return EpochResult(self.step, position, None, {}, seconds)
        self.metrics = self._measure()
        return EpochResult(self.step, position, self.metrics.get("val/accuracy"), self.metrics, seconds)

    def _train(self, epoch: int, part: int) -> None:
        """Train the batches of one step. Raises Diverged when a loss was not finite."""
        self.model.train()
        if part == 0:
            self.epoch_sums.zero_()
            self.epoch_seconds = 0.0
        order = self._order(epoch)
        # Rounded up, so that the first part has a batch even where there are fewer batches than parts.
        first, last = (math.ceil(self.batches * (part + i) / self.steps_per_epoch) for i in (0, 1))
        for batch in range(first, last):
            index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images, labels = to_unit(self.data.images[index]), self.data.labels[index]
            images = random_affine(images, self.recipe.augmentation, self.augment_rng)
            self._set_lr((epoch + batch / self.batches) / self.task.epochs)
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                self._optimize(self.optimizer)
                correct = (logits.argmax(1) == labels).sum()
                self.epoch_sums += torch.stack((loss * len(labels), correct, torch.ones_like(loss) * len(labels)))
        if not math.isfinite(self.epoch_sums[0].item()):
            raise Diverged(f"the training loss became {self.epoch_sums[0].item()} in epoch {epoch + 1}")

    def _order(self, epoch: int) -> Tensor:
        """Indices of the training images in this epoch's order, on the device."""
        shuffle = torch.Generator().manual_seed(self.task.seed * 1_000_003 + epoch)
        return self.data.train[torch.randperm(len(self.data.train), generator=shuffle)].to(self.device)

    def _set_lr(self, progress: float) -> None:
        lr = self.recipe.lr * lr_factor(self.recipe.schedule, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def _measure(self) -> dict[str, float]:
        """Evaluate and give the curve points of this step. Raises Diverged when the loss is not finite."""
        total, correct, seen = self.epoch_sums.tolist()
        training = {
            "train/loss": total / seen,
            "train/accuracy": correct / seen,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": self.epoch_seconds,
            "images_per_s": seen / max(self.epoch_seconds, 1e-9),
        }
        if not len(self.data.validation):
            return training
        loss, accuracy, self.probabilities = evaluate(
            self.model, self.data.images, self.data.labels, self.data.validation
        )
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss became {loss} after {self.step / self.steps_per_epoch:g} epochs")
        return {**training, "val/loss": loss, "val/accuracy": accuracy}

    def outcome(self) -> Outcome:
        """Weights, validation probabilities (n, k) and last figures."""
        buffer = io.BytesIO()
        torch.save({name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}, buffer)
        predictions = None if self.probabilities is None else self.probabilities.cpu().numpy().astype(np.float32)
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        figures = {"train_seconds": self.seconds, "parameters": float(parameters)}
        return Outcome(self.metrics | figures, buffer.getvalue(), predictions)

    def checkpoint(self) -> bytes:
        """Everything needed to go on exactly here, without pickled code."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "augment_rng": self.augment_rng.get_state(),
            "rng": torch.get_rng_state(),
            "epoch_sums": self.epoch_sums,
            "probabilities": self.probabilities,
            "metrics": self.metrics,
            "step": self.step,
            "seconds": (self.seconds, self.epoch_seconds),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def _restore(self, checkpoint: bytes) -> None:
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.augment_rng.set_state(state["augment_rng"])
        torch.set_rng_state(state["rng"])
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.epoch_sums = state["epoch_sums"].to(self.device)
        self.probabilities = state["probabilities"]
        self.metrics, self.step = state["metrics"], state["step"]
        self.seconds, self.epoch_seconds = state["seconds"]
