"""The examples of docs/functions.md run as the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from shell import environment

PAGE = (Path(__file__).parents[1] / "docs" / "functions.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def search(folder: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "search", "--objective", "train.py:objective", *flags]
    ended = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_the_optuna_script_is_searched_as_it_is(tmp_path: Path):
    (tmp_path / "train.py").write_text(EXAMPLES[0])
    output = search(tmp_path, "--direction", "maximize", "--trials", "6")
    assert "not confirmed" in output
    study = optuna.load_study(study_name="train", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert len(study.trials) == 6
    assert study.best_value > 0.8
    alone = EXAMPLES[0].replace("n_trials=100", "n_trials=2")
    (tmp_path / "train.py").write_text(alone)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True, capture_output=True, timeout=120)


@pytest.mark.slow
def test_the_function_with_helpers_is_confirmed_and_registered(tmp_path: Path):
    (tmp_path / "train.py").write_text(EXAMPLES[1])
    output = search(tmp_path, "--trials", "4")
    assert "confirmed on" in output
    assert "registered: train version 1, alias champion" in output
    assert output.count("fresh seed 1") >= 2
