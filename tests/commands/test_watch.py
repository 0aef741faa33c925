"""The state of a study as other processes see it: running, stopped or finished; and following it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from shell import environment, in_process
from studies import STEPS, a_study, ask, train
from toy import Toy

from search.cli.progress import PlainDisplay
from search.commands import watch
from search.commands.studies import all_studies, read_study
from search.common.config import Config
from search.common.errors import SearchStoppedError
from search.study import records
from search.study.sampling.sampling_study import SamplingStudy
from search.study.state import Phase, State
from search.study.storage.storage import hold_study, open_storage, study_holder
from search.study.summary import Summary

HOLDER = """
    import sys
    from search.study.storage.storage import hold_study

    with hold_study(sys.argv[1], "toy"):
        print("held", flush=True)
        sys.stdin.read()
"""
SUMMARY = Summary(0, "toy", 0.9, {"x": 0.5}, "trial-0")
CONFIRM = Phase("confirm", "confirming the best", {"confirm-0-1": (0, "toy, fresh seed 1"), "confirm-1-1": (1, "toy")})


@contextmanager
def held_by_process(url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock of the study. It needs seconds to import what it uses."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), url]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def held(config: Config) -> AbstractContextManager[object]:
    """The lock of the study is held until the block ends, as that of a search until its process ends."""
    return hold_study(config.storage_url, "toy")


@pytest.fixture
def study(database: str) -> SamplingStudy:
    """Two of three trials, and one that a search left running."""
    study = a_study(database)
    study.stored.set_attr(records.TARGET, 3)
    for _ in range(2):
        train(study, ask(study))
    study.start(ask(study), {records.LABEL: "toy"})
    return study


@pytest.fixture
def config(database: str, tmp_path: Path) -> Config:
    return Config(workspace=tmp_path)


def finish(study: SamplingStudy) -> None:
    (left,) = a_study(study.stored.storage).resume()
    again = a_study(study.stored.storage)
    (left,) = again.resume()
    train(again, left)
    study.stored.set_attr(records.SUMMARY, SUMMARY.as_dict())


# What the state is ----------------------------------------------------------------------------------------------------


def test_a_stopped_study_is_stopped_everywhere_and_its_trials_are_interrupted(study: SamplingStudy, config: Config):
    where = ("--workspace", config.workspace)
    stopped = "stopped: 2 of 3 trials; run the same command again to continue"
    listed, shown = in_process("studies", *where).stdout, in_process("show", *where).stdout
    assert re.search(r"^toy +stopped +2 of 3 ", listed, re.M)
    assert f"toy: {stopped}" in listed
    assert stopped in shown
    assert re.search(r"^#002 +interrupted ", shown, re.M)
    assert "running" not in shown
    values = json.loads(in_process("show", "--json", *where).stdout)
    assert (values["state"], values["holder"], values["target"]) == ("stopped", None, 3)
    assert [trial["state"] for trial in values["trials"]] == ["COMPLETE", "COMPLETE", "INTERRUPTED"]


def test_a_running_study_names_its_process_until_that_is_killed(study: SamplingStudy, config: Config):
    with held_by_process(config.storage_url) as process:
        record = read_study(config, "toy")
        assert record.state is State.RUNNING
        assert record.holder is not None
        assert record.holder.pid == process.pid
        shown = in_process("show", "toy", "--workspace", config.workspace).stdout
        assert re.search(rf"running: 2 of 3 trials \(process {process.pid} on \S+ since 20", shown)
        assert re.search(r"^#002 +running ", shown, re.M)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_study(config, "toy").state is State.STOPPED


def test_a_study_is_finished_when_nothing_is_left_to_do(study: SamplingStudy, config: Config):
    finish(study)
    attrs = study.stored.attrs()
    assert read_study(config, "toy").state is State.FINISHED
    for key, value, state in (
        (records.PHASE, None, State.FINISHED),
        (records.TARGET, 8, State.STOPPED),  # a later start with more trials
        (records.PHASE, CONFIRM.as_dict(), State.STOPPED),
        (records.PHASE, Phase("finish", "scoring").as_dict(), State.STOPPED),
        (records.SUMMARY, None, State.STOPPED),
    ):
        study.stored.set_attr(key, value)
        assert read_study(config, "toy").state is state, (key, value)
        study.stored.set_attr(key, attrs.get(key))


def test_a_study_of_another_program_has_no_state(database: str, config: Config):
    optuna.create_study(study_name="theirs", storage=database)
    assert [record.state for record in all_studies(config)] == [None]
    assert "not made by a search: 0 trials" in in_process("show", "--workspace", config.workspace).stdout


@pytest.mark.parametrize("name", ["toy", "a b/c", "ü"])
def test_asking_who_holds_a_study_writes_nothing_and_hinders_no_start(database: str, tmp_path: Path, name: str):
    assert study_holder(database, name) is None
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.db"]
    with hold_study(database, name):
        assert study_holder(database, name) is not None
    stop = threading.Event()
    reader = threading.Thread(target=lambda: [study_holder(database, name) for _ in iter(stop.is_set, True)])
    reader.start()
    try:
        for _ in range(50):
            with hold_study(database, name):
                pass
    finally:
        stop.set()
        reader.join()
    for path in (tmp_path / "optuna.db.locks").iterdir():
        path.chmod(0o444)
    (tmp_path / "optuna.db.locks").chmod(0o555)
    assert study_holder(database, name) is None


# Following it ---------------------------------------------------------------------------------------------------------


class Watcher:
    """`watch` in a thread."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch, name: str | None = None) -> None:
        monkeypatch.setattr(watch, "POLL_S", 0.02)
        self.lines = io.StringIO()
        self.ended: list[Any] = []
        display = PlainDisplay(Console(file=self.lines, width=200))
        self.thread = threading.Thread(target=self._follow, args=(config, name, display), daemon=True)
        self.thread.start()

    def _follow(self, *arguments: Any) -> None:
        try:
            self.ended.append(watch.follow(*arguments))
        except SearchStoppedError as error:
            self.ended.append(error)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 20
        while text not in self.lines.getvalue():
            assert time.monotonic() < deadline, self.lines.getvalue()
            time.sleep(0.01)

    def end(self) -> Any:
        self.thread.join(20)
        assert self.ended, self.lines.getvalue()
        return self.ended[0]


def test_watching_a_stopped_study_ends_at_once_with_status_1(study: SamplingStudy, config: Config):
    for words in ((), ("toy",), ("--log-format", "json")):
        result = in_process("watch", *words, "--workspace", config.workspace)
        assert result.exit_code == 1
        assert "stopped" in result.stdout
    finish(study)
    assert in_process("watch", "--workspace", config.workspace).exit_code == 0


def test_a_search_that_stops_is_noticed_at_once(study: SamplingStudy, config: Config, monkeypatch: pytest.MonkeyPatch):
    with held(config):
        watcher = Watcher(config, monkeypatch)
        watcher.wait_for("study toy: 2 of 3 trials done")
    assert watcher.end().state is State.STOPPED


def test_confirmation_refit_and_the_end_are_followed(
    study: SamplingStudy, config: Config, monkeypatch: pytest.MonkeyPatch
):
    stored = study.stored
    with held(config):
        watcher = Watcher(config, monkeypatch)
        watcher.wait_for("study toy: 2 of 3 trials done")
        finish(study)
        stored.set_attr(records.PHASE, CONFIRM.as_dict())
        watcher.wait_for("[3/3]  trial 2")
        watcher.wait_for("confirming the best: 0 of 2 trainings done")
        result = {"state": "COMPLETE", "value": 0.75, "attrs": {}}
        stored.set_attr(records.EXTRA_TRAININGS, {"confirm-0-1": result})
        watcher.wait_for("[1/2]  trial 0  toy, fresh seed 1  0.7500")
        stored.set_attr(records.PHASE, Phase("refit", "training the winner", {"refit-0": (0, "toy")}).as_dict())
        watcher.wait_for("training the winner\n")
        stored.set_attr(records.PHASE, Phase("finish", "scoring and registering").as_dict())
        watcher.wait_for("scoring and registering\n")
        stored.set_attr(records.PHASE, None)
        assert not watcher.ended
    assert watcher.end().state is State.FINISHED


@pytest.mark.parametrize("name", [None, "toy"])
def test_a_search_that_has_not_started_is_waited_for(
    tmp_path: Path, fresh_optuna: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
):
    config = Config(workspace=tmp_path)
    watcher = Watcher(config, monkeypatch, name)
    watcher.wait_for("waiting for " + ("a search" if name is None else "the search of study 'toy'") + " to start: ")
    shutil.copy(fresh_optuna, tmp_path / "new.db")
    os.replace(tmp_path / "new.db", tmp_path / "optuna.db")
    with held(config):
        study = a_study(config.storage_url)
        watcher.wait_for("study toy: its search is starting")
        study.stored.set_attr(records.TARGET, 1)
        watcher.wait_for("study toy: 0 of 1 trials done")
        train(study, ask(study))
        watcher.wait_for("[1/1]  trial 0")
    assert watcher.end().state is State.STOPPED


def test_waiting_for_an_unknown_study_names_the_others(
    study: SamplingStudy, config: Config, monkeypatch: pytest.MonkeyPatch
):
    watcher = Watcher(config, monkeypatch, "tou")
    watcher.wait_for("waiting for the search of study 'tou' to start: there are toy; did you mean toy?. Ctrl-C")
    a_study(config.storage_url, Toy(steps=STEPS), name="tou")
    assert watcher.end().name == "tou"


def test_a_study_that_is_deleted_while_it_is_watched(
    study: SamplingStudy, config: Config, monkeypatch: pytest.MonkeyPatch
):
    with held(config):
        watcher = Watcher(config, monkeypatch)
        watcher.wait_for("2 of 3 trials done")
        open_storage(config.storage_url).delete_study(study.stored.study_id)
        assert "has been deleted" in str(watcher.end())


# Without a name -------------------------------------------------------------------------------------------------------


def test_without_a_name_the_newest_study_is_taken(database: str, config: Config):
    for name in ("first", "second"):
        study = a_study(database, name=name)
        study.stored.set_attr(records.TARGET, 1)
        train(study, ask(study))
    for verb in ("show", "export", "report", "watch"):
        result = in_process(verb, "--workspace", config.workspace)
        assert result.exit_code == (1 if verb == "watch" else 0), result.output
        assert "second" in result.output
        assert "first" not in result.output
        if verb == "export":
            assert result.stdout.startswith("number,")
            assert result.stderr == "study second, the newest\n"
