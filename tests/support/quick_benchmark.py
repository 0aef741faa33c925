"""Rows of the benchmarks in their quick form, and what their table must have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shell import TESTS, environment

from objectives.base import DatasetError
from objectives.data.datasets import load_dataset


def needs_mnist() -> None:
    try:
        load_dataset("mnist", None, download=False, verify=False)
    except DatasetError as error:
        pytest.skip(f"MNIST is not here: {error}")


def quick(rows: str, output: Path) -> None:
    needs_mnist()
    data = {"SEARCH_DATA_DIR": os.environ["SEARCH_DATA_DIR"]} if "SEARCH_DATA_DIR" in os.environ else {}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", rows, "--output", str(output)],
        cwd=TESTS.parent,
        env=environment(data),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert f"written to {output}" in done.stdout
    found = json.loads(output.read_text())
    assert set(found) == {"header", "rows", "skipped", "seconds"}
    assert {"processor", "cores", "load_average", "versions", "git_commit", "repeats"} <= set(found["header"])
    assert {str(row["row"]) for row in found["rows"]} == set(rows.split(","))
    assert [each for each in found["skipped"] if "is not installed" not in each["why"]] == []  # CUDA MPS may be missing
    for row in found["rows"]:
        assert set(row) == {"row", "name", "unit", "ours", "theirs", "ratio", "target", "met", "notes", "details"}
        for side in ("ours", "theirs") if row["theirs"] else ("ours",):
            assert row[side]["min"] <= row[side]["median"] <= row[side]["max"]
            assert row[side]["n"] == len(row[side]["values"]) >= 1
        assert row["ratio"] is None or row["ratio"] > 0
