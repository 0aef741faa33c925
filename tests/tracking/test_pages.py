"""Texts on MLflow's pages; `test_browser` looks at the pages themselves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag, SqlRegisteredModel
from mlflow.store.tracking.dbmodels.models import (
    SqlDataset,
    SqlExperiment,
    SqlExperimentTag,
    SqlMetric,
    SqlParam,
    SqlRun,
    SqlTag,
)
from mlflow.utils import validation

from search.common.config import MODEL_NAME_CHARACTERS
from search.reports.tables import provenance
from search.study.records import StudyRecord
from search.study.space.mlflow_names import MAX_LENGTH
from search.study.summary import Candidate, Confirmation, Gain, Summary
from search.tracking import lengths, pages
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
CONTINUED = {**ORIGIN, "later_commands": ["python -m search --trials 9", "python -m search --ensemble 3"]}
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
    for confirmation, why in ((None, "nothing was confirmed"), (once, "no configuration has two fresh seeds")):
        text = note(STUDY, replace(bare, confirmation=confirmation))
        assert f"without intervals, because {why}, so any of it may be chance." in text
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
    assert "was not confirmed by further trainings" in model_card(STUDY, replace(SUMMARY, confirmation=None), DATA, "x")
    none_ended = replace(SUMMARY, confirmation=Confirmation((replace(CANDIDATES[0], values=(), failed=2),), 2, None))
    assert none_ended.confirmed is None
    assert "was not confirmed by further trainings" in model_card(STUDY, none_ended, DATA, "x")


def test_the_card_shows_the_first_and_the_last_command():
    assert "- Command: `python -m search`, seed 0" in model_card(STUDY, SUMMARY, DATA, "x")
    text = model_card(replace(STUDY, provenance=CONTINUED), SUMMARY, DATA, "x")
    assert "- Command: `python -m search`, continued by `python -m search --ensemble 3`, seed 0" in text
    rows = dict(provenance(replace(STUDY, provenance=CONTINUED)))
    assert [rows[name] for name in ("command 2", "command 3")] == CONTINUED["later_commands"]


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


# Lengths -------------------------------------------------------------------------------------------------------------

LONG = "a name of sixty letters, as people give them to their folders"


def named(n: int) -> dict[str, Any]:
    """The data of n classes with long names, and a confusion matrix for so few that there is one."""
    return {**DATA, "classes": [f"{i} {LONG}" for i in range(n)]}


def long(summary: Summary, n: int) -> Summary:
    """A summary of n classes."""
    return replace(summary, confusion=[[1] * n] * n if n <= pages.MAX_CLASSES else None)


@pytest.mark.parametrize("n", [2, 10, 30, 31, 300, 1000])
def test_the_card_of_many_classes_fits_and_spares_the_matrix_first(n: int):
    text = model_card(STUDY, long(SUMMARY, n), named(n), "models:/mnist/1")
    assert len(text) <= lengths.VERSION_DESCRIPTION
    assert f"into {n} classes: 0 {LONG}" in text
    assert ("Rows are true classes" in text) == (n <= 10)
    assert "| gain over strong CNN | +0.0002 | ± 0.0019 |" in text
    assert text.endswith("takes uint8 images as well.")
    assert "```python" in text


PARAMS = {f"layers_{i}_units_of_the_encoder": "x" * 50 for i in range(200)}
GAINS = tuple(Gain(f"{LONG} {i}", i, 0.9, 0.1) for i in range(100))
MANY = tuple(replace(CANDIDATES[0], number=i, label=f"{LONG} {i}") for i in range(100))
WORST: dict[str, tuple[StudyRecord, Summary]] = {
    "study": (replace(STUDY, name="s" * 9_000), SUMMARY),
    "command": (replace(STUDY, provenance={**ORIGIN, "command": "python -m search " + "--fix a=1 " * 900}), SUMMARY),
    "params": (STUDY, replace(SUMMARY, params=PARAMS)),
    "label": (STUDY, replace(SUMMARY, label="l" * 9_000)),
    "baselines": (STUDY, replace(SUMMARY, gains=GAINS)),
    "metric": (replace(STUDY, metric="m" * 3_000), SUMMARY),
    "candidates": (STUDY, replace(SUMMARY, number=0, confirmation=Confirmation(MANY, 2, 0.0003, 10_000))),
    "note": (STUDY, replace(SUMMARY, note="it failed " * 900)),
    "NUL": (replace(STUDY, name="a\0b"), replace(SUMMARY, label="\udcff")),
}


@pytest.mark.parametrize("case", WORST)
def test_notes_and_cards_fit_whatever_is_long(case: str):
    study, summary = WORST[case]
    for data in (named(1000), {**DATA, "dataset": "folder:" + "d/" * 2_000}, {"shape": (1,), "data": PARAMS}):
        card = model_card(study, summary, data, "models:/mnist/1")
        assert len(card) <= lengths.VERSION_DESCRIPTION
        assert 'load_model("models:/mnist/1")' in card
    text = note(study, summary)
    assert len(text) <= lengths.RUN_TAG_VALUE
    assert "Winner of" in text
    (card + text).encode()
    assert "\0" not in card + text


def test_a_cut_text_says_so_and_distinct_texts_stay_distinct():
    assert lengths.cut("short", 5) == "short"
    assert lengths.cut("too long", 6) == "too..."
    one, two = (lengths.cut_distinct("x" * 300 + end, 250) for end in "ab")
    assert len(one) == len(two) == 250
    assert one != two


def test_the_lengths_are_those_of_the_installed_mlflow():
    """MLflow's tables, where PostgreSQL holds them, and its own checks."""
    columns = {
        (SqlRun, "name"): lengths.RUN_NAME,
        (SqlTag, "value"): lengths.RUN_TAG_VALUE,
        (SqlTag, "key"): MAX_LENGTH,
        (SqlParam, "key"): MAX_LENGTH,
        (SqlParam, "value"): lengths.PARAM,
        (SqlMetric, "key"): MAX_LENGTH,
        (SqlExperiment, "name"): lengths.EXPERIMENT_NAME,
        (SqlExperimentTag, "value"): lengths.EXPERIMENT_TAG_VALUE,
        (SqlDataset, "name"): lengths.DATASET_NAME,
        (SqlDataset, "digest"): lengths.DATASET_DIGEST,
        (SqlDataset, "dataset_source"): lengths.DATASET_SOURCE,
        (SqlModelVersion, "description"): lengths.VERSION_DESCRIPTION,
        (SqlModelVersionTag, "key"): MAX_LENGTH,
        (SqlModelVersionTag, "value"): lengths.VERSION_TAG_VALUE,
        (SqlRegisteredModel, "name"): MODEL_NAME_CHARACTERS,
    }
    for (table, name), limit in columns.items():
        length = table.__table__.columns[name].type.length
        assert length is None or limit <= length, (table, name)
    assert lengths.PARAM <= validation.MAX_PARAM_VAL_LENGTH
    assert MAX_LENGTH <= validation.MAX_ENTITY_KEY_LENGTH
    assert lengths.RUN_TAG_VALUE <= validation.MAX_TAG_VAL_LENGTH
    assert lengths.EXPERIMENT_TAG_VALUE <= validation.MAX_EXPERIMENT_TAG_VAL_LENGTH
    assert lengths.DATASET_SOURCE <= validation.MAX_DATASET_SOURCE_SIZE
    assert max(lengths.PARAMS_PER_REQUEST, lengths.TAGS_PER_REQUEST) <= validation.MAX_PARAMS_TAGS_PER_BATCH
    requested = lengths.METRICS_PER_REQUEST + lengths.PARAMS_PER_REQUEST + lengths.TAGS_PER_REQUEST
    assert requested <= validation.MAX_ENTITIES_PER_BATCH
