"""Turns the writes of the journal into calls of MLflow's client.

Every delivery can be repeated safely: a run is looked up by its tag before it is created, a metric carries the time of
its measurement, and MLflow stores equal points once.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.common.passwords import first_line
from search.tracking.journal import EXPERIMENT, Journal, Write
from search.tracking.store import Destination, is_refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "search.run"
"""Tag of runs and model versions that holds the journal name of the run."""

MAX_POINTS = 900
"""Below MLflow's limit of 1,000 metrics per request."""


class Delivery:
    """Delivers each kind of write to MLflow."""

    def __init__(self, client: MlflowClient, journal: Journal, destination: Destination) -> None:
        self._client, self._journal, self._destination = client, journal, destination
        self._experiment: str | None = None

    def round(self, stopped: Callable[[], bool], give_way: Callable[[], object]) -> None:
        """Deliver the journal. Errors of MLflow are raised, and undelivered writes stay in the journal.

        `give_way` is called before each request.
        """
        while (writes := self._journal.pending(limit=100)) and not stopped():
            for batch in batches(writes):
                give_way()
                self._deliver(batch)
                self._journal.delivered(*(write.id for write in batch))

    def _deliver(self, batch: Sequence[Write]) -> None:
        first = batch[0]
        try:
            if first.kind == "run":
                self._open(first)
                return
            run_id = self._journal.mlflow_id(first.run)
            if run_id is None:  # MLflow rejected the run itself
                logging.getLogger(__name__).warning("%s of %s has no run to go to", first.kind, first.run)
                return
            getattr(self, f"_{first.kind}")(run_id, batch)
        except Exception as error:
            if not is_refusal(error):
                raise
            # A repeated delivery would be rejected forever, for instance because a user deleted the run.
            reason = first_line(error)
            logging.getLogger(__name__).warning("MLflow refused %s of %s: %s", first.kind, first.run, reason)

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
            self._experiment = None  # a user deleted it; the next lookup restores it
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
        """Return the id of a run that an interrupted search or delivery created."""
        same = f"tags.`{RUN_TAG}` = '{self._scoped(run)}'"
        found = self._client.search_runs([self.experiment()], same, max_results=1)
        return str(found[0].info.run_id) if found else None

    def _scoped(self, run: str) -> str:
        return f"{self._destination.scope}/{run}"

    def experiment(self) -> str:
        """Return the experiment's id; create or restore the experiment if needed."""
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

        for write in batch:
            try:
                drawn = figures.of_trial(write.content or b"", write.body["classes"])
            except Exception:  # an image that cannot be drawn must not hold up everything behind it
                logging.getLogger(__name__).warning("the images of %s cannot be drawn", write.run, exc_info=True)
                continue
            self._put(run_id, drawn)

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
            reason = first_line(error)
            logging.getLogger(__name__).warning("MLflow refused the final figures of %s: %s", batch[-1].run, reason)
        self._client.set_terminated(run_id, body["status"], body["time"])


def batches(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Group writes that one request can carry. Only the order within a run is kept."""
    order = {run: i for i, run in enumerate(dict.fromkeys(write.run for write in writes))}
    by_run = sorted(writes, key=lambda write: (order[write.run], write.id))
    for (_, kind), group in groupby(by_run, key=lambda write: (write.run, write.kind)):
        batch: list[Write] = []
        points = 0
        for write in group:
            n = len(write.body.get("values", ())) if kind == "metrics" else 0
            if batch and (kind in ("run", "pictures") or points + n > MAX_POINTS):
                yield batch
                batch, points = [], 0
            batch.append(write)
            points += n
        yield batch
