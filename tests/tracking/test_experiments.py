"""The experiment of a study: found again under any name, and never mixed with the runs of others."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from search.tracking.journal import EXPERIMENT, Journal
from search.tracking.store import STUDY_TAG, Destination, connect_mlflow
from search.tracking.tracker import Tracking

Client = mlflow.MlflowClient


@pytest.fixture
def destination(tmp_path: Path, fresh_mlflow: Path) -> Destination:
    database = shutil.copy(fresh_mlflow, tmp_path / "mlflow.db")
    return Destination(f"sqlite:///{database}", "toy", "uid1", tmp_path / "mlruns" / "artifacts" / "toy")


@pytest.fixture
def client(destination: Destination) -> Client:
    return connect_mlflow(destination.uri)


def deliver(destination: Destination, run: str, journal: Path) -> list[str]:
    """Write one run, as a start of a search does. Returns the notices."""
    said: list[str] = []
    tracking = Tracking(journal, destination, say=said.append)
    tracking.open_run(run, run, tags={"kind": "trial"})
    assert tracking.close(30.0) == 0, tracking.last_error
    return said


def runs(client: Client) -> dict[str, list[str]]:
    """By active experiment, the names of its runs."""
    found = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    del found["Default"]
    return {name: sorted(run.info.run_name for run in client.search_runs([id_])) for name, id_ in found.items()}


def stored_id(journal: Path) -> str | None:
    with closing(Journal(journal)) as opened:
        return opened.mlflow_id(EXPERIMENT)


# Renamed ------------------------------------------------------------------------------------------------------------


def forget_tag(destination: Destination, journal: Path) -> None:
    """As an earlier version left it."""
    assert destination.database is not None
    with closing(sqlite3.connect(destination.database)) as database, database:
        database.execute("DELETE FROM experiment_tags WHERE key = ?", (STUDY_TAG,))


def forget_id(destination: Destination, journal: Path) -> None:
    """Somebody cleaned up."""
    with closing(sqlite3.connect(journal)) as database, database:
        database.execute("DELETE FROM runs")


@pytest.mark.parametrize("lost", [lambda *_: None, forget_tag, forget_id], ids=["nothing", "tag", "id"])
@pytest.mark.parametrize("name", ["better name", "toy/2026"])
def test_a_renamed_experiment_gets_the_further_runs(
    destination: Destination, client: Client, tmp_path: Path, lost: Callable[[Destination, Path], None], name: str
):
    journal = tmp_path / "journal.db"
    deliver(destination, "trial-0", journal)
    experiment_id = stored_id(journal)
    assert experiment_id is not None
    client.rename_experiment(experiment_id, name)
    lost(destination, journal)
    assert deliver(destination, "trial-1", journal) == []
    assert runs(client) == {name: ["trial-0", "trial-1"]}
    assert stored_id(journal) == experiment_id


def test_a_renamed_and_deleted_experiment_comes_back(destination: Destination, client: Client, tmp_path: Path):
    journal = tmp_path / "journal.db"
    deliver(destination, "trial-0", journal)
    experiment_id = stored_id(journal)
    assert experiment_id is not None
    client.rename_experiment(experiment_id, "old")
    client.delete_experiment(experiment_id)
    deliver(destination, "trial-1", journal)
    assert "trial-1" in runs(client)["old"]


def test_an_id_of_another_database_is_not_trusted(destination: Destination, client: Client, tmp_path: Path):
    """The workspace's mlflow.db was replaced: the same id means somebody's experiment."""
    theirs = client.create_experiment("theirs")
    client.create_run(theirs, run_name="precious")
    with closing(Journal(tmp_path / "journal.db")) as journal:
        journal.set_mlflow_id(EXPERIMENT, theirs)
    deliver(destination, "trial-0", tmp_path / "journal.db")
    assert runs(client) == {"theirs": ["precious"], "toy": ["trial-0"]}


# Of others ----------------------------------------------------------------------------------------------------------

NOTICE = "the experiment 'toy' in MLflow is used by others, so the runs of this study go to 'toy-uid1'"


def by_hand(client: Client, destination: Destination, tmp_path: Path) -> list[str]:
    client.create_run(client.create_experiment("toy"), run_name="theirs")
    return ["theirs"]


def by_an_earlier_study(client: Client, destination: Destination, tmp_path: Path) -> list[str]:
    """Of the same name, removed with `optuna.delete_study`."""
    earlier = Destination(destination.uri, "toy", "uid0", destination.artifacts)
    deliver(earlier, "trial-0", tmp_path / "earlier.db")
    return ["trial-0"]


def only_deleted_runs(client: Client, destination: Destination, tmp_path: Path) -> list[str]:
    client.delete_run(client.create_run(client.create_experiment("toy")).info.run_id)
    return []


@pytest.mark.parametrize("others", [by_hand, by_an_earlier_study, only_deleted_runs])
def test_runs_of_others_are_not_mixed_in(
    destination: Destination, client: Client, tmp_path: Path, others: Callable[..., list[str]]
):
    theirs = others(client, destination, tmp_path)
    assert deliver(destination, "trial-0", tmp_path / "journal.db") == [NOTICE]
    assert deliver(destination, "trial-1", tmp_path / "journal.db") == [], "said once"
    assert runs(client) == {"toy": theirs, "toy-uid1": ["trial-0", "trial-1"]}
    own = client.get_experiment_by_name("toy-uid1")
    assert own is not None
    assert stored_id(tmp_path / "journal.db") == own.experiment_id


def test_a_deleted_experiment_of_others_stays_deleted(destination: Destination, client: Client, tmp_path: Path):
    by_hand(client, destination, tmp_path)
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert deliver(destination, "trial-0", tmp_path / "journal.db") == [NOTICE]
    assert runs(client) == {"toy-uid1": ["trial-0"]}


@pytest.mark.parametrize("tags", [{}, {"team": "vision"}])
def test_an_empty_experiment_is_taken(destination: Destination, client: Client, tmp_path: Path, tags: dict[str, str]):
    """Somebody made it in advance, for instance with a place for its artifacts."""
    place = (tmp_path / "big disk").as_uri()
    client.create_experiment("toy", place, tags=tags)
    assert deliver(destination, "trial-0", tmp_path / "journal.db") == []
    assert runs(client) == {"toy": ["trial-0"]}
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    assert experiment.artifact_location == place
    assert experiment.tags.items() >= ({**tags, STUDY_TAG: "uid1"}).items()


def test_an_experiment_that_another_study_has_begun_is_left_to_it(
    destination: Destination, client: Client, tmp_path: Path
):
    """Two searches of one name start together on one server; neither has a run yet."""
    client.create_experiment("toy", tags={STUDY_TAG: "uid9"})
    assert deliver(destination, "trial-0", tmp_path / "journal.db") == [NOTICE]
    assert runs(client) == {"toy": [], "toy-uid1": ["trial-0"]}


def test_experiments_that_hold_two_studies_already_stay_together(
    destination: Destination, client: Client, tmp_path: Path
):
    """Earlier versions mixed them."""
    deliver(destination, "trial-0", tmp_path / "journal.db")
    forget_tag(destination, tmp_path)
    (experiment,) = [found for found in client.search_experiments() if found.name == "toy"]
    client.create_run(experiment.experiment_id, run_name="theirs")
    assert deliver(destination, "trial-1", tmp_path / "journal.db") == []
    assert runs(client) == {"toy": ["theirs", "trial-0", "trial-1"]}
