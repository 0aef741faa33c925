"""What people read on MLflow's pages, as text; `test_browser` looks at the pages themselves."""

from __future__ import annotations

import json

import pytest

from search import pages
from search.records import Gain, StudyRecord, Summary

SUMMARY = Summary(
    number=7, label="cnn-3x24 adamw 2.0e-2", value=0.9942, params={"family": "cnn", "adam_lr": 0.0196123},
    gains=(Gain("tutorial MLP", 0, 0.9707, 0.0235),), test={"accuracy": 0.9952, "low": 0.9936, "high": 0.9964},
    model={"name": "mnist", "version": "1", "uri": "models:/mnist/1"},
)  # fmt: skip
STUDY = StudyRecord("mnist", 1, "val_accuracy", True, (), SUMMARY, {}, (), {})


def test_run_names_are_sorted_by_number_and_marked_behind_it():
    assert pages.run_name(17, "cnn-3x32 adamw 3.1e-3") == "#017 cnn-3x32 adamw 3.1e-3"
    assert pages.run_name(4, "mlp-64 sgd 1.0e-1", pages.WINNER) == "#004 ★ mlp-64 sgd 1.0e-1"


@pytest.mark.parametrize("maximize", [True, False])
def test_the_view_of_an_experiment_shows_all_trials_best_first(maximize):
    tags = pages.experiment_tags("mnist", "val_accuracy", maximize=maximize)
    view = json.loads(tags[f"mlflow.sharedViewState.{pages.VIEW}"])
    assert view["runsHiddenMode"] == "SHOW_ALL"
    assert view["searchFilter"] == "tags.kind = 'trial'"
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val_accuracy`", not maximize)
    assert {view["orderByKey"], "tags.`optuna.state`"} <= set(view["selectedColumns"])
    assert "★ the winner" in tags[pages.NOTE]


def test_notes_say_who_won_how_surely_and_by_how_much():
    for note in (pages.study_note(STUDY, SUMMARY), pages.winner_note(STUDY, SUMMARY)):
        assert "★ **Winner of `mnist`: trial 7**, `cnn-3x24 adamw 2.0e-2`, val_accuracy 0.9942" in note
        assert "Test accuracy **99.52%** (95% interval 99.36% to 99.64%), measured once." in note
        assert "| tutorial MLP | 0.9707 | +0.0235 |" in note
        assert "Registered as `models:/mnist/1`." in note
    assert "| adam_lr | 0.0196123 |" in pages.winner_note(STUDY, SUMMARY)
