"""`check-objective` on plain functions of a trial, as a user types it."""

import subprocess
import sys
from pathlib import Path

import pytest
from shell import environment

FUNCTIONS = """
import random
import sys

import search


def good(trial):
    x = trial.suggest_float("x", 0, 1)
    for step in range(3):
        trial.report(x + step, step)
        trial.should_prune()
    random.seed(search.seed())
    return x + random.random() + (trial.study.direction == 1)


def two(trial):
    return 1.0, trial.suggest_float("x", 0, 1)


def raises(trial):
    raise KeyError(trial.suggest_categorical("colour", ["red", "blue"]))


def nothing(trial):
    return 1.0


def unseeded(trial):
    return trial.suggest_int("n", 1, 9) + random.random()


def exits(trial):
    sys.exit(3)


def changing(trial):
    return trial.suggest_categorical("x", [0, trial.number + 1])
"""


def check(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("plain.py").write_text(FUNCTIONS)
    command = [sys.executable, "-m", "search", "check-objective", f"plain.py:{name}"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)


def test_a_good_function_passes_and_what_it_lacks_is_said(tmp_path: Path):
    result = check(tmp_path, "good")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ok     It returns one number" in result.stdout
    assert "parameters: x" in result.stdout
    assert "ok     Its winner is confirmed on fresh seeds" in result.stdout
    assert "-      Its winner can be registered (it never calls search.log_model)" in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two", "the function returned 2 values"),
        ("raises", "the function failed: KeyError: "),
        ("nothing", "the function suggested nothing"),
        ("exits", "sys.exit(3) was called"),
        ("changing", "does not support dynamic value space"),
    ],
)
def test_a_function_that_cannot_be_searched_is_explained(tmp_path: Path, name: str, message: str):
    result = check(tmp_path, name)
    assert result.returncode == 1
    assert message in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_random_numbers_without_a_seed_are_a_remark(tmp_path: Path):
    result = check(tmp_path, "unseeded")
    assert result.returncode == 0
    assert "-      Equal parameters and an equal seed give an equal value (it gave" in result.stdout
    assert "seed what it draws with search.seed()" in result.stdout


@pytest.mark.slow
def test_threads_of_the_file_do_not_hang_the_checks(tmp_path: Path):
    """With a flag the objective is imported before the checks, and a fork would lose the threads that it uses."""
    code = "import torch\nx = torch.rand(600, 600)\nx @ x\n"
    code += "def objective(trial):\n    return float((x @ x).sum()) * trial.suggest_float('a', 0, 1)\n"
    (tmp_path / "threads.py").write_text(code)
    command = [sys.executable, "-m", "search", "check-objective", "threads.py:objective"]
    env = environment({"SEARCH_DATA_DIR": str(tmp_path), "OMP_NUM_THREADS": "2"})
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
