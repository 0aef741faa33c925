"""A plain function with a network, by the real command: confirmed, registered, and loaded without this project."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from shell import environment, rows
from shell import search as run

import search
from search.common.errors import ModelNotFoundError

SCRIPT = """
    import torch
    import search

    INPUTS = torch.linspace(-3, 3, 32).unsqueeze(1)


    def objective(trial):
        torch.manual_seed(search.seed())
        units = trial.suggest_int("units", 4, 16)
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        net = torch.nn.Sequential(torch.nn.Linear(1, units), torch.nn.Tanh(), torch.nn.Linear(units, 1))
        optimizer = torch.optim.Adam(net.parameters(), lr)
        for step in range(20):
            loss = torch.nn.functional.mse_loss(net(INPUTS[::2]), torch.sin(INPUTS[::2]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = torch.nn.functional.mse_loss(net(INPUTS[1::2]), torch.sin(INPUTS[1::2])).item()
        search.log_model(net, INPUTS[:2])
        return error
"""

ALONE = """
    import sys

    class NoProject:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("search", "objectives", "train"):
                raise ModuleNotFoundError(f"{name} is not here")

    sys.meta_path.insert(0, NoProject())
    import mlflow, numpy

    model = mlflow.pyfunc.load_model("models:/train@champion")
    numpy.save(sys.argv[1], model.predict(numpy.linspace(-3, 3, 7, dtype=numpy.float32)[:, None]))
    assert not {"search", "objectives", "train"} & set(sys.modules)
"""

COMMAND = ("--objective", "train.py:objective", "--jobs", 2, "--confirm", 2, "--confirm-seeds", 2)


def summary_of(folder: Path, study: str) -> dict[str, object]:
    query = """
        SELECT a.value_json FROM study_user_attributes a JOIN studies s USING (study_id)
        WHERE a.key = 'summary' AND s.study_name = ?
    """
    ((stored,),) = rows(folder / "optuna.db", query, study)
    return dict(json.loads(stored))


@pytest.mark.slow
def test_the_winner_of_a_function_is_registered_and_loads_without_this_project(folder: Path):
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    done = run(*COMMAND, "--trials", 4, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registered: train version 1, alias champion (models:/train/1)" in done.stdout
    summary = summary_of(folder, "train")
    winner = str(summary["run"])
    assert winner.startswith("confirm-")
    alone = environment({"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""})
    (folder / "elsewhere").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(ALONE), str(folder / "elsewhere" / "out.npy")]
    loaded = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr
    outputs = np.load(folder / "elsewhere" / "out.npy")
    inputs = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    assert np.array_equal(search.load_model("train", workspace=folder).predict(inputs), outputs)
    kinds = rows(folder / "mlflow.db", "SELECT value FROM tags WHERE key = 'kind'")
    assert sorted(kind for (kind,) in kinds) == ["confirm"] * 4 + ["study"] + ["trial"] * 4
    for number in range(4):
        module = search.load_trial("train", number, workspace=folder)
        with torch.no_grad():
            assert module(torch.from_numpy(inputs)).shape == (7, 1)
    assert not list(folder.glob("mlruns/weights/*/*"))

    again = run(*COMMAND, "--trials", 4, cwd=folder)
    assert "nothing was left to do" in again.stdout, again.stdout
    promoted = run("promote", "train", cwd=folder)
    assert promoted.stdout.endswith("champion of train: version 1\n"), promoted.stdout + promoted.stderr


@pytest.mark.long
@pytest.mark.slow
def test_another_study_of_the_function_competes_with_the_champion(folder: Path):
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    for seed in (1, 2):
        words = "--trials", 2, "--study", f"seed-{seed}", "--seed", seed, "--register", "net"
        done = run(*COMMAND, *words, cwd=folder)
        assert f"registered: net version {seed}, alias " in done.stdout, done.stdout + done.stderr
    assert "cannot be compared" not in done.stdout
    scores = [
        float(score)
        for (score,) in rows(
            folder / "mlflow.db", "SELECT value FROM model_version_tags WHERE key = 'validation' ORDER BY version"
        )
    ]
    champion = rows(folder / "mlflow.db", "SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
    assert champion == [(1 + scores.index(min(scores)),)]


@pytest.mark.long
@pytest.mark.slow
def test_a_function_without_models_ends_and_is_told_so_once_it_is_to_be_registered(folder: Path):
    text = textwrap.dedent(SCRIPT).replace("    search.log_model(net, INPUTS[:2])\n", "")
    (folder / "train.py").write_text(text)
    done = run(*COMMAND, "--trials", 2, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "log_model" not in done.stdout
    assert "nothing was left to do" in run(*COMMAND, "--trials", 2, cwd=folder).stdout
    why = "note: nothing is registered: its function never called search.log_model(module, example)"
    named = run(*COMMAND, "--trials", 2, "--register", "net", cwd=folder)
    assert (named.returncode, named.stdout.count(why)) == (0, 1), named.stdout + named.stderr
    again = run(*COMMAND, "--trials", 2, "--register", "net", cwd=folder)
    assert "nothing was left to do" in again.stdout, again.stdout
    assert why in again.stdout
    with pytest.raises(ModelNotFoundError, match="no model is registered here|no champion is registered here yet"):
        search.load_model(workspace=folder)
