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
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from objectives.files import write_atomic
from search.common.open_database import OpenDatabase
from search.common.passwords import first_line
from search.common.sqlite import connect
from search.study.space.mlflow_names import mlflow_name
from search.tracking import lengths
from search.tracking.journal import EXPERIMENT, Body, Journal, Write
from search.tracking.lengths import METRICS_PER_REQUEST, PARAMS_PER_REQUEST, TAGS_PER_REQUEST, cut
from search.tracking.locations import folder_to_write, settle
from search.tracking.store import RUN_TAG, STUDY_TAG, Destination, delete_artifact, is_access_denied, is_rejected

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Experiment, Metric, Param, RunTag

LOGGER = logging.getLogger(__name__)


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
    """Delivers each kind of write to MLflow. `say` shows the user a notice."""

    def __init__(
        self,
        client: MlflowClient,
        journal: Journal,
        destination: Destination,
        say: Callable[[str], object] = lambda notice: None,
    ) -> None:
        self._client, self._journal, self._destination, self._say = client, journal, destination, say
        self._store = OpenStore.of(destination)
        self._experiment: str | None = None
        self._kept = False  # whether the user knows that MLflow deletes nothing
        self._folders: dict[str, Path | None] = {}  # by run; None if MLflow stores the run's artifacts itself
        if (notice := settle(destination)) is not None:
            say(notice)

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
        from mlflow.entities import DatasetInput, InputTag

        body, scoped = write.body, f"{self._destination.scope}/{write.run}"
        # An interrupted search or delivery may have created the run.
        runs = self._client.search_runs([self.experiment()], f"tags.`{RUN_TAG}` = '{scoped}'", max_results=1)
        run_id = str(runs[0].info.run_id) if runs else self._create(body, scoped)
        self._journal.set_mlflow_id(write.run, run_id)
        if runs:
            self._client.update_run(run_id, status="RUNNING")
            self._log(run_id, tags=_run_tags(body["tags"]))
        self._log(run_id, params=_params(body["params"]))
        if data := body["dataset"]:
            context = InputTag("mlflow.data.context", "training")
            self._client.log_inputs(run_id, [DatasetInput(_dataset(data), [context])])

    def _create(self, body: Body, scoped: str) -> str:
        tags = {tag.key: tag.value for tag in _run_tags({**body["tags"], RUN_TAG: scoped})}
        if body["parent"] is not None:
            tags["mlflow.parentRunId"] = str(self._journal.mlflow_id(body["parent"]))
        values = {"start_time": body["time"], "tags": tags, "run_name": cut(body["name"], lengths.RUN_NAME)}
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
            self._experiment = self._open_experiment()
            self._journal.set_mlflow_id(EXPERIMENT, self._experiment)
            settle(self._destination)
        return self._experiment

    def _open_experiment(self) -> str:
        experiment = self._own_experiment() or self._free_experiment()
        experiment_id = str(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment_id)
        for key, value in self._destination.tags.items():
            if key not in experiment.tags:
                self._client.set_experiment_tag(experiment_id, key, value)
        if experiment.tags.get(STUDY_TAG) != self._destination.scope:
            self._client.set_experiment_tag(experiment_id, STUDY_TAG, self._destination.scope)
        return experiment_id

    def _own_experiment(self) -> Experiment | None:
        """Find the study's experiment, whatever it is called now. Older ones have no tag, but runs of the study."""
        from mlflow.entities import ViewType

        scope = self._destination.scope
        tagged = self._client.search_experiments(ViewType.ALL, 1, f"tags.`{STUDY_TAG}` = '{scope}'")
        if tagged:
            return tagged[0]
        by_id = self._experiment_by_id(self._journal.mlflow_id(EXPERIMENT))
        candidates = (by_id, self._experiment_by_name(self._destination.experiment))
        own_runs = f"tags.`{RUN_TAG}` LIKE '{scope}/%'"
        return next((found for found in candidates if found and self._has_runs(found, own_runs)), None)

    def _free_experiment(self) -> Experiment:
        """Create the experiment, or take an empty one. An experiment of that name with runs belongs to others."""
        name, scope = self._destination.experiment, self._destination.scope
        experiment = self._create_or_find(name)
        if experiment and experiment.tags.get(STUDY_TAG, scope) == scope and not self._has_runs(experiment):
            return experiment
        own = lengths.cut_distinct(f"{name}-{scope}", lengths.EXPERIMENT_NAME)
        self._say(f"the experiment {name!r} in MLflow is used by others, so the runs of this study go to {own!r}")
        found = self._create_or_find(own)
        assert found is not None, "the study's own experiment can be read"
        return found

    def _create_or_find(self, name: str) -> Experiment | None:
        """Return the experiment of this name, which is created if needed; None if this user may not read it."""
        local = self._destination.artifacts.as_uri() if self._destination.database else None
        tags = {**self._destination.tags, STUDY_TAG: self._destination.scope}
        try:
            if (found := self._experiment_by_name(name)) is not None:
                return found
            return self._client.get_experiment(self._client.create_experiment(name, local, tags=tags))
        except Exception as error:
            if is_access_denied(error):
                return None
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._experiment_by_name(name)  # another search created it meanwhile

    def _experiment_by_id(self, experiment_id: str | None) -> Experiment | None:
        try:
            return None if experiment_id is None else self._client.get_experiment(experiment_id)
        except Exception as error:
            if not is_rejected(error):
                raise
            return None  # it is gone, or the id is of another database

    def _experiment_by_name(self, name: str) -> Experiment | None:
        return self._client.get_experiment_by_name(name)

    def _has_runs(self, experiment: Experiment, filter_string: str = "") -> bool:
        from mlflow.entities import ViewType

        return bool(self._client.search_runs([experiment.experiment_id], filter_string, ViewType.ALL, max_results=1))

    def _params(self, run_id: str, batch: Sequence[Write]) -> None:
        self._log(
            run_id, params=_params({name: value for write in batch for name, value in write.body["params"].items()})
        )

    def _metrics(self, run_id: str, batch: Sequence[Write]) -> None:
        bodies = [write.body for write in batch]
        metrics = [metric for body in bodies for metric in _metric_points(body["values"], body["time"], body["step"])]
        self._log(run_id, metrics=metrics)

    def _file(self, run_id: str, batch: Sequence[Write]) -> None:
        self._put(run_id, {write.body["path"]: write.content or b"" for write in batch})

    def _put(self, run_id: str, files: Mapping[str, bytes]) -> None:
        """Store artifacts one by one: MLflow's call for a folder leaves parts of it when killed."""
        if (run_folder := self._folder(run_id)) is not None:
            for path, content in files.items():
                write_atomic(run_folder / path, content)
            return
        with tempfile.TemporaryDirectory() as temporary:
            for path, content in files.items():
                folder, _, name = path.rpartition("/")
                local = Path(temporary, name)
                local.write_bytes(content)
                self._client.log_artifact(run_id, str(local), folder or None)

    def _folder(self, run_id: str) -> Path | None:
        if run_id not in self._folders:
            stored = self._client.get_run(run_id).info.artifact_uri
            self._folders[run_id] = folder_to_write(stored, self._destination)
        return self._folders[run_id]

    def _remove(self, run_id: str, batch: Sequence[Write]) -> None:
        for body in (write.body for write in batch):
            if (run_folder := self._folder(run_id)) is not None:
                (run_folder / body["path"]).unlink(missing_ok=True)
            elif (why := delete_artifact(self._client, run_id, body["path"])) is not None:
                if not self._kept:
                    self._say(f"MLflow does not delete {body['path']} of a run, so such files stay: {why}")
                self._kept = True
                continue
            self._log(run_id, tags=_run_tags(body["tags"]))

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
        self._log(run_id, tags=_run_tags(tags))

    def _end(self, run_id: str, batch: Sequence[Write]) -> None:
        body = batch[-1].body
        metrics, tags = _metric_points(body["metrics"], body["time"], body.get("step", 0)), _run_tags(body["tags"])
        with _rejections_logged(f"the final figures of {batch[-1].run}"):
            self._log(run_id, metrics=metrics, tags=tags)
        self._client.set_terminated(run_id, body["status"], body["time"])

    def _log(
        self, run_id: str, *, metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()
    ) -> None:
        """Log in as few requests as MLflow allows, and now, even if MLFLOW_ENABLE_ASYNC_LOGGING is set."""
        parts = [
            _parts(metrics, METRICS_PER_REQUEST),
            _parts(params, PARAMS_PER_REQUEST),
            _parts(tags, TAGS_PER_REQUEST),
        ]
        for some_metrics, some_params, some_tags in zip_longest(*parts, fillvalue=()):
            self._client.log_batch(run_id, some_metrics, some_params, some_tags, synchronous=True)


def _parts(entries: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [entries[first : first + size] for first in range(0, len(entries), size)]


def _params(params: Mapping[str, str]) -> list[Param]:
    from mlflow.entities import Param

    return [Param(mlflow_name(name), cut(value, lengths.PARAM)) for name, value in params.items()]


def _dataset(data: Mapping[str, Any]) -> Dataset:
    from mlflow.entities import Dataset

    name, source = cut(data["name"], lengths.DATASET_NAME), cut(data["source"], lengths.DATASET_SOURCE)
    return Dataset(name, cut(data["digest"], lengths.DATASET_DIGEST), "local", source, profile=json.dumps(data))


def _run_tags(tags: Mapping[str, str]) -> list[RunTag]:
    from mlflow.entities import RunTag

    return [RunTag(mlflow_name(name), cut(value, lengths.run_tag(name))) for name, value in tags.items()]


def _metric_points(values: Mapping[str, float], time_ms: int, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    return [Metric(mlflow_name(name), value, time_ms, step) for name, value in values.items()]


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
            if batch and (kind in ("run", "pictures") or n_points + n > METRICS_PER_REQUEST):
                yield batch
                batch, n_points = [], 0
            batch.append(write)
            n_points += n
        yield batch
