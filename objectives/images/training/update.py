"""Trains a network batch by batch, in buffers that never move.

Everything that differs from batch to batch is read from device memory: the next images, the learning rate, the
strength of the augmentation. Nothing is read back. So calling an update twice trains two batches, and so does
capturing a call in a CUDA graph and replaying it twice. On the CPU, where starting an operation costs as much as a
small batch, a call may fetch several batches together.

`cudnn.benchmark` stays off: trying every algorithm on every new shape may take longer than a trial.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.images.training.augment import random_affine
from objectives.images.training.graph_inputs import GraphInputs
from objectives.images.training.optimizers import make_optimizer, prepare_step
from objectives.images.training.recipe import Numerics, Recipe

FETCH_BYTES = 2**20
"""Bytes of float32 images that the CPU fetches together. They fit its second-level cache."""


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
    """Indices into the pool, int64, on the device. Empty in a refit, which trains on all images."""
    n_classes: int


TrainingState = dict[str, list[Tensor]]
"""A copy of everything that an update changes: weights, buffers, sums, other tensors and generators."""


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1]; same shape."""
    return images * (1 / 255)


class Update:
    """A network, its optimizer and their inputs. A call trains one batch or several, `replay` one.

    Before the first call, `begin` starts a training and `begin_epoch` fills the tables of an epoch. `position` is the
    number of the next batch in the epoch. `replay` is set by a capture. Used by one training at a time.
    """

    def __init__(
        self, data: TrainingData, model: nn.Module, recipe: Recipe, *, capturable: bool, numerics: Numerics
    ) -> None:
        device = data.images.device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("highest" if numerics.precision == "float32" else "high")
            torch.backends.cudnn.allow_tf32 = numerics.precision != "float32"
            torch.backends.cudnn.deterministic = numerics.deterministic
        self._bfloat16 = numerics.precision == "bfloat16"
        self.images, self.labels, self.device = data.images, data.labels, device
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.batches = len(data.train) // self.batch_size
        image_bytes = 4 * math.prod(data.images.shape[1:])
        self.batches_per_call = max(1, FETCH_BYTES // (self.batch_size * image_bytes)) if device.type == "cpu" else 1
        """The number of batches that a call trains fastest."""
        self.capturable = capturable
        """False once a capture has run out of memory."""
        self.graph_inputs = GraphInputs(model, device) if capturable else None
        self.augmented = recipe.augmentation > 0
        reads_targets, shape = capturable or recipe.class_weights is not None, (data.n_classes, data.n_classes)
        self.targets = torch.zeros(shape, device=device) if reads_targets else None
        """Smoothed labels of each class, times its weight, (k, k). None: F.cross_entropy smooths the labels."""
        self.label_smoothing = recipe.label_smoothing if self.targets is None else 0.0
        memory_format = torch.channels_last if numerics.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=memory_format)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(recipe, self._parameters, capturable=capturable)
        self.lr: Tensor = self.optimizer.param_groups[0]["lr"]
        self.order = torch.zeros(self.batches, self.batch_size, dtype=torch.int64, device=device)
        self.rates = torch.zeros(self.batches, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._offsets = torch.arange(self.batches_per_call, device=device)
        self.strength = torch.zeros((), device=device)
        self.sums = torch.zeros(2, device=device)
        """Sum of the losses, each times its class's weight, and number of correct predictions of the epoch so far."""
        self._loss, self._correct = self.sums.unbind()
        self.generator = torch.Generator(device)
        self.replay: Callable[[], None] | None = None
        self._step = prepare_step(self.optimizer, self.graph_inputs)

    def __call__(self, batches: int = 1) -> None:
        """Train `batches`, at most `batches_per_call`, from `position` on. Reads nothing back from the device."""
        positions = self._offsets[:batches] + self.position
        index = self.order.index_select(0, positions).view(-1)
        images, labels = to_unit(self.images.index_select(0, index)), self.labels.index_select(0, index)
        rates = self.rates.index_select(0, positions)
        parts = (torch.split(tensor, self.batch_size) for tensor in (images, labels))
        logits = [self._train(*batch) for batch in zip(*parts, rates.unbind(), strict=True)]
        self._correct.add_(((torch.cat(logits) if batches > 1 else logits[0]).argmax(1) == labels).sum())
        self.position.add_(batches)

    def _train(self, images: Tensor, labels: Tensor, rate: Tensor) -> Tensor:
        """Train one batch and return its logits."""
        self.lr.copy_(rate)
        if self.augmented:  # here, so that a batch's random numbers do not depend on what was fetched with it
            images = random_affine(images, self.strength, self.generator)
        logits = self._forward(images)
        targets = labels if self.targets is None else self.targets.index_select(0, labels)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        for parameter in self._parameters:  # as zero_grad does, without its record for profilers
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self._parameters:
            if parameter.grad is None:  # of a layer that this batch did not use: the loss does not depend on it
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            self._step()
            self._loss.add_(loss, alpha=self.batch_size)
        return logits.detach()

    def _forward(self, images: Tensor) -> Tensor:
        """float32 logits (n, k)."""
        if not self._bfloat16:
            logits: Tensor = self.model(images)
            return logits
        # Casts of weights are not cached: each is used once, and a graph must make them in every replay.
        with torch.autocast(self.device.type, dtype=torch.bfloat16, cache_enabled=False):
            logits = self.model(images)
        return logits.float()

    def begin(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        """Start a training of `model`, which has the structure of the network here, from its first batch.

        Raises ValueError when the strength of the augmentation is outside [0, 1].
        """
        if not 0.0 <= recipe.augmentation <= 1.0:
            raise ValueError(f"augmentation strength {recipe.augmentation} is outside [0, 1]")
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        for tensor in self._optimizer_tensors():
            tensor.zero_()
        if self.graph_inputs is not None:
            self.graph_inputs.fill(recipe, model)
        if self.targets is not None:
            # Smoothed as in F.cross_entropy, which takes three times as many kernels, and has other weights: it divides
            # by those of a batch, and smooths by those of the other classes.
            self.targets.fill_(recipe.label_smoothing / len(self.targets))
            self.targets.diagonal().add_(1 - recipe.label_smoothing)
            if recipe.class_weights is not None:
                self.targets.mul_(torch.tensor(recipe.class_weights, device=self.device).unsqueeze(1))
        self.strength.fill_(recipe.augmentation)
        self.generator.manual_seed(seed)
        self.sums.zero_()

    def begin_epoch(self, order: Tensor, rates: Sequence[float]) -> None:
        """Fill an epoch's tables: `order`, indices (at least batches * batch size,), and a learning rate per batch."""
        order = order[: self.batches * self.batch_size].view(self.batches, self.batch_size)
        # These tensors may be freed now: a copy from pageable memory has read them when the call returns.
        self.order.copy_(order, non_blocking=True)
        self.rates.copy_(torch.tensor(rates), non_blocking=True)

    def load_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Copy an optimizer's `state_dict` into this optimizer's tensors, which stay where they are."""
        for number, state in enumerate(self.optimizer.state.values()):
            # Without graphs, SGD without momentum saves nothing; zeros are right for it.
            for name, value in saved["state"].get(number, {}).items():
                if name in state:
                    state[name].copy_(value)

    @property
    def generators(self) -> tuple[torch.Generator, torch.Generator]:
        """The generator of the augmentation, and the device's own, which dropout uses."""
        if self.device.type == "cuda":
            return self.generator, torch.cuda.default_generators[self.device.index or 0]
        return self.generator, torch.default_generator

    def renew_generators(self) -> None:
        """Replace the state objects of generators that a failed capture left unusable. Their state must then be set.

        Torch believes that they are being captured until the capture ends well.
        """
        for generator in self.generators:
            if generator.device.type == "cuda":
                generator.graphsafe_set_state(torch.Generator(generator.device))

    def copy_state(self) -> TrainingState:
        """Copy everything that a call changes."""
        copies = {name: [tensor.detach().clone() for tensor in part] for name, part in self._tensors().items()}
        return copies | {"generators": [generator.get_state() for generator in self.generators]}

    def restore(self, state: TrainingState) -> None:
        """Restore a copied state bit for bit, in place."""
        with torch.no_grad():
            for name, part in self._tensors().items():
                for tensor, old in zip(part, state[name], strict=True):
                    tensor.copy_(old)
        for generator, old in zip(self.generators, state["generators"], strict=True):
            generator.set_state(old)

    def _optimizer_tensors(self) -> list[Tensor]:
        return [tensor for state in self.optimizer.state.values() for tensor in state.values()]

    def _tensors(self) -> dict[str, list[Tensor]]:
        """The tensors that a call changes, not copied."""
        other = [*self._optimizer_tensors(), self.lr, self.position]
        return {"weights": [*self._parameters], "buffers": [*self.model.buffers()], "sums": [self.sums], "other": other}
