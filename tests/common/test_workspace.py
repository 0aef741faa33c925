"""What else lies in the folder of a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from shell import TOY, search

from search.common.workspace import Workspace


@pytest.mark.parametrize(
    ("name", "is_earlier"),
    [
        ("0/meta.yaml", True),
        ("493821570091223/meta.yaml", True),
        ("0/0cf3/meta.yaml", False),
        ("artifacts/meta.yaml", False),
        ("models/m-1/meta.yaml", False),
    ],
)
def test_runs_of_an_earlier_mlflow_are_found(tmp_path: Path, name: str, is_earlier: bool):
    file = tmp_path / "mlruns" / name
    file.parent.mkdir(parents=True)
    file.write_text("name: Default\n")
    assert Workspace(tmp_path).earlier_runs == (file if is_earlier else None)


def test_a_new_folder_has_none(tmp_path: Path):
    assert Workspace(tmp_path).earlier_runs is None


@pytest.mark.slow
def test_a_search_beside_them_says_what_a_bare_mlflow_reads(folder: Path):
    (folder / "mlruns" / "0").mkdir(parents=True)
    (folder / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    done = search(*TOY, "--trials", 1, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "mlruns/0/meta.yaml belongs to runs of an earlier MLflow." in done.stdout + done.stderr
