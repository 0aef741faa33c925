"""Tests that need a GPU: they can be run alone, on a machine that lacks what others import, and none is lost."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TESTS, environment

pytestmark = pytest.mark.slow

LACKING = ("hypothesis", "mlflow", "optuna", "playwright", "sqlalchemy")


def run_pytest(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *words]
    env = environment(variables)
    return subprocess.run(command, cwd=TESTS.parent, env=env, capture_output=True, text=True, timeout=120)


def collected(result: subprocess.CompletedProcess[str]) -> set[str]:
    assert result.returncode == 0, result.stdout
    return {line for line in result.stdout.splitlines() if "::" in line}


def test_gpu_tests_are_found_without_importing_the_others(tmp_path: Path):
    for name in LACKING:
        (tmp_path / f"{name}.py").write_text("raise ImportError('it is not here')")
    alone = run_pytest("-p", "no:xdist", "--collect-only", "-m", "gpu", PYTHONPATH=str(tmp_path))
    marked = {
        str(path.relative_to(TESTS.parent))
        for path in TESTS.rglob("test_*.py")
        if path != Path(__file__) and re.search(r"\bmark\.gpu\b|\bNEEDS_DEVICE\b", path.read_text())
    }
    assert {test.partition("::")[0] for test in collected(alone)} == marked != set()


@pytest.mark.parametrize("expected", [False, True])
def test_a_missing_gpu_is_an_error_where_one_is_expected(expected: bool):
    variables = {"CUDA_VISIBLE_DEVICES": "", **({"SEARCH_EXPECT_GPU": "1"} if expected else {})}
    result = run_pytest("-m", "gpu", "tests/objectives/test_gpu.py", "-k", "drops_its_share", **variables)
    assert result.returncode == expected, result.stdout
    assert ("SEARCH_EXPECT_GPU=1, but torch finds no CUDA device" in result.stdout) == expected
    assert f"3 {'errors' if expected else 'skipped'}" in result.stdout
