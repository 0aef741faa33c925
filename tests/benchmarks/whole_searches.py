"""Rows 1, 2, 3 and 6: whole commands of this project beside whole scripts, imports and new stores included."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from search.common.system import usable_cores
from search.study.records import SESSIONS
from tests.benchmarks import settings
from tests.benchmarks.commands import (
    Ended,
    Reached,
    finished,
    only_study,
    script,
    search_command,
    states,
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
    this project trains all thirty. The rate that is judged leaves each side's start and end out, since they are shared
    by so unlike numbers. Accuracies are compared where both trained the same setting: "not lower" means that the mean
    gain is not significantly below zero.
    """
    n_theirs, n_ours, epochs = options.size(3, 1), options.size(30, 3), options.size(5, 1)
    train, validation = images(options)
    everything = settings.fixed(n_ours)

    def chosen(repeat: int) -> list[int]:
        return [(repeat * n_theirs + i) % n_ours for i in range(n_theirs)]

    def ours(repeat: int) -> tuple[Ended, float, dict[int, float]]:
        command = search_command(
            "--objective",
            f"{OBJECTIVES}:Usual",
            "--trials",
            n_ours,
            "--epochs",
            epochs,
            "--pruner",
            "none",
            "--seed",
            repeat,
        )
        with finished(command, {**sizes(train, validation), "BENCHMARK_SETTINGS": json.dumps(everything)}) as ended:
            return ended, ended.trials_s(), ended.values()

    def theirs(repeat: int) -> tuple[Ended, float, dict[int, float]]:
        given = json.dumps([everything[number] for number in chosen(repeat)])
        command = script(
            "usual_script",
            "--trials",
            n_theirs,
            "--epochs",
            epochs,
            "--settings",
            given,
            "--seed",
            repeat,
            "--train-images",
            train,
            "--validation-images",
            validation,
        )
        with finished(command) as ended:
            values = ended.values()
            return ended, ended.trials_s(), {setting: values[n] for n, setting in enumerate(chosen(repeat))}

    us, them = alternate(options.repeats, ours, theirs)
    pairs = [(mine[2][s], value) for mine, their in zip(us, them, strict=True) for s, value in their[2].items()]
    gains = sample([mine - their for mine, their in pairs])
    told = {"trials": [n_ours, n_theirs], "epochs": epochs, "training images": train}
    return [
        Line(
            1,
            "usual script, first trial to last",
            "trials/min",
            per_minute(n_ours, [trials_s for _, trials_s, _ in us]),
            per_minute(n_theirs, [trials_s for _, trials_s, _ in them]),
            target=Target(12, "at least"),
            notes=told,
        ),
        Line(
            1,
            "usual script, whole command",
            "trials/min",
            per_minute(n_ours, [ended.wall_s for ended, _, _ in us]),
            per_minute(n_theirs, [ended.wall_s for ended, _, _ in them]),
            notes={"start": "part of it, shared by ten times as many trials on our side"},
        ),
        Line(
            1,
            "usual script, gain on the same settings",
            "val accuracy",
            gains,
            target=Target(0, "at least", of="mean + 95%"),
            notes={
                "mean gain": statistics.mean(gains.values),
                "standard error": gains.error,
                "best": [max(values) for values in zip(*pairs, strict=True)],
                "best of all ours": max(max(values.values()) for _, _, values in us),
            },
            details={"ours and theirs": pairs},
        ),
    ]


def pruned(options: Options) -> list[Line]:
    """Row 2: time to 98.0% validation, with pruning on both sides. A search that never gets there counts in full."""
    accuracy, limit_s = (0.3, 120.0) if options.quick else (0.98, 1800.0)
    trials, epochs = options.size(200, 20), options.size(5, 2)
    train, validation = images(options)

    def ours(repeat: int) -> Reached:
        command = search_command(
            "--objective", f"{OBJECTIVES}:Usual", "--trials", trials, "--epochs", epochs, "--seed", repeat
        )
        return time_to_accuracy(command, accuracy, limit_s=limit_s, extra=sizes(train, validation))

    def theirs(repeat: int) -> Reached:
        command = script(
            "usual_script",
            "--trials",
            trials,
            "--epochs",
            epochs,
            "--pruner",
            "median",
            "--seed",
            repeat,
            "--train-images",
            train,
            "--validation-images",
            validation,
        )
        return time_to_accuracy(command, accuracy, limit_s=limit_s)

    us, them = alternate(options.repeats, ours, theirs)
    ours_s, theirs_s = (
        sample([limit_s if run.seconds is None else run.seconds for run in side]) for side in (us, them)
    )
    missed = [[run.seconds for run in side].count(None) for side in (us, them)]
    return [
        Line(
            2,
            f"usual script: pruning, time to {accuracy:.1%}",
            "s",
            ours_s,
            theirs_s,
            higher_is_better=False,
            notes={
                "never got there": missed,
                "limit, s": limit_s,
                "epochs": epochs,
                "pruner": ["hyperband", "median"],
                "trials by then, ours": [run.states for run in us],
                "theirs": [run.states for run in them],
            },
        )
    ]


def example(options: Options) -> list[Line]:
    """Row 3: Optuna's small example, which tracks nothing, beside a command that tracks everything.

    Both prune by Optuna's MedianPruner from a trial's first report on, after five trials. The example takes its images
    anew from all 50,000 in every epoch, as it is published; this project trains on as many that stay the same.
    """
    trials, epochs = options.size(100, 2), options.size(10, 1)
    batches, validation_batches = options.size(30, 5), options.size(10, 2)

    def ours(repeat: int) -> tuple[float, Any]:
        command = search_command(
            "--objective",
            f"{OBJECTIVES}:Example",
            "--trials",
            trials,
            "--epochs",
            epochs,
            "--pruner",
            "median",
            "--seed",
            repeat,
        )
        with finished(command, sizes(128 * batches, 128 * validation_batches)) as ended:
            best = max(ended.values().values())
            return ended.wall_s, {"best": best, "pruned": states(ended.folder).get("PRUNED", 0)}

    def theirs(repeat: int) -> tuple[float, Any]:
        command = script(
            "example_script",
            "--trials",
            trials,
            "--epochs",
            epochs,
            "--seed",
            repeat,
            "--train-batches",
            batches,
            "--validation-batches",
            validation_batches,
        )
        with finished(command) as ended:
            return ended.wall_s, json.loads(ended.out.splitlines()[-1])

    us, them = alternate(options.repeats, ours, theirs)
    mine, their = (per_minute(trials, [wall_s for wall_s, _ in side]) for side in (us, them))
    told = {
        "trials": trials,
        "epochs": epochs,
        "training images": f"{128 * batches}; theirs are others in every epoch",
        "ours": [seen for _, seen in us],
        "theirs": [seen for _, seen in them],
    }
    return [Line(3, "Optuna's PyTorch example", "trials/min", mine, their, target=Target(5, "at least"), notes=told)]


def efficiency(options: Options) -> list[Line]:
    """Row 6: how much of the workers' time is training, in a whole command: 50 trials of MNIST, the winner registered.

    Training is what workers spend inside pulls: batches and evaluation. Load that the search itself puts on the cores
    makes pulls longer, which would hide it: the share of all cores' time that is the workers' processor time has that
    load outside. Two workers of one thread come to 1 in both; one worker of all cores' threads waits in places.
    """
    trials, epochs = options.size(50, 3), options.size(3, 1)
    train, validation = images(options)

    def measure(jobs: int, repeat: int) -> dict[str, float]:
        command = search_command(
            "--objective",
            f"{OBJECTIVES}:Timed",
            "--trials",
            trials,
            "--epochs",
            epochs,
            "--jobs",
            jobs,
            "--seed",
            repeat,
            register=True,
        )
        with finished(command, sizes(train, validation)) as ended:
            return {"wall_s": ended.wall_s, "trials_s": ended.trials_s(), **_times(ended)}

    sides = alternate(options.repeats, *(lambda repeat, jobs=jobs: measure(jobs, repeat) for jobs in (1, 2)))
    lines = []
    for jobs, runs in zip((1, 2), sides, strict=True):

        def share(of: str, within: str, n: int, runs: list[dict[str, float]] = runs) -> list[float]:
            return [run[of] / (n * run[within]) for run in runs]

        told: dict[str, Any] = {
            "trials": trials,
            "from the first trial to the last": share("pull_seconds", "trials_s", jobs),
            "processor time of trainers / all cores'": share("pull_cpu_seconds", "wall_s", usable_cores()),
            "the same, first trial to last": share("pull_cpu_seconds", "trials_s", usable_cores()),
        }
        lines.append(
            Line(
                6,
                f"training / wall, --jobs {jobs}",
                "share",
                sample(share("pull_seconds", "wall_s", jobs)),
                target=Target(0.95, "at least", of="ours"),
                notes=told,
                details={"seconds": runs},
            )
        )
    return lines


def _times(ended: Ended) -> dict[str, float]:
    """Summed seconds of all trials, and what the search recorded of its own work."""
    names = ("pull_seconds", "pull_cpu_seconds", "train_seconds")
    found = {name: sum(each.get(name, 0.0) for each in ended.metrics()) for name in names}
    session = only_study(ended.folder).user_attrs[SESSIONS][-1]
    return {**found, **{key: session[key] for key in ("search_s", "tracking_s")}}
