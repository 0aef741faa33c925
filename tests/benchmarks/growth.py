"""Row 7: what a search itself costs per trial as its study grows, beside plain Optuna with fluent MLflow calls.

This project's side is the real coordinator on a real study and journal, with an executor that trains in no time. Past
trials and runs are really in the stores.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.console import Console

from objectives.base import EpochResult, Outcome, Task
from search.coordinator import Coordinator, Plan
from search.display import PlainDisplay
from search.executors.base import EpochDone, Event, Finished
from search.sampling import make_pruner
from search.storage import open_storage
from search.study import Study, open_study
from search.trials import Trials
from tests.benchmarks.growth_stores import (
    NAME,
    POINT,
    STEPS,
    SixParameters,
    clone_runs,
    copy,
    grow,
    one_run,
    open_tracking,
)
from tests.benchmarks.measure import Line, Options, Target, alternate, sample

TRAINING_S = 0.1
"""What a pull lasts where runs are tracked: a run reaches MLflow while its trial trains, as it would."""
WEIGHTS = bytes(400_000)
"""Of a network with 100,000 parameters."""
TARGETS_MS = {"untracked": (50.0, 100.0), "tracked": (120.0, 240.0)}
"""At the fewest past trials, and at the most."""


@dataclass
class Instant:
    """An executor whose trainings give one result and end; it notes when the search was at work."""

    pause_s: float
    slots: int = 1
    worked_s: list[float] = field(default_factory=list)
    """Seconds between two starts, without the pauses."""
    _resumed: float = 0.0
    _busy_s: float = 0.0
    _due: Event | None = None
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def ready(self) -> list[str]:
        return ["cpu"]

    def start(self, slot: int, task: Task) -> None:
        if self._resumed:  # what comes before the first start is no cost of a trial
            self.worked_s.append(self._busy_s + time.perf_counter() - self._resumed)
        self._busy_s, self._resumed = 0.0, time.perf_counter()
        value = self._random.uniform(0.5, 1.0)
        self._due = EpochDone(EpochResult(1, 0.25, value, {**POINT, "val/accuracy": value}, 0.0))

    def advance(self, slot: int) -> None:
        self._due = Finished(Outcome({"train_seconds": 0.0}, WEIGHTS if self.pause_s else None))

    stop = advance

    def checkpoint(self, slot: int) -> None:
        raise AssertionError("no training is long enough for a checkpoint")

    def wait(self, timeout_s: float) -> list[tuple[int, Event]]:
        self._busy_s += time.perf_counter() - self._resumed
        time.sleep(self.pause_s)
        self._resumed = time.perf_counter()
        due, self._due = self._due, None
        return [(0, due)] if due else []

    def close(self) -> None:
        pass


class Untracked:
    """Takes what a tracker takes, and forgets it."""

    trouble = None

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **named: None


def ours(folder: Path, trials: int, *, tracked: bool) -> tuple[list[float], dict[str, float]]:
    """Milliseconds per trial of the coordinator and, where it tracks, of the courier behind it; and of the parts."""
    objective = SixParameters()
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    study_id = open_study(storage, NAME, objective, "growth:SixParameters", objective.epochs("cpu"))
    pruner = make_pruner("hyperband", STEPS)
    study = Study(storage, study_id, objective, pruner=pruner, sampler="tpe", seed=0)
    executor = Instant(TRAINING_S if tracked else 0.0)
    tracking: Any = open_tracking(folder) if tracked else Untracked()
    opening_s = tracking.busy_s if tracked else 0.0
    work = Trials(study, tracking, target=study.finished + trials + 1, epochs=STEPS // 4, seed=0)
    coordinator = Coordinator(
        objective, executor, tracking, Plan(STEPS),
        checkpoint_path=lambda run: folder / "checkpoints" / run, weights_path=lambda run: folder / "weights" / run,
        tags={"optuna.study.name": NAME}, display=PlainDisplay(Console(quiet=True)),
    )  # fmt: skip
    coordinator.run(work)
    if tracked:
        assert tracking.flush(60.0) == 0
        time.sleep(0.5)
    courier_ms = (tracking.busy_s - opening_s) / (trials + 1) * 1000 if tracked else 0.0
    if tracked:
        tracking.close()
    storage.remove_session()
    storage.engine.dispose()
    parts = {
        "coordinator ms": statistics.median(executor.worked_s) * 1000, "courier ms": courier_ms,
        "of it ask, start, report, tell ms": work.search_s / (trials + 1) * 1000,
    }  # fmt: skip
    return [worked_s * 1000 + courier_ms for worked_s in executor.worked_s], parts


def theirs(folder: Path, trials: int, *, tracked: bool) -> list[float]:
    """Milliseconds per trial of Optuna's own ask and tell on SQLite and, where it tracks, of fluent MLflow calls."""
    import mlflow

    objective, draw = SixParameters(), random.Random(0)
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder / 'optuna.db'}")
    if tracked:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment(NAME)
        (folder / "weights.pt").write_bytes(WEIGHTS)
    costs = []
    for _ in range(trials + 1):
        begun = time.perf_counter()
        trial, value = study.ask(), draw.uniform(0.5, 1.0)
        params = objective.suggest(trial)
        if tracked:
            mlflow.start_run(run_name=f"trial-{trial.number}")
            mlflow.log_params(params)
            for name, figure in POINT.items():
                mlflow.log_metric(name, figure, step=1)
        trial.report(value, 1)
        pruned = trial.should_prune()
        if tracked:
            mlflow.log_artifact(str(folder / "weights.pt"))
            mlflow.end_run()
        study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
        costs.append((time.perf_counter() - begun) * 1000)
    return costs[1:]  # the first one fills caches


def growth(options: Options) -> list[Line]:
    """All sizes, without and with tracking."""
    counts = (5,) if options.quick else (50, 500, 5000)
    trials = options.size(10, 2)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as temporary:
        base = Path(temporary)
        runs = one_run(base)
        lines = []
        for count in counts:
            grow(base / "optuna.db", count)
            for kind in ("untracked", "tracked"):
                target = dict(zip((counts[0], counts[-1]), TARGETS_MS[kind], strict=True)).get(count)
                places = _places(base, runs, count)
                lines.append(_line(options, places, count, trials, kind, target))
        return lines


def _places(base: Path, runs: Path, count: int) -> Iterator[Path]:
    """Folders with the same stores, one for each measurement."""
    for number in itertools.count():
        place = base / f"{count}-{number}-{uuid.uuid4().hex[:6]}"
        place.mkdir()
        copy(base / "optuna.db", place / "optuna.db")
        clone_runs(copy(runs, place / "mlflow.db"), count)
        yield place


def _line(options: Options, places: Iterator[Path], count: int, trials: int, kind: str, target: float | None) -> Line:
    tracked = kind == "tracked"
    us, them = alternate(
        options.repeats,
        lambda _: ours(next(places), trials, tracked=tracked),
        lambda _: (theirs(next(places), trials, tracked=tracked), {}),
    )
    ours_ms, theirs_ms = (sample(list(itertools.chain.from_iterable(ms for ms, _ in side))) for side in (us, them))
    return Line(
        7, f"search per trial, {count} past, {kind}", "ms", ours_ms, theirs_ms, higher_is_better=False,
        target=Target(target, "at most", of="ours") if target else None,
        notes={"parts of ours": [parts for _, parts in us], "reports per trial": 1, "parameters": 6},
    )  # fmt: skip
