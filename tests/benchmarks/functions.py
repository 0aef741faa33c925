"""Row 10: what a search of a plain function costs per trial, beside `study.optimize` on a SQLite file of its own.

Both sides run the same function of the same file with their own default samplers and pruners, one trial at a time.
Only this project's side tracks its trials in MLflow.
"""

from __future__ import annotations

import functools

from tests.benchmarks.commands import ROOT, Ended, finished, script, search_command, states
from tests.benchmarks.function_script import REPORTS
from tests.benchmarks.measure import Line, Options, Target, alternate, sample

SCRIPT = ROOT / "tests" / "benchmarks" / "function_script.py"


def functions(options: Options) -> list[Line]:
    """Several counts of trials: a search costs more as its study grows, and its start and end weigh less."""
    return [line for trials in ((5,) if options.quick else (20, 100, 300)) for line in measured(options, trials)]


def measured(options: Options, trials: int) -> list[Line]:
    """Per trial from the start of the first one to the end of the last one, and the whole command."""
    direct = ("--objective", f"{SCRIPT}:objective", "--direction", "minimize", "--jobs", 1)
    sides = (search_command(*direct, "--trials", trials), script("function_script", "--trials", trials))
    us, them = alternate(options.repeats, *(functools.partial(ended, side, trials) for side in sides))
    notes = {"suggestions": 6, "reports": REPORTS, "workers": 1}
    return [
        Line(
            10,
            f"plain function, {trials} trials, first to last",
            "ms/trial",
            sample([seconds / trials * 1000 for _, seconds in us]),
            sample([seconds / trials * 1000 for _, seconds in them]),
            higher_is_better=False,
            target=Target(1, "at least"),
            notes=notes,
        ),
        Line(
            10,
            f"plain function, {trials} trials, whole command",
            "s",
            sample([wall_s for wall_s, _ in us]),
            sample([wall_s for wall_s, _ in them]),
            higher_is_better=False,
            notes={"ours": "runs in MLflow, report and closing lines are part of it"},
        ),
    ]


def ended(command: list[str], trials: int, repeat: int) -> tuple[float, float]:
    """Seconds of a whole command, and from the start of its first trial to the end of its last one."""
    with finished(command) as done:
        complete(done, trials)
        return done.wall_s, done.trials_s()


def complete(done: Ended, trials: int) -> None:
    """Raise RuntimeError unless all trials are complete."""
    if (found := states(done.folder)) != {"COMPLETE": trials}:
        raise RuntimeError(f"not {trials} complete trials but {found}:\n{done.out[-4000:]}")
