"""Real searches, real signals: how the fault tests start a search, hurt it, and count what it left."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shell import CHECKOUT, alive, environment, rows, wait_until

HERE = Path(__file__).parent
MARK = "FAULTS_MARK"
"""In the environment of every process of one place: what carries it is a descendant, whoever adopted it."""

PLAIN = ("--confirm", 0, "--no-refit")
"""For searches that are hurt in their trials: what comes after those is trained by the same loop."""

BOWL = ("--objective", "bowl:Bowl", "--checkpoint-interval", 0, *PLAIN)


def say(text: str) -> None:
    """A figure, for the person who runs the suite with -s, and for the report of a failure."""
    print(f"\n  {text}", end="", flush=True)


@dataclass(frozen=True)
class Pull:
    """One line of BOWL_LOG."""

    at: float
    word: str
    pid: int
    trial: int
    step: int


@dataclass
class Place:
    """A folder in which one search is run again and again, and everything that it leaves."""

    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    study: str = "bowl"
    curve: str = "val/loss"
    """The curve whose points must be the values that Optuna was told."""
    mlflow: Path | None = None
    """The database behind a tracking server."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What tells this place's processes from others."""
    starts: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "bowl.py", self.folder)

    @property
    def optuna_db(self) -> Path:
        return self.folder / "optuna.db"

    @property
    def mlflow_db(self) -> Path:
        return self.mlflow or self.folder / "mlflow.db"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-pulls.log")

    # ---- processes

    def environment(self) -> dict[str, str]:
        return environment({MARK: self.mark, "BOWL_LOG": str(self.log), "PYTHONPATH": CHECKOUT, **self.env})

    def begin(self, *words: object) -> subprocess.Popen[bytes]:
        """Start `python -m search` without a terminal; what it prints goes to a file."""
        self.starts += 1
        with self.output().open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "search", *map(str, words)],
                cwd=self.folder,
                env=self.environment(),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> Path:
        """Beside the folder, whose disk may be full."""
        return self.folder.with_name(f"{self.folder.name}-output-{self.starts}.txt")

    def said(self) -> str:
        """What the latest start printed."""
        return self.output().read_text(errors="replace") if self.output().exists() else ""

    def finish(self, *words: object, timeout_s: float = 150) -> str:
        """Run to the end, which must be a good one; returns what it printed."""
        status = self.ended(self.begin(*words), timeout_s)
        assert status == 0, f"status {status}: {self.said()}"
        return self.said()

    def ended(self, process: subprocess.Popen[bytes], timeout_s: float = 150) -> int:
        """Wait for a start to end; returns its status. Nothing of it is left then."""
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.clear()
            raise AssertionError(f"still running after {timeout_s} s: {self.said()}") from None
        self.all_gone(1.0)
        return status

    def kill(self, process: subprocess.Popen[bytes]) -> float:
        """SIGKILL to the coordinator alone; returns how long its workers outlived it."""
        process.kill()
        process.wait()
        return self.all_gone(10.0)

    def kill_again_and_again(
        self, search: Sequence[object], kills: int, moments: random.Random, *, early: tuple[int, float], reports: int
    ) -> int:
        """Kill a search at random moments; return how many trials were finished at the last one.

        `early`: how many of the first kills, and within how many seconds, hit stores that are being made.
        """
        outlived, done = [], []
        for kill in range(kills):
            process = self.begin(*search)
            if kill < early[0] or moments.random() < 0.2:
                time.sleep(moments.uniform(0, early[1]))
            else:
                self.random_moment(process, moments, reports=reports)
            assert process.poll() is None, f"it ended before it could be killed: {self.said()}"
            outlived.append(self.kill(process))
            done.append(self.finished())
        say(f"{kills} kills, trials finished by then: {done}; workers outlived them by at most {max(outlived):.2f} s")
        return done[-1]

    def all_gone(self, within_s: float) -> float:
        return wait_until(lambda: not self.processes(), within_s, f"the end of processes {self.processes()}")

    def processes(self) -> list[int]:
        """Every live process that was started here, by whomever."""
        marked = f"{MARK}={self.mark}".encode()
        return [pid for pid in _pids() if marked in _read(pid, "environ").split(b"\0") and alive(pid)]

    def workers(self) -> list[int]:
        """The workers among them."""
        return [pid for pid in self.processes() if b"objectives.worker" in _read(pid, "cmdline").split(b"\0")]

    def clear(self) -> None:
        """End whatever is left here."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)

    # ---- moments

    def reports(self) -> int:
        """Values that were reported so far."""
        return self._count("SELECT count(*) FROM trial_intermediate_values")

    def finished(self) -> int:
        """Trials that ended so far."""
        return self._count("SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')")

    def begun(self, kind: str) -> int:
        """Runs of a kind that the journal knows: `trial`, `confirm` or `refit`."""
        journals = list(self.folder.glob("mlruns/journal/*.db"))
        query = "SELECT count(*) FROM runs WHERE run LIKE ? || '-%'"
        try:
            return sum(rows(journal, query, kind)[0][0] for journal in journals)
        except sqlite3.Error:
            return 0

    def _count(self, query: str) -> int:
        try:
            return int(rows(self.optuna_db, query)[0][0])
        except sqlite3.Error:  # not there yet, or being made
            return 0

    def until_training(self, process: subprocess.Popen[bytes], timeout_s: float = 60) -> float:
        """Wait for a report that is new, or for the end of the process."""
        before = self.reports()
        moved = lambda: self.reports() > before or process.poll() is not None  # noqa: E731
        return wait_until(moved, timeout_s, f"a report ({self.said()})")

    def until_pulling(self) -> float:
        """Wait for a pull that is new: a step is under way."""
        before = len(self.pulls())
        return wait_until(lambda: len(self.pulls()) > before, 60, f"a pull ({self.said()})")

    def random_moment(self, process: subprocess.Popen[bytes], moments: random.Random, reports: int) -> None:
        """Wait for at most so many new reports, and a moment more: on a fast machine as far as on a slow one."""
        target = self.reports() + moments.randint(1, reports)
        reached = lambda: self.reports() >= target or process.poll() is not None  # noqa: E731
        wait_until(reached, 60, f"{reports} reports ({self.said()})")
        time.sleep(moments.uniform(0, 0.1))

    # ---- what is left

    def pulls(self) -> list[Pull]:
        text = self.log.read_text() if self.log.exists() else ""
        lines = (line.split() for line in text.splitlines())
        return [Pull(float(at), word, int(pid), int(trial), int(step)) for at, word, pid, trial, step in lines]

    def longest_wait_s(self) -> float:
        """The longest that a training stood between two of its pulls."""
        done: dict[tuple[int, int], float] = {}
        waits = [0.0]
        for pull in self.pulls():
            if pull.word == "done":
                done[pull.pid, pull.trial] = pull.at
            elif (key := (pull.pid, pull.trial)) in done and pull.step > 1:
                waits.append(pull.at - done[key])
        return max(waits)

    def story(self) -> list[tuple[Any, ...]]:
        """What Optuna holds of every trial, times apart."""
        from search.study.storage.storage import open_storage

        storage = open_storage(f"sqlite:///{self.optuna_db}", create=False)
        try:
            trials = storage.get_all_trials(storage.get_study_id_from_name(self.study))
            return [(t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in trials]
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def counts(self) -> dict[str, Any]:
        """The figures that must add up."""
        story, points = self.story(), self._points()
        states = [state for _, state, *_ in story]
        kinds = self._runs("SELECT t.value, count(*) FROM runs r JOIN tags t USING (run_uuid) {} GROUP BY 1", "kind")
        statuses = rows(self.mlflow_db, f"SELECT r.status, count(*) FROM runs r {self._experiment} GROUP BY 1")
        nested = self._runs("SELECT count(*), 0 FROM runs r JOIN tags t USING (run_uuid) {}", "mlflow.parentRunId")
        undelivered = [number for number, *_, values in story if points[number] != list(map(float, values.values()))]
        return {
            "trials": len(story),
            "finished": sum(state in ("COMPLETE", "PRUNED", "FAIL") for state in states),
            "running": states.count("RUNNING"),
            "states": {state: states.count(state) for state in sorted(set(states))},
            "runs": dict(kinds),
            "nested": nested[0][0],
            "statuses": dict(statuses),
            "points": sum(map(len, points.values())),
            "duplicates": self.duplicates(),
            "trials with other points than reports": undelivered,
        }

    def duplicates(self) -> list[tuple[Any, ...]]:
        """Points of one run, name and step that are there twice."""
        return rows(
            self.mlflow_db,
            f"SELECT m.run_uuid, m.key, m.step, count(*) FROM metrics m JOIN runs r USING (run_uuid) {self._experiment}"
            " GROUP BY 1, 2, 3 HAVING count(*) > 1",
        )

    @property
    def _experiment(self) -> str:
        return f"JOIN experiments e ON r.experiment_id = e.experiment_id AND e.name = '{self.study}'"

    def _runs(self, query: str, tag: str) -> list[tuple[Any, ...]]:
        return rows(self.mlflow_db, query.format(f"{self._experiment} WHERE t.key = ?"), tag)

    def _points(self) -> Mapping[int, list[float]]:
        """The curve of every trial, in order of steps."""
        found = rows(
            self.mlflow_db,
            "SELECT CAST(t.value AS INTEGER), m.value FROM metrics m JOIN tags t USING (run_uuid)"
            f" JOIN runs r USING (run_uuid) {self._experiment}"
            # MLflow keeps infinity as the largest float.
            " JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'kind' AND k.value = 'trial'"
            " WHERE t.key = 'optuna.trial.number' AND m.key = ? AND NOT m.is_nan AND abs(m.value) < 1e300"
            " ORDER BY 1, m.step",
            self.curve,
        )
        points: defaultdict[int, list[float]] = defaultdict(list)
        for trial, value in found:
            points[trial].append(value)
        return points

    def assert_whole(self, trials: int, **more: int) -> dict[str, Any]:
        """Exactly so many trials, all finished, each with one run and each point once, in undamaged stores.

        `more` are the runs of other kinds.
        """
        counts = self.counts()
        say(", ".join(f"{name} {value}" for name, value in counts.items()))
        assert (counts["trials"], counts["finished"], counts["running"]) == (trials, trials, 0)
        assert [number for number, *_ in self.story()] == list(range(trials))
        assert counts["runs"] == {"study": 1, "trial": trials, **more}
        assert counts["nested"] == trials + sum(more.values())
        assert set(counts["statuses"]) <= {"FINISHED", "FAILED"}
        assert counts["duplicates"] == []
        assert counts["trials with other points than reports"] == []
        assert list((self.folder / "mlruns" / "checkpoints").rglob("*.*")) == []
        self.assert_integrity()
        return counts

    def assert_integrity(self) -> None:
        for database in (self.optuna_db, self.mlflow_db):
            assert integrity(database) == "ok", database


def integrity(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(row[0] for row in connection.execute("PRAGMA integrity_check"))


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it ended meanwhile
        return b""
