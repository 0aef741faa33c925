"""Row 4: Ray Tune with OptunaSearch on two CPUs: in its usual form with ASHA, and around this project's own loop."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import optuna

from tests.benchmarks.commands import finished, script, search_command, states
from tests.benchmarks.measure import Line, Options, Skipped, Target, alternate
from tests.benchmarks.objectives import Digits
from tests.benchmarks.whole_searches import OBJECTIVES, images, per_minute, sizes


def ray_tune(options: Options) -> list[Line]:
    """Both forms. Raises Skipped where Ray is not installed.

    Around this project's training loop only overhead differs: both sides train the same configurations in that loop for
    the same epochs, without pruning. This side tracks its trials beside that, Ray Tune writes its own results.
    """
    if importlib.util.find_spec("ray") is None:
        raise Skipped('Ray is not installed; type: pip install -c constraints.txt -e ".[benchmark]"')
    train, validation = images(options)
    trials, epochs = options.size(8, 2), options.size(5, 1)
    usual = _compare(
        options,
        "Ray Tune, DataLoader, MNIST",
        5,
        trials,
        ["--objective", f"{OBJECTIVES}:Usual", "--epochs", epochs],
        ["usual", "--epochs", epochs, "--train-images", train, "--validation-images", validation],
        sizes(train, validation),
    )
    trials, epochs = options.size(20, 3), options.size(16, 2)
    given = json.dumps(some_settings(trials))
    own = _compare(
        options,
        "Ray Tune, this worker, digits",
        2,
        trials,
        ["--objective", f"{OBJECTIVES}:Digits", "--epochs", epochs, "--pruner", "none"],
        ["own", "--epochs", epochs, "--settings", given],
        {"BENCHMARK_SETTINGS": given},
    )
    return [usual, own]


def some_settings(n: int) -> list[dict[str, Any]]:
    """As many settings of the space that `Digits` has, drawn at random, always the same."""
    objective, found = Digits(), []
    for seed in range(n):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        objective.suggest(trial)
        found.append(trial.params)
    return found


def _compare(
    options: Options,
    name: str,
    ratio: float,
    trials: int,
    ours: Sequence[object],
    theirs: Sequence[object],
    extra: Mapping[str, str],
) -> Line:
    """Trials per minute of two whole commands with two jobs each."""

    def us(repeat: int) -> tuple[float, Any]:
        command = search_command(*ours, "--trials", trials, "--jobs", 2, "--seed", repeat)
        with finished(command, extra) as ended:
            epochs = sum(each.get("epochs", 0) for each in ended.metrics())
            return ended.wall_s, {"best": max(ended.values().values()), "epochs": epochs, **states(ended.folder)}

    def them(repeat: int) -> tuple[float, Any]:
        with finished(script("ray_script", *theirs, "--trials", trials, "--seed", repeat)) as ended:
            seen = json.loads(next(line for line in reversed(ended.out.splitlines()) if line.startswith('{"best"')))
            if seen["errors"]:
                raise RuntimeError(f"Ray Tune's trials failed:\n{ended.out[-4000:]}")
            return ended.wall_s, seen

    sides = alternate(options.repeats, us, them)
    mine, their = (per_minute(trials, [wall_s for wall_s, _ in side]) for side in sides)
    seen = {name: [what for _, what in side] for name, side in zip(("ours", "theirs"), sides, strict=True)}
    notes = {"trials": trials, "ray": version("ray"), **seen}
    return Line(4, name, "trials/min", mine, their, target=Target(ratio, "at least"), notes=notes)
