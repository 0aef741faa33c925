"""Tracking: each write reaches a real MLflow store once and in order, even after a kill or an outage."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.common.errors import StorageError
from search.common.signals import Interrupted
from search.tracking.delivery import Delivery, batches
from search.tracking.figures.predictions import pack
from search.tracking.journal import Journal, Kind, Write
from search.tracking.lengths import METRICS_PER_REQUEST
from search.tracking.store import Destination, connect_mlflow, is_rejected
from search.tracking.tracker import Tracking


@pytest.fixture
def destination(tmp_path: Path, fresh_mlflow: Path) -> Destination:
    database = Path(shutil.copy(fresh_mlflow, tmp_path / "mlflow.db"))
    note = {"mlflow.note.content": "a note"}
    return Destination(f"sqlite:///{database}", "toy", "uid-1", tmp_path / "artifacts", note)


@pytest.fixture
def client(destination: Destination) -> mlflow.MlflowClient:
    return connect_mlflow(destination.uri)


@pytest.fixture
def tracking(tmp_path: Path, destination: Destination) -> Iterator[Tracking]:
    made = Tracking(tmp_path / "journal.db", destination)
    made.ready()
    yield made
    made.close(5.0)


def a_trial(tracking: Tracking, number: int = 0, *, steps: Sequence[int] = (1, 2, 3)) -> str:
    run = f"trial-{number}"
    tags = {"kind": "trial", "optuna.trial.number": str(number)}
    data = {"name": "digits", "digest": "d" * 32, "source": "here", "n_train": 3}
    tracking.open_run(run, f"#{number:03d}", tags=tags, params={"x": 0.5, "deep": True}, parent="study", dataset=data)
    for step in steps:
        tracking.log(run, {"val/accuracy": step / 10, "train/loss": 1 / step}, step=step, position=step)
    return run


def all_runs(client: mlflow.MlflowClient) -> list[Any]:
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"]))


# Everything arrives -------------------------------------------------------------------------------------------------


def test_a_run_arrives_complete(tracking: Tracking, client: mlflow.MlflowClient):
    tracking.open_run("study", "search toy", tags={"kind": "study"})
    run = a_trial(tracking)
    tracking.file(run, "params.json", b"{}")
    tracking.file(run, "deep/down.txt", b"hello")
    tracking.tag(run, {"winner": "true"})
    tracking.end_run(run, "FINISHED", tags={"optuna.state": "COMPLETE"}, metrics={"score": 0.3})
    assert tracking.flush(30.0) == 0

    run_id = tracking.mlflow_id(run)
    assert run_id is not None
    stored = client.get_run(run_id)
    assert (stored.info.run_name, stored.info.status) == ("#000", "FINISHED")
    assert stored.data.params == {"x": "0.5", "deep": "True"}
    assert (
        stored.data.tags.items()
        >= {
            "kind": "trial",
            "winner": "true",
            "optuna.state": "COMPLETE",
            "optuna.trial.number": "0",
            "mlflow.parentRunId": tracking.mlflow_id("study"),
        }.items()
    )
    curve = client.get_metric_history(run_id, "val/accuracy")
    assert [(point.step, point.value) for point in curve] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert stored.data.metrics["score"] == 0.3
    (data,) = stored.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("digits", "d" * 32)
    assert {file.path for file in client.list_artifacts(run_id)} == {"params.json", "deep"}
    folder = Path(stored.info.artifact_uri.removeprefix("file://"))
    assert (folder / "deep" / "down.txt").read_bytes() == b"hello"
    experiment = client.get_experiment(stored.info.experiment_id)
    assert (experiment.name, experiment.tags["mlflow.note.content"]) == ("toy", "a note")


def test_an_artifact_is_removed_and_the_run_says_so(tracking: Tracking, client: mlflow.MlflowClient):
    run = a_trial(tracking)
    tracking.file(run, "weights.pt", b"w")
    tracking.file(run, "other.txt", b"o")
    for _ in range(2):  # it may be repeated
        tracking.remove(run, "weights.pt", tags={"search.weights": "deleted"})
        assert tracking.flush(30.0) == 0
        (stored,) = all_runs(client)
        assert [file.path for file in client.list_artifacts(stored.info.run_id)] == ["other.txt"]
        assert stored.data.tags["search.weights"] == "deleted"


def test_images_are_drawn_from_a_trainings_predictions(tracking: Tracking, client: mlflow.MlflowClient, tmp_path: Path):
    run = a_trial(tracking)
    random = np.random.default_rng(0)
    labels = np.arange(30) % 3
    rows = random.dirichlet(np.ones(3), size=30).astype(np.float32)
    images = random.integers(0, 256, (30, 1, 8, 8)).astype(np.uint8)
    tracking.predictions(run, ["a", "b", "c"], pack(images, labels, rows))
    perfect = a_trial(tracking, 1)
    right = np.eye(3, dtype=np.float32)[labels]
    tracking.predictions(perfect, ["a", "b", "c"], pack(images, labels, right))
    assert tracking.flush(60.0) == 0
    drawn = {"confusion_matrix.png", "sample_predictions.png"}
    for name, expected in ((run, drawn | {"confidently_wrong.png"}), (perfect, drawn)):
        run_id = tracking.mlflow_id(name)
        assert run_id is not None
        assert {file.path for file in client.list_artifacts(run_id)} == expected
        for file in expected:
            content = Path(client.download_artifacts(run_id, file, str(tmp_path))).read_bytes()
            assert content.startswith(b"\x89PNG")


def test_a_metric_or_image_that_is_rejected_holds_up_nothing(tracking: Tracking, client: mlflow.MlflowClient):
    run = a_trial(tracking)
    images, labels = np.zeros((4, 1, 8, 8), dtype=np.uint8), np.arange(4) % 2
    rows = np.eye(2, dtype=np.float32)[1 - labels]
    tracking.predictions(run, ["a\nb", "c"], pack(images, labels, rows))
    tracking.predictions(run, ["one too few"], pack(images, labels, rows))
    tracking.log(run, {"accuracy in %": 1.0}, step=4, position=4)
    tracking.end_run(run, "FINISHED", metrics={"how much?": 2.0})
    assert tracking.flush(60.0) == 0
    (stored,) = all_runs(client)
    assert stored.info.status == "FINISHED"
    assert stored.data.metrics.items() >= {"accuracy in _": 1.0, "how much_": 2.0}.items()
    assert "confidently_wrong.png" in {file.path for file in client.list_artifacts(stored.info.run_id)}


def test_an_experiment_that_is_deleted_meanwhile_comes_back(tracking: Tracking, client: mlflow.MlflowClient):
    a_trial(tracking)
    assert tracking.flush(30.0) == 0
    client.delete_experiment(all_runs(client)[0].info.experiment_id)
    run = a_trial(tracking, 1)
    tracking.end_run(run, "FINISHED")
    assert tracking.flush(30.0) == 0
    run_id = tracking.mlflow_id(run)
    assert run_id is not None
    assert client.get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize("content", [b"", b"dear diary"])
def test_a_damaged_journal_is_named_and_left_alone(tmp_path: Path, destination: Destination, content: bytes):
    path = tmp_path / "journal.db"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=rf"{path} is not a SQLite database, or is damaged"):
        Tracking(path, destination)
    assert path.read_bytes() == content


def test_a_step_is_logged_once_although_a_resumed_training_repeats_it(
    client: mlflow.MlflowClient, tmp_path: Path, destination: Destination
):
    first = Tracking(tmp_path / "journal.db", destination)
    run = a_trial(first, steps=(1, 2, 3))
    first.end_run(run, "KILLED")
    first.close(30.0)
    again = Tracking(tmp_path / "journal.db", destination)
    assert again.knows(run)
    a_trial(again, steps=(2, 3, 4))
    again.end_run(run, "FINISHED")
    assert again.close(30.0) == 0
    (stored,) = all_runs(client)
    assert stored.info.status == "FINISHED"
    curve = client.get_metric_history(stored.info.run_id, "val/accuracy")
    assert [point.step for point in curve] == [1, 2, 3, 4]


def test_another_study_of_the_same_name_has_runs_of_its_own(
    tracking: Tracking, client: mlflow.MlflowClient, tmp_path: Path, destination: Destination
):
    a_trial(tracking)
    tracking.flush(30.0)
    other = Tracking(tmp_path / "other.db", Destination(destination.uri, "toy", "uid-2", destination.artifacts))
    a_trial(other)
    assert other.close(30.0) == 0
    assert len(all_runs(client)) == 1
    own = client.get_experiment_by_name("toy-uid-2")
    assert own is not None
    assert len(client.search_runs([own.experiment_id])) == 1


# Killed, repeated, rejected -----------------------------------------------------------------------------------------


def copy_of(path: Path, to: Path) -> Path:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    return to


def contents(client: mlflow.MlflowClient) -> list[Any]:
    """What MLflow shows of every run, ids apart."""
    rows = []
    for run in all_runs(client):
        curves = {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        rows.append(
            (run.info.run_name, run.info.status, run.data.params, curves, files, len(run.inputs.dataset_inputs))
        )
    return rows


def test_a_delivery_may_be_repeated_from_any_point(
    client: mlflow.MlflowClient, tmp_path: Path, destination: Destination
):
    """As if killed again and again, after MLflow stored a write and before the journal deleted it."""
    path = tmp_path / "journal.db"
    quiet = Tracking(path, Destination("http://127.0.0.1:9", "toy", "uid-1", tmp_path))  # no server listens there
    run = a_trial(quiet)
    quiet.file(run, "weights.pt", b"w" * 1000)
    quiet.end_run(run, "FINISHED", tags={"optuna.state": "COMPLETE"}, metrics={"score": 0.3})
    assert quiet.close(0.1) == 6

    before = copy_of(path, tmp_path / "before.db")
    journal = Journal(path)
    Delivery(client, journal, destination).round(lambda: False, lambda: None)
    assert journal.n_pending() == 0
    once = contents(client)
    assert len(once) == 1

    for _ in range(2):  # deliver everything again, from a journal that still holds all writes
        repeated = Journal(copy_of(before, tmp_path / "again.db"))
        Delivery(client, repeated, destination).round(lambda: False, lambda: None)
        assert repeated.n_pending() == 0
        assert repeated.mlflow_id(run) == journal.mlflow_id(run)
        assert contents(client) == once


def test_a_run_that_a_user_deleted_holds_up_no_other(tracking: Tracking, client: mlflow.MlflowClient):
    run = a_trial(tracking)
    assert tracking.flush(30.0) == 0
    run_id = tracking.mlflow_id(run)
    assert run_id is not None
    client.delete_run(run_id)
    tracking.log(run, {"val/accuracy": 0.9}, step=9, position=9)
    a_trial(tracking, 1)
    assert tracking.flush(30.0) == 0
    assert [stored.info.run_name for stored in all_runs(client)] == ["#001"]


def test_a_deleted_experiment_comes_back(client: mlflow.MlflowClient, tmp_path: Path, destination: Destination):
    client.delete_experiment(client.create_experiment("toy", destination.artifacts.as_uri()))
    tracking = Tracking(tmp_path / "journal.db", destination)
    a_trial(tracking)
    assert tracking.close(30.0) == 0
    assert len(all_runs(client)) == 1


def test_only_a_rejected_request_is_given_up():
    codes = mlflow.protos.databricks_pb2
    for code, rejected in (
        (codes.INVALID_PARAMETER_VALUE, True),
        (codes.RESOURCE_DOES_NOT_EXIST, True),
        (codes.TEMPORARILY_UNAVAILABLE, False),
        (codes.INTERNAL_ERROR, False),
    ):
        assert is_rejected(mlflow.exceptions.MlflowException("no", error_code=code)) is rejected
    assert is_rejected(ConnectionError("down")) is False


# Batches ------------------------------------------------------------------------------------------------------------

KINDS: list[Kind] = ["run", "metrics", "file", "pictures", "tags", "end"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(KINDS), st.integers(0, 700)), max_size=30))
def test_batches_hold_every_write_once_in_the_order_of_its_run(sketch: list[tuple[str, Kind, int]]):
    writes = [
        Write(id_, run, kind, {"values": {str(i): 0.0 for i in range(n)}} if kind == "metrics" else {}, None)
        for id_, (run, kind, n) in enumerate(sketch)
    ]
    made = list(batches(writes))
    assert sorted(write.id for batch in made for write in batch) == list(range(len(writes)))
    for run in "abc":
        order = [write.id for batch in made for write in batch if write.run == run]
        assert order == sorted(order)
    for batch in made:
        assert len({(write.run, write.kind) for write in batch}) == 1
        assert batch[0].kind not in ("run", "pictures") or len(batch) == 1
        assert sum(len(write.body.get("values", ())) for write in batch) <= METRICS_PER_REQUEST or len(batch) == 1


# Stores -------------------------------------------------------------------------------------------------------------


def test_an_unusable_store_is_reported_before_anything_is_written(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("dear diary")
    tracking = Tracking(tmp_path / "journal.db", Destination(f"sqlite:///{tmp_path}/mlflow.db", "toy", "u", tmp_path))
    with pytest.raises(StorageError, match=r"mlflow.db is not a SQLite database, or is damaged"):
        tracking.ready()
    assert (tmp_path / "mlflow.db").read_text() == "dear diary"
    tracking.close(0.1)


def test_a_newer_store_names_the_command_that_upgrades(destination: Destination, tmp_path: Path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'f00dfeed9999'")
    with pytest.raises(StorageError, match=r"made by another version of MLflow; type: mlflow db upgrade sqlite:///"):
        connect_mlflow(destination.uri)


def test_another_signal_during_the_last_deliveries_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No server listens there, so the writes wait; the stop button is pressed twice."""
    quiet = Tracking(tmp_path / "journal.db", Destination("http://127.0.0.1:9", "toy", "uid-1", tmp_path))
    a_trial(quiet)

    def interrupted(timeout_s: float) -> int:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(quiet, "flush", interrupted)
    with pytest.raises(Interrupted, match="^2$"):
        quiet.close(1.0)
    quiet._thread.join(20.0)
    assert not quiet._thread.is_alive()
