"""A folder in which the loop runs on a tiny objective, as `run` uses it, without the ending."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from toy import Toy

from objectives.spec import ObjectiveSpec
from search.cli.progress import PlainDisplay
from search.common.workspace import TrainingFiles
from search.coordinator.confirmation import Confirmer
from search.coordinator.keeping import KeepAll, KeepBest
from search.coordinator.loop import Coordinator
from search.coordinator.trials import Trials
from search.executors.inline import InlineExecutor
from search.study.records import StudyRecord
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.selection.winner import completed
from search.study.storage.storage import open_storage, quiet_optuna
from search.study.study import StoredStudy, open_study
from search.study.summary import Candidate, Confirmation
from search.tracking.store import Destination, connect_mlflow
from search.tracking.tracker import Tracking

STEPS = 4


class Place:
    """A folder in which a search may be started as often as one likes."""

    def __init__(self, folder: Path) -> None:
        quiet_optuna()
        self.folder, self.lines = folder, io.StringIO()

    def search(
        self,
        trials: int,
        *,
        mode: str = "fine",
        interrupted: Callable[[], bool] = lambda: False,
        pruner: str = "none",
        objective: Toy | None = None,
        keep: int | None = None,
    ) -> StudyRecord:
        """The trials. `keep`: how many of the best keep their weights."""
        objective = objective or Toy(mode=mode, steps=STEPS)
        with self._opened(objective) as (stored, tracking, coordinator):
            study = SamplingStudy.open(stored, pruner=make_pruner(pruner, STEPS), sampler="random", seed=0)
            keeper = KeepAll() if keep is None else KeepBest(stored.optuna_study, tracking, coordinator.files, keep)
            work = Trials(study, tracking, target=trials, epochs=STEPS, seed=0, keeper=keeper)
            work.resume()
            coordinator.run(work, interrupted=interrupted)
            return stored.record()

    def confirm(
        self,
        top: int,
        seeds: int,
        *,
        mode: str = "fine",
        interrupted: Callable[[], bool] = lambda: False,
        objective: Toy | None = None,
    ) -> tuple[Confirmation, Candidate | None]:
        """The confirmation of the best of them: what was found, and the winner."""
        objective = objective or Toy(mode=mode, steps=STEPS)
        with self._opened(objective) as (stored, tracking, coordinator):
            confirmer = Confirmer(
                stored,
                tracking,
                trials=completed(stored.record())[:top],
                seeds=seeds,
                epochs=STEPS,
                seed=0,
                notice=lambda text: print(text, file=self.lines),
            )
            coordinator.run(confirmer.work, interrupted=interrupted)
            return confirmer.confirmation(), confirmer.winner()

    @contextmanager
    def _opened(self, objective: Toy) -> Iterator[tuple[StoredStudy, Tracking, Coordinator]]:
        storage = open_storage(f"sqlite:///{self.folder}/optuna.db")
        stored = open_study(storage, "toy", objective, "toy:Toy", STEPS)
        uri = f"sqlite:///{self.folder}/mlflow.db"
        tracking = Tracking(self.folder / "journal.db", Destination(uri, "toy", "uid", self.folder / "artifacts"))
        tracking.ready()
        options = {"mode": objective.mode, "steps": STEPS, "direction": objective.direction}
        executor = InlineExecutor(ObjectiveSpec("toy:Toy", options), "cpu")
        executor.ready()
        coordinator = Coordinator(
            objective,
            executor,
            tracking,
            files=TrainingFiles(self.folder / "checkpoints", self.folder / "weights"),
            tags={},
            display=PlainDisplay(Console(file=self.lines)),
        )
        try:
            tracking.open_run("study", "search toy", tags={"kind": "study"})
            yield stored, tracking, coordinator
        finally:
            assert tracking.close(30.0) == 0
            storage.engine.dispose()

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """By run, the steps and values that MLflow has."""
        client = connect_mlflow(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("toy")
        assert experiment is not None
        return {
            run.info.run_name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "val/score")]
            for run in client.search_runs([experiment.experiment_id])
        }

    def runs(self, kind: str) -> list[tuple[str, str, str]]:
        """Name, status and seed of the runs of a kind, by name."""
        client = connect_mlflow(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("toy")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], f"tags.kind = '{kind}'")
        return sorted((run.info.run_name, run.info.status, run.data.params["seed"]) for run in found)


def after(rounds: int) -> Callable[[], bool]:
    """True from the given question on."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= rounds
