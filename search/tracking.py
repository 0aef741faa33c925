"""The only door to MLflow's tracking API.

`Tracking` is called by the coordinator and returns at once: each write goes to the local journal, and a `Courier`, in a
thread of its own, carries it to MLflow in order. A server that is down delays the courier and nobody else; a search
that is killed leaves the journal, which the next one delivers.

Every delivery may be repeated without harm: a run is looked up by its tag before it is made a second time, a metric
point carries the time it was measured at, and MLflow keeps equal points once.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.errors import StorageError, TrackingRefusedError
from search.journal import Journal, Write
from search.predictions import pack
from search.storage import MLFLOW_TABLE, check_sqlite, connect, create_whole, first_line, sqlite_file
from search.trouble import is_denied, tracking_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "experiment"
"""What the journal calls the experiment, whose id it keeps beside those of runs."""

RUN_TAG = "search.run"
"""Joins an MLflow run to the search's own name of it."""

GATHER_S = 1.0
"""Writes wait this long for company: one request with forty points costs little more than one with one."""

RETRY_S = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Pauses after failed deliveries; the last one repeats."""

MAX_POINTS = 900
"""MLflow takes 1,000 metrics in one request."""


@dataclass(frozen=True)
class Destination:
    """Where runs go."""

    uri: str
    experiment: str
    scope: str
    """Tells this study's runs from those of another one of the same name."""
    artifacts: Path
    """Artifact root for a store without a server; a server has its own."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What a new experiment is given; one that exists keeps what people made of it."""

    @property
    def database(self) -> Path | None:
        """The file behind a SQLite store; None for a server."""
        return sqlite_file(self.uri)


def quiet_mlflow() -> None:
    """Set MLflow up before its import: no telemetry, no banners, quick failures instead of minutes of retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def connect_mlflow(uri: str) -> MlflowClient:
    """A client for a tracking store that is made, whole, when it is a SQLite file that does not exist.

    A server is asked once, so that it says now whom it does not let in. Raises StorageError when the file is damaged or
    foreign, TrackingRefusedError when a server refuses this user, TrackingError when it does not answer.
    """
    quiet_mlflow()
    path = sqlite_file(uri)
    if path is not None and path.exists():
        check_sqlite(path, MLFLOW_TABLE)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised as well, and told in our own words
    try:
        if path is not None:
            create_whole(path, lambda temporary: mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments())
            connect(path).close()  # leaves the file in WAL mode, in which readers do not hold up writers
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        if "database schema" in str(error):
            raise StorageError(
                f"{path or uri} was made by another version of MLflow; type: mlflow db upgrade {uri}"
            ) from None
        raise tracking_error(error, uri) from None
    return client


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
    ) -> None:
        """Begin a run, or go on with one that was begun by a search that was interrupted."""
        body = {
            "name": name,
            "tags": dict(tags),
            "params": {key: str(value) for key, value in params.items()},
            "parent": parent,
            "dataset": dict(dataset) if dataset else None,
            "time": _now_ms(),
        }
        self._append(run, "run", body, urgent=True)

    def log(self, run: str, metrics: Mapping[str, float], *, step: int, position: int) -> None:
        """Write curve points at `step`, unless an interrupted search already did.

        `position` orders the calls of one run; a resumed training repeats some.
        """
        if position > self._journal.last_step(run):
            self._append(run, "metrics", {"step": step, "time": _now_ms(), "values": _named(metrics)}, step=position)

    def file(self, run: str, path: str, content: bytes) -> None:
        """Keep an artifact at `path` of the run."""
        self._append(run, "file", {"path": path}, content)

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
        self._append(run, "pictures", {"classes": list(classes)}, pack(images, labels, probabilities))

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self._append(run, "tags", {"tags": dict(tags)})

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
        self._append(run, "end", body, step=step, verdict=verdict)

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

    def _append(
        self,
        run: str,
        kind: Any,
        body: Mapping[str, Any],
        content: bytes | None = None,
        *,
        step: int = 0,
        verdict: Mapping[str, Any] | None = None,
        urgent: bool = False,
    ) -> None:
        self._journal.append(run, kind, body, content, step=step, verdict=verdict)
        if urgent:
            self._courier.hurry.set()


class Courier(threading.Thread):
    """Carries the journal to MLflow until it is told to stop."""

    def __init__(self, journal: Path, destination: Destination) -> None:
        super().__init__(name="courier", daemon=True)
        self.opened = threading.Event()
        self.hurry = threading.Event()
        self.again = threading.Event()
        """Cuts the pause after a failed delivery short."""
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
                delivery.round(self._stopping.is_set)
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


class Delivery:
    """How each kind of write becomes calls of MLflow's client."""

    def __init__(self, client: MlflowClient, journal: Journal, destination: Destination) -> None:
        self._client, self._journal, self._destination = client, journal, destination
        self._experiment: str | None = None

    def round(self, stopped: Callable[[], bool]) -> None:
        """Deliver what is in the journal. Raises what MLflow raises, with the undelivered rest still there."""
        while (writes := self._journal.pending(limit=100)) and not stopped():
            for batch in batches(writes):
                self._deliver(batch)
                self._journal.delivered(*(write.id for write in batch))

    def _deliver(self, batch: Sequence[Write]) -> None:
        first = batch[0]
        try:
            if first.kind == "run":
                self._open(first)
                return
            run_id = self._journal.mlflow_id(first.run)
            if run_id is None:  # MLflow refused to begin it
                logging.getLogger(__name__).warning("%s of %s has no run to go to", first.kind, first.run)
                return
            getattr(self, f"_{first.kind}")(run_id, batch)
        except Exception as error:
            if not is_refusal(error):
                raise
            # Delivering it again would be refused again, for ever: the run was deleted by hand, for instance.
            said = first_line(error)
            logging.getLogger(__name__).warning("MLflow refused %s of %s: %s", first.kind, first.run, said)

    def _open(self, write: Write) -> None:
        from mlflow.entities import RunTag

        run_id = self._find(write.run)
        if run_id is None:
            run_id = self._create(write)
            self._journal.set_mlflow_id(write.run, run_id)
        else:
            self._journal.set_mlflow_id(write.run, run_id)
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in write.body["tags"].items()])
        self._describe(run_id, write.body)

    def _create(self, write: Write) -> str:
        body = write.body
        tags = {**body["tags"], RUN_TAG: self._scoped(write.run)}
        if body["parent"] is not None:
            tags["mlflow.parentRunId"] = str(self._journal.mlflow_id(body["parent"]))
        try:
            run = self._client.create_run(self.experiment(), start_time=body["time"], tags=tags, run_name=body["name"])
        except Exception as error:
            if not is_refusal(error):
                raise
            self._experiment = None  # somebody deleted it: looked up again, it is restored
            run = self._client.create_run(self.experiment(), start_time=body["time"], tags=tags, run_name=body["name"])
        return str(run.info.run_id)

    def _describe(self, run_id: str, body: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        if body["params"]:
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in body["params"].items()])
        if data := body["dataset"]:
            entity = Dataset(data["name"], data["digest"], "local", data["source"], profile=json.dumps(data))
            self._client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _find(self, run: str) -> str | None:
        """A run that was made before: by an interrupted search, or by a delivery that died before it could say so."""
        same = f"tags.`{RUN_TAG}` = '{self._scoped(run)}'"
        found = self._client.search_runs([self.experiment()], same, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _scoped(self, run: str) -> str:
        return f"{self._destination.scope}/{run}"

    def experiment(self) -> str:
        """The experiment's id; makes or restores the experiment when needed."""
        if self._experiment is None:
            found = self._client.get_experiment_by_name(self._destination.experiment)
            if found is None:
                local = self._destination.artifacts.as_uri() if self._destination.database else None
                self._experiment = self._client.create_experiment(
                    self._destination.experiment, local, tags=dict(self._destination.tags)
                )
            else:
                if found.lifecycle_stage == "deleted":
                    self._client.restore_experiment(found.experiment_id)
                self._experiment = found.experiment_id
                for key, value in self._destination.tags.items():
                    if key not in found.tags:
                        self._client.set_experiment_tag(found.experiment_id, key, value)
            self._journal.set_mlflow_id(EXPERIMENT, self._experiment)
        return self._experiment

    def _metrics(self, run_id: str, batch: Sequence[Write]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, write.body["time"], write.body["step"])
            for write in batch
            for name, value in write.body["values"].items()
        ]
        self._client.log_batch(run_id, metrics=points)

    def _file(self, run_id: str, batch: Sequence[Write]) -> None:
        for write in batch:
            self._put(run_id, write.body["path"], write.content or b"")

    def _put(self, run_id: str, path: str, content: bytes) -> None:
        import tempfile

        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            local.write_bytes(content)
            self._client.log_artifact(run_id, str(local), folder or None)

    def _pictures(self, run_id: str, batch: Sequence[Write]) -> None:
        from search import figures

        for write in batch:
            names = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
            histories = {name: self._client.get_metric_history(run_id, name) for name in names}
            points = {name: [(float(p.step), p.value) for p in history] for name, history in histories.items()}
            try:
                drawn = figures.of_trial(points, write.content or b"", write.body["classes"])
            except Exception:  # a picture that cannot be drawn must not hold up everything behind it
                logging.getLogger(__name__).warning("the pictures of %s cannot be drawn", write.run, exc_info=True)
                continue
            for name, picture in drawn.items():
                self._put(run_id, name, picture)

    def _tags(self, run_id: str, batch: Sequence[Write]) -> None:
        from mlflow.entities import RunTag

        tags = {key: value for write in batch for key, value in write.body["tags"].items()}
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _end(self, run_id: str, batch: Sequence[Write]) -> None:
        from mlflow.entities import Metric, RunTag

        body = batch[-1].body
        step = body.get("step", 0)
        metrics = [Metric(name, value, body["time"], step) for name, value in body["metrics"].items()]
        tags = [RunTag(key, value) for key, value in body["tags"].items()]
        try:
            if metrics or tags:
                self._client.log_batch(run_id, metrics=metrics, tags=tags)
        except Exception as error:
            if not is_refusal(error):
                raise
            said = first_line(error)
            logging.getLogger(__name__).warning("MLflow refused the final figures of %s: %s", batch[-1].run, said)
        self._client.set_terminated(run_id, body["status"], body["time"])


def batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Group neighbours that one request can carry; only the order within a run matters."""
    order = {run: i for i, run in enumerate(dict.fromkeys(write.run for write in writes))}
    by_run = sorted(writes, key=lambda write: (order[write.run], write.id))
    for (_, kind), group in groupby(by_run, key=lambda write: (write.run, write.kind)):
        batch: list[Write] = []
        points = 0
        for write in group:
            n = len(write.body.get("values", ())) if kind == "metrics" else 0
            if batch and (kind in ("run", "file", "pictures") or points + n > MAX_POINTS):
                yield batch
                batch, points = [], 0
            batch.append(write)
            points += n
        yield batch


def is_refusal(error: Exception) -> bool:
    """Whether MLflow understood a request and will never accept it, as opposed to being out of reach."""
    code = getattr(error, "error_code", None)
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


def _named(metrics: Mapping[str, float]) -> dict[str, float]:
    """With names that MLflow takes: one that it refuses takes the whole batch with it."""
    return {re.sub(r"[^/\w.\- :]", "_", name): value for name, value in metrics.items()}


def _now_ms() -> int:
    return int(time.time() * 1000)
