"""What a plain function takes of the settings of a search: fixed parameters, initial ones, an early end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

import search

EVERY: dict[str, Any] = {"engine": "inline", "quiet": True, "trials": 3}


def hill(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    return x * x + trial.suggest_int("n", 1, 9)


def stopping(trial: optuna.Trial) -> float:
    if trial.number == 1:
        trial.study.stop()
    return trial.suggest_float("x", 0, 1)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_parameters_are_fixed_and_the_best_of_another_study_come_first(here: Path):
    fixed = search.run(hill, study="fixed", fix={"n": 4}, **EVERY)
    assert {trial.params["n"] for trial in fixed.study.trials} == {4}
    warm = search.run(hill, study="warm", warm_start="fixed", **EVERY)
    first = [trial.params for trial in warm.study.trials]
    assert first == [trial.params for trial in sorted(fixed.study.trials, key=lambda trial: trial.value or 0.0)]
    with pytest.raises(search.SearchError, match=r"--fix was not given, now \{'n': 5\}"):
        search.run(hill, study="warm", fix={"n": 5}, **EVERY)


@pytest.mark.slow
def test_a_function_ends_its_search_and_an_enqueued_trial_is_run(here: Path):
    stopped = search.run(stopping, study="stopped", **EVERY)
    assert len(stopped.study.trials) == 2
    again = search.run(stopping, study="stopped", **EVERY)
    assert len(again.study.trials) == 3
    again.study.enqueue_trial({"x": 0.25})
    more = search.run(stopping, study="stopped", **{**EVERY, "trials": 4})
    assert [trial.params["x"] for trial in more.study.trials].count(0.25) == 1
    assert len(more.study.trials) == 4


@pytest.mark.parametrize("flag", [{"epochs": 3}, {"max_parameters": 10}, {"ensemble": 3}, {"dataset": "digits"}])
def test_a_flag_that_no_function_takes_is_refused(here: Path, flag: dict[str, Any]):
    with pytest.raises(search.SearchError, match=f"^--{next(iter(flag)).replace('_', '-')} .*leave .* out"):
        search.run(hill, **EVERY, **flag)
