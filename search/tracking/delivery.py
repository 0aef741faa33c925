"""Turns the writes of the journal into calls of MLflow's client.

Deliveries can be repeated safely. A run is looked up by its tag before it is created. A metric carries the time of its
measurement, and MLflow stores equal points once.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from search.common.open_database import OpenDatabase
from search.common.passwords import first_line
from search.common.sqlite import connect
from search.tracking.journal import EXPERIMENT, Body, Journal, Write
from search.tracking.store import Destination, is_rejected

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

LOGGER = logging.getLogger(__name__)

RUN_TAG = "search.run"  # on runs and model versions: the study's scope and the journal name of the run
MAX_POINTS = 900  # MLflow's limit is 1,000 metrics per request


class OpenStore(NamedTuple):
    """MLflow's SQLite file, and a connection that still reads it when it was removed."""

    file: OpenDatabase
    connection: sqlite3.Connection

    @classmethod
    def of(cls, destination: Destination) -> Self | None:
        """Open it; None for a server."""
        if (path := destination.database) is None:
            return None
        connection = connect(path)
        connection.execute("SELECT count(*) FROM sqlite_master")  # opens the file
        left = "The journal keeps what was not delivered to it"
        return cls(OpenDatabase(path, left=left), connection)


class Delivery:
    """Delivers each kind of write to MLflow."""

    def __init__(self, client: MlflowClient, journal: Journal, destination: Destination) -> None:
        self._client, self._journal, self._destination = client, journal, destination
        self._store = OpenStore.of(destination)
        self._experiment: str | None = None

    def round(self, stopped: Callable[[], bool], give_way: Callable[[], object]) -> None:
        """Deliver the journal, calling `give_way` before each request. When MLflow fails, the writes stay there."""
        while (writes := self._journal.pending(limit=100)) and not stopped():
            for batch in batches(writes):
                give_way()
                self.check_store()
                self._deliver(batch)
                self.check_store()  # before the journal forgets what a removed file got
                self._journal.delivered(*(write.id for write in batch))

    def close(self) -> None:
        """Let go of MLflow's file."""
        if self._store is not None:
            self._store.connection.close()

    def check_store(self) -> None:
        """Raise StorageError if MLflow's file was removed or replaced, so that what it gets would be lost."""
        if self._store is not None:
            self._store.file.check(self._store.connection)

    def _deliver(self, batch: Sequence[Write]) -> None:
        first = batch[0]
        # A repeated delivery would be rejected forever, for instance because a user deleted the run.
        with _rejections_logged(f"{first.kind} of {first.run}"):
            if first.kind == "run":
                self._open(first)
            elif (run_id := self._journal.mlflow_id(first.run)) is not None:
                getattr(self, f"_{first.kind}")(run_id, batch)
            else:  # MLflow rejected the run itself
                LOGGER.warning("%s of %s has no run to go to", first.kind, first.run)

    def _open(self, write: Write) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        body, scoped = write.body, f"{self._destination.scope}/{write.run}"
        # An interrupted search or delivery may have created the run.
        runs = self._client.search_runs([self.experiment()], f"tags.`{RUN_TAG}` = '{scoped}'", max_results=1)
        run_id = str(runs[0].info.run_id) if runs else self._create(body, scoped)
        self._journal.set_mlflow_id(write.run, run_id)
        if runs:
            self._client.update_run(run_id, status="RUNNING")
            self._client.log_batch(run_id, tags=_run_tags(body["tags"]))
        if body["params"]:
            self._client.log_batch(run_id, params=[Param(key, value) for key, value in body["params"].items()])
        if data := body["dataset"]:
            entity = Dataset(data["name"], data["digest"], "local", data["source"], profile=json.dumps(data))
            self._client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def _create(self, body: Body, scoped: str) -> str:
        tags = {**body["tags"], RUN_TAG: scoped}
        if body["parent"] is not None:
            tags["mlflow.parentRunId"] = str(self._journal.mlflow_id(body["parent"]))
        values = {"start_time": body["time"], "tags": tags, "run_name": body["name"]}
        try:
            return str(self._client.create_run(self.experiment(), **values).info.run_id)
        except Exception as error:
            if not is_rejected(error):
                raise
            self._experiment = None  # a user deleted it; the next lookup restores it
            return str(self._client.create_run(self.experiment(), **values).info.run_id)

    def experiment(self) -> str:
        """Return the experiment's id; create or restore the experiment if needed."""
        if self._experiment is None:
            self._experiment = self._open_experiment(self._destination)
            self._journal.set_mlflow_id(EXPERIMENT, self._experiment)
        return self._experiment

    def _open_experiment(self, destination: Destination) -> str:
        experiment = self._client.get_experiment_by_name(destination.experiment)
        if experiment is None:
            local = destination.artifacts.as_uri() if destination.database else None
            return str(self._client.create_experiment(destination.experiment, local, tags=dict(destination.tags)))
        experiment_id = str(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment_id)
        for key, value in destination.tags.items():
            if key not in experiment.tags:
                self._client.set_experiment_tag(experiment_id, key, value)
        return experiment_id

    def _metrics(self, run_id: str, batch: Sequence[Write]) -> None:
        bodies = [write.body for write in batch]
        metrics = [metric for body in bodies for metric in _metric_points(body["values"], body["time"], body["step"])]
        self._client.log_batch(run_id, metrics=metrics)

    def _file(self, run_id: str, batch: Sequence[Write]) -> None:
        self._put(run_id, {write.body["path"]: write.content or b"" for write in batch})

    def _put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store artifacts one by one: MLflow's call for a folder leaves parts of it when killed."""
        with tempfile.TemporaryDirectory() as temporary:
            for path, content in files.items():
                folder, _, name = path.rpartition("/")
                local = Path(temporary, name)
                local.write_bytes(content)
                self._client.log_artifact(run_id, str(local), folder or None)

    def _pictures(self, run_id: str, batch: Sequence[Write]) -> None:
        from search.tracking.figures import figures

        (write,) = batch
        try:
            images = figures.draw_trial(write.content or b"", write.body["classes"])
        except Exception:  # an image that cannot be drawn must not hold up the later writes
            LOGGER.warning("the images of %s cannot be drawn", write.run, exc_info=True)
        else:
            self._put(run_id, images)

    def _tags(self, run_id: str, batch: Sequence[Write]) -> None:
        tags = {key: value for write in batch for key, value in write.body["tags"].items()}
        self._client.log_batch(run_id, tags=_run_tags(tags))

    def _end(self, run_id: str, batch: Sequence[Write]) -> None:
        body = batch[-1].body
        metrics, tags = _metric_points(body["metrics"], body["time"], body.get("step", 0)), _run_tags(body["tags"])
        with _rejections_logged(f"the final figures of {batch[-1].run}"):
            if metrics or tags:
                self._client.log_batch(run_id, metrics=metrics, tags=tags)
        self._client.set_terminated(run_id, body["status"], body["time"])


def _run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]


def _metric_points(values: Mapping[str, float], time_ms: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(name, value, time_ms, step) for name, value in values.items()]


@contextmanager
def _rejections_logged(what: str) -> Iterator[None]:
    """Log an error of a request that MLflow will never accept. Other errors are raised."""
    try:
        yield
    except Exception as error:
        if not is_rejected(error):
            raise
        LOGGER.warning("MLflow rejected %s: %s", what, first_line(error))


def batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Group writes that one request can carry. Only the order within a run is kept."""
    order = {run: i for i, run in enumerate(dict.fromkeys(write.run for write in writes))}
    by_run = sorted(writes, key=lambda write: (order[write.run], write.id))
    for (_, kind), group in groupby(by_run, key=lambda write: (write.run, write.kind)):
        batch: list[Write] = []
        n_points = 0
        for write in group:
            n = len(write.body.get("values", ())) if kind == "metrics" else 0
            if batch and (kind in ("run", "pictures") or n_points + n > MAX_POINTS):
                yield batch
                batch, n_points = [], 0
            batch.append(write)
            n_points += n
        yield batch
