"""An objective's portfolio: tried after the baselines, pruned like any trial, and left out where it does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from studies import a_study, train
from toy import Toy

from objectives.base import Params, Suggest
from search.study.sampling.sampling_study import SamplingStudy
from search.study.space.initial_params import portfolio
from search.study.space.limits import Limits
from search.study.space.objective_calls import ContractError
from search.study.space.space import WHOLE_SPACE, narrow


class Experienced(Toy):
    """Four configurations did well elsewhere. The second leaves `x` out; the others' parameters are not all here."""

    stored: Any = (
        {"kind": "deep", "depth": 3, "x": 0.25},
        {"kind": "wide", "width": 0.5},
        {"kind": "deep", "depth": 2, "x": 0.75, "gone": 1},
        {"kind": "deep", "depth": 9, "x": 0.5},
    )

    def suggest(self, trial: Suggest) -> Params:
        kind = trial.suggest_categorical("kind", ["deep", "wide"])
        size: Params = {"depth": trial.suggest_int("depth", 1, 4)} if kind == "deep" else {}
        size |= {"width": trial.suggest_float("width", 0.0, 1.0)} if kind == "wide" else {}
        return {"kind": kind, **size, "x": trial.suggest_float("x", 0.0, 1.0)}

    def baselines(self) -> Mapping[str, Params]:
        return {"plain": {"kind": "deep", "depth": 1, "x": 0.5}}

    def portfolio(self) -> Sequence[Params]:
        return self.stored  # type: ignore[no-any-return]

    def n_parameters(self, params: Params) -> int:
        return 100 * int(params.get("depth") or 1)


def tried(study: SamplingStudy, trials: int) -> list[dict[str, Any]]:
    while study.finished < trials and (sampled := study.ask()) is not None:
        train(study, sampled)
    return [dict(trial.params) for trial in study.stored.record().trials]


def test_it_comes_after_the_baselines_and_once(database: str):
    first = tried(a_study(database, Experienced(steps=1)), 3)
    params = tried(a_study(database, Experienced(steps=1)), 6)
    assert params[:3] == first
    assert params[:2] == [{"kind": "deep", "depth": 1, "x": 0.5}, {"kind": "deep", "depth": 3, "x": 0.25}]
    assert (params[2]["kind"], params[2]["width"]) == ("wide", 0.5)
    assert params[3] == {"kind": "deep", "depth": 2, "x": 0.75}
    trials = a_study(database, Experienced(steps=1)).stored.record().trials
    assert [trial.baseline for trial in trials] == ["plain", *[None] * 5]  # so that it may be pruned


def test_what_fixed_values_contradict_is_left_out():
    objective = Experienced()
    fitting = portfolio(objective, narrow(objective, ["kind=deep", "x=0.75"]), Limits())
    assert [initial.params for initial in fitting] == [
        {"kind": "deep", "depth": 3, "x": 0.75},
        {"kind": "deep", "depth": 2, "x": 0.75},
    ]


def test_what_exceeds_a_limit_is_left_out():
    fitting = portfolio(Experienced(), WHOLE_SPACE, Limits(parameters=250))
    assert [initial.name for initial in fitting] == ["portfolio 2", "portfolio 3"]


@pytest.mark.parametrize("given", [None, {"a": {"kind": "deep"}}, ["deep"]])
def test_what_is_no_list_of_configurations_is_refused(given: object):
    objective = Experienced()
    objective.stored = given
    with pytest.raises(ContractError, match=r"^portfolio gave .*; give a list of configurations, or an empty one"):
        portfolio(objective, WHOLE_SPACE, Limits())
