"""Proposals: initial parameters first, no configuration twice, none above a limit, and the same ones after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from studies import STEPS, a_study, ask, story, train
from toy import Toy

from objectives.base import Params, Suggest
from search.common.config import SAMPLERS
from search.common.errors import StudyMismatchError, UsageError
from search.study import records
from search.study.records import TrainingResult
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.limits import Limits
from search.study.space.space import configuration_key, narrow
from search.study.storage.storage import quiet_optuna

# Notes of Optuna on its own samplers. CMA-ES learns nothing from a constraint; it is only kept to it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:Constraints have been set, but CmaEsSampler"),
]
SAMPLER_CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name == "gp")) for name in SAMPLERS]


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


class Few(Toy):
    """Six configurations: three of `n` for either `kind`, or as many as `largest` gives."""

    largest = 3

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", ["deep", "wide"])
        return {"kind": kind, "n": trial.suggest_int("n", 1, self.largest), "x": 0.0}


class Odd(Few):
    """Even numbers are for baselines, unless the user asks for them."""

    largest = 8

    def baselines(self) -> Mapping[str, Params]:
        return {"even": {"kind": "deep", "n": 2}}

    def may_propose(self, params: Params, narrowed: Set[str]) -> bool:
        return "n" in narrowed or int(params["n"] or 0) % 2 == 1


class Weighed(Toy):
    """A network of `depth` times 100 weights, or `width` times 1,000."""

    def n_parameters(self, params: Params) -> int:
        if params["kind"] == "deep":
            return 100 * int(params["depth"] or 0)
        return round(1000 * float(params["width"] or 0))


def search(study: SamplingStudy, trials: int) -> SamplingStudy:
    """Train up to so many trials in all, or what there is."""
    while study.finished < trials and (sampled := study.ask()) is not None:
        train(study, sampled)
    return study


# Nothing twice ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_configuration_of_a_small_space_is_trained_once_and_then_the_search_ends(database: str, sampler: str):
    study = search(a_study(database, Few(steps=1), sampler=sampler), 20)
    trials = study.stored.record().trials
    assert len({configuration_key(trial.params) for trial in trials}) == len(trials) == 6
    assert study.proposals.exhausted is not None
    assert study.proposals.exhausted.startswith("of 1,000 configurations drawn at random, none was both new and within")
    again = a_study(database, Few(steps=1), sampler=sampler)
    assert again.proposals.is_exhausted()
    assert again.ask() is None
    assert story(again) == story(study)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_space_of_sixty_configurations_is_tried_completely(database: str, sampler: str):
    objective = Few(steps=1)
    objective.largest = 30
    study = search(a_study(database, objective, sampler=sampler), 59)
    assert not study.proposals.is_exhausted()
    assert len(search(study, 99).stored.record().trials) == 60
    assert study.proposals.exhausted


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_search_without_repeats_is_the_same_when_it_was_killed(
    database: str, fresh_optuna: Path, tmp_path: Path, sampler: str
):
    whole = f"sqlite:///{shutil.copy(fresh_optuna, tmp_path / 'whole.db')}"
    expected = story(search(a_study(whole, Few(steps=1), sampler=sampler), 6))
    for trials in range(1, 7):
        study = a_study(database, Few(steps=1), sampler=sampler)
        ask(study)  # sampled, and never begun: the search was killed
        study = search(a_study(database, Few(steps=1), sampler=sampler), trials)
    assert story(study) == expected


def test_a_configuration_in_training_is_not_proposed_again(database: str):
    study = a_study(database, Few(steps=1))
    asked = [ask(study) for _ in range(6)]
    assert len({configuration_key(sampled.params) for sampled in asked}) == 6
    assert study.ask() is None


# Fixed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLER_CASES)
def test_every_sampler_keeps_to_what_is_fixed_and_narrowed(database: str, sampler: str):
    space = narrow(Toy(), ["kind=wide", "width=[0.01, 0.1]", "x=0.5"])
    study = search(a_study(database, Toy(steps=1), sampler=sampler, space=space), 14)
    params = [trial.params for trial in study.stored.record().trials]
    assert {configuration["kind"] for configuration in params} == {"wide"}
    assert {configuration["x"] for configuration in params} == {0.5}
    assert all(0.01 <= configuration["width"] <= 0.1 for configuration in params)
    assert len({configuration["width"] for configuration in params}) == 14


def test_resuming_a_study_with_another_space_or_limit_is_an_error(database: str):
    search(a_study(database, space=narrow(Toy(), ["x=[0, 0.5]"])), 1)
    with pytest.raises(StudyMismatchError, match=r"in its search space x was 0 to 0.5, now -1 to 1\."):
        a_study(database)
    with pytest.raises(StudyMismatchError, match=r"max_parameters was not given, now 500; in its search space x"):
        a_study(database, Weighed(), limits=Limits(parameters=500))


def test_a_baseline_is_tried_with_the_fixed_values(database: str):
    objective = Toy(steps=STEPS)
    objective.known = {
        "left": {"kind": "deep", "x": -1.0, "depth": 2},
        "wide": {"kind": "wide", "x": 1.0, "width": 0.5},
    }
    study = search(a_study(database, objective, space=narrow(objective, ["x=0.5"])), 3)
    (left, wide, other) = study.stored.record().trials
    assert (left.baseline, left.params["x"], left.params["depth"]) == ("left (x=0.5)", 0.5, 2)
    assert (wide.baseline, other.baseline, other.params["x"]) == ("wide (x=0.5)", None, 0.5)


# Limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLER_CASES)
def test_a_configuration_above_the_limit_never_becomes_a_trial(database: str, sampler: str):
    study = search(a_study(database, Weighed(steps=1), sampler=sampler, limits=Limits(parameters=150)), 12)
    stored = study.stored.optuna_study.trials
    assert len(stored) == 12
    sizes = [Weighed().n_parameters(study.stored.params_of(trial.params)) for trial in stored]
    assert max(sizes) <= 150
    excess = [trial.constraints["parameters"] for trial in stored]
    assert excess == pytest.approx([size / 150 - 1 for size in sizes])


def test_measured_latency_is_a_constraint_and_a_slow_trial_does_not_win(database: str):
    study = a_study(database, limits=Limits(latency_ms=2.0))
    for latency, value in ((1.0, 0.5), (3.0, 0.9)):
        sampled = ask(study)
        study.start(sampled, {})
        study.report(sampled.number, 1, value)
        result = TrainingResult(TrialState.COMPLETE, value, {records.METRICS: {"latency_ms": latency}})
        study.tell(sampled.number, result)
    refused = ask(study)
    study.start(refused, {})
    study.tell(refused.number, TrainingResult(TrialState.PRUNED, None, {records.METRICS: {"latency_ms": 5.0}}))
    record = a_study(database, limits=Limits(latency_ms=2.0)).stored.record()
    assert [dict(trial.constraints) for trial in record.trials] == [
        {"latency_ms": -0.5},
        {"latency_ms": 0.5},
        {"latency_ms": 1.5},
    ]
    assert [trial.number for trial in record.ranked()] == [0, 1]
    assert (record.trials[2].state, record.trials[2].value) == (TrialState.PRUNED, None)


@pytest.mark.slow
def test_the_search_ends_when_nothing_small_enough_is_new(database: str):
    """Only `depth` 1 is small enough, and `x` is fixed."""
    objective, space = Weighed(steps=1), narrow(Toy(), ["x=0.5", "kind=deep"])
    study = search(a_study(database, objective, space=space, limits=Limits(parameters=100)), 5)
    assert [trial.params["depth"] for trial in study.stored.record().trials] == [1]
    assert study.proposals.exhausted


def test_a_limit_needs_an_objective_with_the_method():
    with pytest.raises(UsageError, match=r"--max-parameters needs an objective .* give Toy a method n_parameters"):
        Limits(parameters=5).check(Toy())
    with pytest.raises(UsageError, match=r"--max-latency-ms needs an objective .* give Weighed a method latency_ms"):
        Limits(latency_ms=5).check(Weighed())


# Only for baselines --------------------------------------------------------------------------------------------------


def test_what_only_baselines_may_have_is_never_sampled(database: str):
    study = search(a_study(database, Odd(steps=1)), 9)
    values = [trial.params["n"] for trial in study.stored.record().trials]
    assert values[0] == 2
    assert sorted(values[1:]) == [1, 1, 3, 3, 5, 5, 7, 7]
    assert study.ask() is None
    assert study.proposals.is_exhausted()


def test_the_rest_of_an_enqueued_trial_is_sampled_by_the_same_rule(database: str):
    a_study(database, Odd(steps=1))
    elsewhere = optuna.load_study(study_name="toy", storage=database)
    for given in ({"kind": "deep"}, {"kind": "deep"}, {"kind": "wide"}, {"kind": "wide"}, {"n": 4}, {}):
        elsewhere.enqueue_trial(given)
    adopted = [trial.params for trial in a_study(database, Odd(steps=1)).resume()]
    assert [params["kind"] for params in adopted[:4]] == ["deep", "deep", "wide", "wide"]
    assert [params["n"] % 2 for params in adopted] == [1, 1, 1, 1, 0, 1]
    assert adopted[4]["n"] == 4  # as it was given
    assert [trial.params for trial in a_study(database, Odd(steps=1)).resume()] == adopted


def test_what_the_user_asks_for_is_sampled_all_the_same(database: str):
    objective = Odd(steps=1)
    study = search(a_study(database, objective, space=narrow(objective, ["n=[2, 4]"])), 6)
    assert sorted(trial.params["n"] for trial in study.stored.record().trials) == [2, 2, 3, 3, 4, 4]
