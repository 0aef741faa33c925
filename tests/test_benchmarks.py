from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TESTS, environment

from objectives.base import DatasetError
from objectives.datasets import load_dataset


def test_benchmarks_say_their_flags_and_refuse_unknown_rows() -> None:
    command = [sys.executable, "-m", "tests.benchmarks"]
    helped = subprocess.run([*command, "--help"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True)
    assert all(flag in helped.stdout for flag in ("--only", "--repeats", "--quick", "--output"))
    refused = subprocess.run(
        [*command, "--only", "1,12"], cwd=TESTS.parent, env=environment(), capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "there is no row 12" in refused.stderr


@pytest.mark.slow
def test_quick_benchmark_writes_its_table_as_json(tmp_path: Path) -> None:
    quick("5,7", tmp_path / "figures.json")


@pytest.mark.gpu
def test_quick_benchmark_of_the_gpu(tmp_path: Path) -> None:
    quick("8", tmp_path / "figures.json")


def quick(rows: str, output: Path) -> None:
    try:
        load_dataset("mnist", None, download=False, verify=False)
    except DatasetError as error:
        pytest.skip(f"MNIST is not here: {error}")
    data = {"SEARCH_DATA_DIR": os.environ["SEARCH_DATA_DIR"]} if "SEARCH_DATA_DIR" in os.environ else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", rows, "--output", str(output)],
        cwd=TESTS.parent, env=environment(data), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert set(found) == {"header", "rows", "skipped"}
    assert {"processor", "cores", "load_average", "versions", "git_commit", "repeats"} <= set(found["header"])
    assert {str(row["row"]) for row in found["rows"]} == set(rows.split(","))
    assert found["skipped"] == []
    for row in found["rows"]:
        assert set(row) == {"row", "name", "unit", "ours", "theirs", "ratio", "target", "met", "notes"}
        for side in ("ours", "theirs") if row["theirs"] else ("ours",):
            assert row[side]["min"] <= row[side]["median"] <= row[side]["max"]
            assert row[side]["n"] == len(row[side]["values"]) >= 1
        assert row["ratio"] is None or row["ratio"] > 0
