"""MLflow's models: log, register, load. Which version is champion, `search.promotion` knows.

A published model is a `torch.export` program (MLflow's `pt2` format): it loads without this project and without pickle.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search.config import Config
from search.delivery import RUN_TAG
from search.errors import ModelNotFoundError, UnpublishableError
from search.masking import first_line
from search.mlflow_store import connect_mlflow, is_refusal, mlflow_errors
from search.promotion import CHALLENGER, CHAMPION, challenge, settle, versions, why_behind

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel
    from mlflow.models import Model

TRIES = 10
BATCH = 500


@dataclass(frozen=True)
class Published:
    """A registered version."""

    name: str
    version: str
    champion: str
    """Version that the alias points to now."""
    why: str | None
    """Why that is another one; None when it is this one."""

    @property
    def alias(self) -> str:
        """The alias that this version has."""
        return CHALLENGER if self.why else CHAMPION

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` takes; the same model for ever, unlike the alias."""
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
    """Log a trained network as a model of a run, register it, and make it champion if it is the best of its protocol.

    model: makes it, on the CPU; of a classifier float32 (n, c, h, w) in [0, 1] to probabilities (n, k).
    example: what it takes, n >= 2.
    `tags` hold `validation` and `protocol.*`, by which versions are compared, and `search.run`, by which a version that
    was registered before is found again: its tags and description are then brought up to date. `card` gives the
    description of a version, in Markdown.
    Raises TrackingError when MLflow does not do it, UnpublishableError when it never will.
    """
    client = connect_mlflow(uri)
    with mlflow_errors(uri, "the model could not be registered"):
        found = _registered(client, name, tags[RUN_TAG])
        if found is None:
            with _fluent(uri):  # the registry, too, looks a model's URI up in the store that is set for the module
                model_uri, model_id = _log(run_id, model(), example, metadata)
                _create_name(client, name)
                found = _create_version(client, name, model_uri, run_id, model_id, tags)
        version = str(found.version)
        _retag(client, found, tags)
        if found.description != (text := card(version)):
            client.update_model_version(name, version, description=text)
        champion = settle(client, name, version)
        if champion == version:
            return Published(name, version, champion, None)
        challenge(client, name, version)
        return Published(name, version, champion, why_behind(client, name, version, champion))


def _create_version(
    client: MlflowClient, name: str, model_uri: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Make a version. MLflow numbers it itself and gives up after three collisions with others that do the same."""
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
    """Give a version the tags that it lacks."""
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
        except Exception as error:  # torch.export has no one type for what it cannot follow
            raise UnpublishableError(
                f"torch.export cannot write its network down: {type(error).__name__}: {first_line(error)}"
            ) from error
    return info.model_uri, info.model_id


def _output(model: torch.nn.Module, example: NDArray[np.float32]) -> NDArray[Any]:
    import torch

    with torch.no_grad():
        found: NDArray[Any] = model(torch.from_numpy(example)).numpy()
    return found


@contextmanager
def _reopened(run_id: str) -> Iterator[None]:
    """Go on with a run that has ended, and leave its duration as it was."""
    import mlflow

    client = mlflow.MlflowClient()
    ended = client.get_run(run_id).info.end_time
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
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
    return next((version for version in versions(client, name) if version.tags.get(RUN_TAG) == run), None)


def _create_name(client: MlflowClient, name: str) -> None:
    import mlflow

    try:
        client.create_registered_model(name)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


@dataclass(frozen=True)
class Loaded:
    """A registered classifier and what it says of itself."""

    uri: str
    model: Any
    metadata: Mapping[str, Any]
    version: str | None = None
    """That an alias stood for; None where `uri` says which."""

    @property
    def words(self) -> str:
        """Which it is, for people."""
        return f"{self.uri}, version {self.version}" if self.version else self.uri

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
    """Name of the model whose champion was registered last.

    Raises ModelNotFoundError when there is none, TrackingError when MLflow does not answer.
    """
    models = [model for model in _models(client) if CHAMPION in model.aliases]
    if not models:
        raise ModelNotFoundError(
            "no champion is registered here yet. Run a search first (python -m search), or go to the folder where one "
            "ran, or name it with --workspace DIR"
        )
    return str(max(models, key=lambda model: model.last_updated_timestamp or 0).name)


def _models(client: MlflowClient) -> Sequence[RegisteredModel]:
    with mlflow_errors(client.tracking_uri):
        return list(client.search_registered_models())


def require_store(config: Config) -> None:
    """Reading must not make a store. Raises ModelNotFoundError when there is none."""
    if config.tracking_uri is None and not (config.workspace / "mlflow.db").exists():
        raise ModelNotFoundError(
            f"there is no mlflow.db in {config.workspace.absolute()}, so no model is registered here yet. Run a search "
            "first (python -m search), or name the folder where one ran with --workspace DIR"
        )


def uri_of(model: str) -> str:
    """MLflow's address: `mnist` is the champion of that name, `mnist/3` a version, `mnist@challenger` an alias.

    Raises ModelNotFoundError for what names none.
    """
    if ":/" in model:
        return model
    name, slash, number = model.partition("/")
    if slash and not number.isdecimal():
        raise ModelNotFoundError(f"{model!r}: a version is a number, as in {name}/1; an alias is {name}@{CHAMPION}")
    return f"models:/{model if slash or '@' in model else f'{model}@{CHAMPION}'}"


def load(tracking_uri: str, model: str | None = None) -> Loaded:
    """Load a registered model, by what `uri_of` takes; by default the newest champion.

    Raises ModelNotFoundError when there is no such model, or it is not one that a search has registered, TrackingError
    when MLflow does not answer.
    """
    client = connect_mlflow(tracking_uri)
    import mlflow

    names = sorted(each.name for each in _models(client))
    model_uri, version = uri_of(model or newest_champion(client)), None
    try:
        with _fluent(tracking_uri), _without_pickle(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            local = mlflow.artifacts.download_artifacts(model_uri)
            described = mlflow.models.Model.load(local)
            _require_ours(described, model_uri)
            loaded = mlflow.pyfunc.load_model(local)
        if "@" in model_uri:
            version = client.get_model_version_by_alias(*model_uri.removeprefix("models:/").split("@", 1)).version
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise ModelNotFoundError(
            f"{model_uri} cannot be loaded: {first_line(error).rstrip('.')}. Registered here: "
            f"{', '.join(names) or 'none'}. Name for example {(names or ['mnist'])[0]}@{CHAMPION} or "
            f"{(names or ['mnist'])[0]}/1"
        ) from None
    metadata = described.metadata or {}
    return Loaded(model_uri, loaded, metadata, None if version is None else str(version))


@contextmanager
def _without_pickle() -> Iterator[None]:
    """A registry may be somebody else's: MLflow is to unpickle nothing that comes from there."""
    name = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _require_ours(model: Model, uri: str) -> None:
    """Raise ModelNotFoundError unless it says what a search says, and brings no code to be run on this machine."""
    metadata, function = model.metadata or {}, model.flavors.get("python_function", {})
    if "classes" not in metadata or "framing" not in metadata:
        raise ModelNotFoundError(
            f"{uri} is no classifier of images that a search registered; name one with --model, or load this one "
            f"with mlflow.pyfunc.load_model({uri!r})"
        )
    if function.get("loader_module") != "mlflow.pytorch" or function.get("code"):
        raise ModelNotFoundError(f"{uri} brings code of its own, which no model of a search does, and is not run here")


def download(tracking_uri: str, run_id: str, path: str) -> bytes:
    """An artifact of a run. Raises TrackingError when it cannot be had."""
    client = connect_mlflow(tracking_uri)
    with mlflow_errors(tracking_uri, f"{path} of run {run_id} cannot be read"), tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
