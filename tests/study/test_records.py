"""Durations of trials and of starts of a search, wherever and whenever they are read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from search.reports import timing
from search.study import records
from search.study.records import StudyRecord

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """Moves this process to another time zone, until the test ends."""

    def move(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def stored(database: str, started: str, *trials: tuple[str, str]) -> StudyRecord:
    """A study whose only start was killed, with trials that ran at these times in UTC."""
    storage = RDBStorage(database)
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    study.set_user_attr(records.SESSIONS, [{"started": started, "slots": 1}])
    for _ in trials:
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5))
    with storage.engine.begin() as connection:
        for number, (start, end) in enumerate(trials):
            statement = "UPDATE trials SET datetime_start = :start, datetime_complete = :end WHERE number = :number"
            connection.execute(text(statement), {"start": start, "end": end, "number": number})
    return StudyRecord.of(optuna.load_study(study_name="s", storage=database))


@pytest.mark.parametrize("read_in", ["America/Los_Angeles", "Asia/Tokyo", "UTC", "Asia/Kolkata"])
@pytest.mark.parametrize(
    "started", ["2026-03-01T19:00:00+09:00", "2026-03-01T02:00:00-08:00", "2026-03-01T10:00:00+00:00"]
)
def test_a_start_of_another_time_zone_has_its_true_length(database: str, zone: Zone, started: str, read_in: str):
    zone(read_in)
    times = ("2026-03-01 10:00:10.000000", "2026-03-01 10:01:00.000000")
    record = stored(database, started, times)
    assert record.sessions[0]["wall_s"] == pytest.approx(60)
    assert record.trials[0].seconds == pytest.approx(50)
    assert timing.wall_s(record) == pytest.approx(60)


@pytest.mark.parametrize(
    ("zone_name", "start", "end"),
    [
        ("America/New_York", "2026-03-08 06:59:30.000000", "2026-03-08 07:00:30.000000"),
        ("Europe/Berlin", "2026-03-29 00:59:30.000000", "2026-03-29 01:00:30.000000"),
        ("Australia/Lord_Howe", "2026-10-03 15:29:30.000000", "2026-10-03 15:30:30.000000"),
    ],
)
def test_a_trial_lasts_a_minute_when_clocks_are_put_forward(
    database: str, zone: Zone, zone_name: str, start: str, end: str
):
    zone(zone_name)
    record = stored(database, "2026-01-01T00:00:00+00:00", (start, end))
    assert record.trials[0].seconds == pytest.approx(60)
    assert timing.SearchTime.of(record.trials).total_s == pytest.approx(60)


def test_no_trial_has_a_negative_length_when_clocks_are_put_back(database: str, zone: Zone):
    zone("America/New_York")
    times = ("2026-11-01 05:59:30.000000", "2026-11-01 06:00:30.000000")
    record = stored(database, "2026-01-01T00:00:00+00:00", times)
    assert record.trials[0].seconds == 0
    assert timing.SearchTime.of(record.trials).total_s == 0


def test_a_start_stored_without_a_zone_is_of_this_one(database: str):
    """As earlier versions stored it."""
    record = stored(database, datetime(2026, 3, 1, 10).isoformat())
    assert record.sessions[0]["wall_s"] == 0
    assert timing.sessions(record)[0][0] == "1 March 2026, 10:00"
