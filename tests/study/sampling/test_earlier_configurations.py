"""Warm starts: what is taken over from an earlier study, what is changed, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from studies import a_study
from test_proposals import Few, search
from toy import Toy

from objectives.base import Params, Suggest
from objectives.images.objective import ImageClassification
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.common.errors import UsageError
from search.study import records
from search.study.records import TrialRecord
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.initial_params import WarmStart, from_stored, warm_start
from search.study.space.limits import Limits
from search.study.space.space import Space, configuration_key, narrow
from search.study.storage.storage import open_storage
from search.study.study import open_study


def warmed(earlier: SamplingStudy, objective: Toy, space: Space) -> tuple[list[Mapping[str, object]], list[str]]:
    initial, notices = warm_start(earlier.stored.record(), WarmStart(objective, space, Limits()))
    return [params.params for params in initial], notices


def test_the_best_of_an_earlier_study_comes_first_and_once(database: str):
    earlier = search(a_study(database, name="old"), 12)
    configurations, notices = warmed(earlier, Toy(), Space())
    assert configurations == [trial.params for trial in earlier.stored.record().ranked()[:5]]
    assert notices == ["warm start: the best 5 of study old come after the baselines"]
    initial = from_stored([[f"old #{number}", params] for number, params in enumerate(configurations)])
    search(a_study(database, initial=initial), 2)
    study = search(a_study(database, initial=initial), 7)
    assert [trial.params for trial in study.stored.record().trials[:5]] == configurations
    assert [trial.baseline for trial in study.stored.record().trials] == [None] * 7
    assert len({configuration_key(trial.params) for trial in study.stored.record().trials}) == 7


def test_parameters_outside_the_new_space_are_reported_and_resampled(database: str):
    earlier = search(a_study(database, name="old"), 8)
    configurations, notices = warmed(earlier, Few(), Space())
    assert all(set(params) == {"kind"} for params in configurations)
    assert "warm start: not a parameter here, and skipped: depth, width, x" in notices
    narrowed = narrow(Toy(), ["x=[0.9, 1.0]"])
    configurations, notices = warmed(earlier, Toy(), narrowed)
    assert all("x" not in params or params["x"] >= 0.9 for params in configurations)
    assert any(text.startswith("warm start: out of range, and resampled: x = ") for text in notices)


class Stepped(Toy):
    """Has choices where `Toy` has a range from 1 to 5."""

    def suggest(self, trial: Suggest) -> Params:
        x = trial.suggest_float("x", self.low, 1.0)
        return {"x": x, "depth": trial.suggest_categorical("depth", [1, 3, 9])}


def test_a_number_between_two_choices_becomes_the_nearest_one_in_a_warm_start(database: str):
    earlier = search(a_study(database, name="old"), 16)
    configurations, notices = warmed(earlier, Stepped(), Space())
    depths = {trial.params["x"]: trial.params.get("depth") for trial in earlier.stored.record().trials}
    nearest = {None: None, 1: 1, 2: 3, 3: 3, 4: 3, 5: 3}
    assert all(params.get("depth") == nearest[depths[params["x"]]] for params in configurations)
    (rounded,) = (text for text in notices if "replaced by the nearest one" in text)
    assert re.search(r"depth = [245] of trial \d+ of old \(here 3\)", rounded)


def test_fixed_parameters_are_fixed_in_a_warm_start_too(database: str):
    earlier = search(a_study(database, name="old"), 8)
    configurations, notices = warmed(earlier, Toy(), narrow(Toy(), ["x=0.5"]))
    assert [params["x"] for params in configurations if "x" in params] == [0.5] * len(configurations)
    assert not any("out of range" in text for text in notices)


def test_a_configuration_whose_choice_is_gone_is_left_out_of_a_warm_start(database: str):
    """Its other parameters were good for that choice alone."""
    earlier = search(a_study(database, name="old"), 12)
    best = earlier.stored.record().ranked()
    configurations, notices = warmed(earlier, Toy(), narrow(Toy(), ["kind=deep"]))
    assert configurations == [trial.params for trial in best if trial.params["kind"] == "deep"][:5]
    wide = next(trial.number for trial in best if trial.params["kind"] == "wide")
    (left_out,) = (text for text in notices if "left out" in text)
    assert f"trial {wide} of old: without kind=wide it does not set depth" in left_out


class Deep(Toy):
    """`Toy` without the kind that has a width."""

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", ["deep"])
        return {"x": trial.suggest_float("x", 0.0, 1.0), "kind": kind, "depth": trial.suggest_int("depth", 1, 5)}


def test_a_configuration_of_a_choice_that_the_class_no_longer_has_is_left_out(database: str):
    earlier = search(a_study(database, name="old", space=narrow(Toy(), ["kind=wide"])), 3)
    with pytest.raises(
        UsageError, match=r"none .* fits .* \(trial \d of old: without kind=wide it does not set depth\)"
    ):
        warmed(earlier, Deep(), Space())


def test_another_optimizer_takes_the_network_of_a_warm_start_over():
    objective = ImageClassification("digits")
    params, known = dict(objective.baselines()["strong CNN, one cycle"]), [*objective.baselines().values()]
    trial = TrialRecord(3, TrialState.COMPLETE, 0.9, params, "", None, None, None, {}, 0, None, None, None, {})
    for fix, is_taken in (("optimizer=sgd", True), ("family=mlp", False), ("family=[mlp,resnet]", False)):
        start = WarmStart(objective, narrow(objective, [fix]), Limits(), known)
        assert start.add("old", trial) == is_taken, fix
        assert len(start.left_out) == (not is_taken)
    assert not WarmStart(objective, Space(), Limits(), known).add("old", trial)


def test_a_baseline_of_an_earlier_version_is_recognised():
    """Its augmentation was one parameter, and its network had fewer."""
    objective = ImageClassification("digits")
    known = [*objective.baselines().values()]
    mlp = {name: value for name, value in known[0].items() if name not in ("rotation_zoom", "translation")}
    params = {**mlp, "augmentation": 0.0}
    del params["mlp_batch_norm"]
    trial = TrialRecord(3, TrialState.COMPLETE, 0.9, params, "", None, None, None, {}, 0, None, None, None, {})
    start = WarmStart(objective, Space(), Limits(), known)
    assert not start.add("old", trial)
    assert start.repeats
    assert start.add("old", replace(trial, params={**params, "augmentation": 1.0}))


def test_a_warm_start_skips_what_is_tried_anyway(database: str):
    earlier = search(a_study(database, name="old"), 12).stored.record()
    best = [trial.params for trial in earlier.ranked()]
    initial, _ = warm_start(earlier, WarmStart(Toy(), Space(), Limits(), best[:2]))
    assert [params.params for params in initial] == best[2:7]
    initial, notices = warm_start(earlier, WarmStart(Toy(), Space(), Limits(), best))
    assert (initial, notices) == ([], ["warm start: what fits of study old is tried anyway"])


def test_a_study_without_a_best_cannot_be_started_from(database: str):
    with pytest.raises(UsageError, match="--warm-start old: none of its trials was completed"):
        warmed(a_study(database, name="old"), Toy(), Space())


def test_a_search_resumes_after_the_study_it_started_from_was_deleted(tmp_path: Path):
    config = Config(workspace=tmp_path, objective="toy:Toy", study="next", warm_start="old")
    storage = open_storage(config.storage_url)
    made = open_study(storage, "next", Toy(), "toy:Toy", 4)
    with pytest.raises(UsageError, match="there is no study 'old'"):
        SearchPlan.of(config)
    made.set_attr(records.WARM_STARTS, {"old": [["old #3", {"x": 0.25}]]})
    plan = SearchPlan.of(config)
    assert plan.earlier is None
    initial, _ = plan.initial_params(made)
    assert initial[-1].params == {"x": 0.25}
