"""A search that is interrupted again and again ends as the one that never was."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import BOWL, PLAIN, Place, say, wait_until
from shell import rows

pytestmark = pytest.mark.timeout(600)

DIGITS = ("--dataset", "digits", "--epochs", 3, "--trials", 9, "--checkpoint-interval", 0, "--no-register", *PLAIN)


def interrupt(place: Place, search: tuple[object, ...], moments: random.Random, reports: int) -> None:
    signals = [signal.SIGKILL] * 3 + [signal.SIGTERM]
    moments.shuffle(signals)
    done = []
    for number in signals:
        process = place.begin(*search)
        place.random_moment(process, moments, reports)
        assert process.poll() is None, f"it ended before it could be interrupted: {place.said()}"
        process.send_signal(number)
        assert place.ended(process, 20) == (143 if number == signal.SIGTERM else -signal.SIGKILL), place.said()
        done.append((place.finished(), place.reports()))
    say(f"interrupted by {[number.name for number in signals]} at (trials, reports) {done}")
    place.finish(*search)


@pytest.mark.parametrize(
    ("search", "trials", "reports"),
    [
        pytest.param((*BOWL, "--trials", 14, "--engine", "inline"), 14, 8, id="inline", marks=pytest.mark.slow),
        pytest.param((*DIGITS, "--jobs", 1), 9, 3, id="local", marks=pytest.mark.long),
    ],
)
def test_interrupted_and_not(
    make_place: Callable[..., Place], folder: Path, search: tuple[object, ...], trials: int, reports: int
):
    names = {"study": "digits", "curve": "val/accuracy"} if "digits" in search else {}
    shutil.copytree(folder, folder.with_name("whole"))
    whole, parts = make_place(folder.with_name("whole"), **names), make_place(folder, **names)
    whole.finish(*search)
    interrupt(parts, search, random.Random(3), reports)
    whole.assert_whole(trials)
    parts.assert_whole(trials)
    differing = [(a, b) for a, b in zip(whole.story(), parts.story(), strict=True) if a != b]
    say(f"{len(differing)} of {trials} trials differ in parameters, state, value or curve")
    assert differing == []


ENDING = ("--dataset", "digits", "--epochs", 4, "--trials", 3, "--checkpoint-interval", 0, "--jobs", 1, "--confirm", 2)


def ending(place: Place) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """The winner's figures without seconds, and every point of the runs that confirm and make it."""
    ((stored,),) = rows(place.optuna_db, "SELECT value_json FROM study_user_attributes WHERE key = 'summary'")
    summary = json.loads(stored)
    summary["refit"].pop("seconds")
    points = rows(
        place.mlflow_db,
        "SELECT r.name, m.key, m.step, m.value FROM metrics m JOIN runs r USING (run_uuid) JOIN tags k"
        " ON k.run_uuid = r.run_uuid AND k.key = 'kind' AND k.value IN ('confirm', 'refit')"
        " WHERE m.key NOT LIKE '%seconds%' AND m.key NOT LIKE '%per_s%' ORDER BY 1, 2, 3, 4",
    )
    return summary, points


@pytest.mark.long
@pytest.mark.slow
def test_killed_while_it_confirms_and_refits(make_place: Callable[..., Place], folder: Path):
    shutil.copytree(folder, folder.with_name("whole"))
    whole = make_place(folder.with_name("whole"), study="digits", curve="val/accuracy")
    parts = make_place(folder, study="digits", curve="val/accuracy")
    whole.finish(*ENDING)
    moments = random.Random(5)
    for kind, n in (("confirm", 1), ("confirm", 3), ("refit", 1)):
        process = parts.begin(*ENDING)
        arrived = lambda: parts.begun(kind) >= n or process.poll() is not None  # noqa: B023, E731
        wait_until(arrived, 120, f"{kind} {n}")
        time.sleep(moments.uniform(0, 0.5))
        assert process.poll() is None, f"it ended before it could be killed: {parts.said()}"
        parts.kill(process)
    parts.finish(*ENDING)
    ends = [ending(place) for place in (whole, parts)]
    confirmed = sum(len(each["values"]) for each in ends[0][0]["confirmation"]["candidates"])
    for place in (whole, parts):
        place.assert_whole(3, confirm=confirmed, refit=1)
    say(f"{confirmed} confirming runs, winner {ends[0][0]['run']}, {len(ends[0][1])} points")
    assert ends[0] == ends[1]
    assert whole.story() == parts.story()
