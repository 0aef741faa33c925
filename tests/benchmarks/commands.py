"""Whole commands, as a person types them: each in an empty folder of its own, in the same clean environment."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import optuna

from objectives.data.datasets import default_data_dir
from objectives.data.torchvision_sets import locate
from search.study.records import METRICS
from search.study.storage.storage import quiet_optuna
from tests.benchmarks.measure import Skipped
from tests.support.shell import environment, rows

ROOT = Path(__file__).parents[2]

ACCURACIES = ("val_accuracy", "val/accuracy")
"""What the usual script and this project call the validation accuracy in MLflow."""


@dataclass(frozen=True)
class Ended:
    """A command that ended well. Both sides keep their studies in `optuna.db`, except where nothing is kept."""

    folder: Path
    wall_s: float
    out: str

    def values(self) -> dict[int, float]:
        """Values of the completed trials by number."""
        query = "SELECT number, value FROM trials JOIN trial_values USING (trial_id) WHERE state = 'COMPLETE'"
        return dict(rows(self.folder / "optuna.db", query))

    def trials_s(self) -> float:
        """Seconds from the start of the first trial to the end of the last one."""
        query = "SELECT min(datetime_start), max(datetime_complete) FROM trials"
        begun, ended = map(datetime.fromisoformat, rows(self.folder / "optuna.db", query)[0])
        return (ended - begun).total_seconds()

    def metrics(self) -> list[dict[str, float]]:
        """The metrics that this project's workers reported at the end of each trial."""
        return [trial.user_attrs.get(METRICS, {}) for trial in only_study(self.folder).get_trials(deepcopy=False)]


def data_dir(dataset: str = "mnist") -> Path:
    """The folder that holds `MNIST/raw` and the like, unpacked: torchvision and this project read the same files."""
    folder = default_data_dir().absolute()
    try:
        locate(dataset, folder, download=False)
    except Exception as error:
        raise Skipped(f"the files of {dataset} are needed: name their folder in SEARCH_DATA_DIR ({error})") from error
    return folder


def search_command(*words: object, register: bool = False) -> list[str]:
    """This project's own command, without what none of the alternatives does after its trials."""
    bare = ["--confirm", "0", "--no-refit", *([] if register else ["--no-register"])]
    return [sys.executable, "-m", "search", *map(str, words), *bare]


def script(name: str, *words: object) -> list[str]:
    """One of the alternatives in this folder."""
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *map(str, words)]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a command, whatever is set around the benchmark."""
    return {**environment(), "SEARCH_DATA_DIR": str(data_dir()), "PYTHONPATH": str(ROOT), **(extra or {})}


@contextmanager
def started(
    command: Sequence[str], extra: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command at work in an empty folder; both are gone afterwards."""
    env = clean_environment(extra)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        with open(Path(folder) / "output.txt", "w") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process, Path(folder)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def finished(command: Sequence[str], extra: Mapping[str, str] | None = None) -> Iterator[Ended]:
    """What a command left, and the wall time of the whole of it. Raises RuntimeError when it fails."""
    begun = time.perf_counter()
    with started(command, extra) as (process, folder):
        status = process.wait()
        wall_s = time.perf_counter() - begun
        out = (folder / "output.txt").read_text()
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}:\n{out[-4000:]}")
        yield Ended(folder, wall_s, out)


@dataclass(frozen=True)
class Reached:
    """How far a search came until it logged an accuracy to MLflow."""

    seconds: float | None
    """MLflow's own time of that point, which both sides set when they measured it; None where it never came."""
    states: dict[str, int]
    """How many trials had ended how, or were at work."""


def time_to_accuracy(
    command: Sequence[str], accuracy: float, *, limit_s: float, extra: Mapping[str, str] | None = None
) -> Reached:
    """Run the command until a validation accuracy is reached, it ends, or the limit is over."""
    begun_s = time.time()
    query = f"SELECT min(timestamp) FROM metrics WHERE value >= ? AND key IN {ACCURACIES}"
    with started(command, extra) as (process, folder):
        while time.time() - begun_s < limit_s:
            ended = process.poll() is not None
            with contextlib.suppress(sqlite3.Error):  # not there yet, or being made
                if (at_ms := rows(folder / "mlflow.db", query, accuracy)[0][0]) is not None:
                    return Reached(float(at_ms) / 1000 - begun_s, states(folder))
            if ended and process.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-4000:]}")
            if ended:
                break
            time.sleep(1.0)
        return Reached(None, states(folder))


def states(folder: Path) -> dict[str, int]:
    """How many trials ended how."""
    return dict(rows(folder / "optuna.db", "SELECT state, count(*) FROM trials GROUP BY state"))


def only_study(folder: Path) -> optuna.Study:
    """The study of a folder in which one search ran."""
    quiet_optuna()
    storage = f"sqlite:///{folder / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)
