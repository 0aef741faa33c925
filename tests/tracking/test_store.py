"""What a person is told of a tracking server that refuses them, or does not answer."""

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
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has logged in."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def answer(status: int, body: str = "no") -> mlflow.exceptions.MlflowException:
    """What MLflow's client raises for an answer that is no JSON."""
    reply = requests.Response()
    reply.status_code, reply._content = status, body.encode()
    with pytest.raises(mlflow.exceptions.MlflowException, match=str(status)) as raised:
        mlflow.utils.rest_utils.verify_rest_response(reply, "/api/2.0/mlflow/runs/create")
    return raised.value


def message(error: Exception, uri: str = URI) -> str:
    return str(tracking_error(error, uri))


def test_who_gave_no_password_is_told_where_to_put_one():
    said = message(answer(401), "http://mlflow:5000")
    assert said.startswith("MLflow at http://mlflow:5000 wants a password: none was given (401). To log in, set ")
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said
    assert "~/.mlflow/credentials" in said


def test_who_gave_a_wrong_one_is_named(monkeypatch: pytest.MonkeyPatch):
    assert "the one of user 'admin' is not right (401)" in message(answer(401))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    assert "the one of user 'me' is not right (401)" in message(answer(401))
    assert "secret" not in message(answer(401))


def test_who_may_not_do_it_is_named():
    assert "does not let user 'admin' do this (403)" in message(answer(403, "Permission denied"))


def test_a_name_that_the_server_does_not_know_is_told_with_the_flag_that_mends_it():
    said = message(answer(403, "Invalid Host header - possible DNS rebinding attack detected"))
    assert "--allowed-hosts mlflow:5000" in said
    assert "password" not in said


def test_other_failures_keep_their_own_words():
    assert (
        message(mlflow.exceptions.MlflowException("down\nmore")) == "MLflow at http://mlflow:5000 does not answer: down"
    )
    assert (
        message(OSError("no space"), "sqlite:///mlflow.db") == "MLflow at sqlite:///mlflow.db cannot be used: no space"
    )
    mine = StorageError("the database is damaged")
    assert tracking_error(mine, URI) is mine


def test_kinds_of_errors():
    refused = [answer(401), answer(403)]
    reply = requests.Response()
    reply.status_code = 401
    refused.append(requests.HTTPError("401", response=reply))  # what an artifact's upload raises
    assert [type(tracking_error(error, URI)) for error in refused] == [TrackingRefusedError] * 3
    assert all(map(is_access_denied, refused))
    others = [answer(500), answer(404), OSError("down"), KeyError("x"), TrackingError("x")]
    others.append(mlflow.exceptions.MlflowException("no", error_code=codes.INVALID_PARAMETER_VALUE))
    assert not any(map(is_access_denied, others))


def test_a_block_is_told_with_what_was_to_be_done():
    denied = answer(403)
    with (
        pytest.raises(TrackingRefusedError, match=r"^version 3 stays: MLflow at http://mlflow:5000 does not let user"),
        mlflow_errors(URI, "version 3 stays"),
    ):
        raise denied
    with (
        pytest.raises(TrackingError, match="^the picture cannot be read: gone$"),
        mlflow_errors(URI, "the picture cannot be read"),
    ):
        raise OSError("gone")
    with pytest.raises(SearchError, match="^mine$"), mlflow_errors(URI, "it stays"):
        raise SearchError("mine")
