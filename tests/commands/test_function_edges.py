"""Plain functions at the edges: kills between two stores, values that are no numbers, trials read back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from shell import environment

pytestmark = pytest.mark.slow

EDGES = '''
import math
import os
import signal
import time
from pathlib import Path

import optuna

import search


def once(name):
    """True the first time that any process asks."""
    try:
        Path(name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def sparse(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(100, 1100, 100):
        trial.report(x + step, step)
        search.log({"loss": step / 2}, step=step)
        if step == 300 and once("killed"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
    return x


def lost(trial):
    trial.suggest_float("x", 0, 1)
    trial.report(math.nan, 0)
    raise optuna.TrialPruned


def keeps(trial):
    import torch

    trial.suggest_float("x", 0, 1)
    search.seed()
    checkpoint = search.checkpoint()
    if checkpoint.load() is None:
        search.log_model(torch.nn.Linear(2, 1), torch.zeros(4, 2))
        checkpoint.save(1)
        if once("killed"):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
    return 1.0


def odd(trial):
    x = trial.suggest_float("x", 0, 1)
    match trial.number:
        case 0:
            trial.suggest_float("wide", 0, math.inf)
        case 1:
            trial.report(0.5, 2**70)
        case 2:
            search.log({"loss": 1.0}, step=2**70)
        case 3:
            trial.suggest_categorical("act", [lambda: 1, lambda: 2])
        case 4:
            trial.report(math.inf, 0)
            trial.set_user_attr(5, 1)
    return x


def remembers(trial):
    search.seed()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("kept", trial.number)
    assert "x" in trial.distributions
    return math.inf if trial.number == 0 else float(trial.user_attrs["kept"])


def forks(trial):
    trial.suggest_float("x", 0, 1)
    if once("forked"):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0
'''


def searched(folder: Path, name: str, *flags: str, kills: bool = False) -> str:
    """Run the command, again if the function kills it the first time. Returns what it printed."""
    (folder / "edges.py").write_text(EDGES)
    command = [
        sys.executable,
        "-m",
        "search",
        "--objective",
        f"edges.py:{name}",
        "--study",
        name,
        "--jobs",
        "1",
        *flags,
    ]
    for killed in (True, False) if kills else (False,):
        ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)
        assert ended.returncode == (-9 if killed else 0), ended.stdout + ended.stderr
    return ended.stdout


def study_in(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'optuna.db'}")


def test_no_point_of_sparse_steps_is_lost_or_doubled_by_a_kill(tmp_path: Path):
    searched(tmp_path, "sparse", "--trials", "1", kills=True)
    steps = list(range(100, 1100, 100))
    (trial,) = study_in(tmp_path, "sparse").trials
    assert list(trial.intermediate_values) == steps
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.kind = 'trial'")
    for curve in ("intermediate/value", "loss"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, curve)] == steps


def test_a_trial_that_is_pruned_at_nan_leaves_a_study_that_can_be_read(tmp_path: Path):
    (tmp_path / "edges.py").write_text(EDGES)
    command = [sys.executable, "-m", "search", "--objective", "edges.py:lost", "--study", "lost", "--trials", "2"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
    assert "no trial of study 'lost' was completed" in ended.stderr
    assert [trial.state for trial in study_in(tmp_path, "lost").trials] == [TrialState.PRUNED] * 2


@pytest.mark.long
def test_a_model_that_was_logged_before_a_kill_is_registered(tmp_path: Path):
    output = searched(tmp_path, "keeps", "--trials", "1", "--confirm", "0", kills=True)
    assert "registered: edges-keeps version 1" in output


def test_what_optuna_refuses_fails_one_trial(tmp_path: Path):
    searched(tmp_path, "odd", "--trials", "7")
    trials = study_in(tmp_path, "odd").trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 5 + [TrialState.COMPLETE] * 2
    reasons = [trial.user_attrs["failure_message"].partition(":")[0] for trial in trials[:5]]
    assert reasons == ["OverflowError", "ValueError", "ValueError", "TypeError", "TypeError"]


def test_a_configuration_on_a_fresh_seed_reads_back_what_it_has_set(tmp_path: Path):
    output = searched(tmp_path, "remembers", "--trials", "2", "--direction", "maximize", "--confirm-seeds", "2")
    assert "winner: trial 1" in output
    assert "1.0000, 1.0000" in output
    assert "all failed" in output  # infinity is no value to compare


def test_a_dead_worker_is_noticed_although_its_child_lives(tmp_path: Path):
    started = time.monotonic()
    searched(tmp_path, "forks", "--trials", "1")
    assert time.monotonic() - started < 50
