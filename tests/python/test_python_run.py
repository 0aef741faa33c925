"""`search.run` in a Python program: what it leaves behind, how it is stopped and continued."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pytest
import torch
import toy
from shell import alive, children, environment, in_process, rows, wait_for, wait_until

import search
from objectives.images import ImageClassification
from objectives.metrics import METRICS
from search.commands.session.session import spec_for_machines
from search.commands.setup import SearchPlan
from search.common.config import Config
from search.python.objects import spec_of, target_of
from search.study.storage.storage import hold_study

QUICK: Any = {"engine": "inline", "confirm": 0, "quiet": True}


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def test_the_same_call_continues_and_then_has_nothing_to_do(here: Path, capsys: pytest.CaptureFixture[str]):
    first = search.run(toy.Toy, trials=2, **QUICK)
    assert capsys.readouterr() == ("", "")
    more = search.run(toy.Toy, trials=4, **{**QUICK, "quiet": False})
    assert "study toy: 2 of 4 trials done" in capsys.readouterr().out
    done = search.run(toy.Toy, trials=4, **{**QUICK, "quiet": False})
    assert "nothing was left to do; to continue, type trials=8 or another number above 4" in capsys.readouterr().out
    assert [len(result.study.trials) for result in (first, more, done)] == [4, 4, 4]
    assert done.best_params == more.best_params


@pytest.mark.slow
def test_the_command_continues_what_a_program_began(here: Path):
    search.run(toy.Toy, trials=2, **QUICK)
    words = ("--objective", "toy:Toy", "--trials", 3, "--engine", "inline", "--confirm", 0)
    assert "2 of 3 trials done" in in_process(*words).stdout
    command = in_process("show", "--json").stdout
    assert "search.run(toy:Toy, trials=2, engine='inline', confirm=0, quiet=True)" in command


def test_an_object_keeps_what_it_was_made_with(here: Path):
    result = search.run(toy.Toy(direction="minimize", steps=2), trials=2, study="own", **QUICK)
    assert result.study.direction == optuna.study.StudyDirection.MINIMIZE
    assert max(result.study.trials[0].intermediate_values) == 2


@pytest.mark.slow
def test_a_text_names_an_objective_as_after_the_flag(here: Path):
    assert search.run("toy:Toy", trials=1, **QUICK).best_params


def process_state() -> dict[str, Any]:
    return {
        "variables": dict(os.environ),
        "path": list(sys.path),
        "filters": list(warnings.filters),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "verbosity": optuna.logging.get_verbosity(),
        "psycopg": logging.getLogger("psycopg").level,
        "uri": (mlflow.get_tracking_uri(), mlflow.get_registry_uri()),
        "run": run.info.run_id if (run := mlflow.active_run()) else None,
        "threads": {thread.name for thread in threading.enumerate()},
        "excepthook": sys.excepthook,
    }


@pytest.mark.slow
def test_the_process_stays_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/other.db")
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-1")
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    search.run(toy.Toy, trials=1, **QUICK)  # what it imports may change something once
    before = process_state()
    search.run(toy.Toy, trials=2, **QUICK)
    assert process_state() == before
    with pytest.raises(search.SearchError, match="all|spoon"):
        search.run(toy.Toy(mode="error"), trials=9, study="broken", **QUICK)
    assert process_state() == before
    optuna.logging.set_verbosity(optuna.logging.INFO)
    search.run(toy.Toy, trials=3, **QUICK)


def flushes_denormals() -> bool:
    return (torch.tensor(1e-310, dtype=torch.float64) * 1).item() == 0.0


def test_random_numbers_and_torchs_settings_stay_as_they_were(here: Path):
    def objective(trial: optuna.Trial) -> float:
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        return 1.0

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    search.run(objective, trials=1, **QUICK)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # type: ignore[index]
    assert not flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        # No worker of this engine is in this process.
        with pytest.raises(search.SearchError, match="cannot be searched"):
            search.run(object(), **{**QUICK, "engine": "local"})
        assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.slow
def test_it_runs_in_another_thread(here: Path):
    results: list[search.Result] = []
    thread = threading.Thread(target=lambda: results.append(search.run(toy.Toy, trials=2, **QUICK)))
    thread.start()
    thread.join()
    assert len(results[0].study.trials) == 2


def test_only_one_search_runs_at_a_time(here: Path):
    class Nested(toy.Toy):
        def epochs(self, device: str) -> int:
            search.run(toy.Toy, trials=1, study="inner", **QUICK)
            return 1

    with pytest.raises(search.SearchError, match="a search runs in this process already"):
        search.run(Nested(), trials=1, study="outer", **QUICK)
    assert search.run(toy.Toy, trials=1, **QUICK).best_params


def test_a_study_that_another_process_searches_is_left_alone(here: Path):
    search.run(toy.Toy, trials=1, **QUICK)
    with (
        hold_study(f"sqlite:///{here}/optuna.db", "toy"),
        pytest.raises(search.SearchError, match="study 'toy' is being searched by"),
    ):
        search.run(toy.Toy, trials=2, **QUICK)


class Nets(ImageClassification):
    def suggest_network(self, trial: Any) -> dict[str, Any]:
        return {"width": trial.suggest_int("width", 1, 2)}

    def build_network(self, params: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(self.n_classes))


def test_an_object_has_its_data_already(here: Path):
    with pytest.raises(
        search.SearchError, match="dataset='digits': the object is made already; give dataset where you make it"
    ):
        search.run(Nets("digits"), dataset="digits", **QUICK)


@pytest.mark.parametrize("given", [Nets, Nets("digits")])
def test_another_machine_gets_the_data_with_the_objective(here: Path, given: Any):
    dataset = "digits" if given is Nets else None
    config = Config(objective=target_of(given), dataset=dataset, workspace=here)
    plan = SearchPlan.of(config, given=spec_of(given))
    sent: Any = spec_for_machines(plan).load()
    assert "dataset" in vars(sent)
    assert sent.fingerprint() == plan.objective.fingerprint()
    assert np.array_equal(sent.dataset.images, plan.objective.dataset.images)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_class_of_the_default_objective_is_the_default(here: Path):
    same: Any = {"dataset": "digits", "trials": 1, "epochs": 1, "no_refit": True, "no_register": True, **QUICK}
    first = search.run(ImageClassification, **same)
    assert search.run(**same).best_params == first.best_params


def test_a_damaged_database_is_one_message(here: Path):
    (here / "optuna.db").write_bytes(b"")
    with pytest.raises(search.SearchError, match="optuna.db is not a SQLite database, or is damaged: it is empty"):
        search.run(toy.Toy, **QUICK)


def test_an_objective_that_lacks_something_is_one_message(here: Path):
    class Half:
        name = "half"

    with pytest.raises(search.SearchError, match="lacks .*metric") as caught:
        search.run(Half, **QUICK)
    assert [entry.name for entry in caught.traceback][-1] == "run"


# Programs -------------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
import search
from toy import Toy

class Own(Toy):
    name = "own"

try:
    result = search.run(Own, trials=6, jobs=2, confirm=0)
finally:
    print("left", [thread.name for thread in threading.enumerate()])
print("best", result.best_value)
"""


def searching(folder: Path) -> tuple[Path, subprocess.Popen[str]]:
    """A program, and a process in which its search has just begun."""
    program = folder / "train.py"
    program.write_text(PROGRAM)
    process = start(program, {"TOY_PAUSE_S": "0.5"})
    wait_for(process, "0 of 6 trials done")
    return program, process


def start(program: Path, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-u", str(program)], subprocess.PIPE
    return subprocess.Popen(command, cwd=program.parent, env=environment(env), stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_a_program_without_a_guard_is_stopped_and_continues(here: Path):
    """Also on several workers, with a class of its own."""
    program, process = searching(here)
    wait_until(lambda: rows(here / "optuna.db", "SELECT 1 FROM trials"), 60, "a trial")
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "left ['MainThread']" in out
    assert err.rstrip().endswith("KeyboardInterrupt: Stopped. Nothing is lost: run the same call again to continue")
    assert err.count("File ") == 2
    assert process.returncode == -signal.SIGINT
    assert not [pid for pid in workers if alive(pid)]
    assert rows(here / "optuna.db", "SELECT count(*) FROM trials")[0][0] < 6
    out, err = start(program).communicate(timeout=120)
    assert "best 0." in out, err
    assert rows(here / "optuna.db", "SELECT count(*) FROM trials")[0][0] == 6


@pytest.mark.long
@pytest.mark.slow
def test_a_program_continues_from_the_command_line_unless_it_searches_at_import(here: Path):
    guarded = PROGRAM.replace("try:", 'if __name__ == "__main__":\n  try:').replace("    result =", "      result =")
    guarded = guarded.replace("finally:", "  finally:").replace('    print("left"', '      print("left"')
    guarded = guarded.replace('print("best"', '  print("best"')
    (here / "train.py").write_text(guarded)
    out, err = start(here / "train.py").communicate(timeout=120)
    assert "best 0." in out, err
    words = ("--objective", "train.py:Own", "--trials", 7, "--jobs", 1, "--confirm", 0)
    done = subprocess.run(
        [sys.executable, "-m", "search", *map(str, words)], cwd=here, env=environment(), capture_output=True, text=True
    )
    assert "6 of 7 trials done" in done.stdout, done.stderr
    (here / "train.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-m", "search", *map(str, words)], cwd=here, env=environment(), capture_output=True, text=True
    )
    advice = 'put the call below: if __name__ == "__main__":'
    assert done.stderr.splitlines()[-1] == f"Error: train.py calls search.run while it is imported; {advice}"


@pytest.mark.slow
def test_a_program_that_is_stopped_early_has_no_thread_left(tmp_path: Path):
    """MLflow's database is being made, which takes seconds."""
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    process = start(program)
    wait_until(lambda: (tmp_path / "optuna.db").exists(), 60, "a database")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert "left ['MainThread']" in out, err


@pytest.mark.slow
def test_sigterm_ends_the_program_after_the_search(here: Path):
    program, process = searching(here)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.long
@pytest.mark.slow
def test_a_model_is_registered_beside_a_run_of_ones_own(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{here}/own.db")
    try:
        mlflow.set_experiment("own")
        with mlflow.start_run() as own:
            result = search.run(dataset="digits", trials=2, epochs=2, confirm=0, engine="inline", quiet=True)
            assert mlflow.active_run() == own
            mlflow.log_metric("after", 1.0)
        assert result.model_uri == "models:/digits/1"
        assert result.test_accuracy is not None
        assert [score.name for score in result.test_scores] == list(METRICS)
        assert len(result.predictor.classes) == 10
        assert mlflow.MlflowClient().get_run(own.info.run_id).data.metrics == {"after": 1.0}
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)  # which mlflow.set_experiment sets


@pytest.mark.long
def test_a_ray_of_ones_own_is_left_alone(here: Path):
    program = here / "train.py"
    own = "import ray; ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
    check = "\n    print('still', ray.is_initialized())"
    text = own + PROGRAM.replace("jobs=2", "jobs=2, engine='ray'").replace("finally:", f"finally:{check}")
    program.write_text(text)
    out, err = start(program).communicate(timeout=200)
    assert "still True" in out
    assert err.splitlines()[-1].endswith("this process is connected to Ray already; type ray.shutdown() first")


@pytest.mark.long
@pytest.mark.parametrize("in_thread", [False, True])
def test_an_object_goes_to_ray(here: Path, in_thread: bool):
    program = here / "train.py"
    text = PROGRAM.replace("jobs=2", "jobs=2, engine='ray'")
    if in_thread:
        lines = [f"    {line}" for line in text.strip().splitlines()]
        text = "\n".join(["def main():", *lines, "import threading", "thread = threading.Thread(target=main)"])
        text += "\nthread.start()\nthread.join()\n"
    program.write_text(text)
    out, err = start(program).communicate(timeout=200)
    assert "best 0." in out, err
