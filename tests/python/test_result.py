"""What `search.run` returns: figures of the winner, the stored study, the model, and a view for notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import toy
from shell import environment

import search

QUICK: Any = {"engine": "inline", "confirm": 0, "quiet": True}


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_result_says_what_optuna_says(here: Path):
    result = search.run(toy.Toy, trials=4, **QUICK)
    study = result.study
    assert isinstance(study, optuna.Study)
    assert result.best_trial == study.best_trial
    assert (result.best_value, result.best_params) == (study.best_value, study.best_params)
    assert len(result.trials_dataframe()) == 4
    assert (result.confirmed_value, result.interval, result.test_accuracy, result.model_uri) == (None,) * 4
    assert "toy" in result.report_path.read_text()
    best = study.best_trial
    assert repr(result) == f"<search.Result of study toy: winner trial {best.number}, score {best.value:.4f}, 4 trials>"
    optuna.visualization.plot_optimization_history(study)
    for name in ("predictor", "model"):
        with pytest.raises(search.SearchError, match="no model was registered"):
            getattr(result, name)


@pytest.mark.slow
def test_a_result_is_found_from_another_folder(here: Path, monkeypatch: pytest.MonkeyPatch):
    stores = {"storage": "sqlite:///own.db", "tracking_uri": "sqlite:///tracked.db", "workspace": "stored"}
    result = search.run(toy.Toy, trials=2, **stores, **QUICK)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert len(result.study.trials) == 2
    assert result.report_path == here / "stored" / "mlruns" / "reports" / "toy.html"
    assert "reports/toy.html" in result._repr_html_()
    assert list((here / "elsewhere").iterdir()) == []


def test_a_result_says_that_its_study_was_deleted(here: Path):
    result = search.run(toy.Toy, trials=1, **QUICK)
    assert result.study.trials
    optuna.delete_study(study_name="toy", storage=f"sqlite:///{here}/optuna.db")
    for use in (lambda: result.study, lambda: result.best_trial, result.trials_dataframe):
        with pytest.raises(search.SearchError, match="the study 'toy' was deleted: run the same call again"):
            use()
    search.run(toy.Toy, trials=1, **QUICK)
    with pytest.raises(search.SearchError, match="the study 'toy' was deleted"):
        result.study  # noqa: B018


LOGS = """
import torch, search
from torch import nn

def objective(trial):
    search.log_model(nn.Linear(trial.suggest_int("n", 1, 3), 2), torch.zeros(2, trial.params["n"]))
    return 1.0

result = search.run(objective, trials=1, engine="inline", quiet=True)
print("shape", result.model.predict(torch.zeros(4, *result.model.shape)).shape)
result.predictor
"""


@pytest.mark.slow
def test_the_model_of_a_function_is_no_predictor(here: Path):
    (here / "train.py").write_text(LOGS)
    command = [sys.executable, "train.py"]
    done = subprocess.run(command, cwd=here, env=environment(), capture_output=True, text=True, timeout=120)
    assert "shape (4, 2)" in done.stdout, done.stderr
    assert done.stderr.rstrip().endswith("is not a classifier of images; use result.model, which has predict(inputs)")


def test_the_view_for_notebooks_shows_the_winner(here: Path):
    result = search.run(toy.Toy, trials=3, study="<b>mine</b>", **{**QUICK, "confirm": 1})
    page = result._repr_html_()
    assert f"trial {result.best_trial.number}" in page
    assert f"{result.confirmed_value:.4f}" in page
    assert result.interval is not None
    assert f"{result.interval[0]:.4f} to {result.interval[1]:.4f}" in page
    assert "&lt;b&gt;mine" in page
    assert "<b>mine" not in page.replace("&lt;", "")
    assert page.count("<div") == page.count("</div>")
    assert not re.search(r"https?://|<script", page)
