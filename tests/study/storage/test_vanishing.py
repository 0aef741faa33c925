"""A study whose files vanish while a search has them open: noticed at the next write, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from optuna.trial import TrialState
from shell import begin, end, search, wait_until
from studies import a_study, ask, train

from search.common.errors import StorageError, StudyHeldError
from search.study.records import TrialRecord
from search.study.state import Holder
from search.study.storage.storage import hold_study, open_storage, quiet_optuna, study_holder
from search.tracking.journal import Journal

WORDS = ("--objective", "toy:Toy", "--jobs", 1, "--confirm", 0, "--trials", 4)


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


@pytest.mark.parametrize("state", ["before a start", "before an end"])
def test_a_trial_is_not_called_stored_in_a_file_that_was_removed(database: str, tmp_path: Path, state: str):
    with hold_study(database, "toy") as lock:
        study = a_study(open_storage(database))
        lock.sign(study.stored.storage, study.stored.study_id)
        train(study, ask(study))
        sampled = ask(study)
        if state == "before an end":
            study.start(sampled, {})
        (tmp_path / "optuna.db").unlink()
        with pytest.raises(StorageError, match=r"optuna\.db was removed"):
            train(study, sampled)
    again: list[TrialRecord] = list(a_study(database).stored.record().trials)
    assert [trial.state for trial in again][0] == TrialState.COMPLETE
    assert len(again) == (2 if state == "before an end" else 1)


def test_a_lock_file_that_was_removed_is_taken_again(database: str, tmp_path: Path):
    with hold_study(database, "toy") as lock:
        study = a_study(open_storage(database))
        lock.sign(study.stored.storage, study.stored.study_id)
        shutil.rmtree(tmp_path / "optuna.db.locks")
        train(study, ask(study))
        assert isinstance(study_holder(database, "toy"), Holder)
        shutil.rmtree(tmp_path / "optuna.db.locks")
        with (
            hold_study(database, "toy"),
            pytest.raises(StudyHeldError, match="is being searched by process"),
        ):
            train(study, ask(study))
    assert study_holder(database, "toy") is None


def test_a_journal_that_was_removed_keeps_what_it_has(tmp_path: Path):
    path = tmp_path / "journal" / "toy.db"
    with closing(Journal(path)) as journal:
        journal.append("trial-0", "end", {}, verdict={"state": "COMPLETE"})
        shutil.rmtree(path.parent)
        with pytest.raises(StorageError, match=r"journal/toy\.db was removed .* has been written again"):
            journal.append("trial-1", "end", {})
    with closing(Journal(path)) as journal:
        assert journal.verdict("trial-0") == {"state": "COMPLETE"}
        assert journal.n_pending() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "status", "said"),
    [
        ("optuna.db", 1, r"Error: .*optuna.db was removed"),
        ("mlruns/journal", 1, r"Error: .*journal/toy-.*db was removed"),
        ("mlflow.db", 0, r"tracking is out of reach \(.*mlflow.db was removed .*tracking writes wait in"),
    ],
)
def test_a_search_whose_files_are_removed_says_so_and_the_next_one_goes_on(
    folder: Path, victim: str, status: int, said: str
):
    first = begin(*WORDS, cwd=folder, env={"TOY_PAUSE_S": "0.4"})
    wait_until(lambda: ended_trials(folder) > 0, 60, "the end of a trial")
    path = folder / victim
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = end(first)
    assert result.returncode == status, result.stdout + result.stderr
    assert re.search(said, result.stdout + result.stderr, re.S), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    again = search(*WORDS, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "study toy: 4 trials" in again.stdout
    assert "writes wait" not in again.stdout
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (5,)


def ended_trials(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder}/optuna.db?mode=ro", uri=True)) as connection:
        query = "SELECT count(*) FROM trials WHERE state NOT IN ('RUNNING', 'WAITING')"
        return int(connection.execute(query).fetchone()[0])
