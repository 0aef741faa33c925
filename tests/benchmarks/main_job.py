"""Row 9: what the main job itself takes, from the command to its end, and to its first training step."""

from __future__ import annotations

import subprocess
import sys
import time

from search.study.records import METRICS
from tests.benchmarks.commands import clean_environment, finished, only_study, search_command, started
from tests.benchmarks.measure import Line, Options, Target, alternate, sample
from tests.benchmarks.whole_searches import OBJECTIVES, images, sizes


def main_job(options: Options) -> list[Line]:
    """Both built-in defaults, with everything they do, and a start in a folder that has stores."""
    trials = options.size(50, 2)
    lines = [
        whole(options, "50 trials of digits", 60, "--dataset", "digits", "--trials", trials),
        _start(options),
    ]
    if not options.quick:
        lines.append(whole(Options(1, False), "50 trials of MNIST", 900, "--dataset", "mnist", "--trials", trials))
    return lines


def whole(options: Options, name: str, limit_s: float, *words: object) -> Line:
    """Seconds of the command with everything it does after its trials, and the winner's accuracy on test images."""
    tests = []

    def measure(repeat: int) -> float:
        command = [sys.executable, "-m", "search", *map(str, words), "--seed", str(repeat)]
        with finished(command) as ended:
            summary = only_study(ended.folder).user_attrs["summary"]
            tests.append(summary["test"]["accuracy"])
            return ended.wall_s

    (walls,) = alternate(options.repeats, measure)
    target = Target(limit_s, "at most", of="ours")
    return Line(9, name, "s", sample(walls), higher_is_better=False, target=target, notes={"test accuracy": tests})


def _start(options: Options) -> Line:
    """Seconds from the command to the first batch of its first trial, on MNIST, where stores exist."""
    train, validation = images(options)
    extra = sizes(train, validation)
    words = ("--objective", f"{OBJECTIVES}:Timed", "--epochs", 1, "--study", "start")

    def measure(repeat: int) -> float:
        with started(search_command(*words, "--trials", 1), extra) as (process, folder):
            assert process.wait() == 0
            begun = time.time()
            subprocess.run(
                search_command(*words, "--trials", 2),
                cwd=folder,
                env=clean_environment(extra),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=300,
            )
            trial = only_study(folder).trials[-1]
            return float(trial.user_attrs[METRICS]["first_pull_at"]) - begun

    (seconds,) = alternate(options.repeats, measure)
    target = Target(8, "at most", of="ours")
    return Line(9, "command to first training step", "s", sample(seconds), higher_is_better=False, target=target)
