"""Row 5: one epoch of this project's loop beside the fastest plain loop, and beside what the cores can multiply.

The plain loop has everything that a training loop must not cost more than: images in memory, a fused optimizer, nothing
counted, scheduled or augmented. There are two ways to fetch its images, of which the faster one is compared with, since
none is faster on every machine. Both train the same network in batches of the same size.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from objectives.base import Params, Task
from objectives.images.baselines import STRONG, TUTORIAL, TUTORIAL_MLP
from objectives.images.objective import ImageClassification
from objectives.images.training_params import of_network
from tests.benchmarks.commands import data_dir
from tests.benchmarks.measure import Line, Options, Target, alternate, sample
from tests.benchmarks.objectives import cut

ADAM: Params = {"optimizer": "adamw", "adam_lr": 1e-3, "batch_size": 128, "label_smoothing": 0.0}
STRONG_CNN: Params = {**of_network(STRONG), "cnn_width": 24, "cnn_convs": 1}
FAMILIES: dict[str, Params] = {
    "MLP 784-512-256-10": {**TUTORIAL, **TUTORIAL_MLP, **ADAM},
    "CNN 24-48-72": {**TUTORIAL, **STRONG_CNN, **ADAM, "cnn_dropout": 0.0},
}
OVERHEAD = 0.05


@dataclass(frozen=True)
class Plain:
    """The training split as a plain loop wants it, on one device."""

    images: Tensor
    """float32 (n, c, h, w), normalised."""
    pixels: Tensor
    """uint8 (n, c, h, w)."""
    labels: Tensor
    mean: float
    std: float


def load_objective(options: Options) -> ImageClassification:
    """MNIST, or a little of it."""
    objective = ImageClassification("mnist", str(data_dir()))
    if options.quick:
        data = objective.dataset
        objective.dataset = cut(data, {"train": 640, "validation": 200})
    return objective


def plain_data(objective: ImageClassification, device: str) -> Plain:
    """Prepared once, outside of what is timed."""
    data, inputs = objective.dataset, objective._inputs
    pixels = torch.from_numpy(data.images[data.train]).to(device)
    mean, std = 255 * inputs.mean[0], 255 * inputs.std[0]
    labels = torch.from_numpy(data.labels[data.train]).to(device)
    return Plain((pixels - mean).div_(std), pixels, labels, mean, std)


def plain_network(
    objective: ImageClassification, params: Params, device: str
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same network without its normalisation, and its optimizer."""
    built: Any = objective.build_model(params)
    network = built[1:].to(device).to(memory_format=torch.channels_last).train()
    lr, decay = params.get("adam_lr", 1e-3), params["weight_decay"]
    return network, torch.optim.AdamW(network.parameters(), lr, weight_decay=decay, fused=True)  # type: ignore


def float_batches(data: Plain, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images that need nothing more, a batch at a time. `images[index]` takes longer than `index_select`."""
    order = torch.randperm(len(data.labels), device=data.labels.device)
    for index in order[: len(order) // batch * batch].split(batch):
        yield data.images.index_select(0, index), data.labels.index_select(0, index)


def byte_batches(data: Plain, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A quarter of the memory is read, and several batches are fetched and normalised at once."""
    order = torch.randperm(len(data.labels), device=data.labels.device)
    for several in order[: len(order) // batch * batch].split(4 * batch):
        images = data.pixels.index_select(0, several).float().sub_(data.mean).div_(data.std)
        yield from zip(images.split(batch), data.labels.index_select(0, several).split(batch), strict=True)


def plain_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """The fastest loop known for small images."""
    for images, labels in batches:
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def training_flops(objective: ImageClassification, params: Params) -> float:
    """Floating point operations of one epoch's forward and backward passes: matrix products and convolutions alone.

    A multiplication and an addition count as two; gradients that nothing needs, of the pixels, are not computed.
    """
    batch = int(params["batch_size"] or 0)
    network: nn.Module = objective.build_model(params).train()
    images = torch.rand(batch, 1, *objective.dataset.size)
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
    return float(counter.get_total_flops()) * (len(objective.dataset.train) // batch)


def matmul_flops_per_s(side: int) -> float:
    """What the same threads come to in one large product of float32 matrices."""
    a, b = torch.rand(side, side), torch.rand(side, side)
    return 2 * side**3 / statistics.median(timed(lambda: a @ b) for _ in range(7))


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let torch use so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def loops(options: Options) -> list[Line]:
    """Both families, with two threads and with one, which is what a search gives a worker on two cores."""
    objective = load_objective(options)
    data = plain_data(objective, "cpu")
    return [_compare(options, objective, data, name, n_threads) for name in FAMILIES for n_threads in (2, 1)]


def _compare(options: Options, objective: ImageClassification, data: Plain, name: str, n_threads: int) -> Line:
    params = FAMILIES[name]
    batch = int(params["batch_size"] or 0)

    def ours(repeat: int) -> float:
        training = objective.start(Task(0, params, seed=repeat, epochs=1), "cpu")
        return sum(next(training).train_seconds for _ in range(objective.steps_per_epoch()))

    def plain(fetch: Callable[[Plain, int], Iterator[tuple[Tensor, Tensor]]]) -> Callable[[int], float]:
        def side(repeat: int) -> float:
            torch.manual_seed(repeat)
            network, optimizer = plain_network(objective, params, "cpu")
            return timed(lambda: plain_epoch(network, optimizer, fetch(data, batch)))

        return side

    ways = {"float32, a batch at once": float_batches, "uint8, four batches at once": byte_batches}
    with threads(n_threads):
        us, matmul, *plains = alternate(
            1 + options.size(max(options.repeats, 5), options.repeats),
            ours,
            lambda _: matmul_flops_per_s(options.size(2048, 512)),
            *map(plain, ways.values()),
        )
    us, matmul, *plains = (side[1:] for side in (us, matmul, *plains))  # the first use of every kernel loads it
    spent = {way: statistics.median(side) for way, side in zip(ways, plains, strict=True)}
    fastest = min(spent, key=lambda way: spent[way])
    them = plains[list(ways).index(fastest)]
    flops, peak = training_flops(objective, params), statistics.median(matmul)
    plural = "threads" if n_threads > 1 else "thread"
    line = Line(
        5,
        f"epoch, {name}, {n_threads} {plural}",
        "s",
        sample(us),
        sample(them),
        higher_is_better=False,
        target=Target(round(1 / (1 + OVERHEAD), 3), "at least"),
    )
    notes = {
        "overhead": 1 / (line.ratio or math.nan) - 1,
        "plain loop": fastest,
        "plain seconds": spent,
        "share of a large matrix product": {
            "ours": flops / statistics.median(us) / peak,
            "plain": flops / spent[fastest] / peak,
        },
        "its GFLOP/s": peak / 1e9,
        "FLOP per epoch": flops,
    }
    details = {
        "training images": len(data.labels),
        "batch": batch,
        "evaluation": "not timed on either side",
        "FLOP counted": "torch's FlopCounterMode: forward and backward, 2 per multiply-add",
    }
    return replace(line, notes=notes, details=details)
