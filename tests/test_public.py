"""The public API: exported names, their types, and a fast import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from shell import environment

import objectives
import search

NAMES = {
    "search": [
        "Model",
        "Predictions",
        "Predictor",
        "Result",
        "SearchError",
        "checkpoint",
        "device",
        "load",
        "load_model",
        "load_trial",
        "log",
        "log_artifact",
        "log_model",
        "run",
        "seed",
    ],
    "objectives": [
        "Bounded",
        "CaptureError",
        "Capturing",
        "Diverged",
        "EpochResult",
        "Experienced",
        "Exportable",
        "Foldable",
        "ImageClassifier",
        "Objective",
        "ObjectiveError",
        "Outcome",
        "Params",
        "Portable",
        "Scaled",
        "Selective",
        "Sized",
        "Suggest",
        "Task",
        "TestScore",
        "Timed",
        "Training",
    ],
}
PACKAGES = {"search": search, "objectives": objectives}

USER = """
import numpy as np
from objectives import EpochResult, Objective, Outcome, Task, Training
import search
predictor: search.Predictor = search.load("mnist")
predictions: search.Predictions = predictor.predict(np.zeros((2, 28, 28), dtype=np.uint8))
search.load_trial("mnist", 3).eval()
search.load_model("train").predict([[1.0]]).mean()
result: search.Result = search.run("train.py:objective", trials=3, fix={"lr": 0.1})
best: float = result.best_value
named: search.Predictor = result.predictor
result.model.predict([[1.0]]).mean()
search.run(trails=3)
task: int = Task(0, {}, 1, 1)
predictor.predict()
"""


@pytest.mark.parametrize("name", PACKAGES)
def test_these_names_are_exported_and_no_others(name: str):
    package = PACKAGES[name]
    assert sorted(package.__all__) == NAMES[name]
    assert [each for each in dir(package) if each in NAMES[name]] == NAMES[name]


@pytest.mark.parametrize(("package", "name"), [(PACKAGES[part], name) for part in NAMES for name in NAMES[part]])
def test_each_is_documented_and_typed(package: ModuleType, name: str):
    found = getattr(package, name)
    if name == "Params":
        return  # a type
    assert inspect.getdoc(found)
    if inspect.isfunction(found):
        unknown = inspect.Parameter.empty
        signature = inspect.signature(found)
        assert signature.return_annotation is not unknown
        assert all(parameter.annotation is not unknown for parameter in signature.parameters.values())


def test_importing_them_loads_nothing_heavy():
    program = "import search, objectives, sys; print({'torch', 'mlflow', 'optuna', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.long
@pytest.mark.slow
def test_a_type_checker_sees_them(tmp_path: Path):
    """It finds the three mistakes of this program, and nothing else in it."""
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", str(tmp_path / "user.py")]  # what the check of the project cached is used
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    mistakes = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(mistakes) == 3, done.stdout
    assert "trails" in mistakes[0]
    assert 'expression has type "Task", variable has type "int"' in mistakes[1]
    assert "predict" in mistakes[2]
