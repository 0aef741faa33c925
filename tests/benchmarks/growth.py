"""Row 7: what a search itself costs per trial as its study grows, beside plain Optuna with fluent MLflow calls.

This project's side is the real coordinator on a real study and journal, with an executor that trains in no time. Past
trials and runs are really in the stores. A figure is the median over the trials of one repeat: the coordinator's time,
which workers may wait for, and the courier's, which only takes processor time from them.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console

from objectives.base import EpochResult, Outcome, Task
from search.cli.progress import PlainDisplay
from search.common.workspace import TrainingFiles
from search.coordinator.loop import Coordinator
from search.coordinator.trials import Trials
from search.executors.base import EpochDone, Finished, SlotEvent
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.storage.storage import open_storage
from search.study.study import open_study
from tests.benchmarks.growth_stores import (
    NAME,
    POINT,
    REPORTS,
    STEPS,
    Pictured,
    SixParameters,
    clone_runs,
    copy,
    grow,
    one_run,
    open_tracking,
)
from tests.benchmarks.measure import Line, Options, Target, alternate, sample
from tests.benchmarks.sleepers import Idlers

TRAINING_S = 0.1
"""What a pull lasts where runs are tracked: a run reaches MLflow while its trial trains, as it would."""
WEIGHTS = bytes(400_000)
"""Of a network with 100,000 parameters."""
TARGETS_MS = {"untracked": (50.0, 100.0), "tracked": (120.0, 240.0)}
"""At the fewest past trials, and twice that at the most."""


@dataclass(frozen=True)
class Kind:
    """What trials bring with them."""

    name: str
    tracked: bool = True
    reports: tuple[int, ...] = REPORTS[:1]
    pictures: bool = False

    def objective(self) -> SixParameters:
        return Pictured() if self.pictures else SixParameters()

    def outcome(self) -> Outcome:
        predictions = np.random.default_rng(0).dirichlet(np.ones(10), 10_000).astype(np.float32)
        weights = WEIGHTS if self.tracked else None
        return Outcome({"train_seconds": 0.0}, weights, predictions if self.pictures else None)


KINDS = (
    Kind("untracked", tracked=False),
    Kind("tracked"),
    Kind("tracked, 4 reports, pictures", reports=REPORTS, pictures=True),
)


@dataclass
class Instant(Idlers):
    """An executor whose trainings take no time; it notes when the search was at work."""

    kind: Kind
    slots: int = 1
    worked_s: list[float] = field(default_factory=list)
    """Seconds between two starts, without the pauses."""
    _resumed: float = 0.0
    _busy_s: float = 0.0
    _due: SlotEvent | None = None
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def __post_init__(self) -> None:
        self._outcome = self.kind.outcome()

    def start(self, slot: int, task: Task) -> None:
        if self._resumed:  # what comes before the first start is no cost of a trial
            self.worked_s.append(self._busy_s + time.perf_counter() - self._resumed)
        self._busy_s, self._resumed = 0.0, time.perf_counter()
        self._steps = iter(range(1, self.kind.reports[-1] + 1))
        self.advance(slot)

    def advance(self, slot: int) -> None:
        if (step := next(self._steps, None)) is None:
            self.stop(slot)
            return
        value = self._random.uniform(0.5, 1.0) if step in self.kind.reports else None
        metrics = {} if value is None else {**POINT, "val/accuracy": value}
        self._due = EpochDone(EpochResult(step, step / 4, value, metrics, 0.0))

    def stop(self, slot: int) -> None:
        self._due = Finished(self._outcome)

    def wait(self, timeout_s: float) -> list[tuple[int, SlotEvent]]:
        self._busy_s += time.perf_counter() - self._resumed
        time.sleep(TRAINING_S if self.kind.tracked else 0.0)
        self._resumed = time.perf_counter()
        due, self._due = self._due, None
        return [(0, due)] if due else []


class Untracked:
    """Takes what a tracker takes, and forgets it."""

    last_error = None

    def __getattr__(self, name: str) -> Any:
        return lambda *words, **named: None


def delivery_cpu_s() -> float:
    """Processor time that the courier's thread has taken."""
    (delivery,) = (thread for thread in threading.enumerate() if thread.name == "delivery")
    assert delivery.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(delivery.ident))


def ours(folder: Path, trials: int, kind: Kind) -> dict[str, float]:
    """Milliseconds per trial: of the coordinator, of the courier behind it where runs are tracked, and of parts."""
    objective = kind.objective()
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    stored = open_study(storage, NAME, objective, "growth:SixParameters", objective.epochs("cpu"))
    study = SamplingStudy.open(stored, pruner=make_pruner("hyperband", STEPS), sampler="tpe", seed=0)
    executor = Instant(kind)
    tracking: Any = open_tracking(folder) if kind.tracked else Untracked()
    before = (tracking.busy_s, delivery_cpu_s()) if kind.tracked else (0.0, 0.0)
    work = Trials(study, tracking, target=study.finished + trials + 1, epochs=STEPS // 4, seed=0)
    coordinator = Coordinator(
        objective,
        executor,
        tracking,
        files=TrainingFiles(folder / "checkpoints", folder / "weights"),
        tags={"optuna.study.name": NAME},
        display=PlainDisplay(Console(quiet=True)),
    )
    coordinator.run(work)
    after = before
    if kind.tracked:
        assert tracking.flush(60.0) == 0
        time.sleep(0.5)
        after = tracking.busy_s, delivery_cpu_s()
        tracking.close()
    storage.remove_session()
    storage.engine.dispose()
    courier_ms, cpu_ms = ((then - now) / (trials + 1) * 1000 for now, then in zip(before, after, strict=True))
    coordinator_ms = statistics.median(executor.worked_s) * 1000
    return {
        "all": coordinator_ms + courier_ms,
        "coordinator": coordinator_ms,
        "courier": courier_ms,
        "courier's processor time": cpu_ms,
        "ask, start, report, tell": work.search_s / (trials + 1) * 1000,
    }


def theirs(folder: Path, trials: int, kind: Kind) -> float:
    """Milliseconds per trial of Optuna's own ask and tell on SQLite and, where it tracks, of fluent MLflow calls."""
    import mlflow

    objective, draw = SixParameters(), random.Random(0)
    study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{folder / 'optuna.db'}")
    if kind.tracked:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment(NAME)
        (folder / "weights.pt").write_bytes(WEIGHTS)
    costs = []
    for _ in range(trials + 1):
        begun = time.perf_counter()
        trial = study.ask()
        params = objective.suggest(trial)
        if kind.tracked:
            mlflow.start_run(run_name=f"trial-{trial.number}")
            mlflow.log_params(params)
        for step in kind.reports:
            value = draw.uniform(0.5, 1.0)
            if kind.tracked:
                for name, figure in POINT.items():
                    mlflow.log_metric(name, figure, step=step)
            trial.report(value, step)
            if pruned := trial.should_prune():
                break
        if kind.tracked:
            mlflow.log_artifact(str(folder / "weights.pt"))
            mlflow.end_run()
        study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
        costs.append((time.perf_counter() - begun) * 1000)
    return statistics.median(costs[1:])  # the first one fills caches


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
            for kind in KINDS:
                limits = dict(zip((counts[0], counts[-1]), TARGETS_MS.get(kind.name, (None, None)), strict=True))
                lines.append(_line(options, _places(base, runs, count), count, trials, kind, limits.get(count)))
        return lines


def _places(base: Path, runs: Path, count: int) -> Iterator[Path]:
    """Folders with the same stores, one for each measurement."""
    for number in itertools.count():
        place = base / f"{count}-{number}-{uuid.uuid4().hex[:6]}"
        place.mkdir()
        copy(base / "optuna.db", place / "optuna.db")
        clone_runs(copy(runs, place / "mlflow.db"), count)
        yield place


def _line(options: Options, places: Iterator[Path], count: int, trials: int, kind: Kind, limit: float | None) -> Line:
    us, them = alternate(
        options.repeats,
        lambda _: ours(next(places), trials, kind),
        lambda _: theirs(next(places), trials, kind),
    )
    notes: dict[str, Any] = {f"{part}, ms": statistics.median(run[part] for run in us) for part in us[0]}
    notes |= {"reports": len(kind.reports), "trials a repeat": trials}
    if limit is not None:
        notes["limit"] = f"{TARGETS_MS[kind.name][0]:g} ms at the fewest past trials, twice that at the most"
    if kind.pictures:
        notes["pictures"] = "theirs draws none, and nothing is demanded of ours"
    return Line(
        7,
        f"search per trial, {count} past, {kind.name}",
        "ms",
        sample([run["all"] for run in us]),
        sample(them),
        higher_is_better=False,
        target=Target(limit, "at most", of="ours") if limit else None,
        notes=notes,
        details={"parts of ours": us},
    )
