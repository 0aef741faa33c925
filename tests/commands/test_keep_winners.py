"""`--keep best:N`: the winner keeps its weights, with `--target` and when more trials follow."""

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
def test_a_winner_that_is_not_among_the_best_any_more_has_them(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Trial 3 is the best of the search, but fresh seeds refute it, so trial 2 wins again."""
    monkeypatch.setattr(Planned, "searched", (0.93, 0.92, 0.91, 0.96))
    monkeypatch.setattr(Planned, "fresh", {0: 0.8, 1: 0.85, 2: 0.9, 3: 0.5})
    for trials in (3, 4):
        study, _ = searched(folder, trials=trials, confirm=3, keep="best:1")
        assert winner(study) == 2
        assert 2 in kept(folder)
