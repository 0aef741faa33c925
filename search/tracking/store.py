"""An MLflow tracking store: where it is, how to connect to it, and what its errors mean for the user."""

from __future__ import annotations

import logging
import os
import random
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from search.common.errors import DatabaseLockedError, SearchError, StorageError, TrackingError, TrackingRefusedError
from search.common.passwords import bare, first_line
from search.common.sqlite import (
    MLFLOW_TABLE,
    check_sqlite,
    connect,
    create_whole,
    readable,
    require_writable,
    sqlite_file,
    sqlite_url,
)
from search.common.sqlite import is_locked as is_locked_file
from search.study.records import lineage

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

RUN_TAG = "search.run"  # on runs and model versions: the study's scope and the journal name of the run
STUDY_TAG = "search.study"  # on experiments: the study's scope

PERMANENT_ERRORS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
LOGIN_HELP = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write both into ~/.mlflow/credentials "
    "(a line [mlflow], then mlflow_tracking_username = ... and mlflow_tracking_password = ...)"
)
# MLflow reads these when it is imported. The user's own values win.
OUR_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # by default it retries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}
# MLflow reads these with every request: metrics would go to that model too, and be rejected if it is not in the store.
REMOVED = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_SERVER_ARTIFACT_ROOT")
REMOVED_WITHOUT_SERVER = ("MLFLOW_ENABLE_WORKSPACES", "MLFLOW_WORKSPACE")  # only a server has workspaces
QUIET_LOGGERS = ("mlflow", "alembic")
# How to log in and how to reach a server or its artifacts: MLflow may read these.
USED = re.compile(
    r"MLFLOW_(TRACKING_(USERNAME|PASSWORD|TOKEN|AUTH|AWS_SIGV4|INSECURE_TLS|(SERVER|CLIENT)_CERT_PATH)|WORKSPACE"
    r"|(HTTP|S3|GCS|BOTO|MYSQL|KERBEROS|SQLALCHEMYSTORE|ENABLE(_PROXY)?_MULTIPART|MULTIPART)_\w+"
    r"|\w+_TIMEOUT|ALLOW_HTTP_REDIRECTS|SERVER_(ALLOWED_HOSTS|CORS_ALLOWED_ORIGINS))"
)
# The others that say where runs and models go. MLflow never reads them, and a search names them.
REDIRECTING = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"),
    *("MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_DEFAULT_ARTIFACT_ROOT", "MLFLOW_ARTIFACTS_DESTINATION"),
    *("MLFLOW_BACKEND_STORE_URI", "MLFLOW_REGISTRY_STORE_URI"),
)


def tagged_runs(uid: str, run: str) -> list[str]:
    """Return how a run of a study may be tagged. A copied study has the runs of its original too."""
    return [f"{own}/{run}" for own in reversed(lineage(uid))]


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


def connect_mlflow(uri: str, *, read_only: bool = False) -> MlflowClient:
    """Return a client for a tracking store, after one request. A missing SQLite file is created.

    With `read_only` the file must exist, and the client may use a copy of it, which its `tracking_uri` names.
    Raises StorageError if the file is damaged, foreign or, without `read_only`, not writable; TrackingRefusedError if
    the server rejects this user; TrackingError if it does not answer.
    """
    for variable, value in OUR_DEFAULTS.items():
        os.environ.setdefault(variable, value)
    for variable in REMOVED if uri.startswith("http") else (*REMOVED, *REMOVED_WITHOUT_SERVER):
        os.environ.pop(variable, None)
    _bypass_proxy(uri)
    path = sqlite_file(uri)
    if path is not None and path.exists():
        check_sqlite(path, MLFLOW_TABLE)
    import mlflow

    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are raised as well
    source = uri
    try:
        if path is not None and read_only:
            source = sqlite_url(readable(path))
        elif path is not None:
            require_writable(path)
            create_whole(path, partial(_fill, path.parent / "mlruns"))
            connect(path).close()  # leaves the file in WAL mode, in which readers do not block writers
        client = mlflow.MlflowClient(source, registry_uri=source)
        client.search_experiments(max_results=1)
    except mlflow.exceptions.MlflowException as error:
        if "database schema" not in str(error):
            raise tracking_error(error, uri) from None
        upgrade = f"type: mlflow db upgrade {shlex.quote(uri)}"
        raise StorageError(f"{path or uri} was made by another version of MLflow; {upgrade}") from None
    return client


def _fill(artifacts: Path, database: Path) -> None:
    """Create MLflow's tables, and its default experiment below `artifacts`.

    A client would put that experiment into the current folder, whose name MLflow takes for SQL.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(sqlite_url(database), artifacts.as_uri())  # type: ignore[no-untyped-call]


def ignored_variables() -> dict[str, str]:
    """Return the variables of MLflow in the environment that MLflow must not read here."""
    ours = {name for name in os.environ if name.startswith(("MLFLOW_", "_MLFLOW_")) and name not in OUR_DEFAULTS}
    return {name: os.environ[name] for name in ours if USED.fullmatch(name) is None}


def redirecting_variables(uri: str) -> list[str]:
    """Return the variables in the environment that name another place for runs and models than the store at `uri`."""
    set_ = [name for name in REDIRECTING if os.environ.get(name)]
    return [name for name in set_ if not (name.endswith("_URI") and _is_same_store(os.environ[name], uri))]


def _is_same_store(one: str, other: str) -> bool:
    if one.startswith("sqlite") and other.startswith("sqlite"):
        return sqlite_file(one) == sqlite_file(other)
    return bare(one).rstrip("/") == bare(other).rstrip("/")


def _bypass_proxy(uri: str) -> None:
    """Let requests to a server on this machine go there: `http_proxy` sends them to another, which cannot reach it."""
    host, excepted = urlsplit(uri).hostname, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host in ("localhost", "127.0.0.1", "::1") and excepted.strip() != "*" and host not in excepted.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{excepted},{host}".strip(",")


@contextmanager
def default_store(uri: str) -> Iterator[None]:
    """Point MLflow's module-level functions at a store, for runs and models, and back afterwards.

    Inside, MLflow reads no variable but those in `USED`.
    """
    import mlflow

    hidden = ignored_variables()
    for name in hidden:
        del os.environ[name]
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        # MLflow writes what a user sets into the environment too, so these are the user's own; None means unset.
        tracking: Any = hidden.get("MLFLOW_TRACKING_URI")
        registry: Any = hidden.get("MLFLOW_REGISTRY_URI")
        mlflow.set_tracking_uri(tracking)
        mlflow.set_registry_uri(registry)
        for name in ignored_variables():
            del os.environ[name]
        os.environ.update(hidden)


@contextmanager
def unchanged_process() -> Iterator[None]:
    """Undo at the end what `connect_mlflow` changes in this process: it may be a user's notebook."""
    changed = (*OUR_DEFAULTS, *REMOVED, *REMOVED_WITHOUT_SERVER, "no_proxy", "NO_PROXY")
    before = {name: os.environ[name] for name in changed if name in os.environ}
    levels = {name: logging.getLogger(name).level for name in QUIET_LOGGERS}
    try:
        yield
    finally:
        for variable in changed:
            os.environ.pop(variable, None)
        os.environ.update(before)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


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
    store, before = f"MLflow at {sqlite_file(uri) or bare(uri)}", f"{failed}: " if failed else ""
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


def is_locked(error: BaseException | None) -> bool:
    """Return whether a call failed because another program has locked the SQLite file."""
    while error is not None:
        if isinstance(error, DatabaseLockedError) or is_locked_file(getattr(error, "orig", error)):
            return True
        error = error.__cause__
    return False


def is_rejected(error: Exception) -> bool:
    """Return whether MLflow answered that it will never accept a request, as opposed to being unreachable."""
    code = getattr(error, "error_code", None)
    return code in (*PERMANENT_ERRORS, "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST")


def delete_artifact(client: MlflowClient, run_id: str, path: str) -> str | None:
    """Delete an artifact of a run, if it is there. Returns why the store does not do that; None when it is gone.

    Raises what a later attempt may not meet, such as a server that is away.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = client.get_run(run_id).info.artifact_uri
    try:
        repository: Any = get_artifact_repository(location, tracking_uri=client.tracking_uri)
        repository.delete_artifacts(path)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        is_unanswered = status is None and isinstance(error.__cause__ or error.__context__ or error, OSError)
        if is_unanswered or status in (429, 502, 503, 504):
            raise
        return None if status == 404 else first_line(error)
    return None


def is_access_denied(error: Exception) -> bool:
    """Return whether the server rejects the login or the user lacks the permission."""
    return _http_status(error) in (401, 403)


def _http_status(error: Exception) -> int | None:
    if (response := getattr(error, "response", None)) is not None:  # for artifacts MLflow raises requests' own errors
        return int(response.status_code)
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if status else None
