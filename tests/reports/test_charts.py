"""The report's charts: what they draw of a study, and what they leave out."""

from __future__ import annotations

import random
import re
from datetime import timedelta

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from report_studies import BEGIN, OPTUNA_FIGURES, a_study, a_trial, mixed

from search.common.direction import Direction
from search.reports import charts
from search.reports import page as report
from search.reports.elements import Unit, focus
from search.reports.frozen_study import frozen, thinned
from search.reports.timing import SearchTime, time_parts
from search.study.records import StudyRecord
from search.study.storage.storage import quiet_optuna


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def test_limits_are_drawn_and_trials_above_them_are_not_on_the_pareto_front():
    study = a_study([TrialState.COMPLETE] * 8)
    study.set_user_attr("fingerprint", {"max_parameters": 50_000, "max_latency_ms": None})
    best = max(study.trials, key=lambda trial: trial.value or 0.0)
    above = create_trial(
        value=1.0,
        intermediate_values={1: 1.0},
        user_attrs={"metrics": {"parameters": 400_000, "latency_ms": 2.0}},
        constraints={"parameters": 7.0},
    )
    refused = create_trial(state=TrialState.PRUNED, constraints={"parameters": 1.0})
    study.add_trials([above, refused])
    record = StudyRecord.of(study)
    chart = charts.against_cost(record, "parameters", "Against model size", "weights")
    assert "The dashed line is the limit, 50,000. 1 more above it, not trained." in chart.caption
    assert chart.figure is not None
    traces = {trace["name"]: trace for trace in chart.figure["data"]}
    assert traces["above a limit"]["x"] == [400_000.0]
    assert 400_000.0 not in traces["Pareto front"]["x"]
    assert traces["limit"]["x"] == [50_000] * 2
    assert traces["winner"]["y"] == [best.value]
    assert "cost-latency-ms" in report.render(study, others=(), images={})


def test_every_optuna_figure_is_drawn_for_an_ordinary_study():
    page = report.render(a_study(mixed(30)), others=(), images={})
    assert set(re.findall(r'data-figure="([\w-]+)"', page)) >= OPTUNA_FIGURES


def test_charts_see_trials_without_attributes_under_their_own_numbers():
    study = a_study(mixed(12))
    copy = frozen(study)
    study.add_trial(a_trial(12, TrialState.COMPLETE, random.Random(0)))
    facts = [(t.number, t.state, t.values, t.params, t.intermediate_values, t.datetime_start) for t in study.trials]
    seen = [(t.number, t.state, t.values, t.params, t.intermediate_values, t.datetime_start) for t in copy.trials]
    assert seen == facts[:12]
    assert [trial.user_attrs for trial in copy.trials] == [{}] * 12


def test_waiting_trials_are_copied_even_after_they_failed():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    for _ in range(2):
        study.enqueue_trial({"x": 0.5})
    storage.set_trial_state_values(0, TrialState.FAIL)  # it has no start
    assert [trial.state for trial in frozen(study).trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_thinned_study_keeps_the_best_trials_and_their_numbers():
    study = a_study(mixed(30))
    done = thinned(study, 6).get_trials(states=(TrialState.COMPLETE,))
    ranked = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: -trial.value)
    assert len(done) == 6
    assert {trial.number for trial in ranked[:3]} <= {trial.number for trial in done}
    assert all(trial.params == study.trials[trial.number].params for trial in done)


def test_steps_are_shown_as_epochs():
    study = a_study(mixed(9))
    study.set_user_attr("steps_per_epoch", 4)
    chart = charts.best_curves(StudyRecord.of(study))
    assert chart.figure
    assert chart.figure["layout"]["xaxis"]["title"]["text"] == "epoch"
    assert max(max(trace["x"]) for trace in chart.figure["data"]) == 2.0


def test_pareto_front_has_no_beaten_trial():
    record = StudyRecord.of(a_study([TrialState.COMPLETE] * 40))
    front = charts.pareto_front(record.trials, "train_seconds", Direction.MAXIMIZE)
    for trial in front:
        rivals = [t for t in record.trials if t.metrics["train_seconds"] < trial.metrics["train_seconds"]]
        assert all((rival.value or 0) < (trial.value or 0) for rival in rivals)
    assert record.ranked()[0] in front


def test_time_of_search_has_no_pauses():
    states = [TrialState.COMPLETE] * 4
    study = optuna.create_study(direction="maximize")
    for number, state in enumerate(states):
        trial = a_trial(number, state, random.Random(number))
        trial.datetime_start = BEGIN + timedelta(seconds=10 * number, days=number // 2)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=10)
        study.add_trial(trial)
    time = SearchTime.of(StudyRecord.of(study).trials)
    assert time.total_s == pytest.approx(40)
    assert time.at(BEGIN + timedelta(days=1, seconds=25)) == pytest.approx(25)


def test_focus_leaves_out_failures_but_not_ordinary_spread():
    ordinary = [0.98 + 0.001 * i for i in range(12)]
    assert focus(ordinary, maximize=True) is None
    span = focus([*ordinary, 0.1], maximize=True)
    assert span
    assert span[0] > 0.9
    assert focus([*ordinary, 0.1], maximize=False) is None


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_an_axis_of_shares_ends_with_them(metric: str):
    study = a_study([TrialState.COMPLETE] * 3)
    study.set_user_attr("metric", metric)
    unit = Unit.of(StudyRecord.of(study))
    assert ("maxallowed" in unit.axis(None)) == unit.percent


@pytest.mark.parametrize("tracking_s", [3.0, 47.0])
def test_parts_of_a_time_never_exceed_it(tracking_s: float):
    study = a_study(mixed(6))
    session = {"started": "2025-11-20T09:00:00", "wall_s": 40.0, "search_s": 2.0, "tracking_s": tracking_s, "slots": 2}
    study.set_user_attr("sessions", [session])
    for _, _, parts in time_parts(StudyRecord.of(study)):
        assert sum(part.share for part in parts) == pytest.approx(100, abs=0.5)
