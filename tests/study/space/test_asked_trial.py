"""What `suggest` may ask for and return: numbers of numpy work, and what cannot work is refused before a search."""

from __future__ import annotations

import enum
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from studies import a_study, ask
from toy import Toy

from objectives.base import ObjectiveError
from search.common.signals import Interruption
from search.study.space.objective_calls import explain_errors
from search.study.space.space import WHOLE_SPACE, require_space, search_space


def mine(suggest: Callable[[Any], Any]) -> Toy:
    objective = Toy()
    objective.suggest = suggest  # type: ignore[method-assign]
    return objective


def one(method: str, *arguments: Any, **options: Any) -> Toy:
    """An objective with one parameter."""
    return mine(lambda trial: {"x": getattr(trial, method)("x", *arguments, **options)})


class Loss(str, enum.Enum):  # noqa: UP042  # as people write it for older versions of Python
    L1 = "l1"
    L2 = "l2"


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no text")


CHOICES: list[tuple[Any, tuple[object, ...]]] = [
    (np.array([32, 64]), (32, 64)),
    ([np.float32(0.5), np.float64(2)], (0.5, 2.0)),
    ([np.bool_(True), np.bool_(False)], (True, False)),
    (np.array(["adam", "sgd"]), ("adam", "sgd")),
    ({"b": 1, "a": 2}.keys(), ("b", "a")),
    (range(3), (0, 1, 2)),
    (list(Loss), ("l1", "l2")),
    ([None, 1, "a", 0.5, False], (None, 1, "a", 0.5, False)),
]


@pytest.mark.parametrize(("given", "expected"), CHOICES, ids=[str(expected) for _, expected in CHOICES])
def test_choices_of_other_libraries_become_plain(given: Any, expected: tuple[object, ...]):
    objective = one("suggest_categorical", given)
    require_space(objective)
    assert search_space(objective) == {"x": CategoricalDistribution(expected)}
    value = WHOLE_SPACE.suggest(objective, FixedTrial({"x": expected[0]}))["x"]
    assert (value, type(value)) == (expected[0], type(expected[0]))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (one("suggest_float", np.float32(0.5), np.float64(2)), FloatDistribution(0.5, 2)),
        (one("suggest_float", np.array(1e-4), np.int64(1), log=np.bool_(True)), FloatDistribution(1e-4, 1, log=True)),
        (one("suggest_float", 0, 1, step=0.3), FloatDistribution(0, 0.9, step=0.3)),
        (one("suggest_int", np.int64(1), np.uint8(9), step=np.int32(2)), IntDistribution(1, 9, step=2)),
        (one("suggest_int", 1, 1e6), IntDistribution(1, 1_000_000)),
        (one("suggest_int", 1, 10, step=4), IntDistribution(1, 9, step=4)),
        (one("suggest_uniform", 0, 1), FloatDistribution(0, 1)),
        (one("suggest_loguniform", 1e-5, 1), FloatDistribution(1e-5, 1, log=True)),
        (one("suggest_discrete_uniform", 0, 1, 0.25), FloatDistribution(0, 1, step=0.25)),
    ],
)
def test_numbers_of_numpy_and_old_methods_simply_work(objective: Toy, expected: object):
    require_space(objective)
    assert search_space(objective) == {"x": expected}


def test_a_study_holds_plain_values_of_numpy_ones(tmp_path: Path):
    objective = mine(
        lambda trial: {
            "n": np.int64(trial.suggest_int("n", np.int32(1), np.int32(8))),
            "lr": np.float32(trial.suggest_float("lr", np.float32(1e-5), np.float32(0.1), log=True)),
            "bias": np.bool_(trial.suggest_categorical("bias", [np.bool_(True), np.bool_(False)])),
            "depth": len(trial.params),
        }
    )
    study = a_study(f"sqlite:///{tmp_path}/optuna.db", objective)
    params = ask(study).params
    assert json.loads(json.dumps(params)) == params
    assert params["depth"] == 3


COUNT: Iterator[int] = iter(range(10**6))
REFUSED: list[tuple[Toy, str]] = [
    (
        one("suggest_categorical", [(3, 3), (5, 5)]),
        r"\[\(3, 3\), \(5, 5\)\]\); choices are numbers, texts, .*look each",
    ),
    (
        one("suggest_categorical", [[64], [64, 32]]),
        r"choices are numbers, texts, True, False or None, so suggest texts",
    ),
    (one("suggest_categorical", [{"lr": 1}]), r"choices are numbers"),
    (one("suggest_categorical", [max, int]), r"choices are numbers"),
    (one("suggest_categorical", ["a", "\ud800"]), r"choices are numbers"),
    (one("suggest_categorical", [b"a"]), r"choices are numbers"),
    (one("suggest_categorical", [Unprintable()]), r"a list \(its repr raises ValueError\)\); choices are numbers"),
    (one("suggest_categorical", np.eye(2)), r"\(\'x\', array\(\[\[1\., 0\.\], \[0\., 1\.\]\]\)\); choices are numbers"),
    (one("suggest_categorical", [0.1, float("nan")]), r"give None in place of NaN"),
    (one("suggest_categorical", [1, 2, True]), r"1 equals True, so leave one out"),
    (one("suggest_categorical", {"relu": max}), r"give list\(\.\.\.\) of it, and look the value up"),
    (one("suggest_categorical", {"a", "b"}), r"give a list, for a set has no order"),
    (one("suggest_categorical", "adam"), r"suggest_categorical\('x', 'adam'\); give a list of choices"),
    (one("suggest_categorical", []), r"give at least one choice"),
    (one("suggest_float", 1, 0), r"suggest_float\('x', 1, 0\); the lower bound comes first"),
    (one("suggest_float", 0, 1, log=True), r"with log=True the lower bound must be above 0, such as 1e-5"),
    (one("suggest_float", 1e-3, 1, log=True, step=0.1), r"log=True goes without a step; leave out one of them"),
    (one("suggest_float", 0, 1, step=0), r"a step is above 0"),
    (one("suggest_float", 0, 1, step=3), r"the step is longer than the range"),
    (one("suggest_float", float("nan"), 1), r"bounds and steps are finite"),
    (one("suggest_float", 0, float("inf")), r"bounds and steps are finite"),
    (one("suggest_float", "1e-3", 1), r"bounds and steps are numbers, and not '1e-3'"),
    (one("suggest_int", 0.5, 2.5), r"bounds and steps are whole, or write suggest_float"),
    (one("suggest_int", False, True), r"write suggest_categorical\('x', \[False, True\]\)"),
    (one("suggest_int", 0, 2**60), r"whole numbers go from -2\*\*53 to 2\*\*53"),
    (one("suggest_int", 0, 9, log=True), r"with log=True the lower bound must be 1"),
    (mine(lambda trial: trial.set_user_attr("a", 1)), r"suggest used trial.set_user_attr, .* metrics of the Outcome"),
    (mine(lambda trial: trial.report(0.5, 1)), r"suggest used trial.report, .* the value of its EpochResult"),
    (mine(lambda trial: {"x": trial.suggest_int("x", 1, trial.number)}), r"trial.number, .*in task\.number"),
    (mine(lambda trial: {"x": trial.study.best_value}), r"trial.study, .*there are suggest_float, suggest_int"),
    (mine(lambda trial: trial.suggest_float("x", 0, 1) and None), r"gave None; give a dict of parameters: return is"),
    (mine(lambda trial: [trial.suggest_float("x", 0, 1)]), r"suggest gave \[0\.\d+\]; give a dict of parameters"),
    (mine(lambda trial: {"a": {"x": trial.suggest_float("x", 0, 1)}}), r"suggest gave 'a': \{'x'.*; parameters are"),
    (mine(lambda trial: {1: trial.suggest_float("x", 0, 1)}), r"suggest gave 1: 0\.\d+; parameters are numbers"),
    (mine(lambda trial: {"x": trial.suggest_float("x", 0, 1), "n": float("nan")}), r"suggest gave 'n': nan"),
    (mine(lambda trial: {"": trial.suggest_float("", 0, 1)}), r"the name is a text of 1 to 500 printable characters"),
    (mine(lambda trial: {"x": trial.suggest_float("a\nb", 0, 1)}), r"'a\\nb'.*printable characters"),
    (mine(lambda trial: {"x": trial.suggest_float("a\ud800", 0, 1)}), r"'a\\ud800'.*printable characters"),
    (mine(lambda trial: {"x": trial.suggest_float("x" * 501, 0, 1)}), r"printable characters"),
    (mine(lambda trial: {"x": 1}), r"suggest asked the trial for nothing"),
    (mine(lambda trial: {}), r"suggest gave an empty dict"),
    (mine(lambda trial: {"x": trial.suggest_float("x", 0, 1) + trial.suggest_float("x", 0, 2)}), r"in another way"),
    (mine(lambda trial: {"x": trial.suggest_float("x", 0, 1), "s": random.random()}), r"only the trial may decide"),
    (mine(lambda trial: {"x": trial.suggest_float(f"x{next(COUNT)}", 0, 1) * 0}), r"suggest asked for 'x\d+' and then"),
    (
        mine(lambda trial: {"x": trial.suggest_categorical("x", random.sample(range(99), 5))}),
        r"suggest (asked for 'x' as a choice of|failed: )",
    ),
    (mine(lambda trial: sys.exit(0)), r"suggest failed: SystemExit: sys\.exit\(0\) was called"),
    (mine(lambda trial: 1 / 0), r"suggest failed: ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize(("objective", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_work_is_refused_in_one_line_that_says_what_to_write(objective: Toy, message: str):
    hint = r"\. To see more, type: python -m search check-objective mine:Mine$"
    whole = rf"^the objective's (suggest .*)?{message}.*{hint}"
    with pytest.raises(ObjectiveError, match=whole) as caught, explain_errors("mine:Mine"):
        require_space(objective)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration, RecursionError])
def test_no_exception_of_suggest_ends_the_search_without_a_word(raised: type[BaseException]):
    def suggest(trial: object) -> None:
        raise raised

    with Interruption(), pytest.raises(ObjectiveError, match=rf"suggest failed: {raised.__name__}"):
        require_space(mine(suggest))


def test_ctrl_c_is_not_taken_for_a_mistake():
    def suggest(trial: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="^$"):
        require_space(mine(suggest))


def test_changed_choices_are_named_with_both_lists():
    def suggest(trial: Any) -> dict[str, Any]:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        return {"kind": kind, "size": trial.suggest_categorical("size", [1, 2] if kind == "a" else [3])}

    lists = r"as a choice of (3|1 or 2) and, in another configuration, as a choice of (3|1 or 2); use another name"
    with pytest.raises(ObjectiveError, match=rf"suggest asked for 'size' {lists}"):
        require_space(mine(suggest))


def test_hundreds_of_parameters_and_hasattr_are_fine():
    def suggest(trial: Any) -> dict[str, Any]:
        assert not hasattr(trial, "number")
        return {f"größe[{i}]": trial.suggest_float(f"größe[{i}]", 0, 1) for i in range(200)}

    require_space(mine(suggest))
