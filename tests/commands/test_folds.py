"""Searches of few images: the best configurations are confirmed by folds of all images but the test split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from image_folders import make_folder
from rich.console import Console
from shell import in_process, rows

from objectives.images.objective import ImageClassification
from search.cli.progress import PlainDisplay
from search.commands.run import run
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.study import records
from search.study.records import StudyRecord
from search.study.summary import Folds

WHOLE = "of all 1,438 images but the test split"


def searched(folder: Path, **settings: Any) -> StudyRecord:
    """One start of a search, in this process."""
    settings = {"dataset": "digits", "epochs": 1, "no_register": True, "no_refit": True, **settings}
    config = Config(engine="inline", workspace=folder, **settings)
    with (folder / "told.txt").open("w") as told:
        return run(SearchPlan.of(config), PlainDisplay(Console(file=told, width=200))).study


def runs(folder: Path) -> list[tuple[str, str]]:
    """Name and fold of the runs that confirm, by name."""
    kinds = "SELECT run_uuid FROM tags WHERE key = 'kind' AND value = 'confirm'"
    query = "SELECT r.name, t.value FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'fold'"
    return sorted(rows(folder / "mlflow.db", f"{query} WHERE r.run_uuid IN ({kinds})"))


@pytest.mark.slow
def test_each_candidate_has_a_training_a_fold_and_more_of_them_use_another_division(folder: Path):
    study = searched(folder, trials=2, confirm=2)
    summary = study.summary
    assert summary is not None
    assert summary.confirmation is not None
    assert (summary.confirmation.folds, summary.confirmation.seeds) == (Folds(4, 1438), 4)
    assert (folder / "told.txt").read_text().count(f"confirming the best on 4 folds {WHOLE}: 0 of 8 trainings") == 1
    done = [len(candidate.values) for candidate in summary.confirmation.candidates]
    first = runs(folder)
    assert max(done) == 4
    assert len(first) == sum(done)
    assert all(name.endswith(f", {fold}") and re.fullmatch("fold [1-4] of 4", fold) for name, fold in first)

    assert summary.calibration is not None
    assert summary.run == f"confirm-{summary.number}-fold-1"
    assert summary.calibration.runs == tuple(f"confirm-{summary.number}-fold-{fold}" for fold in (1, 2, 3, 4))
    told = in_process("show", "digits", "--workspace", str(folder)).output
    assert re.search(rf"^confirmed on (up to )?4 folds {WHOLE}; 95% intervals, corrected ", told, re.M)
    assert "fitted on validation predictions of 4 folds" in told
    assert "fresh seed" not in told
    page = (folder / "mlruns" / "reports" / "digits.html").read_text()
    assert f"4 folds {WHOLE}" in page
    assert "fresh seed" not in page.lower()

    before = len(study.attrs[records.EXTRA_TRAININGS])
    again = searched(folder, trials=2, confirm=2, confirm_seeds=8).summary
    assert again is not None
    assert again.confirmation is not None
    assert again.confirmed is not None
    assert len(again.confirmed.values) == 8
    assert {*first} < {*runs(folder)}
    assert {fold for _, fold in runs(folder)} >= {f"fold {n} of 4, division 2" for n in (1, 2, 3, 4)}
    assert before == len(first)


@pytest.mark.slow
def test_the_values_are_of_images_that_each_network_was_not_trained_on(folder: Path):
    """The value of a training is the accuracy of its stored network on the images of its fold."""
    study = searched(folder, trials=1, confirm=1)
    assert study.summary is not None
    assert study.summary.confirmed is not None
    objective = ImageClassification("digits")
    found = folder.glob("mlruns/artifacts/digits/*/artifacts/weights.pt")
    _, *paths = sorted(found, key=lambda path: path.stat().st_mtime_ns)
    params = study.trials[0].params
    values = []
    for fold, path in enumerate(paths):
        images, labels = objective.fold_images(fold)
        network = objective.load_weights(dict(objective.baselines()["tutorial MLP, Adam"]), path.read_bytes())
        with torch.no_grad():
            values.append(np.mean(network(torch.from_numpy(images) / 255).argmax(1).numpy() == labels))
    assert params["family"] == "mlp"
    assert values == pytest.approx(study.summary.confirmed.values, abs=1e-6)


@pytest.mark.slow
def test_a_study_that_began_with_seeds_keeps_them(folder: Path):
    searched(folder, trials=1, confirm=0)
    stored = optuna.load_study(study_name="digits", storage=f"sqlite:///{folder / 'optuna.db'}")
    stored.set_user_attr(records.FOLDS, None)  # as earlier versions made it
    summary = searched(folder, trials=1, confirm=1).summary
    assert summary is not None
    assert summary.confirmation is not None
    assert (summary.confirmation.folds, summary.confirmation.seeds) == (None, 2)
    assert [name[-12:] for name, _ in runs(folder)] == ["fresh seed 1", "fresh seed 2"]


@pytest.mark.slow
def test_a_validation_split_of_ones_own_is_confirmed_by_seeds(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.delenv("SEARCH_DATA_DIR")
    for split, n in (("train", 20), ("val", 6), ("test", 6)):
        make_folder(folder / "pets" / split, {"cat": n, "dog": n}, size=(8, 8))
    plan = SearchPlan.of(Config(dataset=f"folder:{folder / 'pets'}", workspace=folder))
    assert (plan.folds, plan.trainings) == (None, 2)
    summary = searched(folder, dataset=f"folder:{folder / 'pets'}", trials=1, confirm=1, no_refit=True).summary
    assert summary is not None
    assert summary.confirmation is not None
    assert (summary.confirmation.folds, summary.confirmation.seeds) == (None, 2)


def test_the_number_of_trainings_is_that_of_the_folds_unless_it_is_given(folder: Path):
    plans = [SearchPlan.of(Config(dataset="digits", workspace=folder, confirm_seeds=n)) for n in (None, 2, 8)]
    assert [plan.trainings for plan in plans] == [4, 2, 8]
    assert [plan.folds.describe(plan.trainings) for plan in plans if plan.folds] == [
        f"4 folds {WHOLE}",
        f"2 of 4 folds {WHOLE}",
        f"8 folds in 2 divisions {WHOLE}",
    ]
    assert SearchPlan.of(Config(dataset="digits", workspace=folder, confirm=0)).trainings == 0
    target = SearchPlan.of(Config(dataset="digits", workspace=folder, target=0.9)).target
    assert target is not None
    assert target.seeds == 4
