"""What the short calls of a search leave in the tables is what Optuna's own calls leave."""

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

from search.errors import SearchStoppedError
from search.storage import open_storage
from search.writer import WriterStorage

DISTRIBUTIONS: dict[str, Any] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "layers": IntDistribution(1, 3),
    "optimizer": CategoricalDistribution(["sgd", "adam", None]),
}


def begun(number: int) -> FrozenTrial:
    """A trial as a search stores it at its start."""
    trial = create_trial(
        state=TrialState.RUNNING, params={"lr": 0.01, "layers": 2, "optimizer": None}, distributions=DISTRIBUTIONS,
        user_attrs={"label": "a", "slot": 0}, system_attrs={"constraints": [0.5]},
    )  # fmt: skip
    trial.number, trial.datetime_start = number, datetime(2026, 11, 1, 12, 30, 15, 250)
    return trial


def with_optuna(storage: RDBStorage, study: int, ends: dict[TrialState, float | None]) -> None:
    """The same trials by Optuna's own calls."""
    for number, (state, value) in enumerate(ends.items()):
        trial = storage.create_new_trial(study, template_trial=begun(number))
        for step, reported in enumerate((0.5, math.inf, -math.inf, math.nan, 0.25)):
            storage.set_trial_intermediate_value(trial, step, reported)
        storage.set_trial_system_attr(trial, "rung", {"0": 1})
        for key, attr in {"metrics": {"loss": 0.5}, "label": "b"}.items():
            storage.set_trial_user_attr(trial, key, attr)
        storage.set_trial_state_values(trial, state, None if value is None else [value])


def in_short(storage: WriterStorage, study: int, ends: dict[TrialState, float | None], times: int) -> None:
    """As a search does it, each call but the first made `times`, as where an answer was lost."""
    for number, (state, value) in enumerate(ends.items()):
        trial = storage.create_new_trial(study, template_trial=begun(number))
        for step, reported in enumerate((0.5, math.inf, -math.inf, math.nan, 0.25)):
            for _ in range(times):
                storage.report_trial(trial, step, reported, {"rung": {"0": 1}} if step == 2 else {})
        for _ in range(times):
            storage.end_trial(trial, state, value, {"metrics": {"loss": 0.5}, "label": "b"}, {})


def told(storage: RDBStorage, study: int) -> list[str]:
    """All trials, less what tells one moment or one study from another."""
    found = storage.get_all_trials(study)
    for trial in found:
        assert trial.datetime_complete is not None
        assert abs((datetime.now() - trial.datetime_complete).total_seconds()) < 60
        trial.datetime_complete, trial._trial_id = None, 0
        trial.user_attrs, trial.params = dict(sorted(trial.user_attrs.items())), dict(sorted(trial.params.items()))
    return [str(trial) for trial in found]


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where local time is not what the tables hold."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("far_from_greenwich")
def test_trials_are_stored_as_optuna_stores_them(database: str, times: int):
    check_alike(database, times)


def check_alike(url: str, times: int) -> None:
    """Also of another kind of database."""
    ends = {TrialState.COMPLETE: 0.75, TrialState.PRUNED: 0.25, TrialState.FAIL: None}
    storage = open_storage(url)
    plain, ours = (storage.create_new_study([StudyDirection.MAXIMIZE], name) for name in ("plain", "ours"))
    optunas = RDBStorage(url)
    with_optuna(optunas, plain, ends)
    in_short(storage, ours, ends, times)
    assert told(storage, ours) == told(optunas, plain) != []
    for each in (storage, optunas):
        each.remove_session()
        each.engine.dispose()


def test_a_trial_that_has_ended_is_stored_whole(database: str):
    storage = open_storage(database)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "ours")
    past = create_trial(value=0.75, params={"lr": 0.01}, distributions={"lr": DISTRIBUTIONS["lr"]},
                        intermediate_values={1: 0.5}, user_attrs={"label": "a"})  # fmt: skip
    storage.create_new_trial(study, template_trial=past)
    (stored,) = storage.get_all_trials(study)
    assert (stored.number, stored.value, stored.intermediate_values) == (0, 0.75, {1: 0.5})
    assert stored.datetime_complete is not None
    storage.remove_session()
    storage.engine.dispose()


def test_another_end_is_not_stored_over_the_first(database: str):
    storage = open_storage(database)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "ours")
    trial = storage.create_new_trial(study, template_trial=begun(0))
    storage.end_trial(trial, TrialState.COMPLETE, 0.75, {}, {})
    first = told(storage, study)
    with pytest.raises(SearchStoppedError, match="another program has ended trial 0 of this study as COMPLETE; type"):
        storage.end_trial(trial, TrialState.FAIL, None, {"failure": "crashed"}, {})
    assert told(storage, study) == first
    storage.remove_session()
    storage.engine.dispose()


def test_a_number_that_another_writer_took_is_not_stored(database: str):
    storage = open_storage(database)
    study = storage.create_new_study([StudyDirection.MAXIMIZE], "ours")
    storage.create_new_trial(study, template_trial=begun(0))
    with pytest.raises(SearchStoppedError, match="another program has added trial 0 to this study; type the same"):
        storage.create_new_trial(study, template_trial=begun(0))
    assert len(storage.get_all_trials(study)) == 1
    storage.remove_session()
    storage.engine.dispose()
