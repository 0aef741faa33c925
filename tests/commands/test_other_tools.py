"""Studies, runs and models that a user renames, copies or deletes with the tools of Optuna and MLflow."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import optuna
import pytest
from shell import in_process
from test_finish import searched

import search
from search.commands.promote import register_winner
from search.commands.studies import compared, read_study
from search.commands.upkeep.sync import sync
from search.common.config import Config
from search.common.workspace import Workspace
from search.tracking.registry import registration
from search.tracking.registry.version import versions
from search.tracking.store import connect_mlflow

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def unexported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers versions without a model, whose export takes seconds."""
    monkeypatch.setattr(registration, "_log", lambda *_: ("file:///nowhere", None))


@pytest.fixture
def client(folder: Path) -> mlflow.MlflowClient:
    return connect_mlflow(f"sqlite:///{folder}/mlflow.db")


def registered(client: mlflow.MlflowClient, name: str = "digits") -> list[str]:
    return [str(version.version) for version in versions(client, name)]


def shown(folder: Path, study: str = "digits", *, report: bool = False) -> str:
    """What the commands that read say about a study's model."""
    words: list[tuple[str, ...]] = [("show", study), ("studies",)]
    text = "".join(in_process(*command, "--workspace", folder).stdout for command in words)
    if report:
        in_process("report", "--study", study, "--workspace", folder)
        text += Workspace(folder).report(study).read_text()
    return text


# Models and runs in MLflow ------------------------------------------------------------------------------------------


def winners_run(client: mlflow.MlflowClient) -> str:
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.winner = 'true'")
    return str(run.info.run_id)


def delete_model(client: mlflow.MlflowClient) -> None:
    client.delete_registered_model("digits")


def delete_version(client: mlflow.MlflowClient) -> None:
    client.delete_model_version("digits", "1")


def delete_version_and_run(client: mlflow.MlflowClient) -> None:
    client.delete_model_version("digits", "1")
    client.delete_run(winners_run(client))


def delete_model_and_experiment(client: mlflow.MlflowClient) -> None:
    client.delete_registered_model("digits")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)


def replace_by_another(client: mlflow.MlflowClient) -> None:
    """Another program registers a version of the same name and number."""
    client.delete_registered_model("digits")
    client.create_registered_model("digits")
    client.create_model_version("digits", "file:///theirs", tags={"search.run": "other/trial-0"})


Act = Callable[[mlflow.MlflowClient], None]
DELETIONS: list[tuple[Act, str, str]] = [
    (delete_model, "run", "1"),
    (delete_version, "promote", "2"),
    (delete_version_and_run, "run", "2"),
    (delete_model_and_experiment, "promote", "1"),
    (replace_by_another, "promote", "2"),
]


@pytest.mark.parametrize(("delete", "again", "new"), DELETIONS)
def test_a_deleted_version_is_not_shown_and_is_registered_again(
    folder: Path, client: mlflow.MlflowClient, delete: Act, again: str, new: str
):
    searched(folder, no_register=False)
    assert "models:/digits/1" in shown(folder)
    delete(client)
    text = shown(folder, report=again == "run")
    assert "models:/digits/1" not in text
    gone = "version 1 of digits is no longer in MLflow; to register the winner again, type: python -m search promote"
    assert gone in text
    if again == "run":
        summary = searched(folder, no_register=False).summary
    else:
        summary = register_winner(Config(workspace=folder), "digits").summary
    assert summary is not None
    assert summary.model is not None
    assert summary.model["version"] == new
    assert registered(client)[-1] == new
    assert client.get_run(client.get_model_version("digits", new).run_id).info.lifecycle_stage == "active"
    assert f"models:/digits/{new}" in shown(folder)


def test_a_run_that_is_gone_for_good_is_said(folder: Path, client: mlflow.MlflowClient):
    searched(folder, no_register=False)
    client.delete_registered_model("digits")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET run_uuid = 'x' || substr(run_uuid, 2)")
    record = register_winner(Config(workspace=folder), "digits")
    assert record.summary is not None
    assert record.summary.model is None
    assert "was deleted from MLflow for good; start another study" in str(record.summary.standing)


def test_a_model_renamed_in_mlflow_and_an_alias_moved_there_are_shown_as_they_are(
    folder: Path, client: mlflow.MlflowClient
):
    searched(folder, no_register=False)
    client.delete_registered_model_alias("digits", "champion")
    client.set_registered_model_alias("digits", "staging", "1")
    client.rename_registered_model("digits", "numbers")
    assert "registered: numbers version 1, alias staging (models:/numbers/1)" in shown(folder)
    searched(folder, no_register=False)  # nothing is left to do
    assert [model.name for model in client.search_registered_models()] == ["numbers"]


@pytest.mark.parametrize(
    ("uri", "what"), [("http://127.0.0.1:9", "does not answer"), ("sqlite:////nowhere/mlflow.db", "cannot be read")]
)
def test_a_store_that_does_not_answer_is_not_waited_for_and_said(folder: Path, uri: str, what: str):
    record = searched(folder, no_register=False)
    study = record.__class__(**{**vars(record), "attrs": {**record.attrs, "tracking": uri}})
    (seen,) = compared(Config(workspace=folder, tracking_uri=uri), [study])
    assert seen.summary is not None
    assert seen.summary.model == study.summary.model if study.summary else None
    assert f"MLflow at {uri} {what}, so models:/digits/1 may be gone" in str(seen.summary.note)


# Studies in Optuna --------------------------------------------------------------------------------------------------


def by_sql(folder: Path, new: str) -> None:
    with closing(sqlite3.connect(folder / "optuna.db")) as database, database:
        database.execute("UPDATE studies SET study_name = ?", (new,))


def by_dashboard(folder: Path, new: str) -> None:
    """As optuna-dashboard 0.21 renames a study."""
    copy(folder, new)
    optuna.delete_study(study_name="digits", storage=f"sqlite:///{folder}/optuna.db")


def copy(folder: Path, new: str) -> None:
    url = f"sqlite:///{folder}/optuna.db"
    optuna.copy_study(from_study_name="digits", from_storage=url, to_storage=url, to_study_name=new)


Rename = Callable[[Path, str], None]


@pytest.mark.parametrize(
    ("rename", "new"), [(by_sql, "numbers"), (by_dashboard, "Ziffern 2/3 «neu»"), (copy, "digits-2")]
)
def test_a_study_renamed_or_copied_registers_its_winner(
    folder: Path, client: mlflow.MlflowClient, rename: Rename, new: str
):
    searched(folder)
    rename(folder, new)
    record = register_winner(Config(workspace=folder), new)
    assert record.summary is not None
    assert record.summary.model == {"name": "digits", "version": "1", "uri": "models:/digits/1", "alias": "champion"}
    assert client.get_model_version("digits", "1").run_id == record.trials[0].run_id
    assert Workspace(folder).report(new).exists()
    text = shown(folder, new, report=True)
    assert f"study {new}: 1 trial" in text
    assert "Predictions on the test split" in Workspace(folder).report(new).read_text()
    assert search.load_trial(new, 0, workspace=folder) is not None
    assert {(result.pending, result.reason) for result in sync(Config(workspace=folder))} == {(0, None)}


@pytest.mark.parametrize("rename", [by_sql, by_dashboard, copy])
def test_a_study_renamed_or_copied_is_continued(folder: Path, client: mlflow.MlflowClient, rename: Rename):
    before = searched(folder, no_register=False)
    rename(folder, "numbers")
    record = searched(folder, study="numbers", trials=2, no_register=False)
    assert len(record.trials) == 2
    assert record.trials[0].run_id == before.trials[0].run_id
    assert record.trials[1].run_id not in (None, record.trials[0].run_id)
    assert record.summary is not None
    assert record.summary.model is not None
    again = searched(folder, study="numbers", trials=2, no_register=False)
    assert again.summary == record.summary
    assert len(registered(client)) == (2 if rename is copy or record.summary.number else 1)
    assert len(list((folder / "mlruns" / "journal").glob("*.db"))) == (2 if rename is copy else 1)


def test_a_copy_and_its_original_go_their_own_ways(folder: Path):
    searched(folder)
    copy(folder, "fork")
    fork = searched(folder, study="fork", trials=3)
    original = searched(folder, trials=2)
    assert original.attrs["uid"] != fork.attrs["uid"]
    assert fork.attrs["uid"].startswith(original.attrs["uid"])
    runs = {trial.run_id for record in (fork, original) for trial in record.trials}
    assert len(runs) == 1 + 2 + 1
    assert None not in runs


def test_a_lost_journal_does_not_keep_a_winner_from_the_registry(folder: Path, client: mlflow.MlflowClient):
    run_id = searched(folder).trials[0].run_id
    shutil.rmtree(folder / "mlruns" / "journal")
    record = register_winner(Config(workspace=folder), "digits")
    assert record.summary is not None
    assert record.summary.model is not None
    assert client.get_model_version("digits", "1").run_id == run_id


def test_a_study_copied_into_another_folder_says_what_is_missing(folder: Path, tmp_path: Path, fresh_mlflow: Path):
    searched(folder)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(fresh_mlflow, other / "mlflow.db")
    urls = [f"sqlite:///{place}/optuna.db" for place in (folder, other)]
    optuna.copy_study(from_study_name="digits", from_storage=urls[0], to_storage=urls[1])
    record = register_winner(Config(workspace=other), "digits")
    assert record.summary is not None
    assert record.summary.model is None
    assert "nor MLflow know its run. Give --workspace and --tracking-uri as in the search" in str(
        record.summary.standing
    )
    assert read_study(Config(workspace=other), "digits").trials[0].value == searched(folder).trials[0].value
