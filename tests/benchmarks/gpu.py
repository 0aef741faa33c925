"""Row 8: what one GPU does with this project. The most telling figures come first, so that a few minutes decide.

Everything is measured once. A part that fails, or for which no time is left, is named, and the next one follows. The
first part imports neither MLflow nor Optuna. With `--quick` the digits take the place of MNIST.
"""

from __future__ import annotations

import io
import itertools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import torch

from objectives.base import Diverged, Params, Task
from objectives.images.geometry import max_blocks
from objectives.images.objective import ImageClassification
from objectives.images.training.loop import ImageTraining
from search.common.system import environment
from tests.benchmarks.gpu_bench import BATCH, FAMILIES, MLP, SETTINGS, Bench, Lines, sampled
from tests.benchmarks.gpu_workers import start, workers
from tests.benchmarks.measure import Line, Options, Skipped, Target, sample

Part = tuple[str, float, Callable[[Bench], Lines]]
"""Its name, the seconds that it certainly takes on an H100, and what measures it."""


def gpu(options: Options) -> Lines:
    """All of it. Raises Skipped where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise Skipped("there is no CUDA device here, so nothing of this row was measured")
    parts: list[Part] = [
        ("batches, structures and seeds", 5, batches),
        ("workers with CUDA MPS", 20, partial(workers, mps=True)),
        ("MLP workers without CUDA MPS", 20, partial(workers, mps=False, families=("mlp",))),
        ("the command", 40, command),
        ("the start of workers", 20, start),
        ("the main job", 55, main_job),
        ("the loop with a DataLoader", 10, loader),
        ("the eager loop", 5, eager),
        ("CNN workers without CUDA MPS", 20, partial(workers, mps=False, families=("cnn",))),
    ]
    yield from in_turn(Bench(options, "cuda:0", (1, 2) if options.quick else (1, 2, 4, 8)), parts)


def in_turn(bench: Bench, parts: Sequence[Part]) -> Lines:
    """Measure the parts that there is time for, whatever becomes of the others."""
    for name, least_s, part in parts:
        if (left_s := bench.options.left_s) <= least_s:
            yield Skipped(
                f"{name}: not measured; it takes {least_s:g} s at least, and {max(0.0, left_s):.0f} were left"
            )
            continue
        try:
            yield from part(bench)
        except Skipped as skipped:
            yield Skipped(f"{name}: {skipped}")
        except Exception as error:
            traceback.print_exc()
            yield Skipped(f"{name} failed: {type(error).__name__}: {error}")


@dataclass(frozen=True)
class Trained:
    """What is kept of a training. Its CUDA graph is free for the next one."""

    batch_s: float
    """Of the last epoch."""
    overhead_s: float
    """How much longer the first pull took, the start of the training included, than its batches."""
    captured: bool
    weights: list[torch.Tensor]
    notices: list[str]


def train(objective: ImageClassification, params: Params, epochs: int, device: str, seed: int = 1) -> Trained:
    """Train to the end. A diverged training counts with what came before, as in a search."""
    begun = time.perf_counter()
    training = objective.start(Task(0, dict(params), seed, epochs), device)
    assert isinstance(training, ImageTraining)
    first_s, notices, n_batches = 0.0, [], training.update.batches
    with suppress(Diverged, StopIteration):
        while True:
            result = next(training)
            # The first step is evaluated, so the device has finished it.
            first_s = first_s or time.perf_counter() - begun
            notices += [result.notice] if result.notice else []
    batch_s = training.metrics.get("seconds", math.nan) / n_batches
    content = training.outcome().weights
    assert content is not None
    return Trained(
        batch_s,
        first_s - n_batches / objective.steps_per_epoch() * batch_s,
        training.update.replay is not None,
        list(torch.load(io.BytesIO(content), weights_only=True).values()),
        notices,
    )


def batches(bench: Bench) -> Lines:
    """Microseconds a batch from a CUDA graph and called, the cost of a structure, and one seed twice."""
    whole, epochs, device = ImageClassification(bench.dataset), bench.options.size(3, 1), bench.device
    whole.prepare()

    def make(*, capture: bool) -> ImageClassification:
        objective = ImageClassification(bench.dataset, data=whole.dataset)
        objective.capture = capture
        return objective

    fitting = {"cnn_blocks": max_blocks(whole.size)}
    settings = {label: params | fitting if "cnn_blocks" in params else params for label, params in SETTINGS.items()}
    for capture, params in itertools.product((True, False), settings.values()):
        train(make(capture=capture), params, 1, device)  # libraries are loaded
    objective, called = make(capture=True), make(capture=False)
    for label, params in settings.items():
        first, again = (train(objective, params, epochs, device) for _ in range(2))
        without = train(called, params, epochs, device)
        yield Line(
            8,
            f"{label}: a batch {'from a CUDA graph' if first.captured else 'WITHOUT A GRAPH'} / the same called",
            "us",
            sample([1e6 * min(first.batch_s, again.batch_s)]),
            sample([1e6 * without.batch_s]),
            higher_is_better=False,
            notes={"notices": first.notices} if first.notices else {},
        )
        cost, seen = 1e3 * first.overhead_s, 1e3 * again.overhead_s
        name = f"{label}: the first step of a new structure, without its batches"
        yield Line(8, name, "ms", sample([cost]), notes={"structure seen before, ms": seen}, higher_is_better=False)
        same = all(torch.equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
        target = Target(1, "at least", of="ours")
        yield Line(8, f"{label}: one seed twice gives the same weights", "1 = yes", sample([same]), target=target)


def command(bench: Bench) -> Lines:
    """Trials a minute of the real command: sampled, stored, tracked, by as many workers as the search chooses."""
    from search.study.records import SESSIONS
    from tests.benchmarks.commands import finished, only_study, search_command

    trials = bench.options.size(100, 2)
    words = ["--dataset", bench.dataset, "--fix", "family=mlp", "--epochs", bench.epochs, "--pruner", "none"]
    with finished(search_command(*words, "--trials", trials, "--device", bench.device, "--seed", 0)) as ended:
        rate = trials / (ended.trials_s() / 60)
        notes = {"workers": only_study(ended.folder).user_attrs[SESSIONS][-1]["slots"], "trials": trials}
        notes |= {"epochs": bench.epochs, "whole command, s": ended.wall_s}
    name, target = "mlp: python -m search, first trial to last", Target(300, "at least", of="ours")
    bench.mlp = name, rate
    yield Line(8, name, "trials/min", sample([rate]), target=target, notes=notes)


def main_job(bench: Bench) -> Lines:
    """`python -m search --trials 50`, with confirmation, refit, test and registration."""
    from tests.benchmarks.main_job import whole

    trials = bench.options.size(50, 2)
    words = ["--dataset", bench.dataset, "--trials", trials, "--device", bench.device]
    line = replace(whole(Options(1, bench.options.quick), f"{trials} trials of {bench.dataset}", 60, *words), row=8)
    yield line
    accuracy, target = sample(line.notes["test accuracy"]), Target(0.9955, "at least", of="ours")
    yield Line(8, f"test accuracy of {line.name}", "share", accuracy, target=target)


def loader(bench: Bench) -> Lines:
    """Our trials a minute of MLPs beside the tutorials' loop on the same GPU, of which one epoch is measured."""
    from torch.utils.data import DataLoader

    from tests.benchmarks.commands import data_dir
    from tests.benchmarks.loops import load_objective, timed
    from tests.benchmarks.usual_loop import load_data, train_epoch, validate

    device = bench.device
    with environment({"SEARCH_DATA_DIR": str(data_dir())}):
        train_set, validation_set = load_data(bench.options.size(50_000, 640), bench.options.size(10_000, 200))
    objective = load_objective(bench.options)
    model = objective.build_model(MLP).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images, validation = DataLoader(train_set, BATCH, shuffle=True), DataLoader(validation_set, BATCH)
    torch.set_float32_matmul_precision("highest")  # torch's default, which tutorials have
    model(next(iter(images))[0].to(device)).sum().backward()  # libraries are loaded
    epoch_s = timed(lambda: (train_epoch(model, images, optimizer, device), validate(model, validation, device)))
    theirs = 60 / (bench.epochs * epoch_s)
    if bench.mlp is None:
        bench.mlp = "one process", 60 / timed(lambda: train(objective, MLP, bench.epochs, device))
    ours, rate = bench.mlp
    notes = {"ours": ours, "epochs": bench.epochs, "theirs": "one epoch, scaled", "seconds of it": epoch_s}
    target = Target(15, "at least")
    yield Line(8, "mlp: ours / DataLoader", "trials/min", sample([rate]), sample([theirs]), target=target, notes=notes)


def eager(bench: Bench) -> Lines:
    """Trials a minute in this process beside the fastest eager loop on images that are on the device already."""
    from tests.benchmarks.loops import float_batches, load_objective, plain_data, plain_epoch, plain_network, timed

    device, epochs = bench.device, bench.epochs
    objective = load_objective(bench.options)
    data, held = plain_data(objective, device), objective._data(device)
    pixels, truth = held.images[held.validation], held.labels[held.validation]
    torch.set_float32_matmul_precision("high")

    def epoch(params: Params) -> None:
        network, optimizer = plain_network(objective, params, device)
        plain_epoch(network.train(), optimizer, float_batches(data, int(params["batch_size"] or 0)))
        network.eval()
        with torch.no_grad():
            parts = (part.float().sub_(data.mean).div_(data.std) for part in pixels.split(2000))
            (torch.cat([network(part).argmax(1) for part in parts]) == truth).float().mean().item()

    for family in FAMILIES:
        settings = sampled(objective, family, bench.options.size(4, 1))
        epoch(settings[0])  # libraries are loaded
        theirs_s = epochs * timed(lambda settings=settings: list(map(epoch, settings)))  # type: ignore[misc]
        ours_s = timed(lambda settings=settings: [train(objective, params, epochs, device) for params in settings])  # type: ignore[misc]
        ours, theirs = (sample([len(settings) / (seconds / 60)]) for seconds in (ours_s, theirs_s))
        notes = {"trials": len(settings), "epochs": epochs, "theirs": "one epoch, scaled"}
        yield Line(8, f"{family}: one process / eager, data on the device", "trials/min", ours, theirs, notes=notes)
