"""What people read on MLflow's pages, as text; `test_browser` looks at the pages themselves."""

from __future__ import annotations

import json

import pytest

from search.tracking import pages


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
