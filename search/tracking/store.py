"""An MLflow tracking store: where it is, how to connect to it, and what its errors mean for the user."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from search.common.errors import SearchError, StorageError, TrackingError, TrackingRefusedError
from search.common.passwords import bare, first_line
from search.common.sqlite import MLFLOW_TABLE, check_sqlite, connect, create_whole, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write both into ~/.mlflow/credentials "
    "(a line [mlflow], then mlflow_tracking_username = ... and mlflow_tracking_password = ...)"
)


@dataclass(frozen=True)
class Destination:
    """Where the runs of a study go."""

    uri: str
    experiment: str
    scope: str
    """Distinguishes the runs of this study from those of another study with the same name."""
    artifacts: Path
    """Root of the artifacts for a store without a server; a server has its own."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of a new experiment; those of an existing experiment are kept."""

    @property
    def database(self) -> Path | None:
        """The file of a SQLite store; None for a server."""
        return sqlite_file(self.uri)


def quiet_mlflow() -> None:
    """Configure MLflow before its import: no telemetry, no banners, no minutes of retries."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


def connect_mlflow(uri: str) -> MlflowClient:
    """Return a client for a tracking store. A missing SQLite file is created.

    One request is sent, so that a server that rejects the login does so here. Raises StorageError when the file is
    damaged or foreign, TrackingRefusedError when a server rejects this user, TrackingError when it does not answer.
    """
    quiet_mlflow()
    path = sqlite_file(uri)
    if path is not None and path.exists():
        check_sqlite(path, MLFLOW_TABLE)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are raised as well
    try:
        if path is not None:
            create_whole(path, lambda temporary: mlflow.MlflowClient(f"sqlite:///{temporary}").search_experiments())
            connect(path).close()  # leaves the file in WAL mode, in which readers do not block writers
        client = mlflow.MlflowClient(uri)
        client.search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        if "database schema" in str(error):
            raise StorageError(
                f"{path or uri} was made by another version of MLflow; type: mlflow db upgrade {uri}"
            ) from None
        raise tracking_error(error, uri) from None
    return client


# Errors


@contextmanager
def mlflow_errors(uri: str, failed: str | None = None) -> Iterator[None]:
    """Raise a SearchError with a message for the user instead of the errors of MLflow's client.

    `failed` says what did not happen, such as "the model could not be registered".
    """
    import mlflow

    try:
        yield
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise tracking_error(error, uri, failed) from error


def tracking_error(error: Exception, uri: str, failed: str | None = None) -> SearchError:
    """Return the SearchError for an error of MLflow's client; a SearchError is returned unchanged."""
    if isinstance(error, SearchError):
        return error
    store, before = f"MLflow at {bare(uri)}", f"{failed}: " if failed else ""
    if (status := http_status(error)) == 401:
        return TrackingRefusedError(f"{before}{store} wants a password: {_given_login(uri)} (401). To log in, {LOGIN}")
    if status == 403 and "Invalid Host header" in str(error):
        name = urlsplit(bare(uri)).netloc
        return TrackingRefusedError(
            f"{before}{store} does not accept the host name {name} (403). Use a name in its --allowed-hosts, or "
            f"start it with --allowed-hosts {name}"
        )
    if status == 403:
        return TrackingRefusedError(
            f"{before}{store} does not let user {user(uri)!r} do this (403). Ask its administrator for the permission, "
            f"or log in as another user: {LOGIN}"
        )
    what = "does not answer" if uri.startswith("http") else "cannot be used"
    return TrackingError(f"{before}{first_line(error)}" if failed else f"{store} {what}: {first_line(error)}")


def is_refusal(error: Exception) -> bool:
    """Return whether MLflow understood a request and will never accept it, as opposed to being unreachable."""
    code = getattr(error, "error_code", None)
    return code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


def is_denied(error: Exception) -> bool:
    """Return whether the server rejects the login or the user lacks the permission."""
    return http_status(error) in (401, 403)


def http_status(error: Exception) -> int | None:
    """Return the HTTP status behind an error; None when there was no answer."""
    if (response := getattr(error, "response", None)) is not None:  # for artifacts MLflow raises requests' own errors
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status else None


def user(uri: str) -> str | None:
    """Return the user name that MLflow's client sends; None when none was given."""
    from mlflow.utils.credentials import read_mlflow_creds

    return read_mlflow_creds().username or urlsplit(uri).username


def _given_login(uri: str) -> str:
    name = user(uri)
    return "none was given" if name is None else f"the one of user {name!r} is not right"
