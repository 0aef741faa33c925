"""Studies, journals and registered models of version 0.1.0 stay usable, but for going on with a study of images."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from shell import environment, in_process, search

from search.commands.load import load, load_trial

FIXTURES = Path(__file__).parents[1] / "fixtures"
SPACE = [
    word
    for fixed in ("family=cnn", "cnn_blocks=2", "cnn_width=8", "cnn_dense=0", "batch_size=128")
    for word in ("--fix", fixed)
]
INTERRUPTED = (
    *("--dataset", "digits", *SPACE, "--study", "interrupted", "--engine", "inline", "--trials", 6, "--epochs", 40),
    *("--pruner", "none", "--seed", 8, "--confirm", 1, "--confirm-seeds", 1, "--checkpoint-interval", 0),
)


def extract(folder: Path) -> None:
    """Extract the workspace, in whose databases are the paths of another machine."""
    with tarfile.open(FIXTURES / "workspace-0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")


def unpack(folder: Path) -> None:
    """Extract the workspace and put the folder's path where MLflow keeps absolute ones."""
    extract(folder)
    for path in folder.rglob("*.db"):
        with closing(sqlite3.connect(path)) as database, database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',
                        ("/WORKSPACE", str(folder), "%/WORKSPACE%"),
                    )
    for path in folder.rglob("MLmodel"):
        path.write_text(path.read_text().replace("/WORKSPACE", str(folder)))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    unpack(folder)
    return folder


@pytest.fixture
def workspace(unpacked: Path, tmp_path: Path) -> Path:
    """A copy for tests that write; MLflow's paths lead to the files of the first one, which they only read."""
    return Path(shutil.copytree(unpacked, tmp_path / "workspace"))


def study(name: str, folder: Path) -> dict:
    result = in_process("show", name, "--json", "--workspace", folder)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_an_interrupted_study_cannot_go_on_and_another_one_starts_from_it(workspace: Path):
    """The space has changed since, and so has the training, so values could not be compared."""
    before = study("interrupted", workspace)
    assert [trial["state"] for trial in before["trials"]] == ["COMPLETE"] * 3 + ["INTERRUPTED"]
    refused = search(*INTERRUPTED, cwd=workspace)
    assert refused.returncode == 1, refused.stderr
    assert "augmentation was 0 to 1, now absent" in refused.stderr
    assert "add --study interrupted-2" in refused.stderr
    assert study("interrupted", workspace) == before
    words = ("--study", "interrupted-2", "--warm-start", "interrupted", "--epochs", 1, "--trials", 6, "--no-refit")
    result = search(*INTERRUPTED, *words, cwd=workspace)
    assert result.returncode == 0, result.stderr
    taken = {round(trial["params"]["label_smoothing"], 6) for trial in before["trials"] if trial["value"] is not None}
    tried = {round(trial["params"]["label_smoothing"], 6) for trial in study("interrupted-2", workspace)["trials"]}
    assert taken <= tried


@pytest.mark.slow
def test_finished_studies_are_shown_and_reported(unpacked: Path, tmp_path: Path):
    listed = in_process("studies", "--workspace", unpacked)
    assert listed.exit_code == 0, listed.output
    assert all(name in listed.output for name in ("finished", "second", "unregistered", "interrupted"))
    output = tmp_path / "report.html"
    result = search("report", "--study", "finished", "--study", "interrupted", "--output", output, cwd=unpacked)
    assert result.returncode == 0, result.stderr
    assert "98.05%" in output.read_text()


@pytest.mark.slow
def test_registered_models_predict_and_any_trial_loads(unpacked: Path):
    for model, words in (("version 1", ()), ("models:/digits/2", ("--model", "digits/2"))):
        result = in_process("predict", "digits:0-19", *words, "--workspace", unpacked)
        assert result.exit_code == 0, result.output
        assert model in result.output
        agree = int(next(line for line in result.output.splitlines() if "of 20 are correct" in line).split()[0])
        assert agree >= 18
    code = "import search; print(sum(p.numel() for p in search.load_trial('finished', 1).parameters()))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=unpacked, env=environment(), capture_output=True, text=True
    )
    assert loaded.stdout.split()[-1:] == ["3970"], loaded.stderr


@pytest.mark.slow
def test_a_finished_study_is_promoted(workspace: Path):
    result = in_process("promote", "unregistered", "--workspace", workspace)
    assert result.exit_code == 0, result.output
    assert study("unregistered", workspace)["summary"]["model"]["version"] == "3"
    result = in_process("promote", "digits/3", "--workspace", workspace)
    assert result.exit_code == 0, result.output
    assert "version 3" in in_process("predict", "digits:0", "--workspace", workspace).output


@pytest.mark.slow
def test_a_workspace_of_another_machine_is_read_and_becomes_portable(tmp_path: Path):
    folder = tmp_path / "copy"
    extract(folder)
    assert load(workspace=folder).version == "1"
    weights = load_trial("finished", 1, workspace=folder).parameters()
    assert sum(parameter.numel() for parameter in weights) == 3970
    assert in_process("sync", "--workspace", folder).exit_code == 0
    moved = folder.rename(tmp_path / "moved")
    bare = "import mlflow; print(mlflow.pyfunc.load_model('models:/digits@champion').metadata.metadata['study'])"
    done = subprocess.run(
        [sys.executable, "-c", bare], cwd=moved, env=environment({"PYTHONPATH": ""}), capture_output=True, text=True
    )
    assert done.stdout == "finished\n", done.stderr
