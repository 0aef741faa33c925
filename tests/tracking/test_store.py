"""Messages about a tracking server that rejects the user or does not answer."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.protos import databricks_pb2 as codes
from shell import rows

from search.common.errors import SearchError, StorageError, TrackingError, TrackingRefusedError
from search.tracking.store import (
    Destination,
    connect_mlflow,
    default_store,
    is_access_denied,
    mlflow_errors,
    redirecting_variables,
    tracking_error,
    unchanged_process,
)
from search.tracking.tracker import Tracking

URI = "http://admin:secret@mlflow:5000"


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login in the environment or in the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def response(status: int, body: str = "no") -> mlflow.exceptions.MlflowException:
    """What MLflow's client raises for a response that is not JSON."""
    reply = requests.Response()
    reply.status_code, reply._content = status, body.encode()
    with pytest.raises(mlflow.exceptions.MlflowException, match=str(status)) as raised:
        mlflow.utils.rest_utils.verify_rest_response(reply, "/api/2.0/mlflow/runs/create")
    return raised.value


def message(error: Exception, uri: str = URI) -> str:
    return str(tracking_error(error, uri))


def test_a_missing_password_is_reported_with_where_to_put_it():
    text = message(response(401), "http://mlflow:5000")
    assert text.startswith("MLflow at http://mlflow:5000 wants a password: none was given (401). To log in, set ")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in text
    assert "~/.mlflow/credentials" in text


def test_a_wrong_password_names_the_user(monkeypatch: pytest.MonkeyPatch):
    assert "the one of user 'admin' is not right (401)" in message(response(401))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert "the one of user 'me' is not right (401)" in message(response(401))
    assert "secret" not in message(response(401))


def test_a_missing_permission_names_the_user():
    assert "does not let user 'admin' do this (403)" in message(response(403, "Permission denied"))


def test_a_rejected_host_name_is_reported_with_the_flag_that_allows_it():
    text = message(response(403, "Invalid Host header - possible DNS rebinding attack detected"))
    assert "--allowed-hosts mlflow:5000" in text
    assert "password" not in text


def test_other_failures_keep_their_message():
    assert (
        message(mlflow.exceptions.MlflowException("down\nmore")) == "MLflow at http://mlflow:5000 does not answer: down"
    )
    assert message(OSError("no space"), "sqlite:////a/mlflow.db") == "MLflow at /a/mlflow.db cannot be used: no space"
    mine = StorageError("the database is damaged")
    assert tracking_error(mine, URI) is mine


def test_kinds_of_errors():
    denied = [response(401), response(403)]
    reply = requests.Response()
    reply.status_code = 401
    denied.append(requests.HTTPError("401", response=reply))  # raised by an artifact's upload
    assert [type(tracking_error(error, URI)) for error in denied] == [TrackingRefusedError] * 3
    assert all(map(is_access_denied, denied))
    others = [response(500), response(404), OSError("down"), KeyError("x"), TrackingError("x")]
    others.append(mlflow.exceptions.MlflowException("no", error_code=codes.INVALID_PARAMETER_VALUE))
    assert not any(map(is_access_denied, others))


def test_a_failed_block_is_reported_with_what_did_not_happen():
    denied = response(403)
    with (
        pytest.raises(TrackingRefusedError, match=r"^version 3 stays: MLflow at http://mlflow:5000 does not let user"),
        mlflow_errors(URI, "version 3 stays"),
    ):
        raise denied
    with (
        pytest.raises(TrackingError, match="^the image cannot be read: gone$"),
        mlflow_errors(URI, "the image cannot be read"),
    ):
        raise OSError("gone")
    with pytest.raises(SearchError, match="^mine$"), mlflow_errors(URI, "it stays"):
        raise SearchError("mine")


# Variables of MLflow ------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "MLFLOW_TRACKING_URI": "sqlite:///elsewhere.db",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_EXPERIMENT_NAME": "theirs",
    "MLFLOW_EXPERIMENT_ID": "77",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_ACTIVE_MODEL_ID": "m-1",
    "_MLFLOW_ACTIVE_MODEL_ID": "m-2",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
    "MLFLOW_ENABLE_WORKSPACES": "true",
    "MLFLOW_WORKSPACE": "team",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "s3://bucket",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "s3://bucket",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
}
LOGIN = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7", "MLFLOW_S3_ENDPOINT_URL": "http://s3"}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that sends MLflow everywhere else; returns MLflow's part of it."""
    for name, value in (ELSEWHERE | LOGIN).items():
        monkeypatch.setenv(name, value)
    return mlflow_variables()


def mlflow_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW_", "_MLFLOW_"))}


def test_runs_and_models_go_to_one_store_whatever_the_environment_says(folder: Path, elsewhere: dict[str, str]):
    uri = f"sqlite:///{folder}/mlflow.db"
    with unchanged_process():
        client = connect_mlflow(uri)
        client.create_registered_model("toy")
        tracking = Tracking(folder / "journal.db", Destination(uri, "toy", "uid", folder / "artifacts"))
        tracking.open_run("trial-0", "toy", tags={"a": "b"}, params={"long": "x" * 9_000})
        tracking.log("trial-0", {"val/score": 0.5}, step=1, position=1)
        tracking.end_run("trial-0", "FINISHED", metrics={"score": 0.5})
        assert tracking.close() == 0
        with default_store(uri):
            assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == (uri, uri)
            assert not mlflow_variables().keys() & (ELSEWHERE.keys() - {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"})
            assert mlflow_variables().items() >= LOGIN.items()
    assert mlflow_variables() == elsewhere
    assert rows(folder / "mlflow.db", "SELECT name FROM registered_models") == [("toy",)]
    assert rows(folder / "mlflow.db", "SELECT key, value FROM metrics ORDER BY key") == [
        ("score", 0.5),
        ("val/score", 0.5),
    ]
    names = rows(folder / "mlflow.db", "SELECT e.name FROM experiments e JOIN runs USING (experiment_id)")
    assert names == [("toy",)]
    assert not list(folder.parent.glob("**/elsewhere.db"))


@pytest.mark.parametrize("own", ["sqlite:///registry.db", "http://127.0.0.1:9", None])
def test_the_stores_that_a_notebook_has_set_stay_set(folder: Path, monkeypatch: pytest.MonkeyPatch, own: str | None):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unset after the test")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "unset after the test")
    mlflow.set_tracking_uri(own)
    mlflow.set_registry_uri(own)
    if own is None:
        monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow_variables()
    with default_store(f"sqlite:///{folder}/mlflow.db"):
        assert mlflow.get_registry_uri() == f"sqlite:///{folder}/mlflow.db"
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), mlflow_variables()) == before
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


STORE = "sqlite:////elsewhere/mlflow.db"


@pytest.mark.parametrize(
    ("variables", "uri", "names"),
    [
        ({"MLFLOW_TRACKING_URI": "http://host:5000"}, STORE, ["MLFLOW_TRACKING_URI"]),
        ({"MLFLOW_TRACKING_URI": "http://me:secret@host:5000/"}, "http://host:5000", []),
        ({"MLFLOW_TRACKING_URI": STORE, "MLFLOW_REGISTRY_URI": "databricks"}, STORE, ["MLFLOW_REGISTRY_URI"]),
        ({"MLFLOW_EXPERIMENT_ID": "3", "MLFLOW_RUN_ID": ""}, STORE, ["MLFLOW_EXPERIMENT_ID"]),
        (LOGIN, STORE, []),
    ],
)
def test_variables_that_name_another_place_are_found(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uri: str, names: list[str]
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert redirecting_variables(uri) == names
