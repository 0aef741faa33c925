"""A tracking store of MLflow: where it is, how it is reached, and what it will never accept."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import StorageError
from search.sqlite import MLFLOW_TABLE, check_sqlite, connect, create_whole, sqlite_file
from search.trouble import tracking_error

if TYPE_CHECKING:
    from mlflow import MlflowClient


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


def is_refusal(error: Exception) -> bool:
    """Whether MLflow understood a request and will never accept it, as opposed to being out of reach."""
    code = getattr(error, "error_code", None)
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")
