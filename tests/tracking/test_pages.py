"""Texts on MLflow's pages; `test_browser` looks at the pages themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from search.study.records import StudyRecord
from search.study.summary import Candidate, Confirmation, Gain, Summary
from search.tracking import pages
from search.tracking.pages import model_card, note

CANDIDATES = (
    Candidate(7, "cnn-3x24 adamw 2.0e-2", 0.9956, 53_000, (0.9940, 0.9944), half=0.0015),
    Candidate(4, "cnn-3x16 sgd 1.0e-1", 0.9950, 24_000, (0.9900,), half=0.0019),
    Candidate(2, "mlp-512 adam 1.0e-3", 0.9948, 400_000, (), failed=1),
)
SUMMARY = Summary(
    number=7,
    label="cnn-3x24 adamw 2.0e-2",
    value=0.9956,
    params={"family": "cnn", "adam_lr": 0.0196123},
    run="refit-7",
    gains=(
        Gain("tutorial MLP", 0, 0.9707, 0.0235, 0.0021),
        Gain("strong CNN", 3, 0.994, 0.0002, 0.0019, 2),
    ),
    test={"accuracy": 0.9952, "low": 0.9936, "high": 0.9964, "loss": 0.02, "n": 10_000},
    confusion=((5, 1), (0, 4)),
    model={"name": "mnist", "version": "1", "alias": "champion", "uri": "models:/mnist/1"},
    confirmation=Confirmation(CANDIDATES, 2, 0.0003, 10_000),
    refit={"epochs": 6, "seconds": 61.0, "images": 60_000},
)
ORIGIN = {"command": "python -m search", "seed": 0, "versions": {"torch": "2.15.0"}}
STUDY = StudyRecord("mnist", "val_accuracy", True, (), SUMMARY, ORIGIN, (), {"test_reads": [{}]})
DATA = {
    "dataset": "mnist",
    "dataset_digest": "6bbc9ace",
    "shape": (1, 28, 28),
    "classes": ["cat", "dog"],
    "n_train": 50_000,
    "n_validation": 10_000,
}


def test_gains_without_intervals_may_be_chance():
    bare = replace(SUMMARY, gains=(Gain("tutorial MLP", 0, 0.9707, 0.0235),))
    once = Confirmation(
        tuple(replace(candidate, values=candidate.values[:1]) for candidate in CANDIDATES), 1, None, 10_000
    )
    for confirmation, why in ((None, "nothing was confirmed on fresh"), (once, "no configuration has two fresh")):
        text = note(STUDY, replace(bare, confirmation=confirmation))
        assert f"without intervals, because {why} seeds: any of it may be chance." in text
    assert "Gains over the baselines" not in note(STUDY, bare)  # two fresh seeds with one value: there is no noise
    assert "Gains over the baselines, each with its own 95% interval." in note(STUDY, SUMMARY)


def test_a_table_survives_bars_and_newlines_inside_its_cells():
    odd = replace(SUMMARY, gains=(Gain("x|y\nz", 0, 0.9707, 0.0235),))
    assert "| x\\|y z | 0.9707 |" in note(STUDY, odd)


def test_the_note_says_who_won_how_surely_and_by_how_much():
    text = note(STUDY, SUMMARY)
    assert "★ **Winner of `mnist`: trial 7**, `cnn-3x24 adamw 2.0e-2`, val_accuracy 0.9942" in text
    assert "Test accuracy **99.52%** (95% interval 99.36% to 99.64%, n = 10,000), measured once." in text
    assert "trained on everything except the test split: 60,000 images, 6 epochs" in text
    assert "| tutorial MLP | 0.9707 | one training, not confirmed | +0.0235 ± 0.0021 |  |" in text
    assert "| strong CNN | 0.9940 | mean of 2 fresh seeds | +0.0002 ± 0.0019 | may be chance |" in text
    assert "Registered as [`models:/mnist/1`](#/models/mnist/versions/1), alias `champion`." in text
    rows = [line for line in text.splitlines() if line.startswith("| #")]
    assert "| 0.9942 | 0.9927 to 0.9957 |" in rows[0]
    assert rows[0].endswith("| winner |")
    assert "clearly behind, dropped early" in rows[1]
    assert "1 seed failed" in rows[2]


def test_the_note_says_what_did_not_go_as_planned():
    other = replace(SUMMARY, model=None, note="its refit failed", standing="not registered: MLflow has not answered")
    assert "its refit failed" in note(STUDY, other)
    assert "not registered: MLflow has not answered" in note(STUDY, other)
    assert "Registered as" not in note(STUDY, other)


def test_the_card_tells_a_confirmed_figure_from_a_chosen_one():
    text = model_card(STUDY, SUMMARY, DATA, "models:/mnist/1")
    assert "| val_accuracy | 0.9942 | 0.9927 to 0.9957 |" in text
    assert "| gain over strong CNN | +0.0002 | ± 0.0019 | val_accuracy; baseline: mean of 2 fresh" in text
    assert "| **cat** | 5 | 1 |" in text
    assert "| **dog** |  | 4 |" in text
    assert "digest `6bbc9ace`; 50,000 images for training, 10,000 for validation" in text
    assert "was not confirmed" not in text
    assert "was not confirmed on fresh seeds" in model_card(STUDY, replace(SUMMARY, confirmation=None), DATA, "x")
    none_ended = replace(SUMMARY, confirmation=Confirmation((replace(CANDIDATES[0], values=(), failed=2),), 2, None))
    assert none_ended.confirmed is None
    assert "was not confirmed on fresh seeds" in model_card(STUDY, none_ended, DATA, "x")


@pytest.mark.parametrize(
    ("run", "network", "mean", "seen"),
    [
        (
            "trial-7",
            "the search's own training of this configuration, which was selected for its",
            None,
            "this network",
        ),
        ("confirm-7-1", "one of the trainings on fresh seeds, not selected", "one of them this network", "another"),
        ("refit-7", "a fresh seed, .* so it has no validation value: 60,000", "not of this network", "another"),
    ],
)
def test_the_card_credits_no_figure_to_another_network(run: str, network: str, mean: str | None, seen: str):
    other = replace(SUMMARY, run=run, refit=SUMMARY.refit if run == "refit-7" else None)
    text = model_card(STUDY, other if mean else replace(other, confirmation=None), DATA, "models:/mnist/1")
    assert re.search(rf"^- Network: {network}", text, re.M)
    row = rf"^\| val_accuracy, in the search \| 0.9956 \|  \| {seen}.*; too good on average"
    assert re.search(row, text, re.M)
    if mean:
        assert f"mean of 2 trainings of this configuration on fresh seeds, {mean} |" in text


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 8)])
def test_the_cards_lines_for_loading_fit_the_model(shape: tuple[int, int, int]):
    text = model_card(STUDY, SUMMARY, {**DATA, "shape": shape}, "models:/mnist/1")
    code = text.split("```python\n")[1].split("```")[0]
    assert f"np.zeros((2, {', '.join(map(str, shape))}), dtype=np.float32)" in code
    compile(code, "card", "exec")


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
