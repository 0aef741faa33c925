"""Trains a network batch by batch, in buffers that never move.

Everything that differs from batch to batch is read from device memory: a table has a row for each batch of an epoch.
Nothing is read back. So calling an update twice trains two batches, and so does capturing a call in a CUDA graph and
replaying it twice. On the CPU, where starting an operation costs as much as a small batch, a call may fetch several
batches together.

On a GPU a small network's time is the number of its kernels, 2 to 3 us each (H100). So one kernel reads the row, and
a batch's logits are stored: losses and correct predictions are counted for many batches together. The row also says
where to store them: to compute that would take another kernel.

`cudnn.benchmark` stays off: trying every algorithm on every new shape may take longer than a trial.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from objectives.images.training.augment import pixel_centres, random_maps, warp
from objectives.images.training.average import WeightAverage
from objectives.images.training.graph_inputs import GraphInputs
from objectives.images.training.optimizers import WeightDecay, make_optimizer, prepare_step
from objectives.images.training.recipe import Recipe

if TYPE_CHECKING:
    from objectives.data.datasets import Dataset

FETCH_BYTES = 2**20
"""Bytes of float32 images that the CPU fetches together. They fit its second-level cache."""

DECAYED_DIMENSIONS = 2
"""Tensors with fewer dimensions, which are biases and parameters of normalisation, have no weight decay."""

LOGITS_BYTES = 2**23
"""Bytes of logits that are stored before they are counted, unless one batch has more."""


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

    @classmethod
    def of(cls, data: "Dataset", device: str) -> Self:
        """Copy the pool of a dataset to a device."""
        arrays = (data.train, data.images, data.labels, data.validation)
        with warnings.catch_warnings():  # they may be read-only, and nothing writes to the tensors
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            train, *tensors = (torch.from_numpy(np.asarray(array)) for array in arrays)
        images, labels, validation = (tensor.to(device) for tensor in tensors)
        return cls(images, labels, train, validation, len(data.classes))

    def of_refit(self) -> Self:
        """Train on both splits."""
        return replace(self, train=torch.cat((self.train, self.validation.cpu())), validation=self.validation[:0])

    def of_fold(self, index: NDArray[np.int64]) -> Self:
        """Validate on the images at these sorted indices, and train on all others."""
        held_out = torch.from_numpy(index)
        is_trained = torch.ones(len(self.labels), dtype=torch.bool)
        is_trained[held_out] = False
        return replace(self, train=is_trained.nonzero()[:, 0], validation=held_out.to(self.validation.device))


TrainingState = dict[str, list[Tensor]]
"""A copy of everything that an update changes: weights, buffers, sums, averages, other tensors and the generator."""


def to_unit(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1]; same shape."""
    return images * (1 / 255)


class Update:
    """A network, its optimizer and their inputs. A call trains one batch or several, `replay` one.

    Before the first call, `begin` starts a training and `begin_epoch` fills the tables of an epoch. `train` makes the
    calls or replays of several batches. `position` is the number of the next batch in the epoch. `replay` is set by a
    capture. Used by one training at a time.
    """

    def __init__(self, data: TrainingData, model: nn.Module, recipe: Recipe, *, capturable: bool) -> None:
        device = data.images.device
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32, which cuDNN uses anyway
            torch.backends.cudnn.deterministic = True  # one seed gives the same weights every time
        self.data, self.device = data, device
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.batches = len(data.train) // self.batch_size
        image_bytes = 4 * math.prod(data.images.shape[1:])
        fetched = max(1, FETCH_BYTES // (self.batch_size * image_bytes)) if device.type == "cpu" else 1
        self.batches_per_call = min(fetched, self.batches)
        """The number of batches that a call trains fastest."""
        self.capturable = capturable
        """False once a capture has run out of memory, or met a network that cannot be captured."""
        self.augmented = recipe.is_augmented
        self.model = model.to(device)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = make_optimizer(recipe, self._parameters, capturable=capturable)
        n = self.batch_size
        logits_rows = min(self.batches, max(1, LOGITS_BYTES // (4 * n * data.n_classes)))
        self.logits = torch.zeros(logits_rows, n, data.n_classes, device=device)
        """Logits of batches that are not counted yet, (rows, n, k). Batch i is in row i modulo the number of rows."""
        # The last column stays empty, so that every row begins at a multiple of 16 bytes.
        indices = torch.zeros(self.batches, 2 * n + 2, dtype=torch.int64, device=device)
        indices[:, -2] = torch.arange(self.batches, device=device) % logits_rows
        numbers = torch.zeros(self.batches, 2 + 6 * n * self.augmented, device=device)
        self._tables = [(table, table[: self.batches_per_call].clone()) for table in (indices, numbers)]
        """The numbers that differ from batch to batch: a row for each batch of an epoch, and the rows of a call."""
        (_, index_rows), (_, number_rows) = self._tables
        self.order, self.labels = indices[:, :n], indices[:, n:-2]
        self._order, self._labels, self._logits_row = index_rows[:, :n], index_rows[:, n:-2], index_rows[:, -2:-1]
        self.rates, self.maps = numbers[:, -2:], numbers[:, :-2]
        """Learning rate and share of a weight that AdamW's decay keeps, (batches, 2); affine maps, (batches, 6n)."""
        self._rates, self._maps = number_rows[:, -2:], number_rows[:, :-2]
        self.lr, kept = self._rates[0].unbind()
        self.optimizer.param_groups[0]["lr"] = self.lr
        self.graph_inputs = inputs = GraphInputs(model, device) if capturable else None
        self.size = (data.images.shape[2], data.images.shape[3])
        self._centres = pixel_centres(self.size, device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._offsets = torch.arange(self.batches_per_call, device=device)
        self.targets = torch.zeros(data.n_classes, data.n_classes, device=device)
        """The gradient of a batch's loss with respect to logarithms of probabilities, for each class, (k, k)."""
        self.sums = torch.zeros(2, device=device)
        """Sum of the losses and number of correct predictions of the epoch so far, as `train` left them."""
        generators = torch.cuda.default_generators if device.type == "cuda" else [torch.default_generator]
        self.generator = generators[device.index or 0]
        """The device's own, which dropout uses."""
        self.replay: Callable[[], None] | None = None
        decayed = [parameter for parameter in self._parameters if parameter.ndim >= DECAYED_DIMENSIONS]
        decay = WeightDecay(decayed, recipe.weight_decay if inputs is None else inputs.decay, kept)
        self._step = prepare_step(self.optimizer, decay, None if inputs is None else inputs.momentum)
        self.average = WeightAverage(self.model)

    def __call__(self, batches: int = 1) -> None:
        """Train `batches`, at most `batches_per_call`, from `position` on. Reads nothing back from the device."""
        positions = self.position if batches == 1 else self.position + self._offsets[:batches]
        for table, rows in self._tables:
            torch.index_select(table, 0, positions, out=rows[:batches])
        images = to_unit(self.data.images.index_select(0, self._order[:batches].reshape(-1)))
        for i, batch in enumerate(torch.split(images, self.batch_size)):
            if i:
                self._rates[0].copy_(self._rates[i])  # to where the optimizer reads them
            logits = self._train(batch, i)
            self.logits.index_copy_(0, self._logits_row[i], logits.unsqueeze(0))
        self.position.add_(batches)

    def _train(self, images: Tensor, row: int) -> Tensor:
        """Train the batch of a row, and return its logits."""
        if self.augmented:
            images = warp(images, self._maps[row], self._centres)
        logits: Tensor = self.model(images).float()
        for parameter in self._parameters:  # as zero_grad does, without its record for profilers
            parameter.grad = None
        # Cross-entropy is linear in these, so its gradient is known, and its value is not needed here.
        gradient = self.targets.index_select(0, self._labels[row])
        F.log_softmax(logits, dim=1).backward(gradient)  # type: ignore[no-untyped-call]
        for parameter in self._parameters:
            if parameter.grad is None:  # of a layer that this batch did not use: the loss does not depend on it
                parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            self._step()
            self.average.update()
        return logits.detach()

    def train(self, first: int, end: int, call: Callable[[], None] | None = None) -> None:
        """Train the epoch's batches from `first` to before `end`, and add their results to `sums`.

        `call` trains one batch. None: `replay`, or without a graph the calls that are fastest.
        """
        self.position.fill_(first)
        rows, call = len(self.logits), call or self.replay
        while first < end:
            full = min(end, first - first % rows + rows)
            if call is not None:
                for _ in range(first, full):
                    call()
            else:
                for batch in range(first, full, self.batches_per_call):
                    self(min(self.batches_per_call, full - batch))
            self._count(first, full)
            first = full

    def _count(self, first: int, end: int) -> None:
        """Add the losses, which are not weighted, and the correct predictions of stored batches to `sums`."""
        row = first % len(self.logits)
        logits, labels = self.logits[row : row + end - first].flatten(0, 1), self.labels[first:end].flatten()
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self._recipe.label_smoothing)
        self.sums.add_(torch.stack((loss, (logits.argmax(1) == labels).sum())))

    def begin(self, model: nn.Module, recipe: Recipe, epochs: int) -> None:
        """Start a training of `model`, which has the structure of the network here, from its first batch.

        `epochs`: its length. Raises ValueError when a strength is outside [0, 1].
        """
        for name, strength in recipe.strengths.items():
            if not 0.0 <= strength <= 1.0:
                raise ValueError(f"{name} {strength} is outside [0, 1]")
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        for tensor in (*self._optimizer_tensors(), self.sums):
            tensor.zero_()
        self._recipe = recipe
        self.average.begin(recipe.averaging * epochs * self.batches)
        if self.graph_inputs is not None:
            self.graph_inputs.fill(recipe, model)
        # Smoothed as in F.cross_entropy. Its weights would smooth too, and divide by those of the batch.
        self.targets.fill_(-recipe.label_smoothing / len(self.targets) / self.batch_size)
        self.targets.diagonal().sub_((1 - recipe.label_smoothing) / self.batch_size)
        if recipe.class_weights is not None:
            self.targets.mul_(torch.tensor(recipe.class_weights, device=self.device).unsqueeze(1))

    def begin_epoch(self, order: Tensor, rates: Sequence[float], seed: int) -> None:
        """Fill an epoch's table from `order`, indices (at least batches * batch size,), and a learning rate per batch.

        `seed`: of the augmentation.
        """
        # These tensors may be freed now: a copy from pageable memory has read them when the call returns.
        self.order.copy_(order[: self.order.numel()].view_as(self.order), non_blocking=True)
        self.labels.copy_(self.data.labels[self.order])
        decay = self._recipe.weight_decay
        self.rates.copy_(torch.tensor([(rate, 1 - rate * decay) for rate in rates]), non_blocking=True)
        if self.augmented:
            generator = torch.Generator(self.device).manual_seed(seed)
            maps = random_maps(self.order.numel(), self.size, self._recipe, generator)
            self.maps.copy_(maps.view_as(self.maps))

    def load_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Copy an optimizer's `state_dict` into this optimizer's tensors, which stay where they are."""
        for number, state in enumerate(self.optimizer.state.values()):
            # Without graphs, SGD without momentum saves nothing; zeros are right for it.
            for name, value in saved["state"].get(number, {}).items():
                if name in state:
                    state[name].copy_(value)

    def copy_state(self) -> TrainingState:
        """Copy everything that a call changes, except the logits, which no call reads."""
        copies = {name: [tensor.detach().clone() for tensor in part] for name, part in self._tensors().items()}
        return copies | {"generator": [self.generator.get_state()]}

    def restore(self, state: TrainingState) -> None:
        """Restore a copied state bit for bit, in place."""
        with torch.no_grad():
            for name, part in self._tensors().items():
                for tensor, old in zip(part, state[name], strict=True):
                    tensor.copy_(old)
        self.generator.set_state(*state["generator"])

    def _optimizer_tensors(self) -> list[Tensor]:
        return [tensor for state in self.optimizer.state.values() for tensor in state.values()]

    def _tensors(self) -> dict[str, list[Tensor]]:
        """The tensors of `copy_state`, not copied."""
        other = [*self._optimizer_tensors(), *(rows for _, rows in self._tables), self.position]
        buffers = [*self.model.buffers()]
        parts: TrainingState = {"weights": [*self._parameters], "buffers": buffers, "average": self.average.tensors}
        return {**parts, "sums": [self.sums], "other": other}
