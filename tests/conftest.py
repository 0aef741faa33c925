"""What several test files share: a clean environment, and searches that are run once and only looked at."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from shell import TESTS, search


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them, except where real data lies; trainers find `toy`."""
    for name in list(os.environ):
        if name.startswith(("SEARCH_", "TOY_")) and name != "SEARCH_DATA_DIR":
            monkeypatch.delenv(name)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


@dataclass(frozen=True)
class Finished:
    """A finished search in a folder that no test may change."""

    folder: Path
    result: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """`python -m search --dataset digits --trials 3`, in an empty folder, with short trainings."""
    folder = tmp_path_factory.mktemp("finished")
    result = search("--dataset", "digits", "--trials", 3, "--epochs", 6, cwd=folder)
    assert result.returncode == 0, result.stderr
    return Finished(folder, result)


@pytest.fixture(scope="session")
def fresh_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it: making one takes seconds, copying it does not."""
    from search.tracking import connect_mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect_mlflow(f"sqlite:///{path}")
    for name in ("mlflow.db-wal", "mlflow.db-shm"):
        assert not path.with_name(name).exists() or not path.with_name(name).stat().st_size
    return path


@pytest.fixture
def folder(tmp_path: Path, fresh_mlflow: Path) -> Path:
    """A folder to search in whose MLflow database is made already."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(fresh_mlflow, place / "mlflow.db")
    return place
