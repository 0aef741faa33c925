"""`--keep best:N`: whoever wins has its weights, with `--target` and when more trials make another trial the winner."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import rows
from test_target_searches import Planned, searched

from search.study.records import StudyRecord


def kept(folder: Path) -> set[int]:
    """The trials whose runs have weights."""
    query = """SELECT a.run_uuid, a.value FROM tags a JOIN tags b USING (run_uuid)
        WHERE a.key = 'optuna.trial.number' AND b.key = 'kind' AND b.value = 'trial'"""
    runs = rows(folder / "mlflow.db", query)
    return {int(number) for run, number in runs if list(folder.rglob(f"{run}/artifacts/weights.pt"))}


def winner(study: StudyRecord) -> int:
    assert study.summary is not None
    return study.summary.number


def test_a_trial_that_reaches_the_target_keeps_them(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trial 1 is the best, but fresh seeds refute it."""
    monkeypatch.setattr(Planned, "searched", (0.5, 0.93, 0.6, 0.91, 0.7, 0.7))
    monkeypatch.setattr(Planned, "fresh", {1: 0.88, 3: 0.92})
    study, _ = searched(folder, target=0.9, confirm=1, keep="best:1")
    assert (winner(study), study.finished) == (3, 4)
    assert kept(folder) == {1, 3}
    assert [trial.weights_deleted for trial in study.trials] == [True, False, True, False]


@pytest.mark.slow
def test_a_candidate_that_more_trials_make_the_winner_has_them(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trial 3 is the best, so trial 2, which won, is no candidate any more. Trial 1 is then the best by seeds."""
    monkeypatch.setattr(Planned, "searched", (0.93, 0.92, 0.91, 0.96))
    monkeypatch.setattr(Planned, "fresh", {0: 0.8, 1: 0.85, 2: 0.9, 3: 0.5})
    study, _ = searched(folder, trials=3, confirm=3, keep="best:1")
    assert winner(study) == 2
    study, _ = searched(folder, trials=4, confirm=3, keep="best:1")
    assert winner(study) == 1
    assert 1 in kept(folder)
