"""Messages about a tracking server that rejects the user or does not answer."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.protos import databricks_pb2 as codes

from search.common.errors import SearchError, StorageError, TrackingError, TrackingRefusedError
from search.tracking.store import is_access_denied, mlflow_errors, tracking_error

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
