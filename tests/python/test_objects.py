"""Objectives given as objects: their names, and what cannot be sent to workers."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import toy
from shell import environment

from objectives.spec import ObjectiveSpec
from search.commands.setup import stored_objective
from search.common.errors import UsageError
from search.executors.ray_cluster import modules_to_ship
from search.python.objects import spec_of, target_of

SCRIPT = """
import json, sys
from search.python.objects import target_of
from toy import Toy

class Own(Toy):
    class Inner(Toy):
        pass

def function(trial):
    return 1.0

def made():
    class Local(Toy):
        pass
    return Local

toy, partial = Toy(mode="still"), __import__("functools").partial(function)
given = [Own, Own.Inner, function, toy, partial, Own(), made(), lambda trial: 2.0, Toy]
print(json.dumps([target_of(one) for one in given]))
"""
NAMES = ["Own", "Own.Inner", "function", "toy", "partial"]
NAMELESS = ["__main__:Own()", "__main__:made.<locals>.Local", "__main__:<lambda>", "toy:Toy"]


def told(command: list[str], folder: Path, text: str | None = None) -> list[str]:
    done = subprocess.run(
        command, cwd=folder, env=environment(), input=text, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_an_object_of_a_script_is_named_by_its_file(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "train.py").write_text(SCRIPT)
    expected = [*(f"inner/train.py:{name}" for name in NAMES), *NAMELESS]
    assert told([sys.executable, "inner/train.py"], tmp_path) == expected


def test_an_object_of_a_module_that_runs_is_named_by_the_module(tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "train.py").write_text(SCRIPT)
    expected = [*(f"inner.train:{name}" for name in NAMES), *NAMELESS]
    assert told([sys.executable, "-m", "inner.train"], tmp_path) == expected


def test_an_object_that_was_typed_has_no_file(tmp_path: Path):
    expected = [*(f"__main__:{name}" for name in NAMES), *NAMELESS]
    assert told([sys.executable, "-"], tmp_path, SCRIPT) == expected


def test_a_worker_gets_the_object_itself():
    class Own(toy.Toy):
        name = "own"

    spec = spec_of(Own(mode="still"))
    assert spec.is_unnamed
    made: Any = spec.load()
    assert (made.name, made.mode) == ("own", "still")


class Carrier(toy.Toy):
    def __init__(self, **carried: Any) -> None:
        super().__init__()
        self.__dict__.update(carried)


LOCK = threading.Lock()


def uses_a_lock(trial: Any) -> float:
    with LOCK:
        return 1.0


def test_what_cannot_be_sent_is_named(tmp_path: Path):
    with (
        open(tmp_path / "log.txt", "w") as file,
        pytest.raises(UsageError, match=r"^objective Carrier: log cannot be sent to worker processes \(.*file"),
    ):
        spec_of(Carrier(log=file, width=3))
    carrier = Carrier(images=(n for n in range(3)), lock=LOCK)
    with pytest.raises(UsageError, match="images, lock cannot be sent to worker processes .* Open files, connections"):
        spec_of(carrier)


def test_a_variable_that_a_function_uses_is_named():
    lock = threading.Lock()

    def objective(trial: Any) -> float:
        with lock:
            return 1.0

    with pytest.raises(UsageError, match=r"objective test_.*objective: lock cannot be sent to worker processes"):
        spec_of(objective)


class Slots:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def objective(self, trial: Any) -> float:
        return 1.0


def with_an_empty_cell() -> Any:
    lock = threading.Lock()

    def objective(trial: Any) -> Any:
        return lock if trial else later

    if not lock:
        later = 1
    return objective


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Slots(), "objective Slots: lock cannot be sent to worker processes"),
        (Slots().objective, "objective Slots.objective: lock cannot be sent"),
        (functools.partial(uses_a_lock, lock=LOCK), "objective partial: lock cannot be sent"),
        (functools.partial(uses_a_lock, LOCK), "objective partial: argument 1 cannot be sent"),
        (functools.partial(Slots().objective), "objective partial: lock cannot be sent"),
        (with_an_empty_cell(), r"objective with_an_empty_cell.<locals>.objective: lock cannot be sent"),
        ((n for n in range(3)), "it cannot be sent to worker processes .*generator"),
    ],
)
def test_what_cannot_be_sent_is_named_in_any_kind_of_object(given: Any, message: str):
    with pytest.raises(UsageError, match=message):
        spec_of(given)


def test_a_cluster_gets_the_modules_that_an_object_needs():
    class Own(toy.Toy):
        pass

    worker = Path(__file__).parents[2] / "objectives"
    assert modules_to_ship(spec_of(Own)) == [str(worker), __file__, toy.__file__]
    assert modules_to_ship(spec_of(toy.Toy)) == [str(worker), toy.__file__]


def test_nothing_that_is_stored_is_unpickled():
    stored = {"objective": {"target": "toy:Toy", "options": {}, "pickled": "gASVAAAA", "path": ["/tmp"]}}
    assert stored_objective(stored) == ObjectiveSpec("toy:Toy", {})
    with pytest.raises(UsageError, match="exists only in the notebook or program .* Run the same call there again"):
        stored_objective({"objective": {"target": "__main__:Toy", "options": {}}})


def test_an_objective_of_this_program_is_found_again(monkeypatch: pytest.MonkeyPatch):
    mine = type("Mine", (toy.Toy,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "Foreign", toy.Toy, raising=False)
    assert isinstance(stored_objective({"objective": {"target": "__main__:Mine", "options": {}}}).load(), mine)
    with pytest.raises(UsageError, match="objective Foreign exists only"):
        stored_objective({"objective": {"target": "__main__:Foreign", "options": {}}})


def test_a_module_keeps_its_name():
    assert target_of(toy.Toy) == "toy:Toy"
    assert target_of(uses_a_lock) == f"{__name__}:uses_a_lock"
