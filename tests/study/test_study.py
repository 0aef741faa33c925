"""A study: the copy it samples on always equals the storage, however often the search is killed."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState, create_trial
from studies import STEPS, a_study, ask, story, train
from toy import Toy

from search.common.config import PRUNERS, SAMPLERS
from search.study import records
from search.study.records import TrainingResult
from search.study.sampling.samplers import derive_seed
from search.study.space.space import search_space
from search.study.storage.storage import open_storage

# Optuna warns about its own experimental samplers.
pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


@pytest.mark.parametrize("metric", ["score", "val/F1 (macro) %", "größte Höhe"])
def test_optuna_has_the_metrics_name_also_in_a_study_that_began_without_one(database: str, metric: str):
    objective, storage = Toy(steps=STEPS), open_storage(database)
    objective.metric = metric
    a_study(storage, objective)
    assert optuna.load_study(study_name="toy", storage=database).metric_names == [metric]
    with storage.engine.begin() as connection:
        assert connection.execute(sqlalchemy.text("DELETE FROM study_system_attributes")).rowcount == 1
    a_study(open_storage(database), objective)
    assert optuna.load_study(study_name="toy", storage=database).metric_names == [metric]


def test_a_metrics_name_that_a_person_gave_stays(database: str):
    a_study(database)
    optuna.load_study(study_name="toy", storage=database).set_metric_names(["theirs"])
    assert a_study(database).stored.optuna_study.metric_names == ["theirs"]


# Copy and storage ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "pruner"), [*((name, "hyperband") for name in SAMPLERS), *(("random", name) for name in PRUNERS[1:])]
)
def test_a_study_reopened_after_every_trial_equals_one_that_stayed_open(
    database: str, fresh_optuna: Path, tmp_path: Path, sampler: str, pruner: str
):
    """Two databases, because Hyperband's random numbers depend on the study's name."""
    whole = a_study(f"sqlite:///{shutil.copy(fresh_optuna, tmp_path / 'whole.db')}", sampler=sampler, pruner=pruner)
    for _ in range(12):
        train(whole, ask(whole))
    storage = open_storage(database)
    for number in range(12):
        part = a_study(storage, sampler=sampler, pruner=pruner)
        assert part.finished == number
        train(part, ask(part))
    assert story(part) == story(whole)
    assert {state for _, state, *_ in story(whole)} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_the_same_seed_samples_the_same_trials_and_another_seed_does_not(database: str):
    stories = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        study = a_study(database, seed=seed, sampler="tpe", name=name)
        for _ in range(4):
            train(study, ask(study))
        stories.append(story(study))
    assert stories[0] == stories[1]
    assert stories[0] != stories[2]


def test_a_sampled_trial_is_stored_completely_and_only_when_it_starts(database: str):
    study = a_study(database)
    sampled = ask(study)
    assert study.stored.optuna_study.trials == []
    assert not study.holds(0)
    study.start(sampled, {records.LABEL: "toy"})
    (stored,) = study.stored.optuna_study.trials
    assert stored.state == TrialState.RUNNING
    assert stored.user_attrs == {records.LABEL: "toy", records.ORIGIN: f"{study.stored.uid}/0"}
    assert stored.params == sampled.params
    assert set(stored.distributions) == set(stored.params)
    assert study.holds(0)


def test_two_trials_may_be_sampled_ahead_and_end_in_any_order(database: str):
    study = a_study(database, sampler="tpe")
    first, second = ask(study), ask(study)
    study.start(first, {})
    study.start(second, {})
    study.report(1, 1, 0.25)
    study.tell(1, TrainingResult(TrialState.COMPLETE, 0.25))
    assert not study.report(0, 1, 0.5)
    study.tell(0, TrainingResult(TrialState.PRUNED))
    assert [(t.state, t.value) for t in study.stored.optuna_study.trials] == [
        (TrialState.PRUNED, 0.5),
        (TrialState.COMPLETE, 0.25),
    ]
    assert study.finished == 2


def test_a_result_is_stored_in_the_format_of_existing_studies_and_journals():
    result = TrainingResult(TrialState.COMPLETE, 0.5, {records.METRICS: {"loss": 0.25}})
    stored = {"state": "COMPLETE", "value": 0.5, "attrs": {"metrics": {"loss": 0.25}}}
    assert result.as_dict() == stored
    assert TrainingResult.from_dict(stored) == result
    failed = {"state": "FAIL", "value": None, "attrs": {"failure": "crashed", "failure_message": "tried 3 times"}}
    assert TrainingResult.failed("crashed", "tried 3 times").as_dict() == failed
    assert TrainingResult.from_dict(failed).failure == "crashed"


@pytest.mark.parametrize(
    ("state", "value", "attrs"),
    [
        (TrialState.COMPLETE, 0.75, {records.METRICS: {"loss": 0.5}}),
        (TrialState.PRUNED, None, {}),
        (TrialState.FAIL, None, {records.FAILURE: "diverged", records.FAILURE_MESSAGE: "it became nan"}),
    ],
)
def test_tell_returns_the_trial_as_it_is_stored(
    database: str, state: TrialState, value: float | None, attrs: dict[str, object]
):
    study = a_study(database)
    train(study, ask(study))  # the sampler sees this worst value for a diverged trial
    study.start(ask(study), {records.LABEL: "toy", records.SLOT: 1})
    study.report(1, 1, 0.25)
    returned, stored = study.tell(1, TrainingResult(state, value, attrs)), study.stored.optuna_study.trials[1]
    assert returned.datetime_complete is not None
    assert stored.datetime_complete is not None
    assert abs((returned.datetime_complete - stored.datetime_complete).total_seconds()) < 1
    returned.datetime_complete, returned._trial_id = stored.datetime_complete, stored._trial_id
    assert returned == stored


def test_baselines_come_first_and_once_with_their_names(database: str):
    objective = Toy(steps=STEPS)
    objective.known = {
        "left": {"kind": "deep", "x": -1.0, "depth": 2},
        "right": {"kind": "wide", "x": 1.0, "width": 0.5},
    }
    study = a_study(database, objective)
    train(study, ask(study))
    study = a_study(database, objective)
    for _ in range(3):
        train(study, ask(study))
    trials = study.stored.record().trials
    assert [trial.baseline for trial in trials] == ["left", "right", None, None]
    assert [dict(trial.params) for trial in trials[:2]] == list(objective.known.values())


# Killed and resumed -------------------------------------------------------------------------------------------------


def test_a_trial_left_running_is_resumed_as_itself(database: str):
    study = a_study(database, pruner="hyperband")
    train(study, ask(study))
    sampled = ask(study)
    study.start(sampled, {})
    study.report(1, 1, 0.3)
    study.report(1, 2, 0.4)

    study = a_study(database, pruner="hyperband")
    assert (study.finished, len(study.unfinished)) == (1, 1)
    (resumed,) = study.resume()
    assert (resumed.number, resumed.params, resumed.last_step) == (1, sampled.params, 2)
    train(study, resumed)
    assert (study.finished, len(study.stored.optuna_study.trials), study.resume()) == (2, 2, [])


@pytest.mark.parametrize("pruner", ["hyperband", "halving"])
def test_the_pruner_notes_of_an_unprunable_trial_are_stored_immediately(database: str, pruner: str):
    """Later trials are compared with it, even after a kill."""
    study = a_study(database, pruner=pruner)
    for value in (0.9, 0.1):
        sampled = ask(study)
        study.start(sampled, {})
        assert not study.report(sampled.number, STEPS, value, prunable=False)
    for trial in study.stored.optuna_study.trials:
        assert any("completed_rung" in note for note in trial.system_attrs)
    other = ask(study)
    study.start(other, {})
    assert study.report(other.number, STEPS, 0.05)


def test_a_trial_pruned_just_before_a_kill_is_pruned_at_the_same_step(database: str):
    """The coordinator was killed before it stored the end, and the checkpoint is older."""
    study = a_study(database, Toy(steps=16), pruner="halving")
    train(study, ask(study))
    values, ends = {1: 2.0, 2: 2.0, 3: 2.0, 4: -5.0}, [False, False, False, True]
    study.start(sampled := ask(study), {})
    assert [study.report(sampled.number, step, value) for step, value in values.items()] == ends
    again = a_study(database, Toy(steps=16), pruner="halving")
    (resumed,) = again.resume()
    assert [again.report(resumed.number, step, value) for step, value in values.items()] == ends


def test_an_enqueued_trial_is_adopted(database: str):
    a_study(database)
    optuna.load_study(study_name="toy", storage=database).enqueue_trial({"x": 0.5}, user_attrs={"by": "hand"})
    study = a_study(database)
    (adopted,) = study.resume()
    assert adopted.params["x"] == 0.5
    (stored,) = study.stored.optuna_study.trials
    assert (stored.state, stored.params) == (TrialState.RUNNING, adopted.params)
    train(study, adopted)
    assert study.stored.optuna_study.trials[0].state == TrialState.COMPLETE
    assert ask(study).number == 1


def test_a_trial_that_never_started_is_sampled_again_with_the_same_parameters(database: str):
    first = a_study(database, sampler="tpe").ask()
    assert a_study(database, sampler="tpe").ask() == first


# What samplers and pruners see --------------------------------------------------------------------------------------


def right_share(database: str, mode: str) -> float:
    """The share of the later trials that TPE places where trainings fail."""
    study = a_study(database, Toy(steps=1, mode=mode), sampler="tpe", name=mode)
    for _ in range(30):
        train(study, ask(study))
    late = study.stored.optuna_study.trials[14:]
    return sum(trial.params["x"] > 0.2 for trial in late) / len(late)


def test_a_sampler_learns_from_diverged_trials(database: str):
    assert right_share(database, "diverge_right") < right_share(database, "error_right") - 0.2


def test_a_diverged_trial_is_stored_as_failed_without_a_value(database: str):
    study = a_study(database, Toy(steps=STEPS, mode="diverge@2"))
    train(study, ask(study))
    (trial,) = study.stored.record().trials
    assert (trial.state, trial.failure, trial.failure_message) == (
        TrialState.FAIL,
        "diverged",
        "the training loss became nan",
    )
    assert study.stored.optuna_study.trials[0].values is None


def test_hyperband_ends_trials_at_its_rungs_and_keeps_the_best(database: str):
    study = a_study(database, Toy(steps=16), pruner="hyperband")
    last = {}
    for _ in range(32):
        sampled = ask(study)
        last[sampled.number] = train(study, sampled)
    pruned = [trial for trial in study.stored.record().trials if trial.state == TrialState.PRUNED]
    assert {last[trial.number] for trial in pruned} <= {1, 4, 16}
    assert {1, 4} <= {last[trial.number] for trial in pruned}
    assert len(pruned) >= 12
    best = max(study.stored.optuna_study.trials, key=lambda trial: max(trial.intermediate_values.values()))
    assert abs(best.params["x"] - 0.3) < 0.3


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_pruners_end_hopeless_trials(database: str, pruner: str):
    study = a_study(database, pruner=pruner)
    for _ in range(24):
        train(study, ask(study))
    states = [trial.state for trial in study.stored.optuna_study.trials]
    assert TrialState.PRUNED in states
    assert TrialState.COMPLETE in states


def test_a_minimised_study_ranks_the_smallest_value_first(database: str):
    study = a_study(database, Toy("minimize", steps=STEPS), pruner="halving")
    for _ in range(16):
        train(study, ask(study))
    ranked = study.stored.record().ranked()
    assert ranked[0].value == min(trial.value or 0 for trial in ranked if trial.state == TrialState.COMPLETE)
    assert study.stored.optuna_study.direction == optuna.study.StudyDirection.MINIMIZE


def test_seeds_differ_by_purpose_and_fit_in_31_bits():
    seeds = [derive_seed(0, "ask", 1), derive_seed(0, "ask", 2), derive_seed(0, "train", 1), derive_seed(1, "ask", 1)]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derive_seed(0, "ask", 1) == seeds[0]


def test_the_search_space_has_every_branch():
    assert set(search_space(Toy())) == {"kind", "x", "depth", "width"}


# Sessions -----------------------------------------------------------------------------------------------------------


def test_a_session_that_was_killed_or_still_runs_has_a_duration():
    beginning = datetime(2026, 11, 1, 12)
    study = optuna.create_study()
    for after_s in (5, 40, 100, 190):
        trial = create_trial(value=0.0)
        trial.datetime_start = beginning + timedelta(seconds=after_s)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=10)
        study.add_trial(trial)
    starts: list[dict[str, Any]] = [
        {"started": (beginning + timedelta(seconds=at)).isoformat()} for at in (0, 90, 180, 300)
    ]
    starts[1]["wall_s"] = 33.0
    study.set_user_attr(records.SESSIONS, starts)
    assert [session["wall_s"] for session in records.StudyRecord.of(study).sessions] == [50.0, 33.0, 20.0, 0.0]
