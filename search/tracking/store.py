"""An MLflow tracking store: where it is, how to connect to it, and what its errors mean for the user."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from search.common.errors import SearchError, StorageError, TrackingError, TrackingRefusedError
from search.common.passwords import bare, first_line
from search.common.sqlite import MLFLOW_TABLE, check_sqlite, connect, create_whole, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

PERMANENT_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
LOGIN_HELP = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write both into ~/.mlflow/credentials "
    "(a line [mlflow], then mlflow_tracking_username = ... and mlflow_tracking_password = ...)"
)
# MLflow reads these when it is imported. The user's own values win.
MLFLOW_VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # by default it retries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Destination:
    """Where the runs of a study go."""

    uri: str
    experiment: str
    scope: str  # distinguishes the runs of this study from those of another study with the same name
    artifacts: Path  # root of the artifacts for a store without a server; a server has its own
    tags: Mapping[str, str] = field(default_factory=dict)  # the experiment's; a tag that it has already is kept

    @property
    def database(self) -> Path | None:
        """The file of a SQLite store; None for a server."""
        return sqlite_file(self.uri)


def connect_mlflow(uri: str) -> MlflowClient:
    """Return a client for a tracking store, after one request. A missing SQLite file is created.

    Raises StorageError if the file is damaged or foreign, TrackingRefusedError if the server rejects this user,
    TrackingError if it does not answer.
    """
    for variable, value in MLFLOW_VARIABLES.items():
        os.environ.setdefault(variable, value)
    _bypass_proxy(uri)
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
        if "database schema" not in str(error):
            raise tracking_error(error, uri) from None
        upgrade = f"type: mlflow db upgrade {uri}"
        raise StorageError(f"{path or uri} was made by another version of MLflow; {upgrade}") from None
    return client


def _bypass_proxy(uri: str) -> None:
    """Let requests to a server on this machine go there: `http_proxy` sends them to another, which cannot reach it."""
    host, excepted = urlsplit(uri).hostname, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host in ("localhost", "127.0.0.1", "::1") and excepted.strip() != "*" and host not in excepted.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{excepted},{host}".strip(",")


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


def retry(failed: str, call: Callable[[], T], *, attempts: int = 60) -> T:
    """Call MLflow again while SQLite is busy or writers collide. In the end, raises TrackingError "`failed`: ..."."""
    import mlflow

    while True:
        attempts -= 1
        try:
            return call()
        except mlflow.exceptions.MlflowException as error:
            if is_access_denied(error):
                raise  # the caller names the server and the user
            if not attempts or error.error_code in PERMANENT_ERRORS:
                raise TrackingError(f"{failed}: {first_line(error)}") from error
        time.sleep(random.uniform(0.0, 0.2))


@contextmanager
def mlflow_errors(uri: str, failed: str | None = None) -> Iterator[None]:
    """Turn errors of MLflow's client into a SearchError for the user. `failed` says what did not happen."""
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
    if is_access_denied(error):
        return TrackingRefusedError(f"{before}{store} {_why_denied(error, uri)}")
    what = "does not answer" if uri.startswith("http") else "cannot be used"
    return TrackingError(f"{before}{first_line(error)}" if failed else f"{store} {what}: {first_line(error)}")


def _why_denied(error: Exception, uri: str) -> str:
    from mlflow.utils.credentials import read_mlflow_creds

    user = read_mlflow_creds().username or urlsplit(uri).username  # what MLflow's client sends
    if _http_status(error) == 401:
        login = "none was given" if user is None else f"the one of user {user!r} is not right"
        return f"wants a password: {login} (401). To log in, {LOGIN_HELP}"
    if "Invalid Host header" in str(error):
        host, flag = urlsplit(bare(uri)).netloc, "--allowed-hosts"
        return f"does not accept the host name {host} (403). Use a name in its {flag}, or start it with {flag} {host}"
    permission = "Ask its administrator for the permission, or log in as another user"
    return f"does not let user {user!r} do this (403). {permission}: {LOGIN_HELP}"


def is_rejected(error: Exception) -> bool:
    """Return whether MLflow answered that it will never accept a request, as opposed to being unreachable."""
    code = getattr(error, "error_code", None)
    return code in (*PERMANENT_ERRORS, "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


def is_access_denied(error: Exception) -> bool:
    """Return whether the server rejects the login or the user lacks the permission."""
    return _http_status(error) in (401, 403)


def _http_status(error: Exception) -> int | None:
    if (response := getattr(error, "response", None)) is not None:  # for artifacts MLflow raises requests' own errors
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status else None
