"""Optuna's storage: URLs, databases that are damaged or foreign, and Optuna's own conformance suite."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from shell import contents, environment

from search.common.errors import StorageError, UsageError
from search.study.storage.storage import open_storage, parse_url, study_names


@pytest.fixture
def database(tmp_path: Path, fresh_optuna: Path) -> Path:
    return Path(shutil.copy(fresh_optuna, tmp_path / "optuna.db"))


# URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optuna.db", r"'optuna.db' is not a database URL; allowed: sqlite:///FILE or postgresql\+psycopg://"),
        ("postgresql://host:port/db", r"has a port that is not a number; allowed: sqlite:///FILE or postgresql"),
        ("mysql://host/db", r"'mysql://host/db' is not supported; allowed: sqlite"),
        ("sqlite://", r"'sqlite://' names no file; allowed: sqlite"),
    ],
)
def test_an_unsupported_url_is_an_error(text: str, message: str):
    with pytest.raises(UsageError, match=f"--storage {message}"):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://me:secret@host/db", r"me:\*\*\*@host"),
        ("postgresql://me:secret/db", "has a port that is not a number"),
    ],
)
def test_a_password_is_never_shown(text: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)


# Opening --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_that_create_a_database_together_all_succeed(tmp_path: Path):
    program = f"""
        from search.study.storage.storage import open_storage
        print(len(open_storage("sqlite:///{tmp_path}/optuna.db").get_all_studies()))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    opened = [subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0] for process in opened] == ["0\n"] * 4


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
def test_an_unusable_database_is_named_and_left_as_it_is(database: Path, ruin, message: str):
    ruin(database)
    before = contents(database.parent)
    with pytest.raises(StorageError, match=rf"(?s)^{database} {message}"):
        open_storage(f"sqlite:///{database}")
    assert contents(database.parent) == before


def test_opening_without_create_makes_no_database(tmp_path: Path):
    with pytest.raises(StorageError, match=r"there is no study database at .*nowhere.db; run a search first"):
        open_storage(f"sqlite:///{tmp_path / 'nowhere.db'}", create=False)
    assert list(tmp_path.iterdir()) == []


def test_optuna_itself_opens_the_database(database: Path):
    storage = open_storage(f"sqlite:///{database}")
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "mine")
    assert optuna.get_all_study_names(f"sqlite:///{database}") == ["mine"]


def test_a_reader_does_not_block_the_writer(database: Path):
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


def test_study_names_are_sorted_by_age(database: Path):
    storage = open_storage(f"sqlite:///{database}")
    for name in ("b", "c", "a"):
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
    assert study_names(storage) == ["b", "c", "a"]
