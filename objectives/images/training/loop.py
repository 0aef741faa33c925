"""The training loop, in execution order.

Data stays on the device as uint8 and batches are taken by index: no DataLoader, no work per image in Python. The
order of images is a function of (seed, epoch) and the learning rate one of the batch number, so a checkpoint needs
only the network, the optimizer and two random states. `update` trains a batch. On a GPU a batch is
recorded once and replayed, see `cuda_graphs`.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.base import Diverged, EpochResult, Outcome, Task
from objectives.images.training.cuda_graphs import Captures, shape_key
from objectives.images.training.recipe import DEFAULT, Numerics, Recipe
from objectives.images.training.timer import Clock
from objectives.images.training.update import TrainingData, Update, to_unit

EVAL_BATCH, EVAL_BATCH_CUDA = 500, 2000
"""Images in one evaluation batch. On a CPU they fit the cache; on a GPU they outweigh the cost of the launch."""


def lr_factor(schedule: str, progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of a training.

    One cycle: linear from 4% to the peak over the first quarter, then a cosine to zero.
    Source: Smith & Topin, https://arxiv.org/abs/1708.07120, in the two-phase form of torch's OneCycleLR.
    """
    if schedule == "constant":
        return 1.0
    if progress < 0.25:
        return 0.04 + 0.96 * progress / 0.25
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Class probabilities (n, k) of the pool's images at `index`; and (2,), their mean loss and how many are right.

    Both stay on the device, and nothing waits for them.
    """
    model.eval()
    size = EVAL_BATCH_CUDA if index.is_cuda else EVAL_BATCH
    logits = torch.cat([model(to_unit(images[part])) for part in torch.split(index, size)])
    truth = labels[index]
    scores = torch.stack((F.cross_entropy(logits, truth), (logits.argmax(1) == truth).sum().float()))
    return logits.softmax(1), scores


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> tuple[float, float, Tensor]:
    """Mean cross-entropy, accuracy and class probabilities (n, k) of the pool's images at `index`."""
    probabilities, scores = predict(model, images, labels, index)
    loss, correct = scores.tolist()
    return loss, correct / len(index), probabilities


class ImageTraining:
    """One training of one network. Each pull trains the next step.

    A step is `1 / steps_per_epoch` of an epoch. The network is evaluated after every epoch and, where an epoch has
    several steps, once after the first step, so that a bad configuration can be pruned within an epoch.
    """

    def __init__(
        self,
        data: TrainingData,
        model: nn.Module,
        recipe: Recipe,
        task: Task,
        *,
        steps_per_epoch: int,
        device: str,
        captures: Captures | None = None,
        numerics: Numerics = DEFAULT,
    ) -> None:
        self.data, self.recipe, self.task, self.captures, self.numerics = data, recipe, task, captures, numerics
        self.device = torch.device(device)
        self.update = self._find_update(model)
        self.update.begin(model, recipe, task.seed)
        self.model = self.update.model
        self.steps_per_epoch, self.steps = steps_per_epoch, steps_per_epoch * task.epochs
        self.step = 0
        self.epoch: int | None = None
        """The epoch whose tables the update has."""
        self.rates: list[float] = []
        self.lr = recipe.lr
        self.seen = 0
        """Images trained in this epoch."""
        self.clock = Clock(self.device)
        self.ahead = self.device.type == "cuda"
        """Whether unmeasured steps are only queued on the device. Reading their results would mean waiting for them."""
        self.seconds = self.epoch_seconds = 0.0
        self.probabilities: Tensor | None = None
        self.metrics: dict[str, float] = {}
        if task.checkpoint is not None:
            self._restore(task.checkpoint)

    def _find_update(self, model: nn.Module) -> Update:
        """The update of an earlier training of the same shape, or a new one."""

        def make() -> Update:
            return Update(
                self.data,
                model,
                self.recipe,
                device=self.device,
                recordable=self.captures is not None,
                numerics=self.numerics,
            )

        if self.captures is None:
            return make()
        key = shape_key(self.data, model, self.recipe, self.device), self.numerics
        return self.captures.find(key, make, self)

    def __next__(self) -> EpochResult:
        if self.step >= self.steps:
            raise StopIteration
        epoch, part = divmod(self.step, self.steps_per_epoch)
        with self.clock.span():
            self._train(epoch, part)
        self.step += 1
        position = self.step / self.steps_per_epoch
        notice = None if self.captures is None else self.captures.news()
        measured = self.step == 1 or position.is_integer()
        if not measured and self.ahead:
            return EpochResult(self.step, position, None, {}, 0.0, notice)
        metrics, seconds = self._read(position, measured=measured)
        return EpochResult(self.step, position, metrics.get("val/accuracy"), metrics, seconds, notice)

    def _train(self, epoch: int, part: int) -> None:
        """Train the batches of one step, without waiting for the device."""
        self.model.train()
        if part == 0:
            self.update.sums.zero_()
            self.epoch_seconds = 0.0
        if epoch != self.epoch:
            self._begin_epoch(epoch)
        # Rounded up, so that the first part has a batch even where there are fewer batches than parts.
        first, last = (math.ceil(self.update.batches * (part + i) / self.steps_per_epoch) for i in (0, 1))
        self.update.position.fill_(first)
        if self.captures is not None:
            self.captures.capture(self.update)
        if (replay := self.update.replay) is not None:
            for _ in range(first, last):
                replay()
        else:
            for batch in range(first, last, self.update.stretch):
                self.update(min(self.update.stretch, last - batch))
        self.lr, self.seen = self.rates[last - 1], last * self.update.batch_size

    def _begin_epoch(self, epoch: int) -> None:
        """Give the update this epoch's order of images and its learning rates."""
        batches, recipe = self.update.batches, self.recipe
        shuffle = torch.Generator().manual_seed(self.task.seed * 1_000_003 + epoch)
        order = self.data.train[torch.randperm(len(self.data.train), generator=shuffle)]
        progress = [(epoch + batch / batches) / self.task.epochs for batch in range(batches)]
        self.rates = [recipe.lr * lr_factor(recipe.schedule, at) for at in progress]
        self.update.begin_epoch(order, self.rates)
        self.epoch = epoch

    def _read(self, epoch: float, *, measured: bool) -> tuple[dict[str, float], float]:
        """The curve points of a measured step (else none), and the seconds of training since the last reading.

        `epoch` is the position. Raises Diverged when a loss is not finite.
        """
        figures, data = self.update.sums, self.data
        if measured and len(data.validation):
            self.probabilities, scores = predict(self.model, data.images, data.labels, data.validation)
            figures = torch.cat((figures, scores))
        total, correct, *validation = figures.tolist()  # on a GPU, the only wait in an epoch
        seconds = self._count()
        if not math.isfinite(total):
            raise Diverged(f"the training loss became {total} in epoch {math.ceil(epoch)}")
        if not measured:
            return {}, seconds
        self.metrics = {
            "train/loss": total / self.seen,
            "train/accuracy": correct / self.seen,
            "lr": self.lr,
            "seconds": self.epoch_seconds,
            "images_per_s": self.seen / max(self.epoch_seconds, 1e-9),
        }
        if validation:
            loss, right = validation
            if not math.isfinite(loss):
                raise Diverged(f"the validation loss became {loss} after {epoch:g} epochs")
            self.metrics |= {"val/loss": loss, "val/accuracy": right / len(data.validation)}
        return self.metrics, seconds

    def _count(self) -> float:
        """Add the seconds since the last reading of the clock, and return them."""
        seconds = self.clock.read()
        self.seconds += seconds
        self.epoch_seconds += seconds
        return seconds

    def outcome(self) -> Outcome:
        """Weights, validation probabilities (n, k) and last figures."""
        buffer = io.BytesIO()
        torch.save({name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}, buffer)
        predictions = None if self.probabilities is None else self.probabilities.cpu().numpy().astype(np.float32)
        self._count()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        figures = {"train_seconds": self.seconds, "parameters": float(parameters)}
        return Outcome(self.metrics | figures, buffer.getvalue(), predictions)

    def checkpoint(self) -> bytes:
        """The state to resume from, without pickled code."""
        self._count()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.update.optimizer.state_dict(),
            "augment_rng": self.update.generator.get_state(),
            "rng": torch.get_rng_state(),
            "device": self.device.type,
            "epoch_sums": self.update.sums,
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
        self.update.load_optimizer(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["device"] == self.device.type:  # the generators of another kind of device have another state
            self.update.generator.set_state(state["augment_rng"])
            if "cuda_rng" in state:
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        self.update.sums.copy_(state["epoch_sums"])
        self.probabilities = state["probabilities"]
        self.metrics, self.step = state["metrics"], state["step"]
        self.seconds, self.epoch_seconds = state["seconds"]
