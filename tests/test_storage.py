"""Databases: whole or not there, known before they are touched, and one coordinator for each study."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from shell import contents, environment

from search.errors import StorageError, StudyHeldError, UsageError
from search.sqlite import MLFLOW_TABLE, OPTUNA_TABLE, check_sqlite, create_whole
from search.storage import hold_study, open_storage, parse_url, study_names


@pytest.fixture
def database(tmp_path: Path, fresh_optuna: Path) -> Path:
    return Path(shutil.copy(fresh_optuna, tmp_path / "optuna.db"))


# URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optuna.db", r"'optuna.db' is no database URL; allowed: sqlite:///FILE or postgresql\+psycopg://"),
        ("mysql://host/db", r"'mysql://host/db' is not supported; allowed: sqlite"),
        ("sqlite://", r"'sqlite://' names no file; allowed: sqlite"),
    ],
)
def test_a_url_that_no_study_can_live_in_is_refused(text: str, message: str):
    with pytest.raises(UsageError, match=f"--storage {message}"):
        parse_url(text)


def test_a_password_is_never_shown():
    with pytest.raises(UsageError, match=r"me:\*\*\*@host") as caught:
        parse_url("mysql://me:secret@host/db")
    assert "secret" not in str(caught.value)


# Whole or not there -------------------------------------------------------------------------------------------------


def a_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE studies (id INTEGER)")
        connection.execute("INSERT INTO studies VALUES (7)")


def test_a_database_appears_whole_in_one_file(tmp_path: Path):
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


def test_a_half_made_database_is_made_again(tmp_path: Path):
    path = tmp_path / "optuna.db"

    def interrupted(temporary: Path) -> None:
        temporary.write_bytes(b"SQLite format 3\0 and then the power went")
        raise InterruptedError("killed")

    with pytest.raises(InterruptedError, match="killed"):
        create_whole(path, interrupted)
    assert not path.exists()
    create_whole(path, a_table)
    check_sqlite(path, "studies")


def test_of_many_makers_one_makes_it(tmp_path: Path):
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


@pytest.mark.slow
def test_processes_that_open_a_fresh_study_together_all_succeed(tmp_path: Path):
    program = f"""
        from search.storage import open_storage
        print(len(open_storage("sqlite:///{tmp_path}/optuna.db").get_all_studies()))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    opened = [subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in opened] == ["0\n"] * 4


# Known before it is touched -----------------------------------------------------------------------------------------


def damage_nothing(path: Path) -> None:
    """A file that is no database."""
    path.write_text("dear diary")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)


def make_foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (cake TEXT)")


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("ruin", "message"),
    [
        (
            damage_nothing,
            "is not a SQLite database, or is damaged; it was left as it is. Move it away, or name another",
        ),
        (empty, "is not a SQLite database, or is damaged"),
        (truncate, "is damaged"),
        (scribble, "is damaged"),
        (make_foreign, "is a database of something else .it has no table 'studies'."),
        (make_newer, "was made by another version of Optuna: .*"),
        (make_folder, "is not a file; it was left"),
    ],
)
def test_a_database_that_is_no_good_is_named_and_left_as_it_is(database: Path, ruin, message: str):
    ruin(database)
    before = contents(database.parent)
    with pytest.raises(StorageError, match=rf"(?s)^{database} {message}"):
        open_storage(f"sqlite:///{database}")
    assert contents(database.parent) == before


def test_a_database_of_mlflow_is_not_taken_for_one_of_optuna(fresh_mlflow: Path):
    with pytest.raises(StorageError, match="a database of something else"):
        check_sqlite(fresh_mlflow, OPTUNA_TABLE)
    check_sqlite(fresh_mlflow, MLFLOW_TABLE)


def test_reading_makes_no_database(tmp_path: Path):
    with pytest.raises(StorageError, match=r"there is no study database at .*nowhere.db; run a search first"):
        open_storage(f"sqlite:///{tmp_path / 'nowhere.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_optuna_itself_opens_what_was_made(database: Path):
    storage = open_storage(f"sqlite:///{database}")
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "mine")
    assert optuna.get_all_study_names(f"sqlite:///{database}") == ["mine"]


def test_a_reader_does_not_hold_up_the_writer(database: Path):
    storage = open_storage(f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM studies").fetchall()
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "written meanwhile")
        assert reader.execute("SELECT count(*) FROM studies").fetchone() == (0,)


class TestConformance(StorageTestCase):
    """Optuna's own suite for storages."""

    @pytest.fixture
    def storage(self, database: Path) -> Iterator[BaseStorage]:
        storage = open_storage(f"sqlite:///{database}")
        yield storage
        storage.remove_session()
        storage.engine.dispose()


def test_names_of_studies_come_oldest_first(database: Path):
    storage = open_storage(f"sqlite:///{database}")
    for name in ("b", "c", "a"):
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
    assert study_names(storage) == ["b", "c", "a"]


# One coordinator for each study -------------------------------------------------------------------------------------

HOLDER = """
    import subprocess, sys
    from search.storage import hold_study

    with hold_study(sys.argv[1], "mnist"):
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        sys.stdin.read()
"""


def hold(url: str) -> subprocess.Popen[str]:
    """Another process that holds the study `mnist` until its standard input ends; it has a child."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), url],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_held_study_says_who_holds_it_until_that_one_is_killed(database: Path):
    url = f"sqlite:///{database}"
    holder = hold(url)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        expected = rf"(?s)study 'mnist' is being searched by process {holder.pid} on {socket.gethostname()} since 20"
        with (
            pytest.raises(StudyHeldError, match=rf"{expected}.*add --study mnist-2 to what you typed"),
            hold_study(url, "mnist"),
        ):
            pass
        with hold_study(url, "another"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        os.kill(child, 0)  # its child lives on, and holds nothing
        with hold_study(url, "mnist"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.communicate()


def test_a_study_is_free_after_its_block_and_after_an_error(database: Path):
    url = f"sqlite:///{database}"
    with pytest.raises(ZeroDivisionError, match="division"), hold_study(url, "mnist"):
        _ = 1 / 0
    with (
        hold_study(url, "mnist"),
        pytest.raises(StudyHeldError, match=f"by process {os.getpid()} on"),
        hold_study(url, "mnist"),
    ):
        pass


def test_a_name_with_slashes_is_held_inside_the_folder(database: Path):
    with hold_study(f"sqlite:///{database}", "../../a b/c"):
        pass
    assert sorted(path.name for path in database.parent.iterdir()) == ["optuna.db", "optuna.db.locks"]
