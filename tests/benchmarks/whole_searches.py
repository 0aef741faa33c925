"""Rows 1, 2, 3 and 6: whole commands of this project beside whole scripts, imports and new stores included."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from search.records import METRICS, SESSIONS
from search.storage import quiet_optuna
from tests.benchmarks import settings
from tests.benchmarks.commands import (
    Ended,
    finished,
    script,
    search_command,
    states,
    stored_values,
    time_to_accuracy,
)
from tests.benchmarks.measure import Line, Options, Sample, Target, alternate, sample

OBJECTIVES = "tests.benchmarks.objectives"


def per_minute(trials: int, walls_s: Sequence[float]) -> Sample:
    """Trials per minute of whole commands."""
    return sample([trials / (wall_s / 60) for wall_s in walls_s])


def sizes(train: int, validation: int) -> dict[str, str]:
    """How many pictures this project's side uses."""
    return {"BENCHMARK_TRAIN": str(train), "BENCHMARK_VALIDATION": str(validation)}


def images(options: Options) -> tuple[int, int]:
    """Training and validation images of full MNIST, or few."""
    return options.size(50_000, 640), options.size(10_000, 200)


def usual(options: Options) -> list[Line]:
    """Row 1: trials per minute without pruning, and what accuracy they came to.

    One trial of the script takes over a minute, so it trains three settings a repeat, one of each batch size, where
    this project trains all thirty: a rate is trials by wall time, and accuracies are compared on what both trained.
    """
    n_theirs, n_ours, epochs = options.size(3, 1), options.size(30, 3), options.size(5, 1)
    train, validation = images(options)
    everything = settings.fixed(n_ours)

    def chosen(repeat: int) -> list[int]:
        return [(repeat * n_theirs + i) % n_ours for i in range(n_theirs)]

    def ours(repeat: int) -> tuple[float, dict[int, float]]:
        command = search_command(
            "--objective", f"{OBJECTIVES}:Usual", "--trials", n_ours, "--epochs", epochs, "--pruner", "none",
            "--seed", repeat,
        )  # fmt: skip
        with finished(command, {**sizes(train, validation), "BENCHMARK_SETTINGS": json.dumps(everything)}) as ended:
            return ended.wall_s, stored_values(ended.folder)

    def theirs(repeat: int) -> tuple[float, dict[int, float]]:
        given = json.dumps([everything[number] for number in chosen(repeat)])
        command = script(
            "usual_script", "--trials", n_theirs, "--epochs", epochs, "--settings", given, "--seed", repeat,
            "--train-images", train, "--validation-images", validation,
        )  # fmt: skip
        with finished(command) as ended:
            values = stored_values(ended.folder)
            return ended.wall_s, {setting: values[number] for number, setting in enumerate(chosen(repeat))}

    us, them = alternate(options.repeats, ours, theirs)
    pairs = [[(us[repeat][1][s], value) for s, value in them[repeat][1].items()] for repeat in range(options.repeats)]
    our_best, their_best = (sample([max(pair[side] for pair in repeat) for repeat in pairs]) for side in (0, 1))
    gains = [mine - their for repeat in pairs for mine, their in repeat]
    told = {"trials": [n_ours, n_theirs], "epochs": epochs, "training images": train}
    return [
        Line(
            1, "usual script: no pruning", "trials/min", per_minute(n_ours, [wall for wall, _ in us]),
            per_minute(n_theirs, [wall for wall, _ in them]), target=Target(12, "at least"), notes=told,
        ),
        Line(
            1, "best of the same settings", "val accuracy", our_best, their_best, target=Target(1, "at least"),
            notes={
                "settings compared": len(gains), "mean gain": statistics.mean(gains),
                "best of all ours": max(max(values.values()) for _, values in us),
                "noise": "one accuracy near 0.98 on 10,000 images has a standard error of 0.0014",
            },
        ),
    ]  # fmt: skip


def pruned(options: Options) -> list[Line]:
    """Row 2: time to 98.0% validation, with pruning on both sides. A search that never gets there counts in full."""
    accuracy, limit_s = (0.3, 120.0) if options.quick else (0.98, 1800.0)
    trials, epochs = options.size(200, 20), options.size(5, 2)
    train, validation = images(options)

    def ours(repeat: int) -> float | None:
        command = search_command(
            "--objective", f"{OBJECTIVES}:Usual", "--trials", trials, "--epochs", epochs, "--seed", repeat
        )
        return time_to_accuracy(command, accuracy, limit_s=limit_s, extra=sizes(train, validation))

    def theirs(repeat: int) -> float | None:
        command = script(
            "usual_script", "--trials", trials, "--epochs", epochs, "--pruner", "median", "--seed", repeat,
            "--train-images", train, "--validation-images", validation,
        )  # fmt: skip
        return time_to_accuracy(command, accuracy, limit_s=limit_s)

    us, them = alternate(options.repeats, ours, theirs)
    ours_s, theirs_s = (sample([limit_s if s is None else s for s in side]) for side in (us, them))
    missed = {"ours": us.count(None), "theirs": them.count(None)}
    return [
        Line(
            2, f"usual script: pruning, time to {accuracy:.1%}", "s",
            ours_s, theirs_s, higher_is_better=False,
            notes={"never got there": missed, "limit_s": limit_s, "epochs": epochs},
        )
    ]  # fmt: skip


def example(options: Options) -> list[Line]:
    """Row 3: Optuna's small example, which tracks nothing, beside a command that tracks everything."""
    trials, epochs = options.size(100, 2), options.size(10, 1)
    batches, validation_batches = options.size(30, 5), options.size(10, 2)

    def ours(repeat: int) -> tuple[Ended, Any]:
        command = search_command(
            "--objective", f"{OBJECTIVES}:Example", "--trials", trials, "--epochs", epochs, "--pruner", "median",
            "--seed", repeat,
        )  # fmt: skip
        with finished(command, sizes(128 * batches, 128 * validation_batches)) as ended:
            best = max(stored_values(ended.folder).values())
            return ended, {"best": best, "pruned": states(ended.folder).get("PRUNED", 0)}

    def theirs(repeat: int) -> tuple[Ended, Any]:
        command = script(
            "example_script", "--trials", trials, "--epochs", epochs, "--seed", repeat,
            "--train-batches", batches, "--validation-batches", validation_batches,
        )  # fmt: skip
        with finished(command) as ended:
            return ended, json.loads(ended.out.splitlines()[-1])

    us, them = alternate(options.repeats, ours, theirs)
    seen = {name: [what for _, what in side] for name, side in (("ours", us), ("theirs", them))}
    mine, their = (per_minute(trials, [ended.wall_s for ended, _ in side]) for side in (us, them))
    told = {"trials": trials, "epochs": epochs, "training images": 128 * batches, "seen": seen}
    return [Line(3, "Optuna's PyTorch example", "trials/min", mine, their, target=Target(5, "at least"), notes=told)]


def efficiency(options: Options) -> list[Line]:
    """Row 6: how much of the trainers' time is training, in a whole command: the main job, 50 trials of MNIST.

    Training is what trainers spend inside pulls: batches and evaluation. Load that the search itself puts on the cores
    makes pulls longer, which would hide it: the share by the trainers' processor time, which it does not, is noted.
    """
    trials, epochs = options.size(50, 3), options.size(3, 1)
    train, validation = images(options)

    def measure(jobs: int, repeat: int) -> dict[str, float]:
        command = search_command(
            "--objective", f"{OBJECTIVES}:Timed", "--trials", trials, "--epochs", epochs, "--jobs", jobs,
            "--seed", repeat,
        )  # fmt: skip
        with finished(command, sizes(train, validation)) as ended:
            return {"wall_s": ended.wall_s, **_times(ended)}

    sides = alternate(1, *(lambda repeat, jobs=jobs: measure(jobs, repeat) for jobs in (1, 2)))
    lines = []
    for jobs, runs in zip((1, 2), sides, strict=True):
        shares = [run["pull_seconds"] / (jobs * run["wall_s"]) for run in runs]
        inside = [run["pull_seconds"] / (jobs * run["session_s"]) for run in runs]
        told: dict[str, Any] = {"trials": trials, "share without start and end": inside, "seconds": runs}
        target = Target(0.95, "at least", of="ours")
        lines.append(Line(6, f"training / wall, --jobs {jobs}", "share", sample(shares), target=target, notes=told))
    return lines


def _times(ended: Ended) -> dict[str, float]:
    """Summed seconds of all trials, and what the search recorded of its own work."""
    study = only_study(ended.folder)
    metrics = [trial.user_attrs.get(METRICS, {}) for trial in study.get_trials(deepcopy=False)]
    names = ("pull_seconds", "pull_cpu_seconds", "train_seconds")
    found = {name: sum(each.get(name, 0.0) for each in metrics) for name in names}
    session = study.user_attrs[SESSIONS][-1]
    return {**found, "session_s": session["wall_s"], **{key: session[key] for key in ("search_s", "tracking_s")}}


def only_study(folder: Path) -> optuna.Study:
    """The study of a folder in which one search ran."""
    quiet_optuna()
    storage = f"sqlite:///{folder / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)
