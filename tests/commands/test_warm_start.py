"""`--warm-start auto`: the best of earlier finished studies that fit, decided once."""

from __future__ import annotations

import functools
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from shell import search as command
from studies import ask
from toy import Toy

import search
from objectives.base import ImageClassifier, Objective, Params, Suggest
from search.commands.setup import SearchPlan, objective_spec
from search.common.config import Config
from search.study import records
from search.study.records import TrainingResult
from search.study.sampling.samplers import make_pruner
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.initial_params import InitialParams
from search.study.storage.storage import open_storage
from search.study.study import StoredStudy, open_study
from search.study.summary import Candidate, Confirmation, Summary

NOTHING = "warm start: no finished study here has a new configuration that fits; the search begins as usual"


class Other(Toy):
    """Shares `x`, `kind` and `width` with `Toy`, but not `depth`; has a parameter of its own."""

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", ["deep", "wide"])
        params: Params = {"x": trial.suggest_float("x", self.low, 1.0), "kind": kind}
        return params | {"width": trial.suggest_float("width", 1e-3, 1.0), "rate": trial.suggest_float("rate", 0, 1)}


class Different(Toy):
    def suggest(self, trial: Suggest) -> Params:
        return {"x": trial.suggest_int("x", 0, 9), "kind": trial.suggest_categorical("kind", ["a"])}


class Minimized(Toy):
    def __init__(self) -> None:
        super().__init__("minimize")


class Known(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.known = {"usual": {"x": 0.25, "kind": "deep", "depth": 3}}


class Sized(Toy):
    def n_parameters(self, params: Params) -> int:
        return 100 * int(params.get("depth") or 0)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(workspace=tmp_path, objective="toy:Toy", warm_start="auto", study="new")


def opened(config: Config) -> tuple[SearchPlan, StoredStudy]:
    plan = SearchPlan.of(config)
    storage = open_storage(config.storage_url)
    return plan, open_study(storage, plan.name, plan.objective, plan.spec.target, 4, plan.space, plan.limits)


def started(config: Config) -> tuple[list[str], list[str]]:
    """The names of what a search takes over, and what it says of it."""
    plan, study = opened(config)
    initial, notices = plan.initial_params(study)
    return [params.name for params in initial if params.origin == records.WARM_START], notices


@functools.cache
def made(target: str, dataset: str | None) -> Objective:
    objective = objective_spec(Config(objective=target, dataset=dataset)).load()
    if isinstance(objective, ImageClassifier):
        objective.prepare()
    return objective


def trained(config: Config, name: str, values: Sequence[float], tried: Sequence[Params] = ()) -> StoredStudy:
    """A study with trials of these values, the first of them with the configurations `tried`."""
    objective = made(config.objective, config.dataset)
    target, storage = config.objective, open_storage(config.storage_url)
    study = open_study(storage, name, objective, target, 4)
    initial = [InitialParams(f"tried #{n}", params) for n, params in enumerate(tried)]
    seed, pruner = sum(name.encode()), make_pruner("none", 4)
    sampling = SamplingStudy.open(study, pruner=pruner, sampler="random", seed=seed, initial=initial)
    for value in values:
        sampled = ask(sampling)
        sampling.start(sampled, {records.LABEL: name})
        sampling.tell(sampled.number, TrainingResult(TrialState.COMPLETE, value))
    study.set_attr(records.TARGET, len(values))
    return study


def finished(
    config: Config,
    name: str,
    values: Sequence[float],
    *,
    tried: Sequence[Params] = (),
    winner: int = 0,
    means: Mapping[int, float] | None = None,
    dataset: Mapping[str, Any] | None = None,
) -> StoredStudy:
    """A study as a search leaves it. `means`: those on fresh seeds, by trial."""
    study = trained(config, name, values, tried)
    candidates = tuple(Candidate(n, name, values[n], None, (mean,)) for n, mean in (means or {}).items())
    confirmation = Confirmation(candidates, 1, None) if candidates else None
    params = study.record().trials[winner].params
    summary = Summary(winner, name, values[winner], params, f"trial-{winner}", confirmation=confirmation)
    study.set_attr(records.PROVENANCE, {"dataset": dataset})
    if dataset is not None:
        study.set_attr(records.FINGERPRINT, {**study.attrs()[records.FINGERPRINT], "dataset": dataset["digest"]})
    study.set_attr(records.SUMMARY, summary.as_dict())
    return study


# What is taken, and in which order ----------------------------------------------------------------------------------


def test_the_best_of_each_study_is_taken_in_turn_and_confirmed_values_count_first(config: Config):
    finished(config, "older", [0.9, 0.8, 0.95, 0.7], winner=1, means={2: 0.5, 1: 0.8, 0: 0.6})
    finished(config, "newer", [0.3, 0.2], winner=0)
    names, notices = started(config)
    assert names == ["newer #0", "older #1", "newer #1", "older #0", "older #2"]
    assert notices == [f"warm start: configurations of earlier studies, tried after the baselines: {', '.join(names)}"]
    _, study = opened(config)
    (taken,) = study.attrs()[records.WARM_STARTS].values()
    assert taken[1][1] == StoredStudy(study.storage, 1, Toy()).record().trials[1].params


def test_studies_of_the_same_dataset_come_first_and_then_those_of_similar_images(config: Config):
    config = replace(config, objective=Config.objective, dataset="digits")
    own = SearchPlan.of(config).dataset
    assert own is not None
    foreign = own | {"name": "letters", "digest": "f" * 32}
    for name, dataset in {
        "renamed": own | {"name": "numbers"},
        "changed": own | {"digest": "c" * 32},
        "similar": foreign | {"shape": [1, 16, 12], "n_train": 2 * own["n_train"]},
        "coloured": foreign | {"shape": [3, 8, 8]},
        "larger": foreign | {"shape": [1, 32, 32]},
        "many": foreign | {"n_train": 40 * own["n_train"]},
    }.items():
        finished(config, name, [0.5], dataset=dataset)
    names = [name for name in started(config)[0] if not name.startswith("portfolio")]
    assert names == ["changed #0", "renamed #0", "similar #0", "many #0", "larger #0"]


def test_another_objective_fits_if_most_of_its_parameters_do(config: Config):
    finished(config, "twin", [0.5, 0.4])
    finished(replace(config, objective="test_warm_start:Other"), "other", [0.9, 0.8])
    names, notices = started(config)
    assert names == ["twin #0", "other #0", "twin #1", "other #1"]
    assert "warm start: not a parameter here, and skipped: rate" in notices


def test_nothing_is_taken_of_studies_that_do_not_fit_or_are_not_finished(config: Config):
    finished(replace(config, objective="test_warm_start:Minimized"), "down", [0.5])
    finished(replace(config, objective="test_warm_start:Different"), "different", [0.5])
    trained(config, "stopped", [0.5])
    finished(config, "extended", [0.5]).set_attr(records.TARGET, 9)
    finished(config, "removed", [0.5]).delete()
    several = optuna.create_study(storage=config.storage_url, study_name="several", directions=["maximize"] * 2)
    several.set_user_attr(records.SUMMARY, "mine")
    assert started(config) == ([], [NOTHING])
    finished(config, "late", [0.5])
    assert started(config) == ([], [])


def test_a_configuration_that_is_a_baseline_or_was_taken_is_not_taken_again(config: Config):
    config = replace(config, objective="test_warm_start:Known")
    tried: list[Params] = [Known().known["usual"], {"x": 0.5, "kind": "deep", "depth": 2}]
    finished(config, "first", [0.9, 0.8, 0.1], tried=tried)
    finished(config, "second", [0.9, 0.8, 0.2], tried=tried)
    assert started(config)[0] == ["second #1", "first #2", "second #2"]


def test_limits_hold_and_what_exceeds_them_is_named(config: Config):
    config = replace(config, objective="test_warm_start:Sized", max_parameters=300)
    small: Params = {"x": 0.5, "kind": "deep", "depth": 2}
    finished(replace(config, max_parameters=None), "old", [0.9, 0.8], tried=[small | {"depth": 5}, small])
    names, notices = started(config)
    assert names == ["old #1"]
    assert notices[1:] == ["warm start: left out: trial 0 of old: it has 500 parameters, too many"]


# Decided once -------------------------------------------------------------------------------------------------------


def test_what_is_taken_stays_when_studies_appear_and_disappear(config: Config):
    old = finished(config, "old", [0.9, 0.8])
    names, _ = started(config)
    finished(config, "more", [0.95])
    old.delete()
    assert started(config) == (names, [])
    assert started(replace(config, warm_start=None)) == (names, [])


def test_auto_is_no_name_of_a_study(config: Config):
    finished(config, "old", [0.9])
    own = replace(config, study="auto")
    assert started(own) == (
        ["old #0"],
        ["warm start: configurations of earlier studies, tried after the baselines: old #0"],
    )
    finished(config, "auto", [0.8])
    names, notices = started(config)
    assert names == ["auto #0", "old #0"]
    assert notices[-1] == "warm start: auto means all studies that fit, not only the study of that name"


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_search_takes_the_same_after_another_study_has_finished(config: Config):
    first, folder = finished(config, "first", [0.9, 0.8, 0.7]), config.workspace
    words = ("--objective", "toy:Toy", "--engine", "inline", "--confirm", 0, "--study", "new", "--trials", 4)
    killed = command(*words, "--warm-start", "auto", cwd=folder, env={"TOY_MODE": "kill"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished(config, "between", [0.95])
    again = command(*words, "--warm-start", "auto", cwd=folder)
    assert (again.returncode, "warm start" in again.stdout) == (0, False), again.stderr
    tried = [trial.params for trial in StoredStudy(first.storage, 2, Toy()).record().trials]
    assert tried[:3] == [trial.params for trial in first.record().trials]
    assert len(tried) == 4


# Functions ----------------------------------------------------------------------------------------------------------


def hill(trial: optuna.Trial) -> float:
    shape = trial.suggest_categorical("shape", ["round", "flat"])
    return trial.suggest_float("x", -5, 5) ** 2 + (shape == "flat")


@pytest.mark.slow
def test_a_function_starts_from_studies_of_itself(config: Config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(config.workspace)
    finished(replace(config, objective="test_warm_start:Minimized"), "toy", [0.5])
    every: dict[str, Any] = {"engine": "inline", "quiet": True, "trials": 3, "warm_start": "auto"}
    one = search.run(hill, study="one", **every)
    two = search.run(hill, study="two", seed=1, **every)
    best = sorted(one.study.trials, key=lambda trial: trial.value or 0.0)
    assert [trial.params for trial in two.study.trials] == [trial.params for trial in best]
    assert {trial.user_attrs.get("warm_start") for trial in one.study.trials} == {None}
