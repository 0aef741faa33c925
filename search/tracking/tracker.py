"""Tracking for the coordinator: writes go to the local journal, and a thread delivers them to MLflow in order.

Calls return immediately. A server that is down delays only the thread. When a search is killed its journal stays, and
the next search delivers it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.common.errors import StorageError, TrackingRefusedError
from search.common.passwords import first_line
from search.common.sqlite import checkpoint
from search.common.text import printable
from search.study.space.mlflow_names import MlflowNames
from search.study.storage.retry import RetryPolicy
from search.tracking.delivery import Delivery
from search.tracking.journal import Body, Journal
from search.tracking.lengths import PARAM
from search.tracking.store import Destination, connect_mlflow, is_access_denied, is_locked, tracking_error

GATHER_S = 1.0  # time to collect writes: one request with forty points takes little longer than one with one point
YIELD_S = 0.05  # longest time that a request waits for the search to be idle
RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)  # pauses after failed deliveries; the last one is repeated


class Tracking:
    """Writes of one study, and the thread that delivers them. Its methods are called by one thread.

    `run` is always the journal's name for a run. `say` shows the user a notice; the thread calls it.
    """

    def __init__(
        self,
        journal: Path,
        destination: Destination,
        *,
        say: Callable[[str], object] = lambda notice: None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """`retry`: for the journal, on the thread of the methods; the other thread repeats all that fails anyway."""
        self.last_error: str | None = None  # why the last delivery failed; None if it succeeded
        self.busy_s = 0.0  # time that the thread has worked
        self.param_names, self.metric_names = MlflowNames("parameter"), MlflowNames("metric")
        self._path, self._destination, self._say = journal, destination, say
        self._journal = Journal(journal, retry=retry)
        self._delivery: Delivery | None = None  # for its file alone; the thread has the rest of it
        self._attempts = 0
        self._fatal: Exception | None = None  # why the store can never be opened
        self._tried = threading.Event()  # set after the first attempt to open the store
        self._wake = threading.Event()  # ends the pause between deliveries
        self._retry = threading.Event()  # ends the pause after a failed delivery
        self._stopping, self._search_idle = threading.Event(), threading.Event()
        self._search_idle.set()
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
        self._thread.start()

    def ready(self, *, wait: bool = True) -> bool:
        """Wait until the store was opened, or until the first request to a server has failed. True if so.

        Raises StorageError or TrackingError if waiting cannot help, as when the server rejects the login.
        """
        if wait:
            self._tried.wait()
        if self._fatal is not None:
            raise self._fatal
        return self._tried.is_set()

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
        body: dict[str, Any] = {"name": name, "tags": dict(tags), "parent": parent, "time": _now_ms()}
        names = self.param_names.of(params)
        body["params"] = {names[key]: printable(str(value), limit=PARAM) for key, value in params.items()}
        body["dataset"] = dict(dataset) if dataset else None
        self._journal.append(run, "run", body, step=step)
        self._wake.set()

    def params(self, run: str, params: Mapping[str, str]) -> None:
        """Write parameters that became known after the run began."""
        names = self.param_names.of(params)
        values = {names[key]: printable(value, limit=PARAM) for key, value in params.items()}
        self._journal.append(run, "params", {"params": values})
        self._wake.set()

    def log(self, run: str, metrics: Mapping[str, float], *, step: int, position: int) -> None:
        """Write metrics at `step`. `position` numbers the calls of one run; a resumed training repeats some."""
        if position > self._journal.last_step(run):
            body = {"step": step, "time": _now_ms(), "values": self._valid(metrics)}
            self._journal.append(run, "metrics", body, step=position)

    def _valid(self, metrics: Mapping[str, float]) -> dict[str, float]:
        names = self.metric_names.of(metrics)
        return {names[name]: value for name, value in metrics.items()}

    def file(self, run: str, path: str, content: bytes) -> None:
        """Write an artifact at `path` of the run."""
        self._journal.append(run, "file", {"path": path}, content)

    def remove(self, run: str, path: str, *, tags: Mapping[str, str]) -> None:
        """Delete the artifact at `path` of the run, if it is there, and then set tags that say so."""
        self._journal.append(run, "remove", {"path": path, "tags": dict(tags)})

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
        finals = {} if repeated else self._valid(metrics)
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

    def know(self, run: str, mlflow_id: str) -> None:
        """Store MLflow's id of a run that this journal has not opened."""
        self._journal.set_mlflow_id(run, mlflow_id)

    def set_search_busy(self, *, busy: bool) -> None:
        """Deliver slowly while the coordinator works, since workers wait for it."""
        if busy:
            self._search_idle.clear()
        else:
            self._search_idle.set()

    def flush(self, timeout_s: float) -> int:
        """Wait until everything is delivered or the next attempt has failed; return the number of writes left."""
        attempts, deadline = self._attempts, time.monotonic() + timeout_s
        self._wake.set()
        self._retry.set()
        while (n_left := self._journal.n_pending()) and time.monotonic() < deadline and self._thread.is_alive():
            if self.last_error is not None and self._attempts > attempts:
                break
            time.sleep(0.02)
        return n_left

    def store_loss(self) -> str | None:
        """Why MLflow's own file takes no more writes, if it was removed or replaced; None while it does."""
        try:
            if self._delivery is not None:
                self._delivery.check_store()
        except StorageError as error:
            return str(error)
        return None

    def close(self, timeout_s: float = 60.0) -> int:
        """Deliver what can be delivered and stop; return the number of writes that stay in the journal."""
        try:
            return self.flush(timeout_s)
        finally:  # also after another Ctrl-C, or the thread would never end
            for event in (self._stopping, self._wake, self._retry):
                event.set()
            self._thread.join(min(max(timeout_s, 2.0), 15.0))  # the current delivery may take a while
            self._journal.close()

    # ---- on the delivery thread

    def _run(self) -> None:
        try:
            self._deliver(Journal(self._path, self._journal.file))
        except Exception as error:
            self._fatal = error
        self._tried.set()

    def _deliver(self, journal: Journal) -> None:
        uri, failures = self._destination.uri, 0
        delivery: Delivery | None = None
        while not self._stopping.is_set():
            started = time.perf_counter()
            try:
                if delivery is None:
                    client = connect_mlflow(uri)
                    self._delivery = delivery = Delivery(client, journal, self._destination, self._say)
                    self._tried.set()
                delivery.round(self._stopping.is_set, lambda: self._search_idle.wait(YIELD_S))
                if (database := self._destination.database) is not None:
                    checkpoint(database)
                failures, self.last_error = 0, None
            except Exception as error:
                local = self._destination.database is not None
                cannot_open = local or isinstance(error, StorageError | TrackingRefusedError)
                if not self._tried.is_set() and cannot_open and not is_locked(error):
                    raise
                self.last_error = first_line(tracking_error(error, uri) if is_access_denied(error) else error)
                failures += 1
                self._tried.set()  # the server may be away only for now
            self.busy_s += time.perf_counter() - started
            self._attempts += 1
            self._pause(failures)
        journal.close()
        if delivery is not None:
            delivery.close()

    def _pause(self, failures: int) -> None:
        pause_s = RETRY_S[min(failures, len(RETRY_S)) - 1] if failures else GATHER_S
        event = self._retry if failures else self._wake
        event.wait(pause_s)
        event.clear()


def _now_ms() -> int:
    return int(time.time() * 1000)
