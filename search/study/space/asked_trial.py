"""The trial that `suggest` gets: it checks every request, and passes it on to another trial, such as Optuna's.

Numbers of other libraries become Python's. What no search can do raises ContractError, which says what to write.
"""

import math
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from objectives.base import Params, ParamValue, Suggest
from objectives.failures import describe_value
from search.study.space.objective_calls import ContractError, require
from search.study.space.plain_values import is_number, is_plain, plain

Distributions = dict[str, BaseDistribution]

MAX_INT = 2**53
"""Optuna stores a sampled number as a float, which holds whole numbers up to this one."""

MAX_NAME = 500
"""Characters of a parameter's name. Optuna's table has room for 512."""

NAME_RULE = f"the name is a text of 1 to {MAX_NAME} printable characters"

PLAIN = "numbers, texts, True, False or None"
LOOK_UP = "suggest texts, and look each value up: {'a': ..., 'b': ...}[text]"
ADVICE = {
    "report": "a training reports by the value of its EpochResult",
    "should_prune": "the search prunes a training between two pulls",
    "set_user_attr": "return the value with the parameters, or give it in the metrics of the Outcome",
    "set_system_attr": "return the value with the parameters, or give it in the metrics of the Outcome",
    "set_constraint": "use --max-parameters or --max-latency-ms",
    "number": "configurations may depend on suggested values alone; a training finds it in task.number",
}
"""Advice for each part of `optuna.Trial` that a search space cannot use."""


NEUTRAL: Params = {"class_weighting": "none", "mlp_batch_norm": False, "cnn_convs": 1, "cnn_stride": 2}
NEUTRAL |= {"rotation_zoom": 0.0, "translation": 0.0, "flip": False}
"""Parameters that joined the space of images, with the value that earlier trials had without them."""


def of_this_version(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stored trial, with those that it lacks. `augmentation` turned, zoomed and moved images."""
    strength = params.get("augmentation")
    split = {} if strength is None else {"rotation_zoom": strength, "translation": strength}
    return {**NEUTRAL, **split, **params}


class UnsupportedError(ContractError, AttributeError):
    """`suggest` used a part of `optuna.Trial` that no search offers. `hasattr` is false for it."""


@dataclass(frozen=True)
class _Request:
    """A call of `suggest`, which is written out only for an error: sampling makes thousands of calls."""

    method: str
    arguments: tuple[object, ...]

    def error(self, problem: str) -> ContractError:
        shown = ", ".join(describe_value(argument, 80) for argument in self.arguments)
        return ContractError(f"suggest called {self.method}({shown}); {problem}")

    def require(self, condition: object, problem: str) -> None:
        if not condition:
            raise self.error(problem)


class AskedTrial:
    """A trial for one call of `suggest`. It may narrow the ranges and choices that the objective asks for."""

    def __init__(self, trial: Suggest, narrowed: Mapping[str, BaseDistribution]) -> None:
        self._trial, self._narrowed = trial, narrowed
        self.params: Params = {}  # what was suggested so far
        self.distributions: Distributions = {}  # what was asked for, before it was narrowed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        asked = _Request("suggest_float", (name, low, high))
        step = None if step is None else _number(asked, step)
        ends = _number(asked, low), _number(asked, high)
        value: float = self._suggest(asked, name, _range(asked, ends, step, log, FloatDistribution))
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        asked = _Request("suggest_int", (name, low, high))
        ends = _whole(asked, low), _whole(asked, high)
        value: int = self._suggest(asked, name, _range(asked, ends, _whole(asked, step), log, IntDistribution))
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        asked = _Request("suggest_categorical", (name, choices))
        return self._suggest(asked, name, CategoricalDistribution(_choices(asked, choices)))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        advice = ADVICE.get(name, "there are suggest_float, suggest_int and suggest_categorical")
        raise UnsupportedError(f"suggest used trial.{name}, which is not there: {advice}")

    def _suggest(self, asked: _Request, name: str, distribution: Any) -> Any:
        asked.require(_is_name(name), NAME_RULE)
        unchanged = self.distributions.setdefault(name, distribution) == distribution
        asked.require(unchanged, "it had asked for this name in another way; use another name")
        distribution = self._narrow(name, distribution)
        if isinstance(distribution, CategoricalDistribution):
            value = self._trial.suggest_categorical(name, distribution.choices)
        else:
            method = "suggest_float" if isinstance(distribution, FloatDistribution) else "suggest_int"
            low, high, step = distribution.low, distribution.high, distribution.step
            value = getattr(self._trial, method)(name, low, high, step=step, log=distribution.log)
        self.params[name] = value
        return value

    def _narrow(self, name: str, asked: Any) -> Any:
        remaining = self._narrowed.get(name)
        if isinstance(remaining, CategoricalDistribution) and isinstance(asked, CategoricalDistribution):
            return CategoricalDistribution([choice for choice in asked.choices if choice in remaining.choices])
        if isinstance(remaining, FloatDistribution | IntDistribution) and type(asked) is type(remaining):
            kind: Any = type(asked)
            return kind(max(asked.low, remaining.low), min(asked.high, remaining.high), asked.log, asked.step)
        return asked


class PartialTrial:
    """A trial that suggests given values, and the lowest value or first choice where none is given."""

    def __init__(self, params: Mapping[str, ParamValue]) -> None:
        self._given = params
        self.params: dict[str, ParamValue] = {}
        self.missing: set[str] = set()  # asked for, and not given

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return float(self._take(name, low))

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return int(self._take(name, low))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, choices[0])

    def _take(self, name: str, default: Any) -> Any:
        if name not in self._given:
            self.missing.add(name)
        self.params[name] = self._given.get(name, default)
        return self.params[name]


class StoredTrial(PartialTrial):
    """A trial that suggests the values of a stored one, even if the space no longer contains them.

    Raises ValueError for a parameter that the stored one does not have.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(of_this_version(params))

    def _take(self, name: str, default: Any) -> Any:
        if name not in self._given:
            raise ValueError(f"the stored trial has no parameter {name!r}")
        return super()._take(name, default)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip()) and name.isprintable() and len(name) <= MAX_NAME


def _number(asked: _Request, value: Any) -> float:
    number = plain(value)
    if not is_number(number):
        raise asked.error(f"bounds and steps are numbers, and not {describe_value(value, 60)}")
    try:
        as_float = float(number)
    except OverflowError:
        as_float = math.inf
    asked.require(math.isfinite(as_float), "bounds and steps are finite")
    return as_float


def _whole(asked: _Request, value: Any) -> int:
    number = plain(value)
    if isinstance(number, bool):
        raise asked.error(f"write suggest_categorical({describe_value(asked.arguments[0], 80)}, [False, True])")
    if not isinstance(number, int):
        number = _number(asked, value)
        asked.require(number.is_integer(), "bounds and steps are whole, or write suggest_float")
    asked.require(abs(number) <= MAX_INT, "whole numbers go from -2**53 to 2**53")
    return int(number)


def _range(
    asked: _Request, ends: tuple[float, float], step: float | None, log: object, kind: Callable[..., Any]
) -> Any:
    """A distribution. Its highest value is one that the step meets."""
    low, high = ends
    asked.require(low <= high, "the lower bound comes first")
    if log:
        lowest, text = (1, "1") if kind is IntDistribution else (math.ulp(0.0), "above 0, such as 1e-5")
        asked.require(low >= lowest, f"with log=True the lower bound must be {text}")
    asked.require(step is None or step > 0, "a step is above 0")
    unstepped = step is None or (step == 1 and kind is IntDistribution)
    asked.require(not log or unstepped, "log=True goes without a step; leave out one of them")
    fits = unstepped or low == high or (step or 0.0) <= (high - low) * (1 + 1e-9)
    asked.require(fits, "the step is longer than the range")
    return kind(low, high, bool(log), step)


def _choices(asked: _Request, choices: Any) -> list[ParamValue]:
    """The choices as plain values."""
    is_set = isinstance(choices, Set) and not isinstance(choices, KeysView)  # the keys of a dict have an order
    asked.require(not isinstance(choices, Mapping), "give list(...) of it, and look the value up")
    asked.require(not is_set, "give a list, for a set has no order")
    is_list = isinstance(choices, Iterable) and not isinstance(choices, str | bytes)
    asked.require(is_list, "give a list of choices")
    values = [plain(choice) for choice in choices]
    asked.require(values, "give at least one choice")
    for i, value in enumerate(values):
        advice = "give None in place of NaN" if isinstance(value, float) else LOOK_UP
        asked.require(is_plain(value), f"choices are {PLAIN}, so {advice}")
        twin = next((other for other in values[:i] if other == value and type(other) is not type(value)), value)
        asked.require(type(twin) is type(value), f"{twin!r} equals {value!r}, so leave one out")
    return values


def plain_params(params: Any) -> Params:
    """Return a configuration with plain values. Raises ContractError for anything but a dict of them."""
    hint = "give a dict of parameters" + (": return is missing" if params is None else "")
    if not isinstance(params, Mapping):
        raise ContractError(f"suggest gave {describe_value(params)}; {hint}")
    values = {name: plain(value) for name, value in params.items()}
    require(values, "suggest gave an empty dict; give the parameters by name")
    for name, value in values.items():
        if not isinstance(name, str) or not is_plain(value):
            given = f"{describe_value(name)}: {describe_value(value)}"
            raise ContractError(f"suggest gave {given}; parameters are {PLAIN}, and their names are texts")
        if not _is_name(name):
            raise ContractError(f"suggest gave {describe_value(name, 80)}; {NAME_RULE}")
    return values
