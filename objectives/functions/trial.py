"""The trial that a user's function gets: it looks like `optuna.Trial`, and asks the coordinator everything."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from objectives.failures import describe_value
from objectives.functions.values import as_float, number, plain

Ask = Callable[..., Any]
"""`FunctionCall.ask`, called directly by the methods that the user calls."""


Names = tuple[str, ...]

MAX_STEP = 2**31 - 1
"""The largest step that a study in PostgreSQL can store."""

LOOK_UP = 'look the object up: {"adam": Adam, "sgd": SGD}[trial.suggest_categorical("optimizer", ["adam", "sgd"])]'


class _Standin:
    """Looks like a class of Optuna to `isinstance`, once the user's code has imported Optuna."""

    _name = ""
    _place = ""
    _properties: Names = ()
    """Names that are asked for without arguments."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    @property
    def __class__(self) -> type:
        return getattr(sys.modules.get("optuna"), self._name, type(self))

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("the class of a trial cannot be changed")

    def __getattr__(self, name: str) -> Any:
        if name in self._properties:
            return self._ask(self._place + name)
        has = ", ".join(entry for entry in dir(self) if not entry.startswith("_"))
        raise AttributeError(f"in a search, the {self._name.lower()} has no {name!r}; it has {has}")

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *vars(self), *self._properties})

    def __copy__(self) -> _Standin:
        return self

    def __deepcopy__(self, memo: object) -> _Standin:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"a {self._name.lower()} cannot be sent to another process; send the values that it needs")


class Study(_Standin):
    """The part of `optuna.Study` that functions use: what is known of the study, and `stop`."""

    _name, _place = "Study", "study."
    _properties: Names = (
        "best_params",
        "best_trial",
        "best_trials",
        "best_value",
        "best_values",
        "direction",
        "directions",
    )
    _properties += ("metric_names", "study_name", "trials", "user_attrs")

    def get_trials(self, deepcopy: bool = True, states: Iterable[Any] | None = None) -> Any:
        """Return the study's trials."""
        return self._ask("study.get_trials", deepcopy=deepcopy, states=None if states is None else tuple(states))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep a plain value with the study."""
        self._ask("study.set_user_attr", plain(key), _stored(key, value))

    def stop(self) -> None:
        """Begin no more trials."""
        self._ask("study.stop")

    def _is_multi_objective(self) -> bool:  # integrations call it
        return False


class Storage(_Standin):
    """The part of a trial's storage that `optuna.artifacts` and the terminator use."""

    _name = "Storage"

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep a plain value with the trial."""
        self._ask("set_system_attr", plain(key), _stored(key, value))


class Trial(_Standin):
    """The part of `optuna.Trial` that functions use."""

    _name = "Trial"
    _properties = ("constraints", "datetime_start", "distributions", "number", "relative_params", "user_attrs")

    def __init__(self, ask: Ask) -> None:
        super().__init__(ask)
        self.study, self.storage = Study(ask), Storage(ask)
        self._chosen: dict[str, Any] = {}  # choices as the function gave them, tuples and Enums among them

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self._ask("params")
        return params | {name: choice for name, choice in self._chosen.items() if name in params}

    @property
    def _trial_id(self) -> int:  # of optuna.artifacts and others, which pass it to the storage
        trial_id: int = self._ask("number")
        return trial_id

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        value: float = self._ask(
            "suggest_float", plain(name), number(low), number(high), step=number(step), log=bool(log)
        )
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        value: int = self._ask("suggest_int", plain(name), number(low), number(high), step=number(step), log=bool(log))
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        choices = list(choices)
        asked = [_choice(name, choice) for choice in choices]
        _require_distinct(name, choices, asked)
        choice = choices[self._ask("suggest_categorical", plain(name), asked)]
        self._chosen[name] = choice
        return choice

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        value: float = self._ask("suggest_uniform", plain(name), number(low), number(high))
        return value

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        value: float = self._ask("suggest_loguniform", plain(name), number(low), number(high))
        return value

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        value: float = self._ask("suggest_discrete_uniform", plain(name), number(low), number(high), number(q))
        return value

    def report(self, value: float, step: int) -> None:
        """Keep the value at a step, for the pruner."""
        value, step = as_float(value, "value"), as_float(step, "step", int)
        if step > MAX_STEP:
            raise ValueError(f"report: step is {step}; a study stores steps up to {MAX_STEP}")
        self._ask("report", value, step)

    def should_prune(self) -> bool:
        """Return whether the pruner would end this trial."""
        return bool(self._ask("should_prune"))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep a plain value with the trial."""
        if not isinstance(key, str):
            raise TypeError(f"set_user_attr: the key is {describe_value(key)}; give a text")
        self._ask("set_user_attr", plain(key), _stored(key, value))

    def set_constraint(self, key: str, value: float) -> None:
        """Keep a constraint, which is satisfied at zero or less."""
        self._ask("set_constraint", plain(key), as_float(value, "value"))


def _choice(name: str, choice: Any) -> Any:
    """Return how the study stores a choice: as a plain value, or the text of a tuple, a class or a function."""
    if isinstance(choice, type) or inspect.isroutine(choice):
        return choice.__qualname__
    try:
        stored = plain(choice)
        return repr(stored) if isinstance(stored, tuple | list | dict) else stored
    except TypeError:
        raise TypeError(
            f"suggest_categorical({name!r}): a study cannot store the choice {describe_value(choice)}. Choices are "
            f"texts, numbers, True, False, None, tuples or lists of them, classes and functions. Otherwise {LOOK_UP}"
        ) from None


def _require_distinct(name: str, choices: Sequence[Any], stored: Sequence[Any]) -> None:
    """Raise TypeError for different objects that the study could not tell apart, such as two lambdas."""
    for i, text in enumerate(stored):
        first = choices[stored.index(text)]
        if isinstance(text, str) and first is not choices[i] and first != choices[i]:
            raise TypeError(f"suggest_categorical({name!r}): two choices are called {text!r}. So {LOOK_UP}")


def _stored(key: str, value: Any) -> Any:
    try:
        return plain(value)
    except TypeError:
        raise TypeError(
            f"the attribute {key!r} is {describe_value(value)}, which a study cannot store. Give texts, numbers, True, "
            "False, None, or lists and dicts of them. Keep a file with search.log_artifact(PATH)"
        ) from None
