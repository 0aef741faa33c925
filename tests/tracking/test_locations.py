"""A workspace lives on wherever it is moved or copied: MLflow, our loading and the next search find its artifacts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import mlflow
import pytest
from shell import Finished, environment, in_process, one_file, rows
from sqlalchemy import URL

from search.commands.load import load, load_trial
from search.common.sqlite import check_sqlite
from search.tracking.locations import COLUMNS, PLACE_TAG, Location, locate, settle
from search.tracking.registry.loading import download
from search.tracking.store import Destination, connect_mlflow
from search.tracking.tracker import Tracking

PLACES = ("b", "deep/er b", "a %20 b#c?d", "größer")


def destination_of(workspace: Path, *, study: str = "toy", scope: str = "uid-1") -> Destination:
    uri = f"sqlite:///{workspace / 'mlflow.db'}"
    return Destination(uri, study, scope, workspace / "mlruns" / "artifacts" / study)


def deliver(destination: Destination, run: str, *, say: list[str] | None = None) -> str:
    """Write one run with one artifact, as a search does. Returns MLflow's id of the run."""
    journal = destination.artifacts.parents[1] / f"{destination.scope}.db"
    tracking = Tracking(journal, destination, say=(say if say is not None else []).append)
    tracking.open_run(run, run, tags={"kind": "trial"})
    tracking.file(run, "weights.pt", run.encode())
    tracking.end_run(run, "FINISHED")
    assert tracking.close(30.0) == 0, tracking.last_error
    run_id = tracking_id(journal, run)
    assert run_id is not None
    return run_id


def tracking_id(journal: Path, run: str) -> str | None:
    ((run_id,),) = rows(journal, "SELECT mlflow_id FROM runs WHERE run = ?", run)
    return run_id


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, fresh_mlflow: Path) -> Path:
    folder = tmp_path_factory.mktemp("template")
    shutil.copy(fresh_mlflow, folder / "mlflow.db")
    for destination in studies(folder):
        deliver(destination, "trial-0")
    one_file(folder / "mlflow.db", folder / "whole.db")
    (folder / "whole.db").rename(folder / "mlflow.db")
    return folder


@pytest.fixture
def workspace(tmp_path: Path, template: Path) -> Path:
    """A workspace at `a` with two studies, each with one run."""
    folder = tmp_path / "a"
    shutil.copytree(template, folder, ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    for destination in studies(folder):
        settle(destination)
    return folder


def studies(folder: Path) -> tuple[Destination, Destination]:
    return destination_of(folder), destination_of(folder, study="other", scope="uid-2")


def locations(workspace: Path, table: str = "runs") -> dict[str, str]:
    key, column = COLUMNS[table]
    return dict(rows(workspace / "mlflow.db", f"SELECT {key}, {column} FROM {table}"))


def make_absolute(workspace: Path, root: str) -> None:
    """Store absolute locations below `root`, as earlier versions did."""
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database, database:
        database.execute("DELETE FROM experiment_tags WHERE key LIKE 'search.%'")
        for table, (_, column) in COLUMNS.items():
            relative = f"{column} LIKE 'mlruns/artifacts/%'"
            database.execute(f"UPDATE {table} SET {column} = ? || {column} WHERE {relative}", (f"file://{root}/",))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Moved and copied ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b", "deep/er b", "größer"])
def test_mlflow_alone_finds_the_artifacts_of_a_moved_workspace(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    (run_id, *_) = locations(workspace)
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    workspace.rename(place)
    monkeypatch.chdir(place)
    client = mlflow.MlflowClient(f"sqlite:///{place}/mlflow.db")
    assert [file.path for file in client.list_artifacts(run_id)] == ["weights.pt"]
    assert Path(client.download_artifacts(run_id, "weights.pt")).read_bytes() == b"trial-0"


@pytest.mark.parametrize("how", ["moved", "copied", "linked"])
def test_a_search_goes_on_in_the_new_place_and_says_so_once(workspace: Path, tmp_path: Path, how: str):
    place, before = tmp_path / "b", files(workspace)
    if how == "copied":
        shutil.copytree(workspace, place)
    elif how == "moved":
        workspace.rename(place)
    else:
        place.symlink_to(workspace)
    said: list[str] = []
    run_id = deliver(destination_of(place), "trial-1", say=said)
    deliver(destination_of(place), "trial-2", say=said)
    old, new = (folder / "mlruns" / "artifacts" / "toy" for folder in (workspace, place))
    notice = f"the artifacts of study 'toy' were in {old.parent}; they are now in {new.parent}"
    assert said == ([] if how == "linked" else [notice])
    assert (new / run_id / "artifacts" / "weights.pt").read_bytes() == b"trial-1"
    assert workspace.exists() == (how != "moved")
    if how == "copied":
        assert files(workspace) == before


@pytest.mark.parametrize("root", ["/home/eve/other%20machine", "{workspace}", "/"])
def test_locations_of_earlier_versions_are_read_and_become_portable(workspace: Path, tmp_path: Path, root: str):
    make_absolute(workspace, root.format(workspace=workspace).rstrip("/"))
    place = Path(shutil.copytree(workspace, tmp_path / "b"))
    (run_id, stored), *_ = locations(place).items()
    assert stored.startswith("file:///")
    assert download(f"sqlite:///{place}/mlflow.db", run_id, "weights.pt") == b"trial-0"
    assert locations(place)[run_id] == stored, "reading writes nothing"
    notice = settle(destination_of(place))
    assert notice is not None
    assert notice.endswith(f"they are now in {place}/mlruns/artifacts")
    assert locations(place)[run_id] == f"mlruns/artifacts/toy/{run_id}/artifacts"
    assert settle(destination_of(place)) is None


def test_another_study_is_left_alone(workspace: Path, tmp_path: Path):
    make_absolute(workspace, "/gone")
    settle(destination_of(workspace))
    kept = [stored for stored in locations(workspace).values() if stored.startswith("file:///gone/")]
    assert len(kept) == 1
    assert "/mlruns/artifacts/other/" in kept[0]


def test_files_that_stayed_behind_are_still_found(workspace: Path, tmp_path: Path):
    """Somebody copied only the databases of an earlier version."""
    make_absolute(workspace, str(workspace))
    place = tmp_path / "b"
    place.mkdir()
    one_file(workspace / "mlflow.db", place / "mlflow.db")
    run_id = next(run for run, stored in locations(place).items() if "/toy/" in stored)
    said: list[str] = []
    further = deliver(destination_of(place), "trial-1", say=said)
    assert len(said) == 1
    assert locations(place)[further].startswith("mlruns/artifacts/toy/")
    assert download(f"sqlite:///{place}/mlflow.db", run_id, "weights.pt") == b"trial-0"


def test_a_database_outside_the_workspace_keeps_absolute_locations(tmp_path: Path, fresh_mlflow: Path):
    database, workspace = Path(shutil.copy(fresh_mlflow, tmp_path / "mlflow.db")), tmp_path / "a"
    destination = replace(destination_of(workspace), uri=f"sqlite:///{database}")
    run_id = deliver(destination, "trial-0")
    ((stored,),) = rows(database, "SELECT artifact_uri FROM runs")
    assert stored == (workspace / "mlruns/artifacts/toy" / run_id / "artifacts").as_uri()
    workspace.rename(tmp_path / "b")
    moved = replace(destination_of(tmp_path / "b"), uri=destination.uri)
    assert settle(moved) is not None
    assert download(destination.uri, run_id, "weights.pt") == b"trial-0"


@pytest.mark.parametrize(
    "stored",
    [
        "s3://bucket/mlruns/artifacts/toy",
        "/data/runs/7",
        "file:///a/mlruns/3",
        "mlflow-artifacts:/1",
        "mlruns/1",
        "dbfs:/x",
    ],
)
def test_a_location_of_another_kind_stays(workspace: Path, stored: str):
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'toy'", (stored,))
    with closing(sqlite3.connect(workspace / "mlflow.db")) as database, database:
        database.execute("UPDATE experiment_tags SET value = '/elsewhere' WHERE key = ?", (PLACE_TAG,))
    assert settle(destination_of(workspace)) is None
    assert stored in locations(workspace, "experiments").values()
    assert locate(stored, workspace / "mlflow.db") is None


@pytest.mark.parametrize("name", PLACES)
def test_a_location_names_its_workspace(name: str):
    uri = (Path("/x") / name / "mlruns" / "artifacts" / "toy").as_uri()
    assert Location.of(uri) == Location(Path("/x") / name, "mlruns/artifacts/toy")


# MLflow's tables ----------------------------------------------------------------------------------------------------


def test_mlflow_stores_locations_in_no_other_column(fresh_mlflow: Path):
    """If this fails, MLflow has a new table or column with a location: see whether `locations.py` must know it."""
    check_sqlite(fresh_mlflow, "experiments")
    tables = {name for (name,) in rows(fresh_mlflow, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    tables.remove("workspaces")  # MLflow's own, which local stores do not use
    columns = {
        (table, column)
        for table in tables
        for _, column, *_ in rows(fresh_mlflow, f'PRAGMA table_info("{table}")')
        if "artifact" in column or "location" in column or column.endswith("_uri")
    }
    known = {(table, column) for table, (_, column) in COLUMNS.items()} | {("model_versions", "storage_location")}
    assert columns == known


# Registered models --------------------------------------------------------------------------------------------------

BARE = """
    import sys, mlflow, numpy

    if len(sys.argv) > 1:
        mlflow.set_tracking_uri(sys.argv[1])
    model = mlflow.pyfunc.load_model("models:/digits@champion")
    print(model.predict(numpy.zeros((2, 1, 8, 8), dtype=numpy.float32)).shape)
"""


def load_bare(folder: Path, *words: str) -> str:
    """Load the champion with MLflow alone, in `folder`."""
    command = [sys.executable, "-c", textwrap.dedent(BARE), *words]
    alone = environment({"PYTHONPATH": "", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"})
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_champion_loads_from_any_folder(finished: Finished, tmp_path: Path):
    """The lines of the README for another folder. Nothing is left there."""
    assert load_bare(tmp_path, f"sqlite:///{finished.folder}/mlflow.db") == "(2, 10)"
    assert os.listdir(tmp_path) == []


def anchored(workspace: Path) -> str:
    """Where other folders load the champion from."""
    ((stored,),) = rows(workspace / "mlflow.db", "SELECT artifact_location FROM logged_models WHERE name = '.'")
    return unquote(stored)


@pytest.mark.slow
def test_the_champion_of_a_moved_workspace_loads(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With MLflow alone and with every command; from other folders after a command that writes."""
    place, elsewhere = tmp_path / "sub" / "my models ü", tmp_path / "elsewhere"
    shutil.copytree(finished.folder, place)
    elsewhere.mkdir()
    assert load_bare(place) == "(2, 10)"
    before = files(place / "mlruns")
    monkeypatch.chdir(elsewhere)
    assert load(workspace=place).version == "1"
    assert not load_trial("digits", 0, workspace=place).training
    assert files(place / "mlruns") == before, "reading writes nothing"
    assert in_process("sync", "--workspace", place).exit_code == 0
    uri = URL.create("sqlite", database=str(place / "mlflow.db")).render_as_string()
    assert str(place) in anchored(place)
    assert load_bare(elsewhere, uri) == "(2, 10)"
    client = connect_mlflow(f"sqlite:///{place}/mlflow.db")
    assert {experiment.name for experiment in client.search_experiments()} == {"digits", "Default"}
    assert [model.name for model in client.search_logged_models(["0", "1"])] == ["model"]


@pytest.mark.long
@pytest.mark.slow
def test_the_champion_loads_after_mlflow_gc(finished: Finished, tmp_path: Path):
    place = tmp_path / "b"
    shutil.copytree(finished.folder, place)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", "sqlite:///mlflow.db"]
    alone = environment({"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"})
    assert subprocess.run(command, cwd=place, env=alone, capture_output=True).returncode == 0
    assert load_bare(place) == "(2, 10)"
