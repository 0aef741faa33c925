"""The trial that `suggest` gets: it checks every request, and passes it on to another trial, such as Optuna's.

Numbers of other libraries become Python's. What no search can do raises ContractError, which says what to write.
"""

import math
import warnings
from collections.abc import Callable, Iterable, KeysView, Mapping, Sequence, Set
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
"""What to write instead of a part of `optuna.Trial` that a search space cannot use."""


class UnsupportedError(ContractError, AttributeError):
    """`suggest` used a part of `optuna.Trial` that no search offers. `hasattr` is false for it."""


class AskedTrial:
    """A trial for one call of `suggest`. It may narrow the ranges and choices that the objective asks for."""

    def __init__(self, trial: Suggest, narrowed: Mapping[str, BaseDistribution]) -> None:
        self._trial, self._narrowed = trial, narrowed
        self.params: Params = {}  # what was suggested so far
        self.distributions: Distributions = {}  # what was asked for, before it was narrowed

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        asked = _request("suggest_float", name, low, high)
        step = None if step is None else _number(asked, step)
        ends = _number(asked, low), _number(asked, high)
        value: float = self._suggest(asked, name, _range(asked, ends, step, log, FloatDistribution))
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        asked = _request("suggest_int", name, low, high)
        ends = _whole(asked, low), _whole(asked, high)
        value: int = self._suggest(asked, name, _range(asked, ends, _whole(asked, step), log, IntDistribution))
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        asked = _request("suggest_categorical", name, choices)
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

    def _suggest(self, asked: str, name: str, distribution: Any) -> Any:
        _check_name(asked, name)
        changed = self.distributions.setdefault(name, distribution) != distribution
        require(not changed, f"suggest called {asked} after it had asked for {name!r} in another way; use another name")
        distribution = self._narrow(name, distribution)
        with warnings.catch_warnings():  # about a value of a baseline that lies outside; the search checks it itself
            warnings.simplefilter("ignore")
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


def _request(method: str, *arguments: object) -> str:
    """A call of `suggest` as it was written."""
    return f"{method}({', '.join(describe_value(argument, 80) for argument in arguments)})"


def _check_name(asked: str, name: object) -> None:
    valid = isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= MAX_NAME
    require(valid, f"suggest called {asked}; the name is a text of 1 to {MAX_NAME} printable characters")


def _number(asked: str, value: Any) -> float:
    number = plain(value)
    require(
        is_number(number), f"suggest called {asked}; bounds and steps are numbers, and not {describe_value(value, 60)}"
    )
    try:
        as_float = float(number)
    except OverflowError:
        as_float = math.inf
    require(math.isfinite(as_float), f"suggest called {asked}; bounds and steps are finite")
    return as_float


def _whole(asked: str, value: Any) -> int:
    number = plain(value)
    if isinstance(number, bool):
        name = asked.partition("(")[2].partition(",")[0]
        raise ContractError(f"suggest called {asked}; write suggest_categorical({name}, [False, True])")
    if not isinstance(number, int):
        number = _number(asked, value)
        require(number.is_integer(), f"suggest called {asked}; bounds and steps are whole, or write suggest_float")
    require(abs(number) <= MAX_INT, f"suggest called {asked}; whole numbers go from -2**53 to 2**53")
    return int(number)


def _range(asked: str, ends: tuple[float, float], step: float | None, log: object, kind: Callable[..., Any]) -> Any:
    """A distribution. Its highest value is one that the step meets."""
    low, high = ends
    require(low <= high, f"suggest called {asked}; the lower bound comes first")
    lowest = "1" if kind is IntDistribution else "above 0, such as 1e-5"
    valid = not log or low >= (1 if kind is IntDistribution else math.ulp(0.0))
    require(valid, f"suggest called {asked} with log=True; the lower bound must be {lowest}")
    require(step is None or step > 0, f"suggest called {asked} with step={step!r}; a step is above 0")
    unstepped = step is None or (step == 1 and kind is IntDistribution)
    require(not log or unstepped, f"suggest called {asked} with log=True and step={step!r}; leave out one of them")
    too_long = f"suggest called {asked} with step={step!r}; the step is longer than the range"
    require(unstepped or low == high or (step or 0.0) <= (high - low) * (1 + 1e-9), too_long)
    with warnings.catch_warnings():  # that it lowers the upper bound
        warnings.simplefilter("ignore")
        return kind(low, high, bool(log), step)


def _choices(asked: str, choices: Any) -> list[ParamValue]:
    """The choices as plain values."""
    is_set = isinstance(choices, Set) and not isinstance(choices, KeysView)  # the keys of a dict have an order
    require(not isinstance(choices, Mapping), f"suggest called {asked}; give list(...) of it, and look the value up")
    require(not is_set, f"suggest called {asked}; give a list, for a set has no order")
    is_list = isinstance(choices, Iterable) and not isinstance(choices, str | bytes)
    require(is_list, f"suggest called {asked}; give a list of choices")
    values = [plain(choice) for choice in choices]
    require(values, f"suggest called {asked}; give at least one choice")
    for i, value in enumerate(values):
        advice = "give None in place of NaN" if isinstance(value, float) else LOOK_UP
        require(is_plain(value), f"suggest called {asked}; choices are {PLAIN}, so {advice}")
        twin = next((other for other in values[:i] if other == value and type(other) is not type(value)), value)
        require(type(twin) is type(value), f"suggest called {asked}; {twin!r} equals {value!r}, so leave one out")
    return values


def plain_params(params: Any) -> Params:
    """What `suggest` returned, with plain values. Raises ContractError for anything but a dict of them."""
    hint = "give a dict of parameters" + (": return is missing" if params is None else "")
    require(isinstance(params, Mapping), f"suggest gave {describe_value(params)}; {hint}")
    values = {name: plain(value) for name, value in params.items()}
    require(values, "suggest gave an empty dict; give the parameters by name")
    for name, value in values.items():
        given, allowed = f"{describe_value(name)}: {describe_value(value)}", f"{PLAIN}, and their names are texts"
        require(isinstance(name, str) and is_plain(value), f"suggest gave {given}; parameters are {allowed}")
        _check_name(f"returned {describe_value(name)}", name)
    return values
