"""Updates of a network, batch by batch, in buffers that never move.

Everything that differs from batch to batch is read from device memory: which images are next, the learning rate, the
strength of the augmentation. Nothing is read back, so calling an update twice trains two batches, and recording a
call in a CUDA graph and replaying it twice does the same. There is no second form of the loop for the GPU. On the CPU,
where starting an operation costs as much as a small batch is worth, a call may fetch several batches at once.

How numbers are computed is decided here: float32 storage, channels_last, and on a GPU TF32 in matrix products, as torch
has it for convolutions anyway. No bfloat16: these networks are so small that starting kernels and moving memory takes
the time, casts add to both, and nobody has measured that it pays. No `cudnn.benchmark`: trying every algorithm on
every new shape may take longer than a trial.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.augment import check_strength, random_affine

FETCHED_BYTES = 2**20
"""Images that the CPU fetches at once, as float32: what its second cache keeps until they are used."""


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


@dataclass(frozen=True)
class Snapshot:
    """Everything that an update changes, as it was."""

    weights: list[Tensor]
    buffers: list[Tensor]
    optimizer: list[Tensor]
    sums: list[Tensor]
    counters: list[Tensor]
    generators: list[Tensor]


def to_unit(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; same shape."""
    return images * (1 / 255)


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build the optimizer; `fused` where it exists, since one kernel per update beats one per tensor by far.

    Its learning rate is a tensor on the parameters' device: the schedule writes there, and a recorded update reads it.
    """
    device = parameters[0].device
    lr, decay = torch.tensor(recipe.lr, dtype=torch.float32, device=device), recipe.weight_decay
    capturable = device.type == "cuda"  # torch refuses it elsewhere
    match recipe.optimizer:
        case "sgd":
            nesterov = recipe.momentum > 0
            return torch.optim.SGD(
                parameters, lr, momentum=recipe.momentum, nesterov=nesterov, weight_decay=decay, fused=True
            )
        case "adam":
            return torch.optim.Adam(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
        case "adamw":
            return torch.optim.AdamW(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr, weight_decay=decay, foreach=True, capturable=capturable)


def plain_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """`optimizer.step` without hooks for profilers, and without importing torch's compiler to keep it away."""
    step = inspect.unwrap(type(optimizer).step)
    return lambda: step(optimizer)


def direct_step(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """The same kernel on the same tensors, found once: for a small network the search for them takes longer (0.13 ms).

    Every parameter must have a gradient, and a state, whose tensors stay where they are.
    Source: torch/optim/adam.py, `_fused_adam`, and torch/optim/sgd.py, `_fused_sgd`.
    """
    group = optimizer.param_groups[0]
    parameters, lr, decay = group["params"], group["lr"], group["weight_decay"]
    states = [optimizer.state[parameter] for parameter in parameters]

    def gradients() -> list[Tensor]:
        return [parameter.grad for parameter in parameters]

    match optimizer:
        case torch.optim.Adam() | torch.optim.AdamW():
            kernel: Any = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
            averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            (beta1, beta2), eps = group["betas"], group["eps"]

            def adam() -> None:
                torch._foreach_add_(steps, 1)
                kernel(
                    parameters, gradients(), averages, squares, [], steps,
                    lr=lr, beta1=beta1, beta2=beta2, weight_decay=decay, eps=eps, amsgrad=False, maximize=False,
                )  # fmt: skip

            return adam
        case torch.optim.SGD():
            sgd_kernel: Any = torch._fused_sgd_
            momentum, nesterov = group["momentum"], group["nesterov"]
            buffers = [state["momentum_buffer"] for state in states] if momentum else []

            def sgd() -> None:
                sgd_kernel(
                    parameters, gradients(), buffers, weight_decay=decay, momentum=momentum, lr=lr, dampening=0.0,
                    nesterov=nesterov, maximize=False, is_first_step=False,
                )  # fmt: skip

            return sgd
    return plain_step(optimizer)


class Update:
    """A network, its optimizer and what they are fed. A call trains one batch or some, `replay` one.

    Before the first call `begin` gives it a training's start and `begin_epoch` an epoch's tables; `position` is the
    number of the next batch in the epoch. `replay` is there once a call was recorded. Used by one training at a time.
    """

    def __init__(self, data: TrainingData, model: nn.Module, recipe: Recipe, *, device: torch.device) -> None:
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self.images, self.labels, self.device = data.images, data.labels, device
        self.batch_size = min(recipe.batch_size, len(data.train))
        self.batches = len(data.train) // self.batch_size
        image_bytes = 4 * math.prod(data.images.shape[1:])
        self.stretch = max(1, FETCHED_BYTES // (self.batch_size * image_bytes)) if device.type == "cpu" else 1
        """Batches that a call had best train."""
        self.augmented, self.label_smoothing = recipe.augmentation > 0, recipe.label_smoothing
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self._parameters = list(self.model.parameters())
        self.optimizer = make_optimizer(recipe, self._parameters)
        self.lr: Tensor = self.optimizer.param_groups[0]["lr"]
        self.order = torch.zeros(self.batches, self.batch_size, dtype=torch.int64, device=device)
        self.rates = torch.zeros(self.batches, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._ahead = torch.arange(self.stretch, device=device)
        self.strength = torch.zeros((), device=device)
        self.sums = torch.zeros(2, device=device)
        """Of the epoch so far: loss, and how many were right."""
        self._loss, self._correct = self.sums.unbind()
        self.generator = torch.Generator(device)
        self.replay: Callable[[], None] | None = None
        self._make_state()

    def __call__(self, batches: int = 1) -> None:
        """Train so many batches from `position` on, at most `stretch`. Reads nothing back from the device."""
        positions = self._ahead[:batches] + self.position
        index = self.order.index_select(0, positions).view(-1)
        images, labels = to_unit(self.images.index_select(0, index)), self.labels.index_select(0, index)
        rates = self.rates.index_select(0, positions)
        logits = [
            self._train(*batch)
            for batch in zip(images.split(self.batch_size), labels.split(self.batch_size), rates.unbind(), strict=True)
        ]
        self._correct.add_(((torch.cat(logits) if batches > 1 else logits[0]).argmax(1) == labels).sum())
        self.position.add_(batches)

    def _train(self, images: Tensor, labels: Tensor, rate: Tensor) -> Tensor:
        """Train one batch and give its logits."""
        self.lr.copy_(rate)
        if self.augmented:  # here, so that a batch's random numbers do not depend on what was fetched with it
            images = random_affine(images, self.strength, self.generator)
        logits: Tensor = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for parameter in self._parameters:  # as zero_grad does, without its record for profilers
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self._step()
            self._loss.add_(loss, alpha=self.batch_size)
        return logits.detach()

    def begin(self, model: nn.Module, recipe: Recipe, seed: int) -> None:
        """Start a training of `model`, which has the structure of the network here, from its first batch.

        Raises ValueError when the strength of the augmentation is outside [0, 1].
        """
        check_strength(recipe.augmentation)
        if model is not self.model:
            self.model.load_state_dict(model.state_dict())
        for tensor in self._live().optimizer:
            tensor.zero_()
        self.strength.fill_(recipe.augmentation)
        self.generator.manual_seed(seed)
        self.sums.zero_()

    def begin_epoch(self, order: Tensor, rates: Sequence[float]) -> None:
        """Fill an epoch's tables: `order`, indices (at least batches * batch size,), and one learning rate a batch."""
        self.order.copy_(order[: self.batches * self.batch_size].view(self.batches, self.batch_size))
        self.rates.copy_(torch.tensor(rates))

    def load_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Copy the state of an optimizer's `state_dict` into this one's tensors, which stay where they are."""
        for number, state in enumerate(self.optimizer.state.values()):
            for name, tensor in state.items():
                tensor.copy_(saved["state"][number][name])

    @property
    def generators(self) -> tuple[torch.Generator, torch.Generator]:
        """Of the augmentation, and the device's own, which dropout uses."""
        if self.device.type == "cuda":
            return self.generator, torch.cuda.default_generators[self.device.index or 0]
        return self.generator, torch.default_generator

    def renew_generators(self) -> None:
        """Give generators that a failed recording left unusable new insides, with a state still to be set.

        Torch believes that they are being recorded until the recording ends well, and one that broke a rule cannot.
        """
        for generator in self.generators:
            if generator.device.type == "cuda":
                generator.graphsafe_set_state(torch.Generator(generator.device))

    def snapshot(self) -> Snapshot:
        """A copy of everything that a call changes."""
        live = self._live()
        return Snapshot(**{name: [tensor.detach().clone() for tensor in part] for name, part in vars(live).items()})

    def restore(self, snapshot: Snapshot) -> None:
        """Make it as it was, bit by bit and in place."""
        live = self._live()
        with torch.no_grad():
            for name in ("weights", "buffers", "optimizer", "sums", "counters"):
                for tensor, old in zip(getattr(live, name), getattr(snapshot, name), strict=True):
                    tensor.copy_(old)
        for generator, state in zip(self.generators, snapshot.generators, strict=True):
            generator.set_state(state)

    def _live(self) -> Snapshot:
        """The tensors themselves; of the generators, which have none to write to, their states now."""
        return Snapshot(
            list(self.model.parameters()), list(self.model.buffers()),
            [tensor for state in self.optimizer.state.values() for tensor in state.values()],
            [self.sums], [self.lr, self.position], [generator.get_state() for generator in self.generators],
        )  # fmt: skip

    def _make_state(self) -> None:
        """Have the optimizer make its tensors now: one made while recording would be part of the recording.

        A step with a learning rate of zero leaves the weights alone. All four optimizers start from zeros: SGD's first
        momentum is the gradient, and momentum times zero plus the gradient is that, too.
        """
        self.lr.zero_()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with torch.no_grad():
            plain_step(self.optimizer)()
        self.optimizer.zero_grad(set_to_none=True)
        self._step = direct_step(self.optimizer)
