"""The training loop, in execution order.

Data stays on the device as uint8 and batches are taken by index: no DataLoader, no work per image in Python. The
order of images and their augmentation depend on (seed, epoch) alone and the learning rate on the batch number, so a
checkpoint needs only the network, the optimizer and the random states that dropout uses. `update` trains a batch. On
a GPU a batch is captured once and replayed, see `cuda_graphs`.
"""

import io
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from objectives.base import Diverged, EpochResult, Outcome, Task
from objectives.images.geometry import images_together
from objectives.images.models import predictor
from objectives.images.training.cuda_graphs import GraphCache, graph_key
from objectives.images.training.recipe import Recipe
from objectives.images.training.update import TrainingData, Update, to_unit
from objectives.metrics import METRICS, Metric, count_scores

EVAL_BATCH_SIZE, EVAL_BATCH_SIZE_CUDA = 500, 2000
"""Images in one evaluation batch, fewer above 64x64 pixels. On a CPU they fit the cache; on a GPU they outweigh the
cost of the launch."""

EPS = torch.finfo(torch.float32).eps
SMALLEST_LOSS, LARGEST_LOSS = -math.log1p(-EPS), -math.log(EPS)
"""Bounds of an image's loss, as `objectives.metrics` clips probabilities in float32."""


def lr_factor(schedule: str, progress: float) -> float:
    """Fraction of the peak learning rate at `progress` in [0, 1] of a training.

    One cycle: linear from 4% to the peak over the first quarter, then a cosine to zero.
    Source: Smith & Topin, https://arxiv.org/abs/1708.07120, in the two-phase form of torch's OneCycleLR.
    """
    if schedule == "constant":
        return 1.0
    if progress < 0.25:
        return 0.04 + 0.96 * progress / 0.25
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))


def logits_of(model: nn.Module, images: Tensor, index: Tensor) -> Tensor:
    """Logits (n, k) of the pool's images at `index`, in batches."""
    model.eval()
    size = images_together(EVAL_BATCH_SIZE_CUDA if index.is_cuda else EVAL_BATCH_SIZE, images.shape[1:])
    return torch.cat([model(to_unit(images[batch])) for batch in torch.split(index, size)]).float()


@torch.no_grad()
def predict_logits(network: nn.Module, images: NDArray[np.uint8], device: str) -> NDArray[np.float32]:
    """Return the logits (n, k), n >= 1, of a trained network for images (n, c, h, w)."""
    pool = torch.tensor(images, device=device)
    logits = logits_of(network.to(device), pool, torch.arange(len(pool), device=device))
    rows: NDArray[np.float32] = logits.cpu().numpy()
    return rows


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Class probabilities (n, k) of the pool's images at `index`; and (1 + 3k,), which `read_scores` reads.

    The latter are the sum of their losses, and counts by class: images, predicted and correct ones. All stay on the
    device, and nothing waits for them. Finite losses are clipped as those of `objectives.metrics`.
    """
    logits = logits_of(model, images, index)
    targets, predicted = labels[index], logits.argmax(1)
    exact = torch.float32 if index.device.type == "mps" else torch.float64  # MPS has no float64
    losses = F.cross_entropy(logits, targets, reduction="none")
    losses = torch.where(losses.isinf(), losses, losses.clamp(SMALLEST_LOSS, LARGEST_LOSS))  # clamp keeps NaN
    hits = predicted == targets
    counts = torch.zeros(3, logits.shape[1], dtype=exact, device=index.device)
    ones = torch.ones_like(hits)
    counts.scatter_add_(1, torch.stack((targets, predicted, targets)), torch.stack((ones, ones, hits)).to(exact))
    return logits.softmax(1), torch.cat((losses.sum(dtype=exact).view(1), counts.view(-1)))


def read_scores(figures: Sequence[float]) -> dict[Metric, float]:
    """Return the metrics of the figures of `predict`. The log loss is not finite if a loss was not."""
    loss, *numbers = figures
    counts, predicted, correct = np.reshape(numbers, (3, -1))
    return {**count_scores(counts, predicted, correct), "log_loss": loss / float(counts.sum())}


def evaluate(model: nn.Module, images: Tensor, labels: Tensor, index: Tensor) -> tuple[float, float, Tensor]:
    """Log loss, accuracy and class probabilities (n, k) of the pool's images at `index`."""
    probabilities, figures = predict(model, images, labels, index)
    scores = read_scores(figures.tolist())
    return scores["log_loss"], scores["accuracy"], probabilities


def curve_of(metric: Metric) -> str:
    """Name of a metric's validation curve."""
    return "val/loss" if metric == "log_loss" else f"val/{metric}"


class DeviceTimer:
    """Adds up spans of work. On a CUDA device, events mark them in the stream, and only `read` waits for these."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = 0.0
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        """Time the body of the `with` statement."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._spans.append((start, end))
            return
        started = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - started

    def read(self) -> float:
        """Return the seconds of all spans since the last reading. Waits until the device has finished them."""
        for start, end in self._spans:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        seconds, self._seconds, self._spans = self._seconds, 0.0, []
        return seconds


class ImageTraining:
    """One training of one network. Each pull trains the next step.

    A step is `1 / steps_per_epoch` of an epoch. The network is evaluated after every epoch and, if an epoch has
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
        graphs: GraphCache | None = None,
        metric: Metric = "accuracy",
    ) -> None:
        """`metric` is the value of a pull."""
        self.value_curve = curve_of(metric)
        self.data, self.recipe, self.task, self.graphs = data, recipe, task, graphs
        self.device = data.images.device
        make = partial(Update, data, model, recipe, capturable=graphs is not None)
        self.update = make() if graphs is None else graphs.acquire(graph_key(data, model, recipe), make, self)
        self.update.begin(model, recipe, task.epochs)
        self.model = self.update.model
        self.predictor = predictor(self.model, flip=recipe.flip)
        self.steps_per_epoch, self.n_steps = steps_per_epoch, steps_per_epoch * task.epochs
        self.step = 0
        self.epoch: int | None = None
        """The epoch whose tables the update has."""
        self.rates: list[float] = []
        self.lr = recipe.lr
        self.images_trained = 0
        """In this epoch."""
        self.timer = DeviceTimer(self.device)
        self.asynchronous = self.device.type == "cuda"
        """Whether unmeasured steps are only queued on the device. Reading their results would mean waiting for them."""
        self.seconds = self.epoch_seconds = 0.0
        self.probabilities: Tensor | None = None
        self.metrics: dict[str, float] = {}
        if task.checkpoint is not None:
            self._restore(task.checkpoint)

    def __next__(self) -> EpochResult:
        if self.step >= self.n_steps:
            raise StopIteration
        epoch, part = divmod(self.step, self.steps_per_epoch)
        with self.timer.span():
            self._train(epoch, part)
        self.step += 1
        position = self.step / self.steps_per_epoch
        notice = None if self.graphs is None else self.graphs.take_notice()
        measured = self.step == 1 or position.is_integer()
        if not measured and self.asynchronous:
            return EpochResult(self.step, position, None, {}, 0.0, notice)
        metrics, seconds = self._read(position, measured=measured)
        return EpochResult(self.step, position, metrics.get(self.value_curve), metrics, seconds, notice)

    def _train(self, epoch: int, part: int) -> None:
        """Train the batches of one step, without waiting for the device."""
        update = self.update
        self.model.train()
        if part == 0:
            update.sums.zero_()
            self.epoch_seconds = 0.0
        if epoch != self.epoch:
            self._begin_epoch(epoch)
        # Rounded up, so that the first part has a batch even if there are fewer batches than parts.
        first, end = (math.ceil(update.batches * (part + i) / self.steps_per_epoch) for i in (0, 1))
        if self.graphs is not None:
            self.graphs.capture(update)
        update.train(first, end)
        self.lr, self.images_trained = self.rates[end - 1], end * update.batch_size

    def _begin_epoch(self, epoch: int) -> None:
        """Give the update this epoch's order of images and its learning rates."""
        batches, recipe = self.update.batches, self.recipe
        seed = self.task.seed * 1_000_003 + epoch
        shuffle = torch.Generator().manual_seed(seed)
        order = self.data.train[torch.randperm(len(self.data.train), generator=shuffle)]
        progress = [(epoch + batch / batches) / self.task.epochs for batch in range(batches)]
        self.rates = [recipe.lr * lr_factor(recipe.schedule, at) for at in progress]
        self.update.begin_epoch(order, self.rates, ~seed)  # not a seed of the order, or of dropout
        self.epoch = epoch

    def _read(self, epoch: float, *, measured: bool) -> tuple[dict[str, float], float]:
        """The curve points of a measured step (else none), and the seconds of training since the last reading.

        `epoch` is the position. Raises Diverged when a loss is not finite.
        """
        sums, data = self.update.sums, self.data
        if measured and len(data.validation):
            with self._averaged():
                self.probabilities, validation = predict(self.predictor, data.images, data.labels, data.validation)
            sums = torch.cat((sums, validation))
        loss_sum, correct, *figures = sums.tolist()  # on a GPU, the only wait in an epoch
        seconds = self._read_timer()
        if not math.isfinite(loss_sum):
            raise Diverged(f"the training loss became {loss_sum} in epoch {math.ceil(epoch)}")
        if not measured:
            return {}, seconds
        self.metrics = {
            "train/loss": loss_sum / self.images_trained,
            "train/accuracy": correct / self.images_trained,
            "lr": self.lr,
            "seconds": self.epoch_seconds,
            "images_per_s": self.images_trained / max(self.epoch_seconds, 1e-9),
        }
        if figures:
            scores = read_scores(figures)
            if not math.isfinite(loss := scores["log_loss"]):
                raise Diverged(f"the validation loss became {loss} after {epoch:g} epochs")
            self.metrics |= {curve_of(metric): scores[metric] for metric in METRICS}
        return self.metrics, seconds

    def _averaged(self) -> AbstractContextManager[None]:
        """The network has the average of its weights inside the block."""
        return self.update.average.applied(math.ceil(self.update.batches * self.step / self.steps_per_epoch))

    def _read_timer(self) -> float:
        """Add the seconds since the last reading to the totals, and return them."""
        seconds = self.timer.read()
        self.seconds += seconds
        self.epoch_seconds += seconds
        return seconds

    def outcome(self) -> Outcome:
        buffer = io.BytesIO()
        with self._averaged():
            torch.save({name: tensor.cpu().contiguous() for name, tensor in self.model.state_dict().items()}, buffer)
        predictions = None if self.probabilities is None else self.probabilities.cpu().numpy().astype(np.float32)
        self._read_timer()
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        totals = {"train_seconds": self.seconds, "parameters": float(parameters)}
        curves = {f"val_{metric}": curve_of(metric) for metric in METRICS}
        totals |= {name: self.metrics[curve] for name, curve in curves.items() if curve in self.metrics}
        return Outcome(self.metrics | totals, buffer.getvalue(), predictions)

    def checkpoint(self) -> bytes:
        self._read_timer()
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.update.average.tensors,
            "optimizer": {"state": self.update.optimizer.state_dict()["state"]},
            "rng": torch.get_rng_state(),
            "epoch_sums": self.update.sums,
            "probabilities": self.probabilities,
            "metrics": self.metrics,
            "step": self.step,
            "seconds": (self.seconds, self.epoch_seconds),
        }
        if self.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        elif self.device.type == "mps":
            state["mps_rng"] = torch.mps.get_rng_state()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def _restore(self, checkpoint: bytes) -> None:
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        self.model.load_state_dict(state["model"])
        torch._foreach_copy_(self.update.average.tensors, state["average"])
        self.update.load_optimizer(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        elif self.device.type == "mps" and "mps_rng" in state:
            torch.mps.set_rng_state(state["mps_rng"])
        self.update.sums.copy_(state["epoch_sums"])
        self.probabilities = state["probabilities"]
        self.metrics, self.step = state["metrics"], state["step"]
        self.seconds, self.epoch_seconds = state["seconds"]
