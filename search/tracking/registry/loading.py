"""Finds and loads registered models, without running code that came with them."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import warnings
import weakref
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.data.names import has_path
from search.common.config import Config, why_no_model_name
from search.common.errors import ModelNotFoundError, RunGoneError
from search.common.passwords import first_line
from search.common.sqlite import sqlite_file, temporary_folder
from search.common.system import environment
from search.tracking.locations import locate
from search.tracking.registry.program_texts import code_in
from search.tracking.registry.programs import NO_PICKLE, PROGRAM
from search.tracking.registry.promotion import CHAMPION
from search.tracking.registry.version import newest_versions
from search.tracking.store import connect_mlflow, default_store, is_rejected, mlflow_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

FIRST_SEARCH = "Run a search first (python -m search)"


def require_store(config: Config) -> None:
    """Raise ModelNotFoundError if the MLflow database does not exist, so that reading does not create it."""
    if config.tracking_uri is None and not (config.workspace / "mlflow.db").exists():
        missing = f"there is no mlflow.db in {config.workspace.absolute()}, so no model is registered here yet"
        advice = f"{FIRST_SEARCH}, or name the folder where one ran with --workspace DIR"
        if os.environ.get("MLFLOW_TRACKING_URI"):  # MLflow's set_tracking_uri sets it too
            advice += (
                ". MLFLOW_TRACKING_URI is not used: name that store with --tracking-uri, or tracking_uri= in Python"
            )
        raise ModelNotFoundError(f"{missing}. {advice}")


def connect_to_read(uri: str) -> MlflowClient:
    """Return a client for an existing store. Raises ModelNotFoundError without one, and as `connect_mlflow` does."""
    if (path := sqlite_file(uri)) is not None and not path.exists():
        raise ModelNotFoundError(f"there is no MLflow database at {path}. {FIRST_SEARCH}, or name another file")
    return connect_mlflow(uri, read_only=True)


def newest_champion(client: MlflowClient) -> str:
    """Return the name of the last updated model that has a champion. Raises ModelNotFoundError without one."""
    with mlflow_errors(client.tracking_uri):
        models = [model for model in client.search_registered_models() if CHAMPION in model.aliases]
        others = newest_versions(client)
    if not models and others:
        version = shlex.quote("{}/{}".format(*next(iter(others.items()))))
        advice = f"To make a version the champion, type for example: python -m search promote {version}"
        raise ModelNotFoundError(f"no model here has a champion. Registered here: {', '.join(others)}. {advice}")
    if not models:
        other_folder = "or go to the folder where one ran, or name it with --workspace DIR"
        raise ModelNotFoundError(f"no champion is registered here yet. {FIRST_SEARCH}, {other_folder}")
    return str(max(models, key=lambda model: model.last_updated_timestamp or 0).name)


def uri_of(model: str) -> str:
    """Return MLflow's URI of a model: `mnist` is its champion, `mnist/3` a version, `mnist@challenger` an alias.

    Raises ModelNotFoundError for a name that no model can have.
    """
    if ":/" in model and not has_path(model):
        return model
    name, slash, number = model.partition("/")
    if (problem := why_no_model_name(name.partition("@")[0])) is not None:
        raise ModelNotFoundError(problem)
    if slash and not number.isdecimal():
        raise ModelNotFoundError(f"{model!r}: a version is a number, as in {name}/1; an alias is {name}@{CHAMPION}")
    return f"models:/{model if slash or '@' in model else f'{model}@{CHAMPION}'}"


def load_registered(tracking_uri: str, model: str | None = None) -> tuple[str, str | None, PyFuncModel]:
    """Load a registered model, by default the newest champion. Return its URI, its version, and the model.

    model: as for `uri_of`. The version is None if the URI has neither a version nor an alias.
    Raises ModelNotFoundError unless a search registered the model, TrackingError if MLflow does not answer.
    """
    named = None if model is None else uri_of(model)
    client = connect_to_read(tracking_uri)
    import mlflow

    uri = named or f"models:/{newest_champion(client)}@{CHAMPION}"
    with mlflow_errors(tracking_uri):
        others = newest_versions(client)
    try:
        with default_store(client.tracking_uri), environment(NO_PICKLE), warnings.catch_warnings(action="ignore"):
            version = _version(client, uri)
            exact = f"{uri.partition('@')[0]}/{version}" if "@" in uri else uri  # the alias may move meanwhile
            local = _fetch(client, sqlite_file(tracking_uri), exact, version)
            _require_ours(mlflow.models.Model.load(local), uri)
            _require_no_code(Path(local, "data", PROGRAM), uri)
            loaded = mlflow.pyfunc.load_model(local)
            weakref.finalize(loaded, shutil.rmtree, local, ignore_errors=True)
            return uri, version, loaded
    except (mlflow.exceptions.MlflowException, OSError) as error:
        advice = f"No model is registered here. {FIRST_SEARCH}"
        if others:
            first, newest = next(iter(others.items()))
            names = f"Registered here: {', '.join(others)}"
            advice = f"{names}. Name for example {first}@{CHAMPION} or {first}/{newest}"
        raise ModelNotFoundError(f"{uri} cannot be loaded: {first_line(error).rstrip('.')}. {advice}") from None


def _version(client: MlflowClient, uri: str) -> str | None:
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if at:
        return str(client.get_model_version_by_alias(name, alias).version)
    number = name.partition("/")[2]
    return number if number.isdecimal() else None


def _fetch(client: MlflowClient, database: Path | None, uri: str, version: str | None) -> str:
    """Copy a model to a temporary folder, and return its path.

    MLflow writes a note beside what it loads, and decodes `%20` in the name of a folder.
    """
    import mlflow

    temporary = temporary_folder()
    if database is None or (folder := _local_folder(client, database, uri, version)) is None:
        return str(mlflow.artifacts.download_artifacts(uri, dst_path=str(temporary)))
    return str(shutil.copytree(folder, temporary / "model"))


def _local_folder(client: MlflowClient, database: Path, uri: str, version: str | None) -> Path | None:
    """Return the folder of a model in a local store, wherever the workspace is now; None if MLflow has to find it."""
    import mlflow

    source: str | None = uri
    if version is not None:
        source = client.get_model_version(uri.removeprefix("models:/").rpartition("/")[0], version).source
    if source is None or not source.startswith("models:/m-"):
        return None
    try:
        stored = client.get_logged_model(source.removeprefix("models:/")).artifact_location
    except mlflow.exceptions.MlflowException:  # it was deleted; the version may have files of its own
        return None
    folder = locate(stored, database)
    return folder if folder is not None and folder.is_dir() else None


def _require_ours(model: Model, uri: str) -> None:
    """Raise ModelNotFoundError unless a search registered the model and it brings no code of its own."""
    metadata, function = model.metadata or {}, model.flavors.get("python_function", {})
    if "shape" not in metadata and "classes" not in metadata:
        remedy = f"name one with --model, or load this one with mlflow.pyfunc.load_model({uri!r})"
        raise ModelNotFoundError(f"{uri} is not a model that a search registered; {remedy}")
    if (function.get("loader_module"), function.get("data")) != ("mlflow.pytorch", "data") or function.get("code"):
        raise ModelNotFoundError(f"{uri} brings code of its own, which is not run; models of a search bring none")


def _require_no_code(program: Path, uri: str) -> None:
    """Raise ModelNotFoundError if torch would run a text of the program as code. MLflow refuses other files."""
    try:
        code = code_in(program) if program.exists() else None
    except (ValueError, zipfile.BadZipFile) as error:
        raise ModelNotFoundError(f"{uri} is damaged: {first_line(error)}") from None
    if code is not None:
        raise ModelNotFoundError(f"{uri} brings code of its own, which is not run: {code!r}")


def download(tracking_uri: str, run_id: str, path: str) -> bytes | None:
    """Read an artifact at the top of a run; None if the run has none.

    Raises RunGoneError if the run does not exist, TrackingError if reading fails.
    """
    import mlflow

    client, database = connect_to_read(tracking_uri), sqlite_file(tracking_uri)
    failed = f"{path} of run {run_id} cannot be read"
    with mlflow_errors(tracking_uri, failed), tempfile.TemporaryDirectory() as folder:
        try:
            run = client.get_run(run_id)
        except mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RunGoneError(f"{failed}: MLflow has no such run any more") from None
        if database is not None and (found := locate(run.info.artifact_uri, database)) is not None:
            return (found / path).read_bytes() if (found / path).exists() else None
        if path not in [file.path for file in client.list_artifacts(run_id)]:
            return None
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def artifact_sizes(tracking_uri: str, run_ids: Iterable[str], path: str) -> dict[str, int]:
    """The size in bytes of an artifact at the top of each run that has it. Raises TrackingError when that fails."""
    client, database = connect_to_read(tracking_uri), sqlite_file(tracking_uri)
    sizes = {}
    with mlflow_errors(tracking_uri, f"the sizes of {path} cannot be read"):
        for run_id in run_ids:
            if (size := _artifact_size(client, database, run_id, path)) is not None:
                sizes[run_id] = size
    return sizes


def _artifact_size(client: MlflowClient, database: Path | None, run_id: str, path: str) -> int | None:
    """None for a run that does not have the artifact, and for one that is gone."""
    try:
        location = client.get_run(run_id).info.artifact_uri
        if database is not None and (folder := locate(location, database)) is not None:
            return (folder / path).stat().st_size if (folder / path).exists() else None
        return next((file.file_size for file in client.list_artifacts(run_id) if file.path == path), None)
    except Exception as error:
        if not is_rejected(error):
            raise
        return None
