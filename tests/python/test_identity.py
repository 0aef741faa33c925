"""Objectives that no name distinguishes: whether a study notices that it gets another one."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shell import environment
from toy import Toy

import search
from objectives.images.objective import ImageClassification
from search.python.identity import identity_of
from search.python.objects import spec_of

QUICK: Any = {"engine": "inline", "confirm": 0, "quiet": True}

SCRIPT = """
import functools
from search.python.identity import identity_of
from toy import Toy

def objective(trial, width=3):
    "A text."
    return sum(width for name in trial.params if name in {"a", "b", "c", "d"})

class Own(Toy):
    __slots__ = ("depth",)
    def __init__(self, depth):
        super().__init__()
        self.depth = depth
    @property
    def twice(self):
        return 2 * self.depth
    def call(self, trial):
        return (lambda: self.depth)()

def made(rate):
    return lambda trial: rate

given = [objective, functools.partial(objective, width={"b": 1, "a": 2}), Own, Own(2), Own(2).call, made(0.1), object()]
print([identity_of(one) for one in given])
"""


def width(trial: Any, size: Any = 1) -> float:
    return float(size)


def made(rate: Any) -> Callable[[Any], Any]:
    return lambda trial: rate


class Slots:
    __slots__ = ("depth",)

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __call__(self, trial: Any) -> float:
        return float(self.depth)

    def call(self, trial: Any) -> float:
        return float(self.depth)


def kind(factor: float) -> type:
    """A class as it is before and after its cell was changed."""
    if factor == 1:

        class Own(Toy):
            def own(self) -> float:
                return 1.0

        return Own

    class Own(Toy):  # type: ignore[no-redef]
        def own(self) -> float:
            return 2.0

    return Own


def digests(folder: Path, script: str, seed: str) -> str:
    command, env = [sys.executable, "-"], environment({"PYTHONHASHSEED": seed})
    return subprocess.run(command, cwd=folder, env=env, input=script, capture_output=True, text=True, check=True).stdout


def test_the_same_source_is_the_same_in_another_process(tmp_path: Path):
    """Wherever it lies in its file."""
    first = digests(tmp_path, SCRIPT, "1")
    assert first == digests(tmp_path, f"# a line more\n{SCRIPT}", "2")
    assert len(set(first.split(","))) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda trial: 1.0, lambda trial: 2.0),
        (lambda trial: trial.number, lambda trial: trial.params),
        (lambda trial, size=1: size, lambda trial, size=2: size),
        (lambda trial: [n + 1 for n in trial], lambda trial: [n + 2 for n in trial]),
        (functools.partial(width, size=1), functools.partial(width, size=2)),
        (functools.partial(width, size=[{"a": 1}]), functools.partial(width, size=[{"a": 2}])),
        (made(0.1), made(0.2)),
        (made(made(1)), made(made(2))),
        (made(Path("a")), made("a")),
        (Slots(1), Slots(2)),
        (Slots(1).call, Slots(2).call),
        (Toy(steps=1), Toy(steps=2)),
        (kind(1), kind(2)),
        (kind(1)(), kind(2)()),
    ],
)
def test_what_differs_is_told_apart(one: Any, other: Any):
    assert identity_of(one) != identity_of(other)
    assert identity_of(one) == identity_of(one)


def test_what_is_no_plain_value_counts_by_its_type():
    assert identity_of(made(object())) == identity_of(made(object()))
    assert identity_of(made(object())) != identity_of(made(Toy()))


def test_what_holds_itself_has_an_identity():
    values: list[Any] = [1]
    values.append(values)
    assert identity_of(made(values)) == identity_of(made(values))


def test_what_a_class_computes_once_does_not_count():
    class Lazy(Toy):
        @functools.cached_property
        def data(self) -> list[int]:
            return [1, 2]

    lazy = Lazy()
    before = identity_of(lazy)
    assert lazy.data
    assert identity_of(lazy) == before


def test_what_a_search_sets_does_not_count():
    objective = ImageClassification("digits")
    before = identity_of(objective)
    objective.space_scale = "small"
    assert identity_of(objective) == before


def test_only_what_has_no_name_gets_an_identity():
    assert spec_of(Toy).identity is None
    assert spec_of(functools.partial(width, size=3)).identity is not None


@pytest.mark.slow
def test_a_loop_over_arguments_needs_studies_of_their_own(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    results = [search.run(functools.partial(width, size=1), trials=n, **QUICK) for n in (1, 2)]
    assert [len(result.study.trials) for result in results] == [2, 2]
    reason = "the objective's code, or what it holds, has changed"
    advice = 'Give the original settings, or start another study: add study="partial-2" to the call'
    with pytest.raises(search.SearchError, match=f"{reason}.\n{advice}$"):
        search.run(functools.partial(width, size=2), trials=2, **QUICK)
    assert search.run(functools.partial(width, size=2), trials=1, study="partial-2", **QUICK).best_value == 2


def test_a_function_that_was_edited_is_another_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)

    def cell(source: str) -> Any:
        exec(source, names := {"__name__": "__main__"})
        return names["objective"]

    source = "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"
    search.run(cell(source), trials=1, **QUICK)
    assert len(search.run(cell(f"# run again\n{source}"), trials=2, **QUICK).study.trials) == 2
    with pytest.raises(search.SearchError, match="the objective's code, or what it holds, has changed"):
        search.run(cell(source.replace("0, 1", "0, 2")), trials=3, **QUICK)
