"""Registers a trained network as a version of a model.

A registered model is a `torch.export` program, MLflow's `pt2` format. It loads without this project and without pickle.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from search.common.errors import TrackingError, UnpublishableError
from search.common.passwords import first_line
from search.common.sqlite import sqlite_file
from search.tracking.locations import Location, make_absolute, settle_models
from search.tracking.registry.promotion import CHALLENGER, CHAMPION, promote_if_better, set_challenger
from search.tracking.registry.version import versions, why_not_champion
from search.tracking.store import RUN_TAG, connect_mlflow, default_store, mlflow_errors, retry, tagged_runs

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

FAILED = "the model could not be registered"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version: str
    why: str | None  # why this version is not the champion; None if it is
    restored: bool = False  # true if its run had been deleted in MLflow

    @property
    def alias(self) -> str:
        return CHALLENGER if self.why else CHAMPION

    @property
    def uri(self) -> str:
        """The URI for `mlflow.pyfunc.load_model`. Unlike an alias, it always means this version."""
        return f"models:/{self.name}/{self.version}"


def publish(
    uri: str,
    *,
    run_id: str,
    name: str,
    model: Callable[[], torch.nn.Module],
    example: NDArray[Any],
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    card: Callable[[str], str],
) -> RegisteredVersion:
    """Log a trained network as a model of a run, register it, and make it the champion if it is better.

    model: builds the network on the CPU, in evaluation mode. example: inputs, n >= 2.
    card: describes a version, in Markdown. tags: what `version.tags` returns. If their run has a version already, its
    tags and description are updated.
    Raises TrackingError if MLflow fails, UnpublishableError if the network cannot be exported.
    """
    client, restored = connect_mlflow(uri), False
    with mlflow_errors(uri, FAILED):
        registered = _find(client, name, tags[RUN_TAG])
        if registered is None:
            restored = _restore(client, run_id)
            with default_store(uri):  # the registry looks the model's URI up in MLflow's default store
                logged = _log(run_id, model(), example, metadata)
                registered = _create_version(client, name, run_id, logged, tags)
            if (database := _database_of_workspace(client, run_id)) is not None:
                settle_models(database, client.get_run(run_id).info.experiment_id)
        version = str(registered.version)
        for key, value in tags.items():
            if registered.tags.get(key) != value:
                client.set_model_version_tag(name, version, key, value)
        if registered.description != (text := card(version)):
            client.update_model_version(name, version, description=text)
        champion = promote_if_better(client, name, version)
        if champion == version:
            return RegisteredVersion(name, version, None, restored)
        set_challenger(client, name, version)
        return RegisteredVersion(name, version, why_not_champion(client, name, version, champion), restored)


def find_run(uri: str, uid: str, run: str) -> str | None:
    """Find the id of a study's run in any experiment; None if there is none. Raises TrackingError if MLflow fails."""
    from mlflow.entities import ViewType

    client = connect_mlflow(uri)
    with mlflow_errors(uri, f"MLflow cannot be asked for {run}"):
        experiments = [experiment.experiment_id for experiment in client.search_experiments(ViewType.ALL)]
        for tagged in tagged_runs(uid, run):
            filter_ = f"tags.`{RUN_TAG}` = '{tagged}'"
            if found := client.search_runs(experiments, filter_, ViewType.ALL, max_results=1):
                return str(found[0].info.run_id)
    return None


def _find(client: MlflowClient, name: str, run: str) -> ModelVersion | None:
    return next((version for version in versions(client, name) if version.tags.get(RUN_TAG) == run), None)


def _restore(client: MlflowClient, run_id: str) -> bool:
    """Restore a run that a user deleted, and its experiment. Returns whether it was deleted.

    Raises UnpublishableError if MLflow has it no more.
    """
    import mlflow

    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        advice = "start another study with --study NAME, and add --warm-start with the name of this one"
        raise UnpublishableError(f"its run {run_id} was deleted from MLflow for good; {advice}") from None
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if client.get_run(run_id).info.lifecycle_stage != "deleted":
        return bool(run.info.lifecycle_stage == "deleted")
    client.restore_run(run_id)
    return True


def _create_version(
    client: MlflowClient, name: str, run_id: str, logged: tuple[str, str], tags: Mapping[str, str]
) -> ModelVersion:
    """Create a version, and the registered model if it is new. `logged` is the model's URI and id."""
    import mlflow

    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise

    def create() -> ModelVersion:  # MLflow numbers it, and gives up after three collisions with other writers
        created = _find(client, name, tags[RUN_TAG])
        uri, model_id = logged
        return created or client.create_model_version(name, uri, run_id, tags=dict(tags), model_id=model_id)

    return retry(FAILED, create, attempts=10)


def _log(run_id: str, network: torch.nn.Module, example: NDArray[Any], metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Log the network as a model of a run that has ended. Return the model's URI and id."""
    import mlflow
    import torch

    _require_room(network)

    with torch.no_grad():
        output = network(torch.from_numpy(example)).numpy()
    try:
        with warnings.catch_warnings(action="ignore"):
            info = mlflow.pytorch.log_model(
                network,
                name="model",
                model_id=_prepared(run_id),
                run_id=run_id,
                serialization_format="pt2",
                signature=mlflow.models.infer_signature(example, output),
                input_example=example,
                pip_requirements=[f"{package}=={installed(package)}" for package in ("mlflow", "torch", "numpy")],
                metadata=dict(metadata),
            )
    except (mlflow.exceptions.MlflowException, OSError):
        raise
    except Exception as error:  # torch.export raises many types
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UnpublishableError(f"torch.export cannot export the network: {reason}") from error
    return info.model_uri, info.model_id


def _prepared(run_id: str) -> str:
    """Return the id of a new model of a run, whose files MLflow can write from any folder.

    Without it, MLflow would put the model into the active experiment, and a user's notebook may have one.
    """
    import mlflow

    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    model = mlflow.initialize_logged_model(
        "model", source_run_id=run_id, params=run.data.params, experiment_id=run.info.experiment_id
    )
    if (database := _database_of_workspace(client, run_id)) is not None:
        make_absolute(database, model.model_id)
    return str(model.model_id)


def _database_of_workspace(client: MlflowClient, run_id: str) -> Path | None:
    """Return the database if it holds locations that are relative to its folder, else None."""
    location = Location.of(client.get_run(run_id).info.artifact_uri)
    return sqlite_file(client.tracking_uri) if location and location.workspace is None else None


def _require_room(network: torch.nn.Module) -> None:
    """Raise TrackingError if the model's files do not fit where MLflow makes them: torch would abort the process."""
    folder = tempfile.gettempdir()
    free, weights = shutil.disk_usage(folder).free, network.state_dict().values()
    needed = 3 * sum(tensor.nbytes for tensor in weights) + 10_000_000
    if free < needed:
        sizes = f"has {free / 1e6:.1f} MB left, and {needed / 1e6:.0f} MB are needed"
        raise TrackingError(f"{folder}, the folder for temporary files, {sizes}: free some, or set TMPDIR to another")
