"""Trials that other programs add to a study of a search: shown, never chosen, never counted, never fatal."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from place import Place
from studies import STEPS, a_study, ask, story, train
from toy import Toy

from objectives.base import Params, Suggest
from search.common.errors import UsageError
from search.reports.export import export_study, leaderboard
from search.reports.page import render
from search.study import records
from search.study.sampling.sampling_study import SamplingStudy
from search.study.selection.winner import best_trial
from search.study.space.initial_params import WarmStart, warm_start
from search.study.space.limits import Limits
from search.study.space.space import WHOLE_SPACE, search_space
from search.study.storage.storage import quiet_optuna

Adds = Callable[[optuna.Study], object]


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def of_the_space(**fields: Any) -> optuna.trial.FrozenTrial:
    space = search_space(Toy())
    params = {"kind": "deep", "x": 0.3, "depth": 2}
    return create_trial(params=params, distributions={name: space[name] for name in params}, **fields)


def other_kinds(study: optuna.Study) -> None:
    distributions = {"spoon": CategoricalDistribution(["a", "b"]), "lr": FloatDistribution(0, 1)}
    study.add_trial(create_trial(params={"spoon": "a", "lr": 0.5}, distributions=distributions, value=9.0))


ADDITIONS: dict[str, Adds] = {
    "other parameters, best value": other_kinds,
    "no parameters": lambda study: study.add_trial(create_trial(value=9.0)),
    "a better one of the space": lambda study: study.add_trial(of_the_space(value=9.0)),
    "out of range": lambda study: study.add_trial(
        create_trial(params={"x": 7.0}, distributions={"x": FloatDistribution(0, 9)}, value=9.0)
    ),
    "infinite": lambda study: study.add_trial(of_the_space(value=float("inf"))),
    "failed": lambda study: study.add_trial(create_trial(state=TrialState.FAIL)),
    "pruned": lambda study: study.add_trial(of_the_space(state=TrialState.PRUNED, intermediate_values={1: 9.0})),
    "running": lambda study: study.ask(),
    "running, half sampled": lambda study: study.ask().suggest_categorical("kind", ["deep", "wide"]),
    "copies of ours": lambda study: study.add_trials(study.trials[:2]),
    "attributes of ours": lambda study: study.add_trial(
        of_the_space(value=9.0, user_attrs={records.FAILURE: 3, records.BASELINE: ["x"], records.METRICS: "none"})
    ),
    "a label of theirs": lambda study: study.add_trial(of_the_space(value=9.0, user_attrs={records.LABEL: "mine"})),
    "the same number of another search": lambda study: study.add_trial(
        create_trial(value=9.0, user_attrs={records.LABEL: "toy", records.SLOT: 0, records.ORIGIN: "abcd1234/3"})
    ),
    "another optimization": lambda study: study.optimize(lambda trial: trial.suggest_float("y", 0, 1) + 9, n_trials=3),
    "enqueued elsewhere": lambda study: study.enqueue_trial({"x": 7.0}),
    "enqueued, unknown": lambda study: study.enqueue_trial({"spoon": 1}),
}


def trained(study: SamplingStudy, trials: int) -> SamplingStudy:
    for _ in range(trials):
        train(study, ask(study))
    return study


def by_another_program(database: str) -> optuna.Study:
    return optuna.load_study(study_name="toy", storage=database)


FREQUENT = ("other parameters, best value", "another optimization", "enqueued elsewhere", "running")


@pytest.mark.parametrize(
    "addition", [*FREQUENT, *(pytest.param(a, marks=pytest.mark.slow) for a in ADDITIONS if a not in FREQUENT)]
)
def test_a_foreign_trial_is_shown_and_neither_counted_nor_chosen(database: str, addition: str):
    trained(a_study(database, sampler="tpe"), 3)
    ADDITIONS[addition](by_another_program(database))
    study = a_study(database, sampler="tpe")
    assert (study.finished, study.resume()) == (3, [])
    number = len(study.stored.optuna_study.trials)
    assert any(f"{number - 1}" in text for text in study.notices)
    trained(study, 12)
    assert study.stored.optuna_study.trials[number].params == study.stored.record().trials[3].params
    record = a_study(database, sampler="tpe").stored.record()
    assert [trial.number for trial in record.trials] == [0, 1, 2, *range(number, number + 12)]
    assert [trial.number for trial in record.foreign] == list(range(3, number))
    assert best_trial(record).number in {trial.number for trial in record.trials}
    assert record.finished == 15
    for table in (leaderboard(record), export_study(record, "csv"), str(record.as_dict()["trials"]).encode()):
        assert b"added by another program" in table or record.foreign[-1].state == TrialState.WAITING
    page = render(study.stored.optuna_study, others=(), images={})
    assert "added by another program" in page
    configurations, _ = warm_start(record, WarmStart(Toy(), WHOLE_SPACE, Limits()))
    assert {int(initial.name.partition("#")[2]) for initial in configurations} <= {t.number for t in record.trials}


def test_a_search_samples_the_same_with_and_without_foreign_trials(database: str, fresh_optuna: Path, tmp_path: Path):
    alone = trained(a_study(f"sqlite:///{shutil.copy(fresh_optuna, tmp_path / 'alone.db')}"), 3)
    trained(a_study(database), 3)
    other_kinds(by_another_program(database))
    study = a_study(database)
    assert ask(study).number == 4
    assert story(study)[:3] == story(alone)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"x": 0.5}, {"x": 0.5}),
        ({"kind": "wide", "width": 0.25}, {"kind": "wide", "width": 0.25}),
        ({}, {}),
        ({"x": 1}, {"x": 1.0}),
    ],
)
def test_an_enqueued_trial_of_the_space_is_run_as_our_own(database: str, params: Any, expected: Any):
    trained(a_study(database), 2)
    other_kinds(by_another_program(database))
    by_another_program(database).enqueue_trial(params, user_attrs={"by": "hand"})
    (adopted,) = a_study(database).resume()
    study = a_study(database)  # killed in between
    (again,) = study.resume()
    assert again.params == adopted.params
    assert {name: adopted.params[name] for name in expected} == expected
    train(study, again)
    assert [trial.number for trial in study.stored.record().trials] == [0, 1, 3]
    assert study.finished == 3
    assert study.stored.optuna_study.trials[3].user_attrs["by"] == "hand"


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"x": 7.0}, r"its x is 7.0, and the search allows -1 to 1$"),
        ({"kind": "round"}, r"its kind is 'round', and the search allows deep or wide$"),
        ({"x": 0.5, "spoon": 1}, r"this search has no parameter 'spoon'$"),
        ({"x": float("nan")}, r"its x is nan, and"),
        ({"x": "half"}, r"its x is 'half', and"),
    ],
)
def test_an_enqueued_trial_outside_the_space_stays_waiting_and_says_why(database: str, params: Any, why: str):
    a_study(database)
    by_another_program(database).enqueue_trial(params)
    study = a_study(database)
    assert study.resume() == []
    assert study.notices[0].startswith("trial 0, which another program has enqueued, stays waiting: ")
    assert re.search(why, study.notices[0]), study.notices
    assert by_another_program(database).trials[0].state == TrialState.WAITING


class Meddled(Toy):
    """Another program adds trials to the study while the first trainings run."""

    def __init__(self, folder: Path, adds: Adds) -> None:
        super().__init__(steps=STEPS)
        self.folder, self.adds, self.asked = folder, adds, 0

    def suggest(self, trial: Any) -> Any:
        params = super().suggest(trial)
        inner = getattr(trial, "_trial", trial)
        if type(inner) is optuna.Trial and inner.study.study_name == "toy":
            self.asked += 1
            if self.asked == 3:
                self.adds(by_another_program(f"sqlite:///{self.folder}/optuna.db"))
        return params


@pytest.mark.parametrize(
    ("addition", "own"),
    [
        ("other parameters, best value", [0, 1, 3, 4]),
        ("another optimization", [0, 1, 5, 6]),
        ("enqueued elsewhere", [0, 1, 3, 4]),
        ("running", [0, 1, 3, 4]),
    ],
)
def test_trials_added_during_a_search_move_its_later_ones(place: Place, addition: str, own: list[int]):
    record = place.search(4, objective=Meddled(place.folder, ADDITIONS[addition]))
    assert [trial.number for trial in record.trials] == own
    assert all(trial.state == TrialState.COMPLETE for trial in record.trials)
    assert [trial.number for trial in place.search(4).trials] == own


def test_a_trial_enqueued_during_a_search_is_run_by_it(place: Place):
    record = place.search(4, objective=Meddled(place.folder, lambda study: study.enqueue_trial({"x": 0.25})))
    assert len(record.trials) == 4
    assert record.foreign == ()
    enqueued = [trial for trial in record.trials if trial.params["x"] == 0.25]
    assert [(trial.state, bool(trial.label)) for trial in enqueued] == [(TrialState.COMPLETE, True)]


class Vertical(Toy):
    def suggest(self, trial: Suggest) -> Params:
        return {"y": trial.suggest_float("y", 0, 1)}


def test_a_study_of_another_program_has_no_foreign_trials(database: str):
    study = optuna.create_study(study_name="theirs", storage=database)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    record = records.StudyRecord.of(study)
    assert (len(record.trials), record.foreign) == (2, ())
    with pytest.raises(UsageError, match="none of its best trials fits"):
        warm_start(record, WarmStart(Vertical(), WHOLE_SPACE, Limits()))
