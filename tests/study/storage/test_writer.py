"""The short calls of a search store the same rows as Optuna's own calls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.common.errors import SearchStoppedError
from search.study.storage.storage import open_storage
from search.study.storage.writer import WriterStorage

DISTRIBUTIONS: dict[str, Any] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "layers": IntDistribution(1, 3),
    "optimizer": CategoricalDistribution(["sgd", "adam", None]),
}


STARTED = datetime(2026, 11, 1, 12, 30, 15, 250)


def running(number: int, started: datetime = STARTED) -> FrozenTrial:
    """Make a trial as a search stores it at its start."""
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"lr": 0.01, "layers": 2, "optimizer": None},
        distributions=DISTRIBUTIONS,
        user_attrs={"label": "a", "slot": 0},
        system_attrs={"constraints": [0.5]},
    )
    trial.number, trial.datetime_start = number, started
    return trial


def with_optuna(storage: RDBStorage, study: int, ends: dict[TrialState, float | None]) -> None:
    """Store the trials with Optuna's own calls."""
    for number, (state, value) in enumerate(ends.items()):
        trial = storage.create_new_trial(study, template_trial=running(number))
        for step, reported in enumerate((0.5, math.inf, -math.inf, math.nan, 0.25)):
            storage.set_trial_intermediate_value(trial, step, reported)
        storage.set_trial_system_attr(trial, "rung", {"0": 1})
        for key, attr in {"metrics": {"loss": 0.5}, "label": "b"}.items():
            storage.set_trial_user_attr(trial, key, attr)
        storage.set_trial_state_values(trial, state, None if value is None else [value])


def in_short(storage: WriterStorage, study: int, ends: dict[TrialState, float | None], times: int) -> None:
    """Store the trials as a search does. Each call is made `times` times, as after a lost answer."""
    for number, (state, value) in enumerate(ends.items()):
        (trial,) = {storage.start_trial(study, running(number)) for _ in range(times)}
        for step, reported in enumerate((0.5, math.inf, -math.inf, math.nan, 0.25)):
            for _ in range(times):
                storage.report_trial(trial, step, reported, {"rung": {"0": 1}} if step == 2 else {})
        for _ in range(times):
            storage.end_trial(trial, state, value, {"metrics": {"loss": 0.5}, "label": "b"}, {})


def read_back(storage: RDBStorage, study: int) -> list[str]:
    """Read all trials as texts, without ids and times, which differ between studies."""
    trials = storage.get_all_trials(study)
    for trial in trials:
        assert trial.datetime_complete is not None
        assert abs((datetime.now() - trial.datetime_complete).total_seconds()) < 60
        trial.datetime_complete, trial._trial_id = None, 0
        trial.user_attrs = dict(sorted(trial.user_attrs.items()))
    return [str(trial) for trial in trials]


@pytest.fixture
def new_york_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a time zone that differs from the UTC of the tables."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("new_york_time")
def test_trials_are_stored_as_optuna_stores_them(database: str, times: int):
    check_alike(database, times)


def check_alike(url: str, times: int) -> None:
    """Compare both ways of storing in a database."""
    ends = {TrialState.COMPLETE: 0.75, TrialState.PRUNED: 0.25, TrialState.FAIL: None}
    storage = open_storage(url)
    plain, ours = (storage.create_new_study([StudyDirection.MAXIMIZE], name) for name in ("plain", "ours"))
    optunas = RDBStorage(url)
    with_optuna(optunas, plain, ends)
    in_short(storage, ours, ends, times)
    assert read_back(storage, ours) == read_back(optunas, plain) != []
    for opened in (storage, optunas):
        opened.remove_session()
        opened.engine.dispose()


def test_a_second_end_does_not_replace_the_first(database: str):
    storage = open_storage(database)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "ours")
    trial = storage.start_trial(study, running(0))
    storage.end_trial(trial, TrialState.COMPLETE, 0.75, {}, {})
    first = read_back(storage, study)
    with pytest.raises(SearchStoppedError, match="another program has ended trial 0 of this study as COMPLETE; type"):
        storage.end_trial(trial, TrialState.FAIL, None, {"failure": "crashed"}, {})
    assert read_back(storage, study) == first
    storage.remove_session()
    storage.engine.dispose()


def test_a_trial_number_used_by_another_writer_is_an_error(database: str):
    storage = open_storage(database)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "ours")
    storage.create_new_trial(study)
    with pytest.raises(SearchStoppedError, match="another program has added trial 0 to this study; type the same"):
        storage.start_trial(study, running(0, datetime(2026, 11, 1, 12, 30, 16)))
    assert len(storage.get_all_trials(study)) == 1
    storage.remove_session()
    storage.engine.dispose()
