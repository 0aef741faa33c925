"""How does a trained network become a version of a registered model?

A registered model is a `torch.export` program, MLflow's `pt2` format. It loads without this project and without pickle.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.common.errors import UnpublishableError
from search.common.passwords import first_line
from search.tracking.delivery import RUN_TAG
from search.tracking.registry.comparison import versions, why_not_champion
from search.tracking.registry.model_store import default_store
from search.tracking.registry.promotion import CHALLENGER, CHAMPION, promote_if_better, set_challenger
from search.tracking.store import connect_mlflow, is_refusal, mlflow_errors

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

TRIES = 10


@dataclass(frozen=True)
class Published:
    """A registered version."""

    name: str
    version: str
    champion: str
    """The champion's version after the registration."""
    why: str | None
    """Why this version is not the champion; None when it is."""

    @property
    def alias(self) -> str:
        """The alias of this version."""
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
    example: NDArray[np.float32],
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    card: Callable[[str], str],
) -> Published:
    """Log a trained network as a model of a run, register it, and make it the champion if it is better.

    model: builds the network on the CPU. A classifier maps float32 (n, c, h, w) in [0, 1] to probabilities (n, k).
    example: inputs of the network, n >= 2. card: returns the description of a version, in Markdown.
    tags: `validation` and `protocol.*` are what versions are compared by. `search.run` identifies the version: if it is
    registered already, its tags and its description are updated.
    Raises TrackingError when MLflow fails, UnpublishableError when the network cannot be exported.
    """
    client = connect_mlflow(uri)
    with mlflow_errors(uri, "the model could not be registered"):
        found = _registered(client, name, tags[RUN_TAG])
        if found is None:
            with default_store(uri):  # the registry looks the model's URI up in MLflow's default store
                model_uri, model_id = _log(run_id, model(), example, metadata)
                _create_name(client, name)
                found = _create_version(client, name, model_uri, run_id, model_id, tags)
        version = str(found.version)
        _retag(client, found, tags)
        if found.description != (text := card(version)):
            client.update_model_version(name, version, description=text)
        champion = promote_if_better(client, name, version)
        if champion == version:
            return Published(name, version, champion, None)
        set_challenger(client, name, version)
        return Published(name, version, champion, why_not_champion(client, name, version, champion))


def _create_version(
    client: MlflowClient, name: str, model_uri: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Create a version. MLflow numbers it, and gives up after three collisions with other writers."""
    import mlflow

    for attempt in range(TRIES):
        try:
            return client.create_model_version(name, model_uri, run_id, tags=dict(tags), model_id=model_id)
        except mlflow.exceptions.MlflowException as error:
            if is_refusal(error) or attempt == TRIES - 1:
                raise
            time.sleep(random.uniform(0.0, 0.2))
            if (made := _registered(client, name, tags[RUN_TAG])) is not None:
                return made
    raise AssertionError("the last attempt raises")


def _retag(client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Set the tags of a version that differ."""
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, str(version.version), key, value)


def _log(
    run_id: str, model: torch.nn.Module, example: NDArray[np.float32], metadata: Mapping[str, Any]
) -> tuple[str, str]:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    given = _output(model, example)
    signature = ModelSignature(
        Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        Schema([TensorSpec(given.dtype, (-1, *given.shape[1:]))]),
    )
    requirements = [f"{package}=={installed(package)}" for package in ("mlflow", "torch", "numpy")]
    with _reopened(run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            info = mlflow.pytorch.log_model(
                model.eval(),
                name="model",
                serialization_format="pt2",
                signature=signature,
                input_example=example,
                pip_requirements=requirements,
                metadata=dict(metadata),
            )
        except (mlflow.exceptions.MlflowException, OSError):
            raise
        except Exception as error:  # torch.export raises many types
            raise UnpublishableError(
                f"torch.export cannot export the network: {type(error).__name__}: {first_line(error)}"
            ) from error
    return info.model_uri, info.model_id


def _output(model: torch.nn.Module, example: NDArray[np.float32]) -> NDArray[Any]:
    import torch

    with torch.no_grad():
        found: NDArray[Any] = model(torch.from_numpy(example)).numpy()
    return found


@contextmanager
def _reopened(run_id: str) -> Iterator[None]:
    """Resume a run that has ended, and restore its end time afterwards."""
    import mlflow

    client = mlflow.MlflowClient()
    ended = client.get_run(run_id).info.end_time
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        client.set_terminated(run_id, "FINISHED", ended)


def _registered(client: MlflowClient, name: str, run: str) -> ModelVersion | None:
    return next((version for version in versions(client, name) if version.tags.get(RUN_TAG) == run), None)


def _create_name(client: MlflowClient, name: str) -> None:
    import mlflow

    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
