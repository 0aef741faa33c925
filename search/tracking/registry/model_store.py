"""How is a registered model found by its name, and loaded without running code that is not ours?"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from search.common.config import Config
from search.common.errors import ModelNotFoundError
from search.common.passwords import first_line
from search.tracking.registry.promotion import CHAMPION, model_names
from search.tracking.store import connect_mlflow, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel


def require_store(config: Config) -> None:
    """Raise ModelNotFoundError when there is no MLflow database, so that reading does not create one."""
    if config.tracking_uri is None and not (config.workspace / "mlflow.db").exists():
        raise ModelNotFoundError(
            f"there is no mlflow.db in {config.workspace.absolute()}, so no model is registered here yet. Run a search "
            "first (python -m search), or name the folder where one ran with --workspace DIR"
        )


def newest_champion(client: MlflowClient) -> str:
    """Return the name of the model that was updated last, of those with a champion.

    Raises ModelNotFoundError when there is none, TrackingError when MLflow does not answer.
    """
    with mlflow_errors(client.tracking_uri):
        models = [model for model in client.search_registered_models() if CHAMPION in model.aliases]
    if not models:
        raise ModelNotFoundError(
            "no champion is registered here yet. Run a search first (python -m search), or go to the folder where one "
            "ran, or name it with --workspace DIR"
        )
    return str(max(models, key=lambda model: model.last_updated_timestamp or 0).name)


def uri_of(model: str) -> str:
    """Return MLflow's URI of a model: `mnist` is its champion, `mnist/3` a version, `mnist@challenger` an alias.

    Raises ModelNotFoundError for anything else.
    """
    if ":/" in model:
        return model
    name, slash, number = model.partition("/")
    if slash and not number.isdecimal():
        raise ModelNotFoundError(f"{model!r}: a version is a number, as in {name}/1; an alias is {name}@{CHAMPION}")
    return f"models:/{model if slash or '@' in model else f'{model}@{CHAMPION}'}"


def load_model(tracking_uri: str, model: str | None = None) -> tuple[str, str | None, PyFuncModel]:
    """Load a registered model, by default the newest champion. Return its URI, its version, and the model.

    model: what `uri_of` takes. The version is None when the URI has neither a version nor an alias.
    Raises ModelNotFoundError when there is no such model or no search registered it, TrackingError when MLflow does not
    answer.
    """
    client = connect_mlflow(tracking_uri)
    import mlflow

    uri = uri_of(model or newest_champion(client))
    with mlflow_errors(tracking_uri):
        names = model_names(client)
    try:
        with default_store(tracking_uri), _without_pickle(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = _version(client, uri)
            exact = f"{uri.partition('@')[0]}/{version}" if "@" in uri else uri  # the alias may move meanwhile
            local = mlflow.artifacts.download_artifacts(exact)
            _require_ours(mlflow.models.Model.load(local), uri)
            return uri, version, mlflow.pyfunc.load_model(local)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        first = names.partition(",")[0] if names != "none" else "mnist"
        raise ModelNotFoundError(
            f"{uri} cannot be loaded: {first_line(error).rstrip('.')}. Registered here: {names}. Name for example "
            f"{first}@{CHAMPION} or {first}/1"
        ) from None


def _version(client: MlflowClient, uri: str) -> str | None:
    """Return the version behind a URI of the registry."""
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        return str(client.get_model_version_by_alias(name, alias).version)
    _, slash, number = name.partition("/")
    return number if slash and number.isdecimal() else None


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Point MLflow's module-level functions at a store, and back afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextmanager
def _without_pickle() -> Iterator[None]:
    """Forbid MLflow to unpickle: the registry may belong to someone else."""
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
    """Raise ModelNotFoundError unless a search registered the model and it brings no code of its own."""
    metadata, function = model.metadata or {}, model.flavors.get("python_function", {})
    if "classes" not in metadata or "framing" not in metadata:
        raise ModelNotFoundError(
            f"{uri} is no image classifier that a search registered; name one with --model, or load this one with "
            f"mlflow.pyfunc.load_model({uri!r})"
        )
    if function.get("loader_module") != "mlflow.pytorch" or function.get("code"):
        raise ModelNotFoundError(f"{uri} brings code of its own, which is not run; models of a search bring none")


def download(tracking_uri: str, run_id: str, path: str) -> bytes:
    """Read an artifact of a run. Raises TrackingError when that fails."""
    client = connect_mlflow(tracking_uri)
    with mlflow_errors(tracking_uri, f"{path} of run {run_id} cannot be read"), tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
