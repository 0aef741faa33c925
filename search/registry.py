"""The only door to MLflow's models: log, register, promote, load.

A published model is a `torch.export` program (MLflow's `pt2` format): it loads without this project and without pickle.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.config import mask
from search.errors import ModelNotFoundError, TrackingError
from search.storage import first_line
from search.tracking import connect_mlflow

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
SCORE_TAG = "validation"
TRIES = 20
BATCH = 500


@dataclass(frozen=True)
class Published:
    """A registered version."""

    name: str
    version: str
    is_champion: bool
    champion: str
    """Version that the alias points to now."""

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes; the same model for ever, unlike the alias."""
        return f"models:/{self.name}/{self.version}"


def publish(
    uri: str,
    *,
    run_id: str,
    name: str,
    model: torch.nn.Module,
    example: NDArray[np.float32],
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    note: str = "",
    maximize: bool = True,
) -> Published:
    """Log a trained network as a model of a run, register it, and make it champion if it is the best of its name.

    model: float32 (n, c, h, w) in [0, 1] to probabilities (n, k), on the CPU. example: (n >= 2, c, h, w).
    `tags` hold `validation`, by which versions are compared, and `search.run`, by which a version that an interrupted
    search already registered is found again; `note` is Markdown for people. Raises TrackingError when MLflow does not
    do it.
    """
    import mlflow

    client = connect_mlflow(uri)
    try:
        found = _registered(client, name, tags["search.run"])
        if found is None:
            with _fluent(uri):  # the registry, too, looks a model's URI up in the store that is set for the module
                model_uri, model_id = _log(run_id, model, example, metadata)
                _create_name(client, name)
                found = client.create_model_version(
                    name, model_uri, run_id, tags=dict(tags), description=note, model_id=model_id
                )
        champion = promote(client, name, maximize=maximize)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise TrackingError(f"the model could not be registered: {first_line(error)}") from error
    return Published(name, str(found.version), str(found.version) == champion, champion)


def _log(
    run_id: str, model: torch.nn.Module, example: NDArray[np.float32], metadata: Mapping[str, Any]
) -> tuple[str, str]:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    n_classes = len(metadata["classes"])
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]))]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, n_classes))]),
    )
    requirements = [f"{package}=={installed(package)}" for package in ("mlflow", "torch", "numpy")]
    with _reopened(run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = mlflow.pytorch.log_model(
            model.eval(),
            name="model",
            serialization_format="pt2",
            signature=signature,
            input_example=example,
            pip_requirements=requirements,
            metadata=dict(metadata),
        )
    return info.model_uri, info.model_id


@contextmanager
def _reopened(run_id: str) -> Iterator[None]:
    """Go on with a run that has ended, and leave its duration as it was."""
    import mlflow

    client = mlflow.MlflowClient()
    ended = client.get_run(run_id).info.end_time
    with mlflow.start_run(run_id=run_id):
        yield
    client.set_terminated(run_id, "FINISHED", ended)


@contextmanager
def _fluent(uri: str) -> Iterator[None]:
    """MLflow's module-level functions on this store, and as they were afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def _registered(client: MlflowClient, name: str, run: str) -> ModelVersion | None:
    return next((version for version in versions(client, name) if version.tags.get("search.run") == run), None)


def versions(client: MlflowClient, name: str) -> Sequence[ModelVersion]:
    """All versions of a registered model, oldest first."""
    found = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return sorted(found, key=lambda version: int(version.version))


def _create_name(client: MlflowClient, name: str) -> None:
    import mlflow

    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def promote(client: MlflowClient, name: str, *, maximize: bool = True) -> str:
    """Point the alias at the best version by validation score; ties go to the oldest. Returns that version.

    The registry cannot compare and set, so the alias is looked at again after it was set: whoever looks last sees all
    versions, and each round can only move it to a better one.
    """
    import mlflow

    sign = 1.0 if maximize else -1.0
    for _ in range(TRIES):
        scored = [version for version in versions(client, name) if SCORE_TAG in version.tags]
        best = max(scored, key=lambda version: (sign * float(version.tags[SCORE_TAG]), -int(version.version)))
        try:
            if _champion(client, name) == str(best.version):
                return str(best.version)
            client.set_registered_model_alias(name, CHAMPION, best.version)
        except mlflow.exceptions.MlflowException:
            continue  # two first settings of an alias can collide; the next round sees who won
    raise TrackingError(f"the alias {CHAMPION} of {name} did not settle; type the same command again")


def _champion(client: MlflowClient, name: str) -> str | None:
    aliases = client.get_registered_model(name).aliases
    return str(aliases[CHAMPION]) if CHAMPION in aliases else None


@dataclass(frozen=True)
class Loaded:
    """A registered classifier and what it says of itself."""

    uri: str
    model: Any
    metadata: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the k classes."""
        return tuple(self.metadata["classes"])

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images: (n, c, h, w) in [0, 1]. Returns (n, k)."""
        parts = [images[first : first + BATCH] for first in range(0, len(images), BATCH)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.concatenate([np.asarray(self.model.predict(part), dtype=np.float32) for part in parts])


def newest_champion(client: MlflowClient) -> str:
    """URI of the champion that was registered last. Raises ModelNotFoundError when there is none."""
    models = [model for model in client.search_registered_models() if CHAMPION in model.aliases]
    if not models:
        raise ModelNotFoundError(
            "no champion is registered here yet. Run a search first (python -m search), or go to the folder where one "
            "ran, or name it with --workspace DIR"
        )
    newest = max(models, key=lambda model: model.last_updated_timestamp or 0)
    return f"models:/{newest.name}@{CHAMPION}"


def load(tracking_uri: str, model_uri: str | None = None) -> Loaded:
    """Load a registered model; without a URI, the newest champion.

    Raises ModelNotFoundError when there is no such model, or it is not one that a search has registered.
    """
    client = connect_mlflow(tracking_uri)
    import mlflow

    try:
        model_uri = model_uri or newest_champion(client)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {mask(tracking_uri)} does not answer: {first_line(error)}") from None
    try:
        with _fluent(tracking_uri), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = mlflow.pyfunc.load_model(model_uri)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        names = ", ".join(sorted(model.name for model in client.search_registered_models())) or "none"
        raise ModelNotFoundError(
            f"--model {model_uri} cannot be loaded: {first_line(error)}. Registered here: {names}. "
            f"Type for example --model models:/mnist@{CHAMPION} or models:/mnist/1"
        ) from None
    metadata = model.metadata.metadata or {}
    if "classes" not in metadata or "framing" not in metadata:
        raise ModelNotFoundError(f"{model_uri} was not registered by a search; it says nothing of its classes")
    return Loaded(model_uri, model, metadata)


def download(tracking_uri: str, run_id: str, path: str) -> bytes:
    """An artifact of a run. Raises TrackingError when it cannot be had."""
    client = connect_mlflow(tracking_uri)
    import mlflow

    try:
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise TrackingError(f"{path} of run {run_id} cannot be read: {first_line(error)}") from None
