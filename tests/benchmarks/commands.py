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
from pathlib import Path

from objectives.datasets import default_data_dir
from objectives.idx import raw_folder
from tests.benchmarks.measure import Skipped
from tests.shell import environment, rows

ROOT = Path(__file__).parents[2]

ACCURACIES = ("val_accuracy", "val/accuracy")
"""What the usual script and this project call the validation accuracy in MLflow."""


@dataclass(frozen=True)
class Ended:
    """A command that ended well."""

    folder: Path
    wall_s: float
    out: str


def data_dir() -> Path:
    """The folder that holds `MNIST/raw`, unpacked: torchvision and this project read the same files."""
    folder = default_data_dir().absolute()
    try:
        raw_folder("mnist", folder, download=False)
    except Exception as error:
        raise Skipped(f"MNIST's files are needed: name their folder in SEARCH_DATA_DIR ({error})") from error
    return folder


def search_command(*words: object) -> list[str]:
    """This project's own command, without what none of the alternatives does after its trials."""
    return [sys.executable, "-m", "search", *map(str, words), "--confirm", "0", "--no-refit", "--no-register"]


def script(name: str, *words: object) -> list[str]:
    """One of the alternatives in this folder."""
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *map(str, words)]


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a command, whatever is set around the benchmark."""
    env = {**environment(), "SEARCH_DATA_DIR": str(data_dir()), "PYTHONPATH": str(ROOT), **(extra or {})}
    if "OMP_WAIT_POLICY" not in os.environ:
        env.pop("OMP_WAIT_POLICY", None)  # it is for tests: what people run is timed as they run it
    return env


@contextmanager
def started(
    command: Sequence[str], extra: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A command at work in an empty folder; both are gone afterwards."""
    env = clean_environment(extra)
    with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
        with open(Path(folder) / "output.txt", "w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
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


def time_to_accuracy(
    command: Sequence[str], accuracy: float, *, limit_s: float, extra: Mapping[str, str] | None = None
) -> float | None:
    """Seconds from the command to the first validation accuracy that it logged to MLflow; it is ended then.

    The time is MLflow's own for that point, which both sides set when they measured it. None when the command ended,
    or the limit was reached, before that.
    """
    begun_s = time.time()
    query = f"SELECT min(timestamp) FROM metrics WHERE value >= ? AND key IN {ACCURACIES}"
    with started(command, extra) as (process, folder):
        while time.time() - begun_s < limit_s:
            ended = process.poll() is not None
            with contextlib.suppress(sqlite3.Error):  # not there yet, or being made
                if (at_ms := rows(folder / "mlflow.db", query, accuracy)[0][0]) is not None:
                    return float(at_ms) / 1000 - begun_s
            if ended and process.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-4000:]}")
            if ended:
                return None
            time.sleep(1.0)
    return None


def stored_values(folder: Path) -> dict[int, float]:
    """Values of the completed trials by number, in whichever study `optuna.db` holds."""
    query = "SELECT number, value FROM trials JOIN trial_values USING (trial_id) WHERE state = 'COMPLETE'"
    return dict(rows(folder / "optuna.db", query))


def states(folder: Path) -> dict[str, int]:
    """How many trials ended how."""
    return {state: n for state, n in rows(folder / "optuna.db", "SELECT state, count(*) FROM trials GROUP BY state")}
