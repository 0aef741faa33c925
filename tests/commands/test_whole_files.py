"""However a command ends, the databases are whole by themselves; they lie where they should, and are read anywhere."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from shell import (
    TOY,
    Finished,
    begin,
    end,
    environment,
    in_process,
    rows,
    search,
    wait_for,
    wait_until,
    write_protected,
)

HOLDER = """
    import sqlite3, sys

    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute(sys.argv[2])
    print("held", flush=True)
    sys.stdin.read()
"""
SLOW = {"TOY_PAUSE_S": "0.3"}


def databases(folder: Path) -> list[Path]:
    return [folder / "optuna.db", folder / "mlflow.db", *folder.glob("mlruns/journal/*.db")]


def assert_plain(folder: Path) -> None:
    """Every database is one file that opens anywhere: not in WAL mode, with nothing beside it."""
    assert [path.name for path in folder.rglob("*.db-*")] == []
    assert {path.name: path.read_bytes()[18:20] for path in databases(folder)} == {
        path.name: b"\x01\x01" for path in databases(folder)
    }


def alone(database: Path, folder: Path, query: str) -> int:
    """What a copy of the file alone answers."""
    with closing(sqlite3.connect(shutil.copy(database, folder))) as connection:
        return int(connection.execute(query).fetchone()[0])


def interrupted(folder: Path, number: int) -> subprocess.CompletedProcess[str]:
    process = begin(*TOY, "--trials", 50, cwd=folder, env=SLOW)
    wait_for(process, "[2/50]")
    process.send_signal(number)
    return end(process)


def refused(folder: Path) -> subprocess.CompletedProcess[str]:
    """A start that fails after both databases were opened."""
    search(*TOY, "--trials", 1, cwd=folder)
    return search(*TOY, "--trials", 2, "--epochs", 3, cwd=folder)


ENDS: dict[str, tuple[int, Callable[[Path], subprocess.CompletedProcess[str]]]] = {
    "end": (0, lambda folder: search(*TOY, "--trials", 2, cwd=folder)),
    "Ctrl-C": (130, lambda folder: interrupted(folder, signal.SIGINT)),
    "SIGTERM": (143, lambda folder: interrupted(folder, signal.SIGTERM)),
    "closed terminal": (129, lambda folder: interrupted(folder, signal.SIGHUP)),
    "failed start": (1, refused),
    "failed trials": (1, lambda folder: search(*TOY, "--trials", 20, cwd=folder, env={"TOY_MODE": "error"})),
    "sync": (0, lambda folder: [search(*TOY, "--trials", 1, cwd=folder), search("sync", cwd=folder)][-1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_the_files_are_whole_when_a_command_ends(folder: Path, tmp_path: Path, name: str):
    status, command = ENDS[name]
    done = command(folder)
    assert done.returncode == status, done.stderr
    assert_plain(folder)
    trials = alone(folder / "optuna.db", tmp_path, "SELECT count(*) FROM trials")
    assert trials >= 1
    assert alone(folder / "mlflow.db", tmp_path, "SELECT count(*) FROM runs") >= trials


@pytest.mark.slow
def test_a_killed_search_leaves_nearly_everything_and_the_next_command_mends_the_files(folder: Path, tmp_path: Path):
    process = begin(*TOY, "--trials", 50, cwd=folder, env=SLOW)
    wait_for(process, "[4/50]")
    process.kill()
    end(process)
    assert alone(folder / "optuna.db", tmp_path, "SELECT count(*) FROM trials WHERE state <> 'RUNNING'") >= 4
    assert search("studies", cwd=folder).returncode == 0
    assert search(*TOY, "--trials", 5, cwd=folder).returncode == 0
    assert_plain(folder)


@pytest.mark.slow
def test_a_dashboard_that_stays_open_keeps_nothing_from_the_files(folder: Path, tmp_path: Path):
    with closing(sqlite3.connect(folder / "optuna.db")) as one, closing(sqlite3.connect(folder / "mlflow.db")) as two:
        for other, table in ((one, "studies"), (two, "experiments")):
            other.execute(f"SELECT * FROM {table}").fetchall()
        assert search(*TOY, "--trials", 2, cwd=folder).returncode == 0
        assert alone(folder / "optuna.db", tmp_path, "SELECT count(*) FROM trials") == 2
        assert alone(folder / "mlflow.db", tmp_path, "SELECT count(*) FROM runs") == 3


# Read where nothing can be written ------------------------------------------------------------------------------------

READS: dict[str, tuple[Any, ...]] = {
    "studies": ("studies",),
    "show": ("show", "digits"),
    "watch": ("watch", "digits"),
    "export": ("export", "digits"),
    "report": ("report", "--output", "{out}/report.html"),
    "predict": ("predict", "digits:0-2", "--show", "{out}/out.png"),
}
WRITES: dict[str, tuple[Any, ...]] = {
    "run": ("--dataset", "digits", "--trials", 4, "--epochs", 6),
    "sync": ("sync",),
    "promote": ("promote", "digits"),
    "promote a version": ("promote", "digits/1"),
    "rollback": ("promote", "--rollback"),
}
LOADS = "import search; print(search.load()); print(type(search.load_trial('digits', 0)).__name__)"


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("in_wal_mode", [pytest.param(False, marks=pytest.mark.long), True])
def test_reading_needs_no_right_to_write(finished: Finished, tmp_path: Path, *, in_wal_mode: bool):
    folder, out = tmp_path / "folder", tmp_path / "out"
    shutil.copytree(finished.folder, folder)
    out.mkdir()
    for name in ("optuna.db", "mlflow.db"):
        with closing(sqlite3.connect(folder / name)) as connection:  # closing it removes the files beside it
            connection.execute(f"PRAGMA journal_mode={'WAL' if in_wal_mode else 'DELETE'}")
    before = sorted(folder.rglob("*"))
    with write_protected(folder) as words:

        def run(*command: object) -> subprocess.CompletedProcess[str]:
            line = [*words, sys.executable, *map(str, command)]
            return subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True)

        for name, verb in READS.items():
            done = run("-m", "search", *(str(word).format(out=out) for word in verb))
            assert done.returncode == 0, (name, done.stderr)
        done = run("-c", LOADS)
        assert done.returncode == 0, done.stderr
        for name, verb in WRITES.items():
            done = run("-m", "search", *verb)
            assert done.returncode in (1, 2), name
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert "cannot be written" in done.stderr, name
    assert sorted(folder.rglob("*")) == before


# Any folder -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "named"),
    [
        pytest.param("my%20project", False, marks=pytest.mark.long),
        ("a?b", True),
        pytest.param('it\'s "q" #1', False, marks=pytest.mark.long),
        pytest.param("Übung\n🎉 {x}[1]*", True, marks=pytest.mark.long),
        pytest.param("-~$HOME;&", False, marks=pytest.mark.long),
    ],
)
def test_a_search_works_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, *, named: bool):
    folder = tmp_path / name
    folder.mkdir()
    cwd, flags = (tmp_path, ("--workspace", name)) if named else (folder, ())
    quick = ("--dataset", "digits", "--engine", "inline", "--epochs", 1, "--confirm", 0, "--no-refit")
    done = search(*quick, "--trials", 1, *flags, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "registered: digits version 1" in done.stdout
    monkeypatch.chdir(cwd)
    for verb in (("studies",), ("report",), ("predict", "digits:0-2")):
        read = in_process(*verb, *flags)
        assert read.exit_code == 0, read.output
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    expected = ["mlflow.db", "mlflow.db.locks", "mlruns", "optuna.db", "optuna.db.locks"]
    assert sorted(entry.name for entry in folder.iterdir()) == expected
    assert list(folder.glob("mlruns/artifacts/digits/*/artifacts/weights.pt"))
    assert_plain(folder)


# Locked by another program --------------------------------------------------------------------------------------------


def hold(path: Path, statement: str) -> subprocess.Popen[str]:
    """Start another program that locks a database."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path), statement]
    holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna.db", "mlflow.db"])
@pytest.mark.parametrize("statement", [pytest.param("BEGIN IMMEDIATE", marks=pytest.mark.long), "BEGIN EXCLUSIVE"])
def test_a_search_starts_when_the_file_is_free(folder: Path, name: str, statement: str):
    holder = hold(folder / name, statement)
    process = begin(*TOY, "--trials", 2, cwd=folder)
    wait_for(process, f"{folder / name} is locked by another program; waiting for it, up to 600 s")
    holder.communicate()
    done = end(process)
    assert done.returncode == 0, done.stderr
    assert f"{folder / name} is free again" in done.stdout
    assert rows(folder / "optuna.db", "SELECT count(*) FROM trials WHERE state <> 'RUNNING'") == [(2,)]


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_ends_the_wait_and_the_time_is_limited(folder: Path):
    process = begin(*TOY, "--trials", 9, cwd=folder, env=SLOW)
    wait_for(process, "[1/9]")
    holder = hold(folder / "optuna.db", "BEGIN IMMEDIATE")
    wait_for(process, "is locked by another program")
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    done = end(process)
    assert (done.returncode, time.monotonic() - started < 10) == (130, True)
    done = search(*TOY, "--trials", 9, "--storage-wait", 2, cwd=folder, env=SLOW)
    assert done.returncode == 1
    assert (
        f"Error: {folder}/optuna.db has been locked by another program for 2 s. Nothing is lost. End what"
        in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1
    holder.communicate()
    assert search(*TOY, "--trials", 3, cwd=folder).returncode == 0
    wait_until(
        lambda: rows(folder / "optuna.db", "SELECT count(*) FROM trials WHERE state = 'RUNNING'") == [(0,)], 5, ""
    )
