"""Files and modules with functions of a trial: which ones can be searched, and as what."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from answering import asker, file_spec
from shell import environment

from objectives.base import ObjectiveError
from objectives.functions.objective import FunctionObjective
from objectives.spec import ObjectiveSpec, function_name
from search.executors.base import Failed, Returned

PLAIN = "def objective(trial):\n    return trial.suggest_float('x', 3, 3)\n"


def value(spec: ObjectiveSpec, engine: str = "inline") -> float | None:
    with asker(spec, engine) as here:
        end = here.run().end
    assert isinstance(end, Returned), end
    return end.value


@pytest.mark.parametrize("engine", ["inline", "local"])
@pytest.mark.parametrize(
    "name",
    [
        "train.py",
        "my-train.py",
        "my train.py",
        "a.b.py",
        "random.py",
        pytest.param("torch.py", marks=pytest.mark.slow),
        "objectives.py",
        "search.py",
        "test.py",
    ],
)
def test_a_file_of_any_name(tmp_path: Path, name: str, engine: str):
    script = (
        "import random, objectives.base, search"
        + (", torch\n" if name == "torch.py" else "\n")
        + PLAIN.replace("3, 3", "random.randint(3, 3), 3")
    )
    assert value(file_spec(tmp_path, script, name), engine) == 3.0


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_file_finds_what_lies_beside_it_first(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    for folder, text in (("here", "VALUE = 1"), ("there", "VALUE = 3")):
        file_spec(tmp_path / folder, text, "beside.py")
    (tmp_path / "there" / "later.py").write_text("VALUE = 4")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    script = "from beside import VALUE\ndef objective(trial):\n    import later\n    return VALUE + later.VALUE\n"
    assert value(file_spec(tmp_path / "there", script), engine) == 7.0


def test_two_files_of_one_name(tmp_path: Path):
    specs = [file_spec(tmp_path / f"folder{n}", PLAIN.replace("3", str(n))) for n in (1, 2)]
    assert [value(spec) for spec in [*specs, *specs]] == [1.0, 2.0, 1.0, 2.0]


KINDS = {
    "a lambda": "objective = lambda trial: trial.suggest_float('x', 3, 3)",
    "a partial": """
from functools import partial
def function(data, trial, n=1): return data
objective = partial(function, 3)
""",
    "a partial by name": """
from functools import partial
def function(trial, data): return data
objective = partial(function, data=3)
""",
    "an instance": """
class Function:
    def __call__(self, trial): return 3
objective = Function()
""",
    "a class": """
class objective:
    n = 3
    def __call__(self, trial): return self.n
""",
    "a class with defaults": """
class objective:
    def __init__(self, n=3): self.n = n
    def __call__(self, trial): return self.n
""",
    "a method": """
class Space:
    def run(self, trial): return 3
objective = Space().run
""",
    "a static method": """
class Space:
    @staticmethod
    def run(trial): return 3
objective = Space.run
""",
    "a factory": """
def objective(): return lambda trial: 3
""",
    "a factory of data": """
def objective(dataset='x', data_dir=None): return lambda trial: 3
""",
    "a wrapped function": """
import functools
def function(trial): return 2
@functools.wraps(function)
def objective(*args): return function(*args) + 1
""",
    "defaults": """
def objective(trial, dataset='x', *, n=3): return n if dataset == 'x' else 0
""",
    "annotated": """
from optuna import Trial
def objective(trial: Trial) -> float: return 3
""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_function(tmp_path: Path, kind: str):
    spec = file_spec(tmp_path, KINDS[kind])
    assert spec.accepted(["dataset", "data_dir"]) == ({"dataset", "data_dir"} if kind == "a factory of data" else set())
    objective = spec.load()
    assert isinstance(objective, FunctionObjective)
    assert (objective.name, objective.direction) == ("train", "minimize")
    assert value(spec) == 3.0


def test_an_attribute_of_an_attribute(tmp_path: Path):
    text = "class Space:\n    class Inner:\n        @staticmethod\n        def run(trial): return 3\n"
    assert value(file_spec(tmp_path, text, attribute="Space.Inner.run")) == 3.0


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("train.py:objective", "train"),
        ("folder/my train.py:Objective", "my-train"),
        ("package.module:objective", "module"),
        ("package.module:second", "module-second"),
        ("__main__:objective", "objective"),
        ("__main__:<lambda>", "lambda"),
        ("train.py:Space.run", "train-Space-run"),
    ],
)
def test_the_name_of_a_function(target: str, name: str):
    assert function_name(target) == name


STUDIES = {
    "at once": "study.optimize(objective, n_trials=1)",
    "in a function": "def main():\n    study.optimize(objective, n_trials=1)\nmain()",
    "by the class": "optuna.Study.optimize(study, objective, n_trials=1)",
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_search_without_a_guard_is_refused(tmp_path: Path, study: str):
    lines = ["import optuna", PLAIN, "study = optuna.create_study()", "open('began', 'w')", STUDIES[study]]
    script = "\n".join([*lines, "open('ran', 'w')"])
    spec = file_spec(tmp_path, script)
    code = f"from objectives.spec import ObjectiveSpec; ObjectiveSpec({spec.target!r}).load()"
    end = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (
        "train.py runs study.optimize when it is imported. Put that under 'if __name__ == \"__main__\":'" in end.stderr
    )
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"train.py", "began"}


def test_a_search_behind_a_guard_is_ignored_and_optuna_is_left_as_it_is(tmp_path: Path):
    import optuna

    before = optuna.Study.optimize
    script = f"import optuna\n{PLAIN}\nif __name__ == '__main__':\n    optuna.create_study().optimize(objective)\n"
    assert value(file_spec(tmp_path, script)) == 3.0
    with pytest.raises(ObjectiveError, match="runs study.optimize when it is imported"):
        file_spec(tmp_path, f"import optuna\n{PLAIN}optuna.create_study().optimize(objective)", "bad.py").load()
    assert optuna.Study.optimize is before


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_arguments_are_those_of_the_script_alone(tmp_path: Path, engine: str):
    script = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=3)
arguments = parser.parse_args()

def objective(trial):
    return arguments.n
"""
    before = list(sys.argv)
    assert value(file_spec(tmp_path, script), engine) == 3.0
    assert sys.argv == before


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_a_function_has_no_arguments_to_parse(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["search", "--trials", "50"])
    script = (
        "import argparse\ndef objective(trial):\n    return 3 + len(vars(argparse.ArgumentParser().parse_args()))\n"
    )
    assert value(file_spec(tmp_path, script), "local") == 3.0


CHILDREN = """
import multiprocessing
import torch
from torch.utils.data import DataLoader, Dataset
from joblib import Parallel, delayed

class Numbers(Dataset):
    def __len__(self): return 4
    def __getitem__(self, index): return float(index)

def double(number): return 2 * number

def objective(trial):
    total = 0.0
    for method in METHODS:
        loader = DataLoader(Numbers(), num_workers=1, multiprocessing_context=method)
        total += sum(float(batch) for batch in loader)
    return total + sum(Parallel(n_jobs=2)(delayed(double)(number) for number in range(3)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "methods"), [("train.py", ("fork", "spawn")), ("my-train.py", ("fork", "fork"))])
def test_child_processes_know_the_classes_of_the_file(tmp_path: Path, name: str, methods: tuple[str, ...]):
    assert value(file_spec(tmp_path, f"METHODS = {methods}\n{CHILDREN}", name), "local") == 18.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective = 3", "gives 3, which cannot be searched"),
        ("def objective(): return 1", "def objective(trial)"),
        ("def other(trial): pass", "has no 'objective'; it has other"),
        ("def objective(a, b): return 1", "missing 2 required positional arguments: 'a' and 'b'"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("import argparse\np = argparse.ArgumentParser()\np.add_argument('file')\np.parse_args()", "SystemExit"),
        ("def objective(trial:", "was never closed"),
    ],
)
def test_what_is_no_function_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ObjectiveError, match=re.escape(message)):
        file_spec(tmp_path, text).load()


def test_a_function_that_fails_is_no_reason_to_refuse_it(tmp_path: Path):
    with asker(file_spec(tmp_path, "def objective(trial): raise RuntimeError('no data')")) as here:
        end = here.run().end
    assert isinstance(end, Failed)
    assert end.message == "RuntimeError: no data"


def test_a_call_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file_spec(tmp_path / "users_package", PLAIN, "module_of_the_user.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    spec = ObjectiveSpec("users_package.module_of_the_user:objective")
    answer: Any = value(spec)
    assert answer == 3.0
    assert spec.load().name == "module_of_the_user"


def test_another_machine_gets_the_code_of_the_file(tmp_path: Path):
    """A process that starts elsewhere, without the file, stands for the other machine."""
    spec = file_spec(tmp_path, "def twice(x): return 2 * x\ndef objective(trial): return twice(trial)").with_code()
    (tmp_path / "spec.pickle").write_bytes(pickle.dumps(spec))
    for file in tmp_path.glob("*.py"):
        file.unlink()
    program = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).load().function(21))"
    command = [sys.executable, "-c", program, str(tmp_path / "spec.pickle")]
    ended = subprocess.run(command, cwd="/", env=environment(), capture_output=True, text=True, check=True)
    assert ended.stdout == "42\n"
