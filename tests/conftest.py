"""What several test files share: a clean environment, and searches that are run once and only looked at."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from place import Place
from shell import IMPORTABLE, Finished, search


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches them, except where real data lies; trainers find `toy`."""
    for name in list(os.environ):
        if name.startswith(("SEARCH_", "TOY_")) and name != "SEARCH_DATA_DIR":
            monkeypatch.delenv(name)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE)


@pytest.fixture(autouse=True)
def all_numbers() -> Iterator[None]:
    """A trainer in the tests' own process leaves it without denormal numbers, which other tests draw."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors on busy cores: threads that wait for each other take ten times as long as one alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    return one_file(path, path.with_name("copy.db"))  # MLflow keeps connections open, so there is a log beside it


@pytest.fixture(scope="session")
def fresh_optuna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Optuna database with nothing in it."""
    from search.storage import open_storage

    path = tmp_path_factory.mktemp("optuna") / "optuna.db"
    open_storage(f"sqlite:///{path}")
    return one_file(path, path.with_name("copy.db"))


@pytest.fixture
def database(tmp_path: Path, fresh_optuna: Path) -> str:
    """The URL of one that a test may fill."""
    return f"sqlite:///{shutil.copy(fresh_optuna, tmp_path / 'optuna.db')}"


def one_file(path: Path, copy: Path) -> Path:
    """A copy of a SQLite database that has no files beside it."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
    return copy


@pytest.fixture
def folder(tmp_path: Path, fresh_mlflow: Path, fresh_optuna: Path) -> Path:
    """A folder to search in whose databases are made already."""
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(fresh_mlflow, place / "mlflow.db")
    shutil.copy(fresh_optuna, place / "optuna.db")
    return place


@pytest.fixture
def place(folder: Path) -> Place:
    """The same folder for the loop on a tiny objective."""
    return Place(folder)
