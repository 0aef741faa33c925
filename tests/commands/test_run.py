"""Complete searches from the command line: custom objectives, watching, stopping early, resuming, repeating."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from shell import RUNS, TOY, begin, contents, end, environment, in_process, rows, runs_by_kind, search, wait_until

pytestmark = pytest.mark.slow


def running_trials(folder: Path) -> int:
    ((count,),) = rows(folder / "optuna.db", "SELECT count(*) FROM trials WHERE state = 'RUNNING'")
    return int(count)


def trials_and_runs(folder: Path) -> tuple[list[str], int]:
    states = [state for (state,) in rows(folder / "optuna.db", "SELECT state FROM trials ORDER BY number")]
    return states, len(rows(folder / "mlflow.db", RUNS))


# A custom objective, which is minimised -----------------------------------------------------------------------------


BARE_CURVE = """
import mlflow, numpy
x = numpy.linspace(-3, 3, 64, dtype=numpy.float32)[1::2, None]
error = numpy.square(mlflow.pyfunc.load_model("models:/curve@champion").predict(x) - numpy.sin(x)).mean()
print(error)
"""


@pytest.mark.long
def test_a_regression_works_in_every_command(folder: Path):
    """Pruning, limits, confirmation, registration, patience, resuming, and the other commands."""
    curve = ("--objective", "regression:Curve", "--jobs", 1, "--seed", 1, "--max-latency-ms", 100)
    result = search(*curve, "--trials", 60, "--patience", 8, "--confirm-seeds", 3, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^ended early: --patience 8: the last 8 trials did not improve on trial \d+", result.stdout, re.M)
    place = ("--workspace", folder)
    shown = json.loads(in_process("show", "curve", "--json", *place).stdout)
    trials, summary = shown["trials"], shown["summary"]
    complete = [trial for trial in trials if trial["state"] == "COMPLETE"]
    assert "PRUNED" in {trial["state"] for trial in trials}
    assert shown["direction"] == "minimize"
    assert summary["value"] <= min(trial["value"] for trial in complete if trial["baseline"])
    means = [sum(c["values"]) / len(c["values"]) for c in summary["confirmation"]["candidates"]]
    assert len(means) == 3
    assert summary["gains"][0]["gain"] > 0
    assert all(trial["constraints"]["latency_ms"] <= 0 for trial in complete)
    assert in_process("watch", "curve", *place).stdout.startswith(f"study curve: {len(trials)} of {len(trials)} trials")
    table = pd.read_csv(io.BytesIO(in_process("export", "curve", *place).stdout_bytes))
    assert table["constraints.latency_ms"].max() <= 0
    assert "Against latency" in (folder / "mlruns/reports/curve.html").read_text()
    assert "registered: curve version 1, alias champion" in result.stdout
    command = [sys.executable, "-c", BARE_CURVE]
    alone = environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""})
    bare = subprocess.run(command, cwd=folder, env=alone, check=True, capture_output=True, text=True)
    winner = next(c for c in summary["confirmation"]["candidates"] if c["number"] == summary["number"])
    assert float(bare.stdout) == pytest.approx(winner["values"][0], rel=1e-3)
    before = contents(folder)
    again = search(*curve, "--trials", 60, "--patience", 8, "--confirm-seeds", 3, cwd=folder)
    assert "nothing was left to do; the reason is given below" in again.stdout, again.stderr
    assert contents(folder) == before
    further = search(*curve, "--trials", len(trials) + 2, "--confirm", 0, "--no-register", cwd=folder)
    assert f"study curve: {len(trials) + 2} trials" in further.stdout, further.stderr
    assert "ended early" not in further.stdout
    words = ("--study", "next", "--warm-start", "curve", "--trials", 3, "--confirm", 0, "--no-register")
    warm = search(*curve, *words, cwd=folder)
    assert "warm start: the best 5 of study curve come after the baselines" in warm.stdout, warm.stderr
    earlier, started = (
        json.loads(search("show", name, "--json", cwd=folder).stdout)["trials"] for name in ("curve", "next")
    )
    done = sorted((t for t in earlier if t["state"] == "COMPLETE" and not t["baseline"]), key=lambda t: t["value"])
    assert [trial["params"] for trial in started[1:]] == [trial["params"] for trial in done[:2]]


# Searches that end early or resume -----------------------------------------------------------------------------------


def test_a_search_is_watched_from_another_terminal_and_logged_as_json(folder: Path):
    words = (*TOY, "--trials", 4, "--log-format", "json")
    first = begin(*words, cwd=folder, env={"TOY_PAUSE_S": "0.5"})
    wait_until(lambda: running_trials(folder) > 0, 60, "the first trial")
    watched = search("watch", cwd=folder)
    result = end(first)
    assert (result.returncode, watched.returncode) == (0, 0), result.stderr + watched.stderr
    begun = re.search(r"^study toy: (\d) of 4 trials done$", watched.stdout, re.M)
    assert begun
    assert len(re.findall(r"^\[\d/4\]  trial \d", watched.stdout, re.M)) == 4 - int(begun[1])
    assert "winner: trial" in watched.stdout
    events = [json.loads(line) for line in result.stdout.splitlines()]
    kinds = [event["event"] for event in events if event["event"] != "notice"]
    assert kinds == ["begin", *["trial"] * 4, "result"]
    assert [event["finished"] for event in events if event["event"] == "trial"] == [1, 2, 3, 4]
    assert len(events[-1]["study"]["trials"]) == 4
    quiet = search(*TOY, "--trials", 5, "--quiet", cwd=folder)
    assert quiet.stdout.startswith("\nstudy toy: 5 trials")


def test_a_search_stops_with_the_reason_if_every_trial_fails(folder: Path):
    result = search(*TOY, "--trials", 30, cwd=folder, env={"TOY_MODE": "error"})
    assert result.returncode == 1
    assert re.search(
        r"^Error: all 10 trials failed for the same reason \(error\).*the spoon does not exist", result.stderr, re.M
    )
    assert trials_and_runs(folder) == (["FAIL"] * 10, 11)


def test_a_search_that_runs_out_of_time_confirms_and_can_resume(folder: Path):
    words = ("--objective", "toy:Toy", "--jobs", 1, "--confirm", 2)
    result = search(*words, "--trials", 50, "--timeout", 2, cwd=folder, env={"TOY_PAUSE_S": "0.15"})
    assert result.returncode == 0, result.stderr
    done, _ = trials_and_runs(folder)
    assert 2 <= len(done) < 50
    assert re.search(r"^confirmed on (up to )?2 fresh seeds each", result.stdout, re.M)
    again = search(*words, "--trials", len(done) + 1, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert len(trials_and_runs(folder)[0]) == len(done) + 1


def test_a_workspace_elsewhere_and_more_trials_later(folder: Path):
    for trials in (2, 3, 3):
        result = search(*TOY, "--trials", trials, "--workspace", folder, cwd=folder.parent)
        assert result.returncode == 0, result.stderr
    states, runs = trials_and_runs(folder)
    assert (len(states), runs) == (3, 4)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    origin = json.loads(in_process("show", "toy", "--json", "--workspace", folder).stdout)["provenance"]
    assert "--trials 2" in origin["command"]
    assert [command.count("--trials 3") for command in origin["later_commands"]] == [1]


def test_a_failed_refit_leaves_a_confirmed_network(folder: Path):
    words = ("--objective", "stubborn:Stubborn", "--trials", 2, "--epochs", 1, "--confirm", 1, "--no-register")
    result = search(*words, "--jobs", 1, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^test accuracy: \d\d\.\d\d% ", result.stdout, re.M)
    failed = "training the winner on all but the test split failed (RuntimeError: no more than this); confirm-"
    assert failed in result.stdout
    assert {kind: len(runs) for kind, runs in runs_by_kind(folder).items()} == {
        "study": 1,
        "trial": 2,
        "confirm": 2,
        "refit": 1,
    }
    ((stored,),) = rows(folder / "optuna.db", "SELECT value_json FROM study_user_attributes WHERE key = 'test_reads'")
    (read,) = json.loads(stored)
    assert read["run"] == f"confirm-{read['number']}-1"
    assert "nothing was left to do" in search(*words, cwd=folder).stdout


# The same seed ------------------------------------------------------------------------------------------------------


def trials_of(database: Path) -> list[tuple[object, ...]]:
    """Parameters and every reported value, by trial."""
    params = rows(database, "SELECT trial_id, param_name, param_value FROM trial_params ORDER BY 1, 2")
    values = rows(database, "SELECT trial_id, step, intermediate_value FROM trial_intermediate_values ORDER BY 1, 2")
    return [*params, *values, *rows(database, "SELECT number, state FROM trials ORDER BY 1")]


def test_the_same_seed_repeats_a_search_exactly(folder: Path):
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    words = ("--dataset", "digits", "--trials", 6, "--epochs", 2, "--engine", "inline", "--seed", 7)
    words += ("--confirm", 1, "--no-register")
    both = [begin(*words, cwd=place) for place in (folder, other)]
    for process in both:
        assert end(process).returncode == 0
    assert trials_of(folder / "optuna.db") == trials_of(other / "optuna.db")
    assert len(rows(folder / "optuna.db", "SELECT DISTINCT param_value FROM trial_params")) > 8


def test_unavailable_mnist_falls_back_to_digits_unless_it_was_named(folder: Path):
    nowhere = {"SEARCH_DATA_DIR": str(folder.parent / "data")}
    asked = search("--dataset", "mnist", "--trials", 1, cwd=folder, env=nowhere)
    assert (asked.returncode, "Traceback" in asked.stderr) == (1, False)
    assert rows(folder / "optuna.db", "SELECT count(*) FROM studies") == [(0,)]
    result = search(
        "--trials", 1, "--epochs", 1, "--confirm", 0, "--no-refit", "--no-register", cwd=folder, env=nowhere
    )
    assert result.returncode == 0, result.stderr
    assert "so this searches the built-in digits" in result.stdout
    assert rows(folder / "optuna.db", "SELECT study_name FROM studies") == [("digits",)]


@pytest.mark.long
def test_fifty_trials_on_digits(tmp_path: Path):
    result = search("--dataset", "digits", "--trials", 50, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    states, runs = trials_and_runs(tmp_path)
    assert len(states) == 50
    assert 54 < runs <= 58  # the study's, 3 to 6 that confirm, one refit
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}
    accuracy = re.search(r"^test accuracy: ([\d.]+)%", result.stdout, re.M)
    assert accuracy
    assert float(accuracy[1]) >= 98.5
