"""An open SQLite file that is removed, moved, replaced or emptied: noticed, named, and saved where that is possible."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from search.common.errors import StorageError
from search.common.open_database import OpenDatabase
from search.common.sqlite import connect


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[OpenDatabase, sqlite3.Connection]]:
    path = tmp_path / "folder" / "optuna.db"
    path.parent.mkdir()
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")
        add(connection, "first")
        yield OpenDatabase(path, left="MLflow keeps the runs"), connection


def add(connection: sqlite3.Connection, name: str) -> None:
    with connection:
        connection.execute("INSERT INTO studies VALUES (?)", (name,))


def names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM studies")]


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("cleaner", [remove, remove_all, remove_folder])
def test_a_removed_file_is_written_again_from_what_is_open(
    opened: tuple[OpenDatabase, sqlite3.Connection], cleaner: Callable[[Path], None]
):
    file, connection = opened
    file.check(connection)
    cleaner(file.path)
    add(connection, "second")  # which SQLite lets pass
    for _ in range(2):  # the search reports it once, and then once more at its end
        with pytest.raises(StorageError, match=r"optuna\.db was removed while .* has been written again .* continues$"):
            file.check(connection)
    assert names(file.path) == ["first", "second"]
    assert [path.name for path in file.path.parent.iterdir()] == ["optuna.db"]


def test_a_replaced_file_is_left_alone_and_the_open_one_saved_beside_it(
    opened: tuple[OpenDatabase, sqlite3.Connection],
):
    file, connection = opened
    other = file.path.with_name("other.db")
    with closing(sqlite3.connect(other)) as made:
        made.execute("CREATE TABLE studies (name TEXT)")
        add(made, "theirs")
    os.replace(other, file.path)
    add(connection, "second")
    with pytest.raises(StorageError, match="was replaced by another file .* had stored is in .*rescued-") as raised:
        file.check(connection)
    assert names(file.path) == ["theirs"]
    (saved,) = file.path.parent.glob("*.rescued-*")
    assert str(saved) in str(raised.value)
    assert names(saved) == ["first", "second"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_moved_file_is_named_with_its_new_place(opened: tuple[OpenDatabase, sqlite3.Connection], what: str):
    file, connection = opened
    if what == "file":
        place = file.path.rename(file.path.with_name("moved.db"))
    else:
        place = file.path.parent.rename(file.path.parent.with_name("elsewhere")) / "optuna.db"
    add(connection, "second")
    with pytest.raises(StorageError, match=rf"was moved to {place} while .*: move it back"):
        file.check(connection)
    assert not file.path.exists()
    assert names(place) == ["first", "second"]


def test_an_emptied_file_is_named_with_what_is_left(opened: tuple[OpenDatabase, sqlite3.Connection]):
    file, connection = opened
    with file.path.open("r+b") as emptied:
        emptied.truncate(0)
    with pytest.raises(StorageError, match=r"optuna\.db was emptied while .*MLflow keeps the runs\. Move it away"):
        file.check(connection)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attempt to write a readonly database", r"optuna\.db cannot be read or written any more .*make .* writable"),
        ("disk I/O error", r"optuna\.db cannot be read or written any more \(disk I/O error\)"),
        ("database disk image is malformed", r"optuna\.db was damaged while .*MLflow keeps the runs"),
    ],
)
def test_errors_of_sqlite_name_the_file(opened: tuple[OpenDatabase, sqlite3.Connection], text: str, message: str):
    with pytest.raises(StorageError, match=message):
        opened[0].explain(sqlite3.OperationalError(text), opened[1])


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database is locked"), ValueError("readonly")])
def test_other_errors_stay_as_they_are(opened: tuple[OpenDatabase, sqlite3.Connection], error: Exception):
    opened[0].explain(error, opened[1])
