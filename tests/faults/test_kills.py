"""SIGKILL, to the coordinator and to workers, at any moment: nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from harness import BOWL, PLAIN, Place, say, wait_until
from shell import rows

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.long)])
def test_coordinator_killed_again_and_again(empty: Place, kills: int):
    search = (*BOWL, "--trials", 50, "--jobs", 2)
    assert empty.kill_again_and_again(search, kills, random.Random(kills), early=(4, 5.0), reports=10) < 50
    empty.finish(*search)
    empty.assert_whole(50)


@pytest.mark.parametrize("kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.long)])
def test_coordinator_killed_while_it_trains_and_publishes_a_classifier(empty: Place, kills: int):
    empty.study, empty.curve = "digits", "val/accuracy"
    moments = random.Random(6)
    search = ("--dataset", "digits", "--epochs", 2, "--trials", 12, "--jobs", 2, "--checkpoint-interval", 0, *PLAIN)
    done = []
    for kill in range(kills):
        process = empty.begin(*search)
        if kill < kills // 2:
            empty.random_moment(process, moments, reports=5)
        else:  # between the last trial and the end: the test split, the registry, the report
            wait_until(lambda: empty.finished() == 12, 120, "the twelfth trial")
            time.sleep(moments.uniform(0, 4.0))
        assert process.poll() is None, f"it ended before it could be killed: {empty.said()}"
        empty.kill(process)
        done.append(empty.finished())
    say(f"{kills} kills, with so many trials finished: {done}")
    empty.finish(*search)
    empty.assert_whole(12)
    versions = rows(empty.mlflow_db, "SELECT name, version, status FROM model_versions")
    aliases = rows(empty.mlflow_db, "SELECT alias, version FROM registered_model_aliases")
    say(f"registered: {versions}, aliases {aliases}")
    assert versions == [("digits", 1, "READY")]
    assert aliases == [("champion", 1)]
    assert "models:/digits@champion" in empty.finish("predict", "digits:0", "digits:1")
    assert list((empty.folder / "mlruns" / "weights").glob("*/*")) == []


@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.slow), pytest.param(20, marks=pytest.mark.long)])
def test_workers_killed_again_and_again(place: Place, kills: int):
    place.env = {"BOWL_STEP_S": "0.15"}
    moments, victims = random.Random(21), []
    process = place.begin(*BOWL, "--trials", 5 * kills // 2, "--jobs", 2)
    place.until_training(process)
    while len(victims) < kills:
        time.sleep(moments.uniform(0.2, 2.2))
        assert process.poll() is None, f"it ended before all kills were done: {place.said()}"
        if workers := place.workers():
            victims.append(moments.choice(workers))
            os.kill(victims[-1], signal.SIGKILL)
    say(f"{len(victims)} kills, the last one with {place.finished()} trials finished")
    assert place.ended(process) == 0, place.said()
    say(f"tried again: {place.said().count('is tried again')}")
    counts = place.assert_whole(5 * kills // 2)
    failed = rows(place.optuna_db, "SELECT value_json FROM trial_user_attributes WHERE key = 'failure'")
    assert failed == [('"crashed"',)] * counts["states"].get("FAIL", 0)
