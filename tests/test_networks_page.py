"""The example of docs/networks.md: short, and a search of it ends with a champion that predicts."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from shell import environment, search
from test_readme import docs

PAGE = docs("networks")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
SEARCH, PREDICT, CHECK = (
    shlex.split(line)[3:] for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()
)
LOAD = """
import search, torch
assert search.load_trial("digits-ResNets", 0)(torch.rand(2, 1, 8, 8)).shape == (2, 10)
"""


def test_the_example_is_short():
    assert sum(bool(line.strip()) for line in EXAMPLE.splitlines()) <= 15


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documented search ran, with fewer trials and shorter trainings."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "resnets.py").write_text(EXAMPLE, encoding="utf-8")
    done = search(*SEARCH, "--trials", 3, "--epochs", 4, "--confirm", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study digits-ResNets: 3 trials" in done.stdout
    assert "registered: digits-ResNets version 1, alias champion" in done.stdout
    assert shlex.join(PREDICT) in done.stdout
    assert re.search(r"winner: trial \d, width=\d\d blocks=\d \w+ ", done.stdout)
    return folder


@pytest.mark.slow
def test_its_champion_predicts(searched: Path):
    done = search(*PREDICT, cwd=searched)
    assert done.returncode == 0, done.stderr
    (correct,) = re.findall(r"(\d+) of 25 are correct", done.stdout)
    assert int(correct) > 15
    assert (searched / "out.png").exists()


@pytest.mark.slow
def test_the_network_of_a_trial_loads(searched: Path):
    words = [sys.executable, "-c", LOAD]
    done = subprocess.run(words, cwd=searched, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_its_parameters_can_be_fixed_limited_and_taken_over(searched: Path):
    more = ("--study", "second", "--warm-start", "digits-ResNets", "--fix", "blocks=1", "--max-parameters", 80_000)
    done = search(*SEARCH, *more, "--trials", 2, "--epochs", 1, "--confirm", 0, "--no-refit", cwd=searched)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"blocks=\d", done.stdout)) == {"blocks=1"}
    assert "warm start: the best" in done.stdout + done.stderr


@pytest.mark.slow
def test_it_keeps_the_contract(searched: Path):
    done = search(*CHECK, cwd=searched)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "resnets.py:ResNets: all checks passed")
