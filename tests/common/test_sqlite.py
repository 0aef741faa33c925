"""SQLite files are created atomically and checked."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from search.common.errors import StorageError
from search.common.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_sqlite, create_whole


def a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE studies (id INTEGER)")
        connection.execute("INSERT INTO studies VALUES (7)")


def test_a_database_is_created_as_one_complete_file(tmp_path: Path):
    path = tmp_path / "sub" / "optuna.db"
    create_whole(path, a_table)
    assert [entry.name for entry in path.parent.iterdir() if entry.is_file()] == ["optuna.db"]
    check_sqlite(path, "studies")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT id FROM studies").fetchall() == [(7,)]


def test_a_database_that_exists_is_left_alone(tmp_path: Path):
    path = tmp_path / "optuna.db"
    create_whole(path, a_table)
    before = path.read_bytes()
    create_whole(path, lambda _: pytest.fail("it was made again"))
    assert path.read_bytes() == before


def test_an_interrupted_creation_is_repeated(tmp_path: Path):
    path = tmp_path / "optuna.db"

    def interrupted(temporary: Path) -> None:
        temporary.write_bytes(b"SQLite format 3\0 and then the power went")
        raise InterruptedError("killed")

    with pytest.raises(InterruptedError, match="killed"):
        create_whole(path, interrupted)
    assert not path.exists()
    create_whole(path, a_table)
    check_sqlite(path, "studies")


def test_only_one_of_many_threads_creates_the_database(tmp_path: Path):
    path, made = tmp_path / "optuna.db", []

    def make(temporary: Path) -> None:
        made.append(temporary)
        a_table(temporary)

    threads = [threading.Thread(target=create_whole, args=(path, make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    check_sqlite(path, "studies")


def test_a_database_of_mlflow_is_not_accepted_for_optuna(fresh_mlflow: Path):
    with pytest.raises(StorageError, match="a database of something else"):
        check_sqlite(fresh_mlflow, OPTUNA_TABLE)
    check_sqlite(fresh_mlflow, MLFLOW_TABLE)
