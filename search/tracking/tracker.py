"""Tracking for the coordinator: writes go to the local journal, and a thread delivers them to MLflow in order.

Calls return immediately. A server that is down delays only the thread. When a search is killed its journal stays, and
the next search delivers it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.common.errors import StorageError, TrackingRefusedError
from search.common.passwords import first_line
from search.tracking.delivery import Delivery
from search.tracking.journal import Body, Journal
from search.tracking.store import Destination, connect_mlflow, is_access_denied, tracking_error

GATHER_S = 1.0  # time to collect writes: one request with forty points takes little longer than one with one point
YIELD_S = 0.05  # longest time that a request waits for the search to be idle
RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)  # pauses after failed deliveries; the last one is repeated


class Tracking:
    """Writes of one study. Used by one thread. `run` is always the journal's name for a run."""

    def __init__(self, journal: Path, destination: Destination) -> None:
        self._journal = Journal(journal)
        self._thread = DeliveryThread(journal, destination)
        self._thread.start()

    def ready(self) -> None:
        """Wait until the store was opened, or until the first request to a server has failed.

        Raises StorageError or TrackingError if waiting cannot help, as when the server rejects the login.
        """
        self._thread.tried.wait()
        if self._thread.fatal is not None:
            raise self._thread.fatal

    def open_run(
        self,
        run: str,
        name: str,
        *,
        tags: Mapping[str, str],
        params: Mapping[str, Any] = {},
        parent: str | None = None,
        dataset: Body | None = None,
        step: int = 0,
    ) -> None:
        """Begin a run, or resume one of an interrupted search, which logged up to `step`, maybe in another journal."""
        body = {"name": name, "tags": dict(tags), "params": {key: str(value) for key, value in params.items()}}
        body |= {"parent": parent, "dataset": dict(dataset) if dataset else None, "time": _now_ms()}
        self._journal.append(run, "run", body, step=step)
        self._thread.wake.set()

    def log(self, run: str, metrics: Mapping[str, float], *, step: int, position: int) -> None:
        """Write metrics at `step`. `position` numbers the calls of one run; a resumed training repeats some."""
        if position > self._journal.last_step(run):
            body = {"step": step, "time": _now_ms(), "values": _valid_names(metrics)}
            self._journal.append(run, "metrics", body, step=position)

    def file(self, run: str, path: str, content: bytes) -> None:
        """Write an artifact at `path` of the run."""
        self._journal.append(run, "file", {"path": path}, content)

    def predictions(self, run: str, classes: Sequence[str], packed: bytes) -> None:
        """Write what `figures.predictions.pack` returns. The delivery thread draws the run's images from it."""
        self._journal.append(run, "pictures", {"classes": list(classes)}, packed)

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
        verdict: Body | None = None,
    ) -> None:
        """End a run as `FINISHED`, `FAILED` or `KILLED`, with its final metrics.

        `step` is for a run that may end more than once: metrics of the same step are written once. `verdict` is stored
        in the same transaction, so a search that is killed right afterwards still knows how the run ended.
        """
        repeated = 0 < step <= self._journal.last_step(run)
        finals = {} if repeated else _valid_names(metrics)
        body = {"status": status, "tags": dict(tags), "metrics": finals, "step": step, "time": _now_ms()}
        self._journal.append(run, "end", body, step=step, verdict=verdict)

    def verdict(self, run: str) -> dict[str, Any] | None:
        """Return how the run ended, as given to `end_run`; None while it has not."""
        return self._journal.verdict(run)

    def knows(self, run: str) -> bool:
        """Return whether the run was begun, now or by an earlier start of the search."""
        return self._journal.knows(run)

    def mlflow_id(self, run: str) -> str | None:
        return self._journal.mlflow_id(run)

    @property
    def last_error(self) -> str | None:
        """Why the last delivery failed; None if it succeeded."""
        return self._thread.last_error

    @property
    def busy_s(self) -> float:
        """Seconds that the delivery thread has worked."""
        return self._thread.busy_s

    def set_search_busy(self, *, busy: bool) -> None:
        """Deliver slowly while the coordinator works, since workers wait for it."""
        if busy:
            self._thread.search_idle.clear()
        else:
            self._thread.search_idle.set()

    def flush(self, timeout_s: float) -> int:
        """Wait until everything is delivered or the next attempt has failed; return the number of writes left."""
        thread, attempts, deadline = self._thread, self._thread.attempts, time.monotonic() + timeout_s
        thread.wake.set()
        thread.retry.set()
        while (n_left := self._journal.n_pending()) and time.monotonic() < deadline and thread.is_alive():
            if thread.last_error is not None and thread.attempts > attempts:
                break
            time.sleep(0.02)
        return n_left

    def close(self, timeout_s: float = 60.0) -> int:
        """Deliver what can be delivered and stop; return the number of writes that stay in the journal."""
        n_left = self.flush(timeout_s)
        self._thread.stop(max(timeout_s, 2.0))
        self._journal.close()
        return n_left


class DeliveryThread(threading.Thread):
    """Delivers the journal to MLflow until it is stopped."""

    def __init__(self, journal: Path, destination: Destination) -> None:
        super().__init__(name="delivery", daemon=True)
        self.tried = threading.Event()  # set after the first attempt to open the store
        self.wake = threading.Event()  # ends the pause between deliveries
        self.retry = threading.Event()  # ends the pause after a failed delivery
        self.search_idle = threading.Event()
        self.search_idle.set()
        self.attempts, self.busy_s = 0, 0.0
        self.fatal: Exception | None = None  # why the store can never be opened
        self.last_error: str | None = None
        self._path, self._destination = journal, destination
        self._stopping = threading.Event()

    def stop(self, timeout_s: float) -> None:
        """End after the current delivery, for which this waits at most 15 s."""
        for event in (self._stopping, self.wake, self.retry):
            event.set()
        self.join(min(timeout_s, 15.0))

    def run(self) -> None:
        """Open the store, then deliver until `stop` is called."""
        try:
            self._deliver(Journal(self._path))
        except Exception as error:
            self.fatal = error
        self.tried.set()

    def _deliver(self, journal: Journal) -> None:
        failures = 0
        delivery: Delivery | None = None
        while not self._stopping.is_set():
            started = time.perf_counter()
            try:
                if delivery is None:
                    delivery = Delivery(connect_mlflow(self._destination.uri), journal, self._destination)
                    self.tried.set()
                delivery.round(self._stopping.is_set, lambda: self.search_idle.wait(YIELD_S))
                failures, self.last_error = 0, None
            except Exception as error:
                local = self._destination.database is not None
                if not self.tried.is_set() and (local or isinstance(error, StorageError | TrackingRefusedError)):
                    raise
                denied = is_access_denied(error)
                self.last_error = first_line(tracking_error(error, self._destination.uri) if denied else error)
                failures += 1
                self.tried.set()  # the server may be away only for now
            self.busy_s += time.perf_counter() - started
            self.attempts += 1
            self._pause(failures)
        journal.close()

    def _pause(self, failures: int) -> None:
        pause_s = RETRY_S[min(failures, len(RETRY_S)) - 1] if failures else GATHER_S
        event = self.retry if failures else self.wake
        event.wait(pause_s)
        event.clear()


def _valid_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Replace characters that MLflow does not allow in names; it would reject the whole batch."""
    return {re.sub(r"[^/\w.\- :]", "_", name): value for name, value in metrics.items()}


def _now_ms() -> int:
    return int(time.time() * 1000)
