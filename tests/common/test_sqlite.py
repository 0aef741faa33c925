"""SQLite files are created atomically, checked, named by any path, and whole by themselves when nobody uses them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from shell import environment, write_protected

from search.common.errors import DatabaseLockedError, StorageError, UsageError
from search.common.sqlite import (
    MLFLOW_TABLE,
    OPTUNA_TABLE,
    build,
    check_free,
    check_sqlite,
    checkpoint,
    close_databases,
    connect,
    connect_to_read,
    create_whole,
    fold,
    readable,
    sqlite_file,
    sqlite_url,
)


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


# Names --------------------------------------------------------------------------------------------------------------

NAMES = [
    "my%20project",
    "a?b",
    "#1 & 2; 3",
    'it\'s "q"',
    "back\\slash",
    "-dash",
    "new\nline",
    "Übung ß",
    "🎉{brace}[1]*",
    "~",
    "100%",
    "x/:y@z",
    "n" * 240,
]


@pytest.mark.parametrize("name", NAMES)
def test_a_url_means_the_file_of_its_path(tmp_path: Path, name: str):
    path = tmp_path / name / "optuna.db"
    path.parent.mkdir(parents=True)
    url = sqlite_url(path)
    assert sqlite_file(url) == path
    build(path, a_table)
    with sqlalchemy.create_engine(url).connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT id FROM studies")).all() == [(7,)]
    close_databases()
    assert [entry.name for entry in path.parent.iterdir()] == ["optuna.db"]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            os.fsdecode(b"caf\xe9"),
            r"caf\ufffd/optuna.db' is not a name in UTF-8, as MLflow needs it; rename it, or name",
        ),
        (os.fsdecode(b"\xff\xfe"), r"is not a name in UTF-8"),
        (
            "a" * 250 + "/" + "b" * 250,
            r"SQLite opens files whose whole path has at most 499 bytes, and this one has 5\d\d;",
        ),
        ("日本" * 80, r"has at most 499 bytes"),
    ],
)
def test_a_path_that_no_url_or_sqlite_can_hold_is_refused(tmp_path: Path, name: str, message: str):
    with pytest.raises(UsageError, match=message):
        sqlite_url(tmp_path / name / "optuna.db")


# At rest ------------------------------------------------------------------------------------------------------------


def is_plain(path: Path) -> bool:
    """Whether a database is one file that opens anywhere. Bytes 18 and 19 are 1, or 2 in WAL mode."""
    beside = [entry.name for entry in path.parent.iterdir() if entry.name.startswith(f"{path.name}-")]
    return path.read_bytes()[18:20] == b"\x01\x01" and not beside


def alone(path: Path, folder: Path) -> list[Any]:
    """What a copy of the file alone holds."""
    folder.mkdir()
    with closing(sqlite3.connect(shutil.copy(path, folder))) as connection:
        return connection.execute("SELECT id FROM studies").fetchall()


def written(path: Path) -> sqlite3.Connection:
    """A connection of a search, which has written."""
    build(path, a_table)
    connection = connect(path)
    with connection:
        connection.execute("INSERT INTO studies VALUES (8)")
    return connection


def test_the_end_of_a_process_leaves_one_plain_file(tmp_path: Path):
    path = tmp_path / "optuna.db"
    written(path).close()
    engine = sqlalchemy.create_engine(sqlite_url(path))
    with engine.connect() as kept:  # its pool keeps the connection, as Optuna's and MLflow's do
        kept.execute(sqlalchemy.text("SELECT 1"))
    assert not is_plain(path)
    close_databases()
    assert is_plain(path)
    assert alone(path, tmp_path / "copy") == [(7,), (8,)]


def test_engines_of_the_user_stay_open(tmp_path: Path):
    written(tmp_path / "optuna.db").close()
    own = [sqlalchemy.create_engine(url) for url in ("sqlite://", f"sqlite:///{tmp_path / 'own.db'}")]
    create = sqlalchemy.text("CREATE TEMPORARY TABLE kept (id)")  # ends with its connection
    for engine in own:
        with engine.begin() as connection:
            connection.execute(create)
    close_databases()
    for engine in own:
        with engine.begin() as connection:
            assert connection.execute(sqlalchemy.text("SELECT count(*) FROM kept")).scalar() == 0


def test_while_others_have_it_open_the_file_itself_is_whole(tmp_path: Path):
    path = tmp_path / "optuna.db"
    with closing(written(path)) as mine, closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM studies").fetchall()
        for number, save in ((9, checkpoint), (10, fold)):
            with mine:
                mine.execute("INSERT INTO studies VALUES (?)", (number,))
            save(path)
        assert alone(path, tmp_path / "copy") == [(7,), (8,), (9,), (10,)]
    fold(path)
    assert is_plain(path)


def test_a_killed_process_is_mended_by_the_next_fold(tmp_path: Path):
    path, killed = tmp_path / "optuna.db", tmp_path / "killed" / "optuna.db"
    killed.parent.mkdir()
    with closing(written(path)):
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")
    assert not is_plain(killed)
    fold(killed)
    assert is_plain(killed)
    assert alone(killed, tmp_path / "copy") == [(7,), (8,)]


@pytest.mark.parametrize("content", [None, b"", b"dear diary"])
def test_folding_leaves_what_is_no_database_alone(tmp_path: Path, content: bytes | None):
    path = tmp_path / "optuna.db"
    if content is not None:
        path.write_bytes(content)
    fold(path)
    assert (path.read_bytes() if path.exists() else None) == content


# Without the right to write -----------------------------------------------------------------------------------------

READER = """
    import sys
    from contextlib import closing
    from pathlib import Path
    from search.common.errors import StorageError
    from search.common.sqlite import check_sqlite, connect_to_read, readable, require_writable

    for path in map(Path, sys.argv[1:]):
        check_sqlite(path, "studies")
        with closing(connect_to_read(readable(path))) as connection:
            print(connection.execute("SELECT id FROM studies").fetchall())
        try:
            require_writable(path)
        except StorageError as error:
            print(error)
"""


def test_a_file_is_read_in_a_folder_that_cannot_be_written(tmp_path: Path):
    """Plain; in WAL mode with nothing beside it; with its log; with the log and the index of a killed process."""
    path = tmp_path / "optuna.db"
    folders = {"plain": ("",), "header": ("",), "log": ("", "-wal"), "killed": ("", "-wal", "-shm")}
    with closing(written(path)):
        for name, suffixes in folders.items():
            (tmp_path / name).mkdir()
            if name in ("plain", "header"):
                checkpoint(path)
            for suffix in suffixes:
                shutil.copy(f"{path}{suffix}", tmp_path / name)
    fold(tmp_path / "plain" / "optuna.db")
    before = sorted(tmp_path.rglob("*"))
    with write_protected(tmp_path) as words:
        paths = [tmp_path / name / "optuna.db" for name in folders]
        command = [*words, sys.executable, "-c", textwrap.dedent(READER), *map(str, paths)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[::2] == ["[(7,), (8,)]"] * 4, done.stderr
    refused = "optuna.db cannot be written: it or its folder is read-only for this user. Commands that only read work"
    assert [refused in line for line in lines[1::2]] == [True] * 4
    assert sorted(tmp_path.rglob("*")) == before


def test_a_reader_in_a_writable_folder_leaves_nothing_and_keeps_the_mode(tmp_path: Path):
    path = tmp_path / "optuna.db"
    written(path).close()
    before = path.read_bytes()
    check_sqlite(path, "studies")
    with closing(connect_to_read(readable(path))) as connection:
        assert connection.execute("SELECT id FROM studies").fetchall() == [(7,), (8,)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM studies")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["optuna.db"]


# Locked by others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_a_locked_file_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str):
    monkeypatch.setattr("search.common.sqlite.LOCK_TIMEOUT_S", 0.01)
    path = tmp_path / "optuna.db"
    build(path, a_table)
    message = (
        rf"^{path} has been locked by another program\. Nothing is lost\. End what holds it .*`fuser {path}` lists"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(statement)
        with pytest.raises(DatabaseLockedError, match=message):
            check_free(path)
        if statement == "BEGIN EXCLUSIVE":  # which keeps readers out too
            with pytest.raises(DatabaseLockedError, match=message):
                check_sqlite(path, "studies", wait_s=0.0)
    check_free(path)
    check_sqlite(path, "studies")


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_new_file_is_not_mixed_with_the_log_of_one_that_was_removed(tmp_path: Path, suffix: str):
    path = tmp_path / "new.db"
    path.with_name(path.name + suffix).write_bytes(b"left by a killed process")

    def fill(temporary: Path) -> None:
        with closing(sqlite3.connect(temporary)) as connection:
            connection.execute("CREATE TABLE kept (n)")

    create_whole(path, fill)
    assert not path.with_name(path.name + suffix).exists()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("kept",)]


@pytest.mark.parametrize("text", ["sqlite:optuna.db", "sqlite:a%20b", "sqlite//x", "sqlite", ""])
def test_a_text_that_is_no_address_names_no_file(text: str):
    assert sqlite_file(text) is None
