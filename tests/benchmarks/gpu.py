"""Row 8: trials a minute on one GPU, from the usual loop to the whole command with several workers.

Settings are sampled, and others in every repeat: a recording that is used again counts only where a search would use
it again. The eager loops train the same networks in the same batches, with AdamW and nothing else that is sampled.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

import optuna
import torch
from torch.utils.data import DataLoader

from objectives.base import Diverged, Params, Task
from objectives.images.objective import ImageClassification
from search.study.records import SESSIONS
from search.study.storage.storage import quiet_optuna
from tests.benchmarks.commands import data_dir, finished, only_study, search_command
from tests.benchmarks.loops import (
    FAMILIES,
    Plain,
    float_batches,
    load_objective,
    plain_data,
    plain_epoch,
    plain_network,
    timed,
)
from tests.benchmarks.measure import Line, Options, Skipped, Target, alternate, sample
from tests.benchmarks.whole_searches import OBJECTIVES, images, per_minute, sizes

SAME_SHAPE = dict(zip(("mlp", "cnn"), FAMILIES.values(), strict=True))
LOADER = "eager, DataLoader"
VARIANTS: dict[str, dict[str, Any]] = {
    "TF32 off": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "channels_last off": {"channels_last": False},
}
"""What a training's numerics may be instead of the defaults."""

Settings = Sequence[Params]


def gpu(options: Options) -> list[Line]:
    """All of it. Raises Skipped where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise Skipped("there is no CUDA device here, so nothing of this row was measured")
    device = "cuda:0"
    lines = [line for family in SAME_SHAPE for line in loops(options, family, device)]
    return [*lines, *(command(options, family, device) for family in SAME_SHAPE), whole_search(options, device)]


def computing(options: Options, numerics: dict[str, Any]) -> ImageClassification:
    """An objective of its own, with recordings of its own, that computes in this way."""
    objective = load_objective(options)
    objective.numerics = numerics
    return objective


def sampled(objective: ImageClassification, family: str, n: int, seed: int) -> list[Params]:
    """So many settings of the whole space, of one family."""
    quiet_optuna()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(n):
        study.enqueue_trial({"family": family})
    return [objective.suggest(study.ask()) for _ in range(n)]


def loops(options: Options, family: str, device: str) -> list[Line]:
    """Trials a minute in this process, one after the other."""
    trials, epochs = options.size(8, 1), options.size(5, 1)
    objective, called = load_objective(options), load_objective(options)
    called.capture = False
    data = plain_data(objective, device)
    accuracies: dict[tuple[str, bool], list[float]] = {}
    sides: dict[str, Callable[[Settings], list[float]]] = {
        "CUDA graphs": lambda settings: own(objective, settings, device, epochs),
        "the same called": lambda settings: own(called, settings, device, epochs),
        LOADER: lambda settings: with_loader(objective, settings[:1], device, epochs),
        "eager, data on the device": lambda settings: resident(objective, settings, data, device, epochs),
    }
    for variant, numerics in VARIANTS.items():
        varied = computing(options, numerics)
        sides[variant] = lambda settings, varied=varied: own(varied, settings, device, epochs)  # type: ignore[misc]

    def measure(name: str, settings: Settings) -> tuple[float, float | None]:
        if device.startswith("cuda"):  # the side before may have left it otherwise; tutorials have torch's default
            torch.set_float32_matmul_precision("highest" if name == LOADER else "high")
            torch.backends.cudnn.allow_tf32 = True
        with Utilisation() as used:
            seconds = timed(
                lambda: accuracies.setdefault((name, settings is one_shape), []).extend(sides[name](settings))
            )
        return (1 if name == LOADER else len(settings)) / (seconds / 60), used.mean

    one_shape = [SAME_SHAPE[family]] * trials
    for name in sides:  # libraries are loaded and caches filled; these settings come never again
        measure(name, sampled(objective, family, 2, seed=1_000))
    for name in ("CUDA graphs", "the same called"):
        measure(name, one_shape)
    accuracies.clear()
    runs = alternate(
        options.repeats,
        *(lambda repeat, name=name: measure(name, sampled(objective, family, trials, repeat)) for name in sides),
        *(lambda repeat, name=name: measure(name, one_shape) for name in ("CUDA graphs", "the same called")),
    )
    *found, graphs_of_one, calls_of_one = runs
    ours = found[0]
    names = dict(zip(sides, found, strict=True))
    pairs = {f"CUDA graphs / {name}": (ours, theirs) for name, theirs in names.items() if theirs is not ours}
    pairs["one shape again and again: CUDA graphs / the same called"] = (graphs_of_one, calls_of_one)
    lines = []
    for label, pair in pairs.items():
        mine, their = (sample([rate for rate, _ in side]) for side in pair)
        told: dict[str, Any] = {"GPU utilisation, %": [[used for _, used in side] for side in pair]}
        told |= {"trials a repeat": trials, "epochs": epochs}
        if (variant := label.removeprefix("CUDA graphs / ")) in VARIANTS:
            told["mean val accuracy"] = [statistics.mean(accuracies[name, False]) for name in ("CUDA graphs", variant)]
        lines.append(Line(8, f"{family}: {label}", "trials/min", mine, their, notes=told))
    return lines


def command(options: Options, family: str, device: str) -> Line:
    """Trials a minute of the real command: sampled, stored, tracked, trained by as many workers as make it faster."""
    trials, epochs = options.size(200 if family == "mlp" else 60, 2), options.size(5, 1)
    train, validation = images(options)

    def search(repeat: int) -> dict[str, Any]:
        words = search_command(
            "--objective",
            f"{OBJECTIVES}:Timed",
            "--fix",
            f"family={family}",
            "--epochs",
            epochs,
            "--pruner",
            "none",
            "--trials",
            trials,
            "--seed",
            repeat,
            "--device",
            device,
        )
        with Utilisation() as used, finished(words, sizes(train, validation)) as ended:
            slots = only_study(ended.folder).user_attrs[SESSIONS][-1]["slots"]
            pulls_s = sum(each.get("pull_seconds", 0.0) for each in ended.metrics())
            return {
                "trials_s": ended.trials_s(),
                "wall_s": ended.wall_s,
                "GPU utilisation, %": used.mean,
                "trainers": slots,
                "training": pulls_s / slots / ended.trials_s(),
            }

    (runs,) = alternate(options.repeats, search)
    rates = per_minute(trials, [run["trials_s"] for run in runs])
    told = {name: [run[name] for run in runs] for name in ("trainers", "GPU utilisation, %")}
    told |= {"training's share of trainers' time": [run["training"] for run in runs], "trials": [trials]}
    told["whole command, trials/min"] = list(per_minute(trials, [run["wall_s"] for run in runs]).values)
    target = Target(300, "at least", of="ours") if family == "mlp" else None
    return Line(8, f"{family}: python -m search, first trial to last", "trials/min", rates, target=target, notes=told)


def whole_search(options: Options, device: str) -> Line:
    """The main job without confirmation and refit, which row 9 has."""
    trials, (train, validation) = options.size(50, 2), images(options)
    epochs = ("--epochs", 1) if options.quick else ()

    def search(repeat: int) -> float:
        words = search_command(
            "--objective",
            f"{OBJECTIVES}:Timed",
            "--trials",
            trials,
            *epochs,
            "--seed",
            repeat,
            "--device",
            device,
            register=True,
        )
        with finished(words, sizes(train, validation)) as ended:
            return ended.wall_s

    (walls,) = alternate(options.repeats, search)
    name = f"{trials}-trial search of MNIST, start and registration included"
    return Line(8, name, "s", sample(walls), higher_is_better=False, target=Target(60, "at most", of="ours"))


def with_loader(objective: ImageClassification, settings: Settings, device: str, epochs: int) -> list[float]:
    """The tutorials' loop: a picture at a time through ToTensor, batches copied to the device."""
    from torchvision import datasets, transforms

    whole = datasets.MNIST(str(data_dir()), train=True, download=False, transform=transforms.ToTensor())
    train, validation = (
        torch.utils.data.Subset(whole, index.tolist())
        for index in (objective.dataset.train, objective.dataset.validation)
    )
    accuracies = []
    for params in settings:
        batch: Any = params["batch_size"]
        network = objective.build_model(params).to(device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for _ in range(epochs):
            network.train()
            for pictures, labels in DataLoader(train, batch, shuffle=True):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(pictures.to(device)), labels.to(device)).backward()
                optimizer.step()
            network.eval()
            correct = 0
            with torch.no_grad():
                for pictures, labels in DataLoader(validation, batch):
                    correct += (network(pictures.to(device)).argmax(1) == labels.to(device)).sum().item()
        accuracies.append(correct / len(validation))
    return accuracies


def resident(objective: ImageClassification, settings: Settings, data: Plain, device: str, epochs: int) -> list[float]:
    """The fastest eager loop, evaluated once an epoch as the others are."""
    held, inputs, accuracies = objective._data(device), objective._inputs, []
    pixels, truth = held.images[held.validation], held.labels[held.validation]
    for params in settings:
        network, optimizer = plain_network(objective, params, device)
        for _ in range(epochs):
            plain_epoch(network.train(), optimizer, float_batches(data, int(params["batch_size"] or 0)))
            network.eval()
            with torch.no_grad():
                parts = ((part / 255 - inputs.mean[0]) / inputs.std[0] for part in pixels.split(2000))
                accuracy = (torch.cat([network(part).argmax(1) for part in parts]) == truth).float().mean().item()
        accuracies.append(accuracy)
    return accuracies


def own(objective: ImageClassification, settings: Settings, device: str, epochs: int) -> list[float]:
    """This project's training loop, pulled to its end."""
    accuracies = []
    for number, params in enumerate(settings):
        started = objective.start(Task(number, params, seed=number, epochs=epochs), device)
        with contextlib.suppress(Diverged):  # what came before counts: a search, too, has such trials
            for _ in range(epochs * objective.steps_per_epoch()):
                next(started)
        accuracies.append(started.outcome().metrics.get("val/accuracy", 0.0))
        del started  # as workers do: its recording is free for the next
    return accuracies


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
