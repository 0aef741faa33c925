"""SIGKILL while a plain function is searched: same parameters when it runs again, and everything is there once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from harness import HERE, PLAIN, Place, say
from shell import rows

TRIALS = 40
VALLEY = ("--objective", "valley.py:objective", "--direction", "minimize", "--trials", TRIALS, "--jobs", 2, *PLAIN)

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]


@pytest.fixture
def valley(empty: Place) -> Place:
    """A folder with nothing but the function."""
    shutil.copy(HERE / "valley.py", empty.folder)
    empty.study, empty.curve = "valley", "intermediate/value"
    empty.env = {"VALLEY_LOG": str(log_of(empty)), "VALLEY_STEP_S": "0.1"}
    return empty


def log_of(place: Place) -> Path:
    """Beside the folder, as everything that a test notes."""
    return place.folder.with_name("valley-log.jsonl")


def test_command_killed_again_and_again(valley: Place):
    assert valley.kill_again_and_again(VALLEY, 20, random.Random(17), early=(3, 6.0), reports=12) < TRIALS
    valley.finish(*VALLEY)
    counts = valley.assert_whole(TRIALS)
    assert set(counts["states"]) <= {"COMPLETE", "PRUNED"}
    assert_same_again(valley)


def test_workers_killed_again_and_again(valley: Place):
    moments, victims = random.Random(18), []
    valley.env = {**valley.env, "VALLEY_STEP_S": "0.2"}
    process = valley.begin(*VALLEY)
    valley.until_training(process)
    while len(victims) < 20:
        time.sleep(moments.uniform(0.2, 2.0))
        assert process.poll() is None, f"it ended before all kills were done: {valley.said()}"
        if workers := valley.workers():
            victims.append(moments.choice(workers))
            os.kill(victims[-1], signal.SIGKILL)
    say(f"20 kills, the last one with {valley.finished()} trials finished")
    assert valley.ended(process) == 0, valley.said()
    counts = valley.assert_whole(TRIALS)
    failed = rows(valley.optuna_db, "SELECT value_json FROM trial_user_attributes WHERE key = 'failure'")
    assert failed == [('"crashed"',)] * counts["states"].get("FAIL", 0)
    assert_same_again(valley)


def assert_same_again(place: Place) -> None:
    """Every start of a trial got the parameters that Optuna stores, and what it reported first is what counts."""
    said: defaultdict[int, defaultdict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in log_of(place).read_text().splitlines():
        note = json.loads(line)
        said[note["trial"]][note["word"]].append(note)
    story = place.story()
    for number, state, params, values, reports in story:
        got = {(note["name"], json.dumps(note["value"])) for note in said[number]["suggested"]}
        assert got <= {(name, json.dumps(value)) for name, value in params.items()}, number
        assert state == "FAIL" or len(got) == len(params), number
        for step, value in reports.items():
            assert value in first_reports(said[number], step), (number, step)
        assert {note["step"] for note in said[number]["reported"]} <= set(reports), number
        assert state != "COMPLETE" or values[0] in [note["value"] for note in said[number]["returns"]], number
    again = [number for number, words in said.items() if len(words["started"]) > 1]
    assert sorted(said) == list(range(TRIALS))
    assert again, "no trial ran twice: nothing was hurt"
    say(f"{len(again)} trials ran again, {sum(len(said[number]['started']) for number in said)} starts in all")
    assert_runs_fit(place, {number: state for number, state, *_ in story})


def first_reports(words: dict[str, list[dict[str, Any]]], step: int) -> list[float]:
    """Values for a step that may count: the first one that was answered, and those before it that no answer reached."""
    tried = [note for note in words["reports"] if note["step"] == step]
    answered = {note["pid"] for note in words["reported"] if note["step"] == step}
    first = next((at for at, note in enumerate(tried) if note["pid"] in answered), len(tried))
    return [note["value"] for note in tried[: first + 1]]


def assert_runs_fit(place: Place, states: dict[int, str]) -> None:
    """Each trial has one run, whose status, tags and curves are those of the trial."""
    query = (
        "SELECT CAST(n.value AS INTEGER), r.status, s.value, r.end_time, r.run_uuid FROM runs r"
        " JOIN tags n ON n.run_uuid = r.run_uuid AND n.key = 'optuna.trial.number'"
        " JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'optuna.state' ORDER BY 1"
    )
    runs = rows(place.mlflow_db, query)
    assert {number: state for number, _, state, *_ in runs} == states
    assert len(runs) == len(states)
    for _, status, state, end, run in runs:
        assert status == ("FAILED" if state == "FAIL" else "FINISHED")
        assert end is not None
        logged = rows(place.mlflow_db, "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss'", run)
        steps = sorted(step for (step,) in logged)
        assert steps == list(range(len(steps)))
