"""The coordinator's side of tracking: what happened is written down at once, and on its way to MLflow.

`Tracking` is called by the coordinator and returns at once: each write goes to the local journal, and a `Courier`, in a
thread of its own, carries it to MLflow in order. A server that is down delays the courier and nobody else; a search
that is killed leaves the journal, which the next one delivers.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.delivery import Delivery
from search.errors import StorageError, TrackingRefusedError
from search.journal import Journal
from search.masking import first_line
from search.predictions import pack
from search.tracking_store import Destination, connect_mlflow
from search.trouble import is_denied, tracking_error

GATHER_S = 1.0
"""Writes wait this long for company: one request with forty points costs little more than one with one."""

GIVE_WAY_S = 0.05
"""The most that one request waits for the search to have nothing to do."""

RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses after failed deliveries; the last one repeats."""


class Tracking:
    """The coordinator's side: what happened, written down and on its way.

    Used by one thread. `ready` waits until the store is open; `close` waits for the courier.
    """

    def __init__(self, journal: Path, destination: Destination) -> None:
        self._journal = Journal(journal)
        self._courier = Courier(journal, destination)
        self._courier.start()

    def ready(self) -> None:
        """Wait until a local store is open, or a server has answered or failed to, which holds up nobody for long.

        Raises StorageError or TrackingError when a store cannot be opened, or a server does not let this user in: what
        no waiting would mend is to be known before anything trains.
        """
        self._courier.opened.wait()
        if self._courier.refused is not None:
            raise self._courier.refused

    def open_run(
        self,
        run: str,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any] = {},
        parent: str | None = None,
        dataset: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        """Begin a run, or go on with one that was begun by a search that was interrupted.

        `step` is the last that was logged by then; this journal may not know, since that search had another workspace.
        """
        body = {
            "name": name,
            "tags": dict(tags),
            "params": {key: str(value) for key, value in params.items()},
            "parent": parent,
            "dataset": dict(dataset) if dataset else None,
            "time": _now_ms(),
        }
        self._journal.append(run, "run", body, step=step)
        self._courier.hurry.set()

    def log(self, run: str, metrics: Mapping[str, float], *, step: int, position: int) -> None:
        """Write curve points at `step`, unless an interrupted search already did.

        `position` orders the calls of one run; a resumed training repeats some.
        """
        if position > self._journal.last_step(run):
            body = {"step": step, "time": _now_ms(), "values": _named(metrics)}
            self._journal.append(run, "metrics", body, step=position)

    def file(self, run: str, path: str, content: bytes) -> None:
        """Keep an artifact at `path` of the run."""
        self._journal.append(run, "file", {"path": path}, content)

    def pictures(
        self,
        run: str,
        *,
        classes: Sequence[str],
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        probabilities: NDArray[np.float32],
    ) -> None:
        """Keep what the run's pictures are drawn from; the courier draws them when it has time.

        images: (n, c, h, w), labels: (n,), probabilities: (n, k).
        """
        self._journal.append(run, "pictures", {"classes": list(classes)}, pack(images, labels, probabilities))

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self._journal.append(run, "tags", {"tags": dict(tags)})

    def end_run(
        self,
        run: str,
        status: str,
        *,
        tags: Mapping[str, str] = {},
        metrics: Mapping[str, float] = {},
        step: int = 0,
        verdict: Mapping[str, Any] | None = None,
    ) -> None:
        """End a run as `FINISHED`, `FAILED` or `KILLED`, with its final figures.

        `step` is for a run that may end more than once: figures of the same step are written once. `verdict` is kept
        in the same transaction, so that whoever was killed right afterwards finds out how the run ended.
        """
        repeated = 0 < step <= self._journal.last_step(run)
        figures = {} if repeated else _named(metrics)
        body = {"status": status, "tags": dict(tags), "metrics": figures, "step": step, "time": _now_ms()}
        self._journal.append(run, "end", body, step=step, verdict=verdict)

    def verdict(self, run: str) -> dict[str, Any] | None:
        """How the run ended, as given to `end_run`; None when it has not."""
        return self._journal.verdict(run)

    def knows(self, run: str) -> bool:
        """Whether the run was begun, now or by an earlier start of the search."""
        return self._journal.knows(run)

    def mlflow_id(self, run: str) -> str | None:
        """MLflow's id of a run; None when it has not arrived there."""
        return self._journal.mlflow_id(run)

    @property
    def trouble(self) -> str | None:
        """Why nothing can be delivered at the moment; None when all is well."""
        return self._courier.trouble

    @property
    def busy_s(self) -> float:
        """Seconds that the courier has worked."""
        return self._courier.busy_s

    def hold_back(self, *, wanted: bool) -> None:
        """Deliver slowly while that is wanted: trainers wait for what else this process does."""
        if wanted:
            self._courier.clear.clear()
        else:
            self._courier.clear.set()

    def flush(self, timeout_s: float) -> int:
        """Wait until all is delivered or one more try has failed; returns how many writes are left."""
        deadline, tried = time.monotonic() + timeout_s, self._courier.rounds
        self._courier.hurry.set()
        self._courier.again.set()
        while (left := self._journal.n_pending()) and time.monotonic() < deadline and self._courier.is_alive():
            if self._courier.trouble is not None and self._courier.rounds > tried:
                break
            time.sleep(0.02)
        return left

    def close(self, timeout_s: float = 60.0) -> int:
        """Deliver what can be delivered and stop; returns how many writes stay in the journal."""
        left = self.flush(timeout_s)
        self._courier.stop(max(timeout_s, 2.0))
        self._journal.close()
        return left


class Courier(threading.Thread):
    """Carries the journal to MLflow until it is told to stop."""

    def __init__(self, journal: Path, destination: Destination) -> None:
        super().__init__(name="courier", daemon=True)
        self.opened = threading.Event()
        self.hurry = threading.Event()
        self.again = threading.Event()
        """Cuts the pause after a failed delivery short."""
        self.clear = threading.Event()
        """Nobody more important is at work in this process. Of two threads Python runs one at a time."""
        self.clear.set()
        self.rounds = 0
        self.refused: Exception | None = None
        self.trouble: str | None = None
        self.busy_s = 0.0
        self._path, self._destination = journal, destination
        self._stopping = threading.Event()

    def stop(self, timeout_s: float) -> None:
        """End after the delivery that is under way, or leave it to the end of the process."""
        self._stopping.set()
        self.hurry.set()
        self.again.set()
        self.join(min(timeout_s, 15.0))

    def run(self) -> None:
        """Open the store, then deliver for ever."""
        failures = 0
        delivery: Delivery | None = None
        try:
            journal = Journal(self._path)
        except Exception as error:
            self.refused = error
            self.opened.set()
            return
        while not self._stopping.is_set():
            started = time.perf_counter()
            try:
                if delivery is None:
                    delivery = Delivery(connect_mlflow(self._destination.uri), journal, self._destination)
                    self.opened.set()
                delivery.round(self._stopping.is_set, lambda: self.clear.wait(GIVE_WAY_S))
                failures, self.trouble = 0, None
            except Exception as error:
                if not self.opened.is_set() and self._is_final(error):
                    self.refused = error
                    self.opened.set()
                    return
                denied = is_denied(error)
                self.trouble = first_line(tracking_error(error, self._destination.uri) if denied else error)
                failures += 1
                self.opened.set()  # a server may be away for now; nobody waits for it
            self.busy_s += time.perf_counter() - started
            self.rounds += 1
            self._pause(failures)
        journal.close()

    def _is_final(self, error: Exception) -> bool:
        """Whether a first failure will not pass by itself."""
        return self._destination.database is not None or isinstance(error, StorageError | TrackingRefusedError)

    def _pause(self, failures: int) -> None:
        if failures:
            self.again.wait(RETRY_S[min(failures, len(RETRY_S)) - 1])
            self.again.clear()
        else:
            self.hurry.wait(GATHER_S)
            self.hurry.clear()


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    """With names that MLflow takes: one that it refuses takes the whole batch with it."""
    return {re.sub(r"[^/\w.\- :]", "_", name): value for name, value in metrics.items()}


def _now_ms() -> int:
    return int(time.time() * 1000)
