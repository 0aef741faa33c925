"""Row 8: trials a minute on one GPU, from the usual loop to several trainers at once."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader

from objectives.base import ObjectiveSpec, Params, Task
from objectives.images import ImageClassification
from objectives.training import evaluate
from search.executors.base import EpochDone, Failed, Lost
from search.executors.local import LocalExecutor
from tests.benchmarks.commands import data_dir, finished, search_command
from tests.benchmarks.loops import FAMILIES, Plain, load_objective, plain_data, plain_epoch, plain_network, timed
from tests.benchmarks.measure import Line, Options, Skipped, Target, alternate, sample

EPOCHS = 5
PER_TRAINER = 8
"""Trials of each trainer in one measurement of several."""


def gpu(options: Options) -> list[Line]:
    """All of it. Raises Skipped where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise Skipped("there is no CUDA device here, so nothing of this row was measured")
    lines = [line for name in FAMILIES for line in families(options, name, "cuda:0")]

    def search(repeat: int) -> float:
        with finished(search_command("--trials", options.size(50, 4), "--seed", repeat)) as ended:
            return ended.wall_s

    (walls,) = alternate(options.repeats, search)
    target = Target(60, "at most", of="ours")
    whole = Line(8, "50-trial search of MNIST, start included", "s", sample(walls), target=target)
    return [*lines, whole]


def families(options: Options, name: str, device: str) -> list[Line]:
    """Trials a minute of one network on `device`."""
    objective, params = load_objective(options), FAMILIES[name]
    called = load_objective(options)
    called.capture = False
    data = plain_data(objective, device)
    with Together(params, device) as together:
        trainers = together.executor.slots
        several = f"{trainers} trainers"
        sides: dict[str, tuple[int, Callable[[int], object]]] = {
            "eager, DataLoader": (1, lambda repeat: with_loader(objective, params, device)),
            "eager, data on the device": (4, lambda repeat: resident(objective, params, data, device)),
            "this trainer, calls": (4, lambda repeat: own(called, params, device, repeat)),
            "this trainer, CUDA graph": (4, lambda repeat: own(objective, params, device, repeat)),
            several: (PER_TRAINER * trainers, lambda repeat: together.run(PER_TRAINER * trainers)),
        }

        def measure(n: int, side: Callable[[int], object], repeat: int) -> tuple[float, float | None]:
            with Utilisation() as used:
                calls = 1 if side is sides[several][1] else n
                seconds = timed(lambda: [side(repeat) for _ in range(calls)])
            return n / (seconds / 60), used.mean

        for trainer in (called, objective):  # it is warmed up once and reused: compilers, caches and recordings
            own(trainer, params, device, 0)
        together.run(trainers)
        runs = alternate(
            options.repeats,
            *(lambda repeat, n=n, side=side: measure(n, side, repeat) for n, side in sides.values()),
        )
    rates = {side: sample([rate for rate, _ in found]) for side, found in zip(sides, runs, strict=True)}
    used = {side: [mean for _, mean in found] for side, found in zip(sides, runs, strict=True)}
    lines = []
    for ours, theirs in ((3, 0), (3, 1), (3, 2), (4, 0)):
        mine, their = list(sides)[ours], list(sides)[theirs]
        target = Target(300, "at least", of="ours") if name.startswith("MLP") and ours == 4 else None
        told = {"epochs": EPOCHS, "GPU utilisation": {side: used[side] for side in (mine, their)}}
        told |= {"number of trainers": together.chosen, "recordings": "all trials have one shape: recorded once"}
        label = f"{name}: {mine} / {their}"
        lines.append(Line(8, label, "trials/min", rates[mine], rates[their], target=target, notes=told))
    return lines


def with_loader(objective: ImageClassification, params: Params, device: str) -> None:
    """The tutorials' loop: a picture at a time through ToTensor, batches copied to the device."""
    from torchvision import datasets, transforms

    whole = datasets.MNIST(str(data_dir()), train=True, download=False, transform=transforms.ToTensor())
    train, validation = (
        torch.utils.data.Subset(whole, index.tolist())
        for index in (objective.dataset.train, objective.dataset.validation)
    )
    batch: Any = params["batch_size"]
    network = objective.build_model(params).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        network.train()
        for images, labels in DataLoader(train, batch, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images.to(device)), labels.to(device)).backward()
            optimizer.step()
        network.eval()
        with torch.no_grad():
            for images, labels in DataLoader(validation, batch):
                (network(images.to(device)).argmax(1) == labels.to(device)).sum().item()


def resident(objective: ImageClassification, params: Params, data: Plain, device: str) -> None:
    """The fastest eager loop, evaluated once an epoch as the others are."""
    network, optimizer = plain_network(objective, params, device)
    held = objective._data(device)
    for _ in range(EPOCHS):
        plain_epoch(network.train(), optimizer, data, int(params["batch_size"] or 0))
        evaluate(network, held.images, held.labels, held.validation)


def own(objective: ImageClassification, params: Params, device: str, seed: int) -> None:
    """This project's trainer, pulled to its end."""
    training = objective.start(Task(0, params, seed=seed, epochs=EPOCHS), device)
    for _ in range(EPOCHS * objective.steps_per_epoch()):
        next(training)
    training.outcome()


class Together:
    """As many trainers on one device as a search would take, started once."""

    def __init__(self, params: Params, device: str) -> None:
        spec = ObjectiveSpec("objectives.images:ImageClassification", {"dataset": "mnist", "data_dir": str(data_dir())})
        self.params, self.executor = params, LocalExecutor(spec, device, None)

    def __enter__(self) -> Together:
        self.executor.ready()
        self.chosen = self.executor.settle(Task(0, self.params, seed=0, epochs=EPOCHS))
        return self

    def __exit__(self, *error: object) -> None:
        self.executor.close()

    def run(self, trials: int) -> None:
        """Train so many trials to their end, at least one in every trainer."""
        for slot in range(self.executor.slots):
            self.executor.start(slot, Task(slot, self.params, seed=slot, epochs=EPOCHS))
        begun, ended = self.executor.slots, 0
        while ended < trials:
            for slot, event in self.executor.wait(1.0):
                if isinstance(event, Failed | Lost):
                    raise RuntimeError(f"a trainer failed: {event}")
                if isinstance(event, EpochDone):
                    self.executor.advance(slot)
                    continue
                ended += 1
                if begun < trials:
                    self.executor.start(slot, Task(begun, self.params, seed=begun, epochs=EPOCHS))
                    begun += 1


class Utilisation:
    """How busy nvidia-smi says the GPU is, in percent, twice a second; None where it cannot be asked."""

    def __enter__(self) -> Utilisation:
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def mean(self) -> float | None:
        return statistics.mean(self._seen) if self._seen else None

    def _watch(self) -> None:
        ask = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]
        while not self._over.wait(0.5):
            with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
                self._seen.append(float(subprocess.run(ask, capture_output=True, text=True, timeout=5).stdout))
